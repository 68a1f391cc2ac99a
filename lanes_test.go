package holdfast_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

func TestAckFirstKeepsTheOrderWhenItsAckFails(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil), holdfast.Ack(holdfast.AckFirst), holdfast.OrderByKey())
		w.run()
		w.b.Fail(memory.OpAck, errors.New("no answer"), 35)
		w.publishKeyed("a/1", "a/2", "a/3")
		w.pass(10 * time.Minute)
		check.Equal(t, w.ids(), []string{"a/1", "a/2", "a/3"})
		check.Equal(t, w.counts(), observe.Counts{Received: 3, Attempts: 3, Handled: 3})
		w.idle()
	})
}

func TestAckFirstWhoseAnswersAreLostIsHandledAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil), holdfast.Ack(holdfast.AckFirst), holdfast.OrderByKey())
		w.run()
		w.b.LoseAnswer(memory.OpAck, errors.New("answer lost"), 30) // longer than a settlement tries
		w.publishKeyed("a/1", "a/2")
		w.pass(10 * time.Minute)
		check.Equal(t, w.ids(), []string{"a/1", "a/2"})
		w.idle()
	})
}

func TestAckFirstWhoseLeaseIsLostLetsNobodyOvertakeIt(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil), holdfast.Ack(holdfast.AckFirst), holdfast.OrderByKey())
		w.run()
		w.b.Fail(memory.OpAck, &transport.Error{Op: "ack", Kind: transport.Permanent, Err: transport.ErrLeaseLost}, 1)
		w.publishKeyed("a/1", "a/2", "a/3")
		w.pass(10 * time.Minute)
		check.Equal(t, len(w.seen()), 3)
		check.Equal(t, w.counts().Returned >= 2, true, "the others go back")
		w.idle()
	})
}

func TestRejectThatFailsHoldsItsKeyAndNothingElse(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			if m.ID == "a/2" {
				check.Equal(t, len(w.b.Rejected("orders")), 1, "rejected before the next of the key")
			}
			if m.ID == "a/1" {
				return errFlaky
			}
			return nil
		}, holdfast.Ack(holdfast.RejectOnError), holdfast.NoDeadLetter(), holdfast.OrderByKey())
		w.run()
		w.b.Fail(memory.OpReject, errors.New("no answer"), 35)
		w.publishKeyed("a/1", "a/2", "b/1")
		w.pass(10 * time.Minute)
		check.Equal(t, w.ids(), []string{"a/1", "b/1", "a/2"})
		check.Equal(t, w.counts().Rejected, 1)
		w.idle()
	})
}

// loser is a broker that takes the lease of one message away, once, and takes
// its time to take messages back.
type loser struct {
	*memory.Broker
	mu    sync.Mutex
	id    string
	slow  time.Duration
	began func() // called when the first message goes back
}

type loserSource struct {
	transport.Source
	b *loser
}

type loserReceiver struct {
	transport.Receiver
	b *loser
}

type loserDelivery struct {
	transport.Delivery
	b *loser
}

func (s loserSource) Transport() transport.Transport { return s.b }

func (b *loser) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	return b.Broker.Check(ctx, src.(loserSource).Source, want)
}

func (b *loser) Provision(ctx context.Context, src transport.Source, want transport.Want) (transport.Report, error) {
	return b.Broker.Provision(ctx, src.(loserSource).Source, want)
}

func (b *loser) Open(ctx context.Context, src transport.Source, want transport.Want) (transport.Receiver, error) {
	rx, err := b.Broker.Open(ctx, src.(loserSource).Source, want)
	return loserReceiver{rx, b}, err
}

func (r loserReceiver) Lease() time.Duration { return r.Receiver.(transport.Leased).Lease() }

func (r loserReceiver) Receive(ctx context.Context) (transport.Delivery, error) {
	d, err := r.Receiver.Receive(ctx)
	if err != nil {
		return nil, err
	}
	return loserDelivery{d, r.b}, nil
}

