package holdfast_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

// Whatever settles a message, what was published with it is stored before.
func TestNothingIsSettledBeforeWhatWasPublishedIsStored(t *testing.T) {
	t.Parallel()
	type handler = func(context.Context, *holdfast.Message[string]) error
	publishing := func(p *holdfast.Publisher[string], then error) handler {
		return func(ctx context.Context, _ *holdfast.Message[string]) error {
			short, cancel := context.WithTimeout(ctx, time.Hour) // a context of one's own is no other message
			t.Cleanup(cancel)
			_, err := p.PublishAsync(short, "bill")
			return errors.Join(err, then)
		}
	}
	for name, c := range map[string]struct {
		handler func(p *holdfast.Publisher[string]) handler
		opts    func(p *holdfast.Publisher[string]) []holdfast.Option
	}{
		"discard": {handler: func(p *holdfast.Publisher[string]) handler {
			return publishing(p, holdfast.Discard(errors.New("not needed")))
		}},
		"ack always": {
			handler: func(p *holdfast.Publisher[string]) handler { return publishing(p, errors.New("failed")) },
			opts: func(*holdfast.Publisher[string]) []holdfast.Option {
				return []holdfast.Option{holdfast.Ack(holdfast.AckAlways)}
			},
		},
		"middleware": {
			handler: func(*holdfast.Publisher[string]) handler {
				return func(context.Context, *holdfast.Message[string]) error { return nil }
			},
			opts: func(p *holdfast.Publisher[string]) []holdfast.Option {
				return []holdfast.Option{holdfast.Use(func(next holdfast.HandlerFunc) holdfast.HandlerFunc {
					return func(ctx context.Context, m *holdfast.Meta) error {
						if err := next(ctx, m); err != nil {
							return err
						}
						_, err := p.PublishAsync(ctx, "bill")
						return err
					}
				})}
			},
		},
		"by hand": {
			handler: func(p *holdfast.Publisher[string]) handler {
				return func(ctx context.Context, m *holdfast.Message[string]) error {
					if _, err := p.PublishAsync(ctx, "bill"); err != nil {
						return err
					}
					return m.Ack(ctx)
				}
			},
			opts: func(*holdfast.Publisher[string]) []holdfast.Option { return []holdfast.Option{manual()} },
		},
	} {
		promise(t, func(t *testing.T, w *world) {
			in, other := w.queue("orders"), memory.New()
			_, err := other.Provision(t.Context(), other.Queue(memory.QueueConfig{Name: "bills", Subjects: []string{"bills.>"}}), transport.Want{})
			check.NoError(t, err)
			p := holdfast.NewPublisher[string](other, transport.Address{Name: "bills.made"})
			var opts []holdfast.Option
			if c.opts != nil {
				opts = c.opts(p)
			}
			holdfast.Handle(w.app, in, c.handler(p), opts...)
			w.run()
			release := other.Alarm(nil)
			w.publish("order")
			w.pass(5 * time.Second)
			check.Equal(t, w.b.Len("orders"), 1, name)
			release()
			w.pass(time.Second)
			check.Equal(t, w.b.Len("orders"), 0, name)
			check.Equal(t, other.Len("bills"), 1, name)
			check.NoError(t, other.Close(t.Context()))
		})
	}
}

func TestAMessageIsNotDiscardedWhileWhatWasPublishedIsNotStored(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		p := holdfast.NewPublisher[string](w.b, transport.Address{Name: "nobody.takes.it"})
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, _ *holdfast.Message[string]) error {
			if _, err := p.PublishAsync(ctx, "report"); err != nil {
				return err
			}
			return holdfast.Discard(errors.New("not needed"))
		}, holdfast.NoRetry())
		w.run()
		w.publish("order")
		w.pass(time.Minute)
		check.Equal(t, len(w.letters()), 1, "it failed")
	})
}

func TestADerivedIDTellsApartWhatDiffersInAHeader(t *testing.T) {
	t.Parallel()
	for header, stored := range map[string]int{"tenant": 2, "traceparent": 1} {
		promise(t, func(t *testing.T, w *world) {
			_, err := w.b.Provision(t.Context(), w.queue("bills"), transport.Want{})
			check.NoError(t, err)
			p := holdfast.NewPublisher[string](w.b, transport.Address{Name: "bills.made"})
			holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
				err := p.Publish(ctx, "bill", holdfast.SetHeader(header, strconv.Itoa(m.Attempt)))
				if m.Attempt == 1 {
					return errors.Join(err, errors.New("not yet"))
				}
				return err
			})
			w.run()
			w.publish("order")
			w.pass(time.Minute)
			check.Equal(t, w.b.Len("bills"), stored, header)
		})
	}
}

func TestAnOutcomeThatIsNotThereYetIsUncertain(t *testing.T) {
	t.Parallel()
	check.Equal(t, holdfast.OutcomeOf(holdfast.ErrPending), holdfast.Uncertain)
}
