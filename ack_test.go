package holdfast_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

func TestRejectOnErrorSettlesAtOnceWithoutARetry(t *testing.T) {
	t.Parallel()
	t.Run("as a dead letter where there is a store", func(t *testing.T) {
		t.Parallel()
		promise(t, func(t *testing.T, w *world) {
			holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.Ack(holdfast.RejectOnError))
			w.run()
			w.publish("m1")
			w.pass(time.Hour)
			check.Equal(t, w.attempts(), []int{1})
			check.Equal(t, w.letter().Reason, "rejected")
			w.idle()
		})
	})
	t.Run("by the broker's own terminal otherwise", func(t *testing.T) {
		t.Parallel()
		promise(t, func(t *testing.T, w *world) {
			holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.Ack(holdfast.RejectOnError), holdfast.NoDeadLetter())
			w.run()
			w.publish("m1")
			w.pass(time.Hour)
			check.Equal(t, w.attempts(), []int{1})
			check.Equal(t, w.counts(), observe.Counts{Received: 1, Attempts: 1, Rejected: 1})
			check.Equal(t, len(w.b.Rejected("orders")), 1)
			check.Equal(t, w.b.Rejected("orders")[0].Reason, "rejected")
			check.Equal(t, len(w.letters()), 0)
			w.idle()
		})
	})
}

func TestAckAlwaysAcksWhateverTheHandlerReturned(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{"success": nil, "failure": errFlaky, "permanent": holdfast.Permanent(errFlaky)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				holdfast.Handle(w.app, w.queue("orders"), w.fails(err), holdfast.Ack(holdfast.AckAlways))
				w.run()
				w.publish("m1")
				w.pass(time.Hour)
				check.Equal(t, w.counts(), observe.Counts{Received: 1, Attempts: 1, Handled: 1})
				check.Equal(t, len(w.letters()), 0)
				w.idle()
			})
		})
	}
}

func TestAckAlwaysKeepsABodyNoHandlerCouldSee(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(context.Context, *holdfast.Message[order]) error { return nil }, holdfast.Ack(holdfast.AckAlways))
		w.run()
		w.send("orders.placed", &transport.Message{ID: "m1", Body: []byte("{")})
		w.pass(time.Minute)
		check.Equal(t, w.letter().Reason, "undecodable")
		check.Equal(t, string(w.letter().Body), "{")
	})
}

type order struct {
	Number int    `json:"number"`
	Item   string `json:"item,omitempty"`
}

func TestCompensationRunsBeforeTheAck(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var causes []error
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.Ack(holdfast.AckAlways),
			holdfast.Compensate(func(_ context.Context, m *holdfast.Meta, cause error) error {
				check.Equal(t, m.ID, "m1")
				check.Equal(t, string(m.Data()), "m1")
				check.Equal(t, w.b.Stats("orders").Leased, 1, "not acked yet")
				causes = append(causes, cause)
				return nil
			}))
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, len(causes), 1)
		check.ErrorIs(t, causes[0], errFlaky)
		check.Equal(t, w.counts(), observe.Counts{Received: 1, Attempts: 1, Handled: 1})
		w.idle()
	})
}

func TestCompensationThatFailsIsRetriedAndEndsAsADeadLetter(t *testing.T) {
	t.Parallel()
	for name, compensate := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return errors.New("refund failed") },
		"panic": func(context.Context) error { panic("refund failed") },
		"hangs": func(context.Context) error { time.Sleep(24 * time.Hour); return nil }, // virtual
		"slow":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				var ran atomic.Int64
				holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.Ack(holdfast.AckAlways), holdfast.Timeout(10*time.Second),
					holdfast.Compensate(func(ctx context.Context, _ *holdfast.Meta, _ error) error {
						ran.Add(1)
						return compensate(ctx)
					}))
				w.run()
				w.publish("m1")
				w.pass(time.Hour)
				check.Equal(t, ran.Load(), 5)
				check.Equal(t, w.counts().Dead, 1)
				check.Equal(t, w.counts().Handled, 0)
				l := w.letter()
				check.Equal(t, l.Reason, "attempts-exhausted")
				check.True(t, strings.Contains(l.Error, errFlaky.Error()), "error "+l.Error)
				if name == "panic" {
					check.True(t, strings.Contains(l.Stack, "holdfast_test"), "the stack of the panic")
				}
				w.idle()
				w.pass(48 * time.Hour) // let those that hang return
			})
		})
	}
}

