package holdfast_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

func TestHandlerThatHangsAfterItsLeaseWasLostIsLeftBehind(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{"plain": nil, "ordered": {holdfast.OrderByKey()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				release := make(chan struct{})
				holdfast.Handle(w.app, w.queue("orders"), w.hanging(release), append(opts, slow(), holdfast.MaxLease(2*time.Minute))...)
				w.run()
				w.b.Fail(memory.OpExtend, errors.New("no answer"), 3)
				w.publishKeyed("a/hangs", "b/fine")
				w.pass(time.Minute)
				check.Equal(t, w.counts().LeasesLost, 1)
				check.Equal(t, w.health().Hung, 1)
				w.pass(time.Hour)
				check.True(t, contains(w.ids(), "b/fine"), "the other message is handled")
				check.Equal(t, w.letter().MessageID, "a/hangs")
				check.Equal(t, w.letter().Attempts, 3)
				close(release)
				w.pass(time.Second)
				check.Equal(t, w.health().Hung, 0)
				w.idle()
			})
		})
	}
}

// untilCut waits for the end of its context and adds up how long that took.
func (w *world) untilCut(took *[]time.Duration) func(context.Context, *holdfast.Message[string]) error {
	return func(ctx context.Context, m *holdfast.Message[string]) error {
		w.see(&m.Meta)
		began := time.Now()
		<-ctx.Done()
		*took = append(*took, time.Since(began))
		return ctx.Err()
	}
}

func TestMaxLeaseIsExact(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opts []holdfast.Option
		took []time.Duration
	}{
		"without a timeout":   {[]holdfast.Option{holdfast.NoRetry()}, []time.Duration{time.Second}},
		"with a longer one":   {[]holdfast.Option{holdfast.NoRetry(), holdfast.Timeout(time.Second)}, []time.Duration{time.Second}},
		"through its retries": {[]holdfast.Option{holdfast.Retry{Attempts: 3, Immediate: 2}, holdfast.Timeout(400 * time.Millisecond)}, []time.Duration{400 * time.Millisecond, 400 * time.Millisecond, 200 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				var took []time.Duration
				holdfast.Handle(w.app, w.queue("orders"), w.untilCut(&took), append(c.opts, holdfast.MaxLease(time.Second))...)
				w.run()
				w.publish("m1")
				w.pass(time.Minute)
				check.Equal(t, took, c.took)
				check.Equal(t, w.letter().Class, "timeout")
				w.idle()
			})
		})
	}
}

func TestLongMaxLeaseIsExceededByAThirdOfALeaseAtMost(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var took []time.Duration
		holdfast.Handle(w.app, w.queue("orders"), w.untilCut(&took), holdfast.Retry{Attempts: 2, Immediate: 1})
		w.run()
		w.pass(time.Second) // between two ticks of whoever keeps the leases
		w.publish("m1")
		w.pass(5 * time.Hour)
		check.Equal(t, len(took), 2)
		for _, d := range took {
			check.True(t, d >= time.Hour && d <= time.Hour+memory.DefaultLease/3, "took "+d.String())
		}
		check.Equal(t, w.counts().Received, 2, "the second attempt is another delivery")
	})
}

func TestNoImmediateRetryBeginsAfterMaxLease(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{"plain": nil, "ordered": {holdfast.OrderByKey()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				var took []time.Duration
				holdfast.Handle(w.app, w.queue("orders"), w.untilCut(&took), append(opts, holdfast.Retry{Attempts: 3, Immediate: 2}, holdfast.MaxLease(time.Minute))...)
				w.run()
				w.publish("m1", "m2")
				w.pass(time.Hour)
				check.Equal(t, took, []time.Duration{time.Minute, time.Minute, time.Minute, time.Minute, time.Minute, time.Minute})
				check.Equal(t, len(w.letters()), 2)
				for _, l := range w.letters() {
					check.Equal(t, l.Attempts, 3)
				}
				received := uint64(6) // given back after each attempt
				if name == "ordered" {
					received = 2
				}
				check.Equal(t, w.counts().Received, received)
				w.idle()
			})
		})
	}
}

func TestCompensationHasATimeOfItsOwn(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var took []time.Duration
		compensated := false
		holdfast.Handle(w.app, w.queue("orders"), w.untilCut(&took), holdfast.Ack(holdfast.AckAlways), holdfast.MaxLease(time.Minute),
			holdfast.Compensate(func(ctx context.Context, _ *holdfast.Meta, _ error) error {
				wait(ctx, 30*time.Second)
				compensated = ctx.Err() == nil
				return ctx.Err()
			}))
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.True(t, compensated, "compensated")
		check.Equal(t, w.counts().Handled, 1)
	})
}

// chatty is a transport that has news each time a lease is extended.
type chatty struct {
	*memory.Broker
	fns []func(transport.Event)
}

type chattySource struct {
	transport.Source
	b *chatty
}

type chattyReceiver struct {
	transport.Receiver
	b *chatty
}

type chattyDelivery struct {
	transport.Delivery
	b *chatty
}

func (s chattySource) Transport() transport.Transport { return s.b }

func (b *chatty) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	return b.Broker.Check(ctx, src.(chattySource).Source, want)
}

func (b *chatty) Provision(ctx context.Context, src transport.Source, want transport.Want) (transport.Report, error) {
	return b.Broker.Provision(ctx, src.(chattySource).Source, want)
}

func (b *chatty) Open(ctx context.Context, src transport.Source, want transport.Want) (transport.Receiver, error) {
	rx, err := b.Broker.Open(ctx, src.(chattySource).Source, want)
	return chattyReceiver{rx, b}, err
}

func (b *chatty) Observe(fn func(transport.Event)) func() {
	b.fns = append(b.fns, fn)
	return func() {}
}

func (r chattyReceiver) Lease() time.Duration { return 30 * time.Second }

func (r chattyReceiver) Receive(ctx context.Context) (transport.Delivery, error) {
	d, err := r.Receiver.Receive(ctx)
	if err != nil {
		return nil, err
	}
	return chattyDelivery{d, r.b}, nil
}

func (d chattyDelivery) ExtendLease() error {
	for _, fn := range d.b.fns {
		fn(transport.Event{Kind: transport.AckUnconfirmed, Count: 1})
	}
	return d.Delivery.(transport.LeaseExtender).ExtendLease()
}

func TestObserverMayAskForHealthWhileALeaseIsExtended(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{"plain": nil, "ordered": {holdfast.OrderByKey()}, "manual": {manual()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var app *holdfast.App
			asked := 0
			promise(t, func(t *testing.T, w *world) {
				app = w.app
				holdfast.Handle(w.app, chattySource{w.queue("orders"), &chatty{Broker: w.b}}, func(ctx context.Context, m *holdfast.Message[string]) error {
					if name != "manual" {
						wait(ctx, time.Minute)
					}
					return nil
				}, opts...)
				w.run()
				w.publishKeyed("a/1", "a/2")
				w.pass(3 * time.Minute)
				check.True(t, asked > 3, "asked for health")
			}, func(c *holdfast.Config) {
				c.Observers = append(c.Observers, observe.Func(func(e observe.Event) {
					if e.Kind == observe.TransportNews {
						app.Health()
						asked++
					}
				}))
			})
		})
	}
}
