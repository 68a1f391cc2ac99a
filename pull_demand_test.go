package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

// soon is a context that ends before anybody notices.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestPullGoesOnAfterMessagesThatNeverReachIt(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{
		"one in hand":  nil,
		"some in hand": {holdfast.Concurrency(3)},
		"ordered":      {holdfast.OrderByKey()},
	} {
		promise(t, func(t *testing.T, w *world) {
			opts := append(opts, holdfast.Use(func(next holdfast.HandlerFunc) holdfast.HandlerFunc {
				return func(ctx context.Context, m *holdfast.Meta) error {
					if m.ID == "stopped" {
						return holdfast.Permanent(errors.New("not this one"))
					}
					return next(ctx, m)
				}
			}))
			p := holdfast.Pull[int](w.app, w.queue("orders"), opts...)
			w.run()
			for i := range 10 {
				w.send("orders.placed", &transport.Message{ID: fmt.Sprint("bad", i), Key: "bad", Body: []byte("no number")})
				w.send("orders.placed", &transport.Message{ID: "stopped", DedupID: fmt.Sprint("stopped", i), Key: "stopped", Body: []byte("1")})
			}
			w.send("orders.placed", &transport.Message{ID: "good", Key: "good", Body: []byte("7")})
			m, err := p.Next(soon(t))
			check.NoError(t, err, name)
			if err == nil {
				check.Equal(t, m.Body, 7)
				check.NoError(t, m.Done(nil))
			}
			w.pass(time.Second)
			check.Equal(t, len(w.letters()), 20)
			w.idle()
		})
	}
}

func TestPullFetchesNoMoreAfterRetries(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		p := holdfast.Pull[string](w.app, w.queue("orders"), holdfast.Concurrency(4),
			holdfast.Retry{Attempts: 6, Immediate: 4, Backoff: holdfast.Exponential(time.Second, time.Minute)})
		w.run()
		w.publish("a", "b", "c", "d", "e")
		for attempt := 1; attempt <= 4; attempt++ {
			m, err := p.Next(soon(t))
			check.NoError(t, err)
			check.Equal(t, []any{m.Body, m.Attempt}, []any{"a", attempt})
			check.NoError(t, m.Done(errors.New("again")))
			w.pass(time.Second)
			check.Equal(t, w.b.Stats("orders").Leased, 1, "nobody asked for another one")
		}
		var held []*holdfast.Pulled[string]
		for range 4 {
			m, err := p.Next(soon(t))
			check.NoError(t, err)
			held = append(held, m)
		}
		_, err := p.Next(soon(t))
		check.ErrorIs(t, err, context.DeadlineExceeded, "four may be in hand")
		check.Equal(t, w.b.Stats("orders").Leased, 4)
		for _, m := range held {
			check.NoError(t, m.Done(nil))
		}
		m, err := p.Next(soon(t))
		check.NoError(t, err)
		check.NoError(t, m.Done(nil))
		w.pass(time.Second)
		w.idle()
	})
}

func TestPullOutlivesAHandlerThatHangsInMiddleware(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		p := holdfast.Pull[string](w.app, w.queue("orders"), holdfast.Timeout(time.Second), holdfast.NoRetry(),
			holdfast.Use(func(next holdfast.HandlerFunc) holdfast.HandlerFunc {
				return func(ctx context.Context, m *holdfast.Meta) error {
					if m.ID == "hangs" {
						<-release
						return nil
					}
					return next(ctx, m)
				}
			}))
		w.run()
		w.publish("hangs", "fine")
		m, err := p.Next(soon(t))
		check.NoError(t, err)
		if err == nil {
			check.Equal(t, m.Body, "fine")
			check.NoError(t, m.Done(nil))
		}
		close(release)
		w.pass(time.Second)
	})
}