func TestCompensationThatSucceedsLaterEndsInAnAck(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		ran := 0
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.Ack(holdfast.AckAlways),
			holdfast.Compensate(func(context.Context, *holdfast.Meta, error) error {
				if ran++; ran < 3 {
					return errors.New("refund failed")
				}
				return nil
			}))
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, ran, 3)
		check.Equal(t, w.counts(), observe.Counts{Received: 3, Attempts: 3, Retried: 2, Handled: 1})
		w.idle()
	})
}

func TestHandlerThatHangsIsCompensatedToo(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		release, compensated := make(chan struct{}), 0
		defer close(release)
		holdfast.Handle(w.app, w.queue("orders"), w.hanging(release), holdfast.Ack(holdfast.AckAlways), holdfast.Timeout(time.Second),
			holdfast.Compensate(func(context.Context, *holdfast.Meta, error) error { compensated++; return nil }))
		w.run()
		w.publish("hangs", "fine")
		w.pass(time.Minute)
		check.Equal(t, compensated, 1)
		check.Equal(t, w.counts().Handled, 2)
		w.idle()
		release <- struct{}{}
	})
}

func TestAckFirstIsAckedBeforeTheHandlerAndNeverAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error
		counts observe.Counts
	}{
		"success": {nil, observe.Counts{Received: 1, Attempts: 1, Handled: 1}},
		"failure": {errFlaky, observe.Counts{Received: 1, Attempts: 1, Discarded: 1}},
	} {
		for kind, opts := range map[string][]holdfast.Option{"plain": nil, "ordered": {holdfast.OrderByKey()}} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				promise(t, func(t *testing.T, w *world) {
					holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
						check.True(t, w.b.Idle(), "acked before the handler")
						return w.fails(c.err)(ctx, m)
					}, append([]holdfast.Option{holdfast.Ack(holdfast.AckFirst)}, opts...)...)
					w.run()
					w.publish("m1")
					w.pass(time.Hour)
					check.Equal(t, w.counts(), c.counts)
					check.Equal(t, len(w.diary.of(observe.SettleFailed)), 0)
					check.Equal(t, len(w.diary.of(observe.Settled)), 1)
					w.idle()
				})
			})
		}
	}
}

func TestAckFirstWhoseAckFailsDoesNotRunTheHandler(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil), holdfast.Ack(holdfast.AckFirst))
		w.run()
		w.b.Fail(memory.OpAck, errors.New("no answer"), 100)
		w.publish("m1")
		w.pass(20 * time.Second)
		check.Equal(t, len(w.seen()), 0)
		w.pass(time.Hour)
		check.Equal(t, len(w.seen()), 1, "handled once the ack works again")
		w.idle()
	})
}

func TestAckFirstSettlesWhatItDoesNotHandle(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := w.queue("orders")
		holdfast.Handle(w.app, src, w.fails(nil), holdfast.Ack(holdfast.AckFirst), holdfast.MaxAge(time.Minute))
		_, err := w.b.Provision(t.Context(), src, transportWant("orders"))
		check.NoError(t, err)
		w.publish("old")
		w.pass(time.Hour)
		w.run()
		w.pass(time.Hour)
		check.Equal(t, w.counts(), observe.Counts{Received: 1, Discarded: 1})
		w.idle()
	})
}

func manual() holdfast.Option { return holdfast.Ack(holdfast.Manual) }

