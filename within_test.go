package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

func TestWithinCountsFromTheStartOfTheFirstAttempt(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{"plain": nil, "ordered": {holdfast.OrderByKey()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
					w.see(&m.Meta)
					wait(ctx, 20*time.Second)
					return errFlaky
				}, append(opts, holdfast.Retry{Within: time.Minute, Backoff: holdfast.Constant(10 * time.Second)})...)
				w.run()
				w.publishKeyed("a/1")
				w.pass(time.Hour)
				check.Equal(t, w.gaps(), []time.Duration{0, 30 * time.Second, 30 * time.Second})
				check.Equal(t, w.letter().Reason, "deadline")
			})
		})
	}
}

func TestWithinIsOneBudgetAcrossProcesses(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := w.queue("orders")
		holdfast.Handle(w.app, src, w.fails(errFlaky), holdfast.Retry{Within: 10 * time.Minute, Backoff: holdfast.Constant(time.Minute)})
		_, err := w.b.Provision(t.Context(), src, transportWant("orders"))
		check.NoError(t, err)
		w.publish("m1")
		w.crash(src, 5) // attempts that this process does not see
		began := time.Since(w.start)
		w.run()
		w.pass(time.Hour)
		last := w.seen()[len(w.seen())-1].At - began
		check.True(t, last <= 5*time.Minute, "five retries were at least five minutes, and five are left; the last began after "+last.String())
		check.Equal(t, w.letter().Reason, "deadline")
	})
}

func TestReturnsElsewhereAreNoAttemptsAfterAFailureHere(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{"plain": nil, "ordered": {holdfast.OrderByKey()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				b := &overcounter{Broker: w.b, extra: 1}
				holdfast.Handle(w.app, b.queue("orders"), w.failsTimes(2, errFlaky), append(opts, holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Second)})...)
				w.run()
				w.publish("m1")
				w.pass(time.Minute)
				check.Equal(t, len(w.letters()), 0, "dead letters")
				check.Equal(t, w.counts().Handled, 1)
				check.Equal(t, b.asked, 1, "the broker was asked")
			})
		})
	}
}

func TestReturnElsewhereBetweenTwoFailuresHereIsNoAttempt(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		b := &overcounter{Broker: w.b, extra: 1, from: 2} // another process had it after the first, and stopped
		holdfast.Handle(w.app, b.queue("orders"), w.failsTimes(2, errFlaky), holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Second)})
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, len(w.letters()), 0, "dead letters")
		check.Equal(t, w.counts().Handled, 1)
	})
}

func TestBrokerIsNotAskedAboutDeliveriesThatWereAllSeenHere(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		b := &overcounter{Broker: w.b}
		holdfast.Handle(w.app, b.queue("orders"), w.fails(errFlaky), slow())
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, w.letter().Attempts, 3)
		check.Equal(t, b.asked, 0, "the broker was asked")
	})
}

func TestNackByHandIsARetryAndNoCrash(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			if w.see(&m.Meta) == 40 {
				return m.Ack(ctx)
			}
			return m.Nack(ctx, time.Second)
		}, manual(), holdfast.Retry{Attempts: 50, Backoff: holdfast.Constant(time.Second)}, holdfast.CrashLimit(1))
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, len(w.letters()), 0, "dead letters")
		check.Equal(t, w.counts(), observe.Counts{Received: 40, Attempts: 40, Retried: 39, Handled: 1})
		check.Equal(t, len(w.logs.with("handled alone")), 0, "lines about a suspicion")
		w.idle()
	})
}

func TestNackByHandIsBoundedByTheAttempts(t *testing.T) {
	t.Parallel()
	for _, later := range []bool{false, true} {
		t.Run(fmt.Sprintf("after the handler returned: %v", later), func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
					w.see(&m.Meta)
					if !later {
						return m.Nack(ctx, time.Second)
					}
					time.AfterFunc(time.Minute, func() { check.NoError(t, m.Nack(t.Context(), time.Second)) })
					return nil
				}, manual(), slow())
				w.run()
				w.publish("m1")
				w.pass(time.Hour)
				check.Equal(t, w.attempts(), []int{1, 2, 3})
				l := w.letter()
				check.Equal(t, l.Reason, "attempts-exhausted")
				check.Equal(t, l.Attempts, 3)
				check.Equal(t, l.Error, "given back by hand")
				check.Equal(t, w.health().State, observe.StateRunning)
				w.idle()
			})
		})
	}
}

func TestAckByHandForgetsTheFailuresBefore(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			if w.see(&m.Meta) == 1 {
				return errors.New("flaky")
			}
			return m.Ack(ctx)
		}, manual(), slow())
		w.run()
		w.send("orders.placed", &transport.Message{ID: "m1", Body: []byte("1")})
		w.pass(time.Minute)
		check.Equal(t, w.attempts(), []int{1, 2})
		check.Equal(t, w.counts().Handled, 1)
		w.idle()
	})
}