func (d loserDelivery) ExtendLease() error {
	d.b.mu.Lock()
	taken := d.b.id == d.Message().ID
	if taken {
		d.b.id = ""
	}
	d.b.mu.Unlock()
	if taken {
		_ = d.Delivery.Nack(context.Background(), 0) // somebody else may have it
		return &transport.Error{Op: "extend lease", Kind: transport.Permanent, Err: transport.ErrLeaseLost}
	}
	return d.Delivery.(transport.LeaseExtender).ExtendLease()
}

func (d loserDelivery) Return(ctx context.Context) error {
	d.b.mu.Lock()
	began := d.b.began
	d.b.began = nil
	d.b.mu.Unlock()
	if began != nil {
		began()
	}
	time.Sleep(d.b.slow) // virtual
	return d.Delivery.(transport.Returner).Return(ctx)
}

func TestLostLeaseOfAnyMessageOfALaneLetsNobodyOvertakeIt(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"a/1", "a/2", "a/3", "a/4"} {
		for _, parked := range []bool{false, true} {
			t.Run(id+map[bool]string{true: " parked"}[parked], func(t *testing.T) {
				t.Parallel()
				promise(t, func(t *testing.T, w *world) {
					b := &loser{Broker: w.b, id: id, slow: time.Second}
					b.began = func() { w.publishKeyed("a/5") } // in the middle of it
					holdfast.Handle(w.app, loserSource{w.queue("orders"), b}, func(ctx context.Context, m *holdfast.Message[string]) error {
						n := w.see(&m.Meta)
						if parked && m.ID == "a/1" && n == 1 {
							return errFlaky
						}
						if !parked {
							wait(ctx, 15*time.Second)
						}
						return ctx.Err()
					}, holdfast.OrderByKey(), holdfast.Concurrency(4), holdfast.Retry{Attempts: 5, Backoff: holdfast.Constant(time.Minute)})
					w.run()
					w.publishKeyed("a/1", "a/2", "a/3", "a/4")
					w.pass(time.Hour)
					if id == "a/4" {
						w.publishKeyed("a/5") // nothing went back
					}
					w.pass(time.Hour)
					check.Equal(t, w.lasts("a"), []string{"a/1", "a/2", "a/3", "a/4", "a/5"})
					want := 5 // runs: what was lost while it waited did not run
					if parked || id == "a/1" {
						want++
					}
					check.Equal(t, len(w.seen()), want, "runs")
					check.Equal(t, w.counts().LeasesLost, 1)
					check.Equal(t, len(w.diary.of(observe.LeaseLost)), 1)
					check.Equal(t, w.health().Waiting, 0)
					w.idle()
				})
			})
		}
	}
}

func TestKeyFunctionThatEndsItsGoroutineMakesADeadLetterAndNothingElse(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil), holdfast.OrderBy(func(m *transport.Message) string {
			if m.ID == "x" {
				runtime.Goexit()
			}
			return m.Key
		}))
		w.run()
		w.publish("x", "fine", "fine too")
		w.pass(time.Minute)
		check.Equal(t, w.ids(), []string{"fine", "fine too"})
		check.Equal(t, w.letter().MessageID, "x")
		check.Equal(t, w.letter().Reason, "permanent")
		w.idle()
	})
}

func TestObserverThatPanicsIsToldOnceAndEndsNothing(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
		w.run()
		w.publish("1", "2", "3")
		w.pass(time.Minute)
		check.Equal(t, w.ids(), []string{"1", "2", "3"})
		check.Equal(t, w.counts().Handled, 3)
		check.Equal(t, len(w.logs.with("observer panicked")), 1)
	}, func(c *holdfast.Config) {
		c.Observers = append(c.Observers, observe.Func(func(e observe.Event) {
			if e.Kind == observe.Attempted {
				panic("the observer is broken")
			}
		}))
	})
}