func TestManualHandlersSettleThemselves(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		settle func(context.Context, *holdfast.Message[string]) error
		counts observe.Counts
	}{
		{"ack", func(ctx context.Context, m *holdfast.Message[string]) error { return m.Ack(ctx) }, observe.Counts{Received: 1, Attempts: 1, Handled: 1}},
		{"reject", func(ctx context.Context, m *holdfast.Message[string]) error { return m.Reject(ctx, "no good") }, observe.Counts{Received: 1, Attempts: 1, Rejected: 1}},
		{"nack, then ack", func(ctx context.Context, m *holdfast.Message[string]) error {
			if m.Deliveries == 1 {
				return m.Nack(ctx, time.Minute)
			}
			return m.Ack(ctx)
		}, observe.Counts{Received: 2, Attempts: 2, Retried: 1, Handled: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
					w.see(&m.Meta)
					return c.settle(ctx, m)
				}, manual())
				w.run()
				w.publish("m1")
				w.pass(time.Hour)
				check.Equal(t, w.counts(), c.counts)
				check.Equal(t, w.health().Waiting, 0)
				w.idle()
			})
		})
	}
}

func TestSecondSettlementIsRefused(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			check.NoError(t, m.Ack(ctx))
			check.ErrorIs(t, m.Ack(ctx), holdfast.ErrSettled)
			check.ErrorIs(t, m.Nack(ctx, 0), holdfast.ErrSettled)
			check.ErrorIs(t, m.Reject(ctx, ""), holdfast.ErrSettled)
			return errors.New("an error after the ack changes nothing")
		}, manual())
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, w.counts(), observe.Counts{Received: 1, Attempts: 1, Handled: 1})
		check.Equal(t, len(w.letters()), 0)
	})
}

func TestOtherPoliciesDoNotSettleByHand(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			check.ErrorIs(t, m.Ack(ctx), holdfast.ErrNotManual)
			check.ErrorIs(t, m.Nack(ctx, 0), holdfast.ErrNotManual)
			check.ErrorIs(t, m.Reject(ctx, ""), holdfast.ErrNotManual)
			return nil
		})
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		check.Equal(t, w.counts().Handled, 1)
	})
}

func TestManualSettlementAfterTheHandlerReturned(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		held := make(chan *holdfast.Message[string], 1)
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			held <- m
			return nil
		}, manual())
		w.run()
		w.publish("m1")
		w.pass(10 * time.Minute) // the lease is kept meanwhile
		check.Equal(t, w.health().Waiting, 1)
		settled := make(chan error)
		go func() { settled <- (<-held).Ack(t.Context()) }()
		check.NoError(t, <-settled)
		check.Equal(t, w.counts(), observe.Counts{Received: 1, Attempts: 1, Handled: 1})
		check.Equal(t, w.health().Waiting, 0)
		w.idle()
	})
}

func TestManualErrorWithoutASettlementIsRetried(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), manual(), slow())
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, w.attempts(), []int{1, 2, 3})
		check.Equal(t, w.letter().Reason, "attempts-exhausted")
	})
}

func TestManualMessageHeldForTooLongGoesBack(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			if w.see(&m.Meta) == 2 {
				return m.Ack(ctx)
			}
			return nil
		}, manual(), holdfast.MaxLease(2*time.Minute))
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, len(w.seen()), 1)
		w.pass(3 * time.Minute)
		check.Equal(t, len(w.seen()), 2, "the broker hands it out again")
		w.idle()
	})
}

func TestManualMessagesGoBackAtTheStop(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var held *holdfast.Message[string]
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			held = m
			return nil
		}, manual())
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		check.NoError(t, w.end())
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Waiting: 1})
		check.ErrorIs(t, held.Ack(t.Context()), holdfast.ErrSettled)
		check.Equal(t, w.counts().Returned, 1)
		check.Equal(t, w.counts().Retried, 0)
	})
}

func TestManualHandlerThatAckedAndThenHangsIsNotBuried(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			check.NoError(t, m.Ack(ctx))
			<-release
			return nil
		}, manual(), holdfast.NoRetry(), holdfast.Timeout(time.Second))
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, len(w.letters()), 0)
		check.Equal(t, w.counts().Handled, 1)
		check.Equal(t, w.counts().Dead, 0)
		close(release)
	})
}
