package holdfast_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

func TestTimeoutEndsTheContextOfTheHandler(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			deadline, ok := ctx.Deadline()
			check.True(t, ok && time.Until(deadline) == 5*time.Second, "the deadline is the timeout")
			<-ctx.Done()
			check.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
			return errors.New("gave up on the card service")
		}, slow(), holdfast.Timeout(5*time.Second))
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, w.gaps(), []time.Duration{0, 6 * time.Second, 6 * time.Second})
		l := w.letter()
		check.Equal(t, l.Class, "timeout")
		check.Equal(t, l.Error, "handler did not return within 5s: gave up on the card service")
	})
}

func TestHandlerThatSucceedsAfterItsTimeoutIsAcked(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			<-ctx.Done()
			return nil
		}, slow(), holdfast.Timeout(5*time.Second))
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, w.counts(), observe.Counts{Received: 1, Attempts: 1, Handled: 1})
	})
}

func TestPermanentErrorAfterATimeoutStaysPermanent(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			<-ctx.Done()
			return holdfast.Permanent(errFlaky)
		}, slow(), holdfast.Timeout(5*time.Second))
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, w.letter().Reason, "permanent")
	})
}

// hanging is a handler that ignores its context for the message "hangs" until
// release is closed.
func (w *world) hanging(release <-chan struct{}) func(context.Context, *holdfast.Message[string]) error {
	return func(_ context.Context, m *holdfast.Message[string]) error {
		w.see(&m.Meta)
		if strings.HasSuffix(m.Body, "hangs") {
			<-release
		}
		return nil
	}
}

func TestHandlerThatHangsIsLeftBehindReplacedAndDeadLettered(t *testing.T) {
	t.Parallel()
	for name, order := range map[string][]holdfast.Option{"plain": nil, "ordered": {holdfast.OrderByKey()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				release := make(chan struct{})
				holdfast.Handle(w.app, w.queue("orders"), w.hanging(release), append([]holdfast.Option{slow(), holdfast.Timeout(time.Second)}, order...)...)
				w.run()
				w.publishKeyed("a/hangs", "b/next")
				w.pass(10 * time.Second)
				check.True(t, contains(w.ids(), "b/next"), "the other message is handled meanwhile")
				w.pass(time.Minute)
				check.Equal(t, w.letter().MessageID, "a/hangs")
				check.Equal(t, w.letter().Class, "timeout")
				check.Equal(t, w.letter().Attempts, 3)
				check.Equal(t, w.health().Hung, 3)
				check.Equal(t, w.health().State, observe.StateRunning)
				check.Equal(t, len(w.logs.with("ERROR handler hangs and was left behind")), 3)
				check.Equal(t, len(w.diary.of(observe.Abandoned)), 3)
				w.idle()

				close(release)
				w.pass(time.Second)
				check.Equal(t, w.health().Hung, 0, "hung after the handlers returned")
				check.Equal(t, w.counts().Handled, 1, "a late success settles nothing")
			})
		})
	}
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}

func TestTooManyHungHandlersMakeTheSubscriptionStuckUntilOneReturns(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		holdfast.Handle(w.app, w.queue("orders"), w.hanging(release), holdfast.NoRetry(), holdfast.Timeout(time.Second))
		w.run()
		w.publish("1hangs", "2hangs", "3hangs", "4hangs", "5hangs", "6fine")
		w.pass(5 * time.Minute)
		check.Equal(t, w.health().Hung, 5)
		check.Equal(t, w.health().State, observe.StateStuck)
		check.True(t, strings.Contains(w.health().Reason, "hangs"), "reason "+w.health().Reason)
		check.Equal(t, len(w.letters()), 5, "every message that hangs is settled")
		check.True(t, !contains(w.ids(), "6fine"), "there is no slot left")
		release <- struct{}{} // the first of them returns, the last goes on hanging
		w.pass(time.Second)
		check.Equal(t, w.health().Hung, 4)
		check.True(t, contains(w.ids(), "6fine"), "a slot is free again")
		close(release)
		w.pass(time.Second)
		check.Equal(t, w.health().State, observe.StateRunning)
		check.Equal(t, w.health().Hung, 0)
		w.idle()
	})
}

func TestConcurrencyRecoversExactlyWhenHungHandlersReturn(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		release, inside, gate := make(chan struct{}), make(chan int, 100), make(chan struct{})
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			if strings.HasSuffix(m.Body, "hangs") {
				<-release
				return nil
			}
			inside <- 1
			<-gate
			return nil
		}, holdfast.NoRetry(), holdfast.Concurrency(2), holdfast.MaxLease(time.Minute))
		w.run()
		w.publish("1hangs", "2hangs")
		w.pass(10 * time.Minute)
		close(release)
		w.pass(time.Second)
		w.publish("a", "b", "c", "d")
		w.pass(time.Second)
		check.Equal(t, len(inside), 2, "handlers at once")
		close(gate)
		w.pass(time.Second)
		check.Equal(t, len(inside), 4)
	})
}

func TestMaxLeaseEndsAHandlerWithoutATimeout(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var took time.Duration
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			began := time.Now()
			<-ctx.Done()
			took = time.Since(began)
			return ctx.Err()
		}, holdfast.NoRetry(), holdfast.MaxLease(2*time.Minute))
		w.run()
		w.publish("m1")
		w.pass(10 * time.Minute)
		check.True(t, took >= 2*time.Minute && took <= 2*time.Minute+10*time.Second, "ended after "+took.String())
		check.Equal(t, w.attempts(), []int{1})
		check.Equal(t, w.letter().Class, "timeout")
	})
}

func TestLeaseIsKeptThroughALongHandlerAndItsImmediateRetries(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			wait(ctx, 5*time.Minute) // ten leases
			return errFlaky
		}, holdfast.Retry{Attempts: 3, Immediate: 2})
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, w.seen(), []visit{{"m1", 1, 1, 0}, {"m1", 2, 1, 5 * time.Minute}, {"m1", 3, 1, 10 * time.Minute}})
		check.Equal(t, w.letter().Deliveries, 1)
		check.Equal(t, w.counts().LeasesLost, 0)
	})
}

// wait waits for d or the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func TestHandlerThatReturnsAfterItsLeaseIsLostSettlesNothing(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]error{"success": nil, "failure": errFlaky, "permanent": holdfast.Permanent(errFlaky)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				first := true
				holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
					w.see(&m.Meta)
					if !first {
						return nil
					}
					first = false
					<-ctx.Done()
					check.ErrorIs(t, ctx.Err(), context.Canceled)
					return answer
				}, slow())
				w.run()
				w.b.Fail(memory.OpExtend, errors.New("lost"), 3)
				w.publish("m1")
				buried := 0
				if name == "permanent" {
					buried = 1
				}
				w.pass(2 * time.Minute)
				check.Equal(t, w.counts().LeasesLost, 1)
				check.Equal(t, len(w.diary.of(observe.LeaseLost)), 1)
				check.Equal(t, len(w.letters()), buried, "dead letters, once the message is ours again")
				check.Equal(t, w.counts().Received, 2, "the broker hands the message out again")
				check.Equal(t, len(w.seen()), 2-buried, "an attempt that was the last stays the last")
				check.Equal(t, int(w.counts().Handled), 1-buried)
				w.idle()
			})
		})
	}
}

// crash takes a message and never settles it, as a process that dies does.
func (w *world) crash(src transport.Source, times int) {
	w.t.Helper()
	want := transportWant(src.Name())
	_, err := w.b.Provision(w.t.Context(), src, want)
	check.NoError(w.t, err)
	for range times {
		rx, err := w.b.Open(w.t.Context(), src, want)
		check.NoError(w.t, err)
		_, err = rx.Receive(w.t.Context())
		check.NoError(w.t, err)
		check.NoError(w.t, rx.Close(w.t.Context()))
		w.pass(memory.DefaultLease)
	}
}

func TestMessageThatKillsTheProcessIsADeadLetterInTheEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		crashes int
		opts    []holdfast.Option
		dead    bool
	}{
		{"below the limit it is handled", 12, []holdfast.Option{slow()}, false},
		{"above the limit it is buried unseen", 13, []holdfast.Option{slow()}, true},
		{"a limit of its own", 6, []holdfast.Option{slow(), holdfast.CrashLimit(3)}, true},
		{"just below a limit of its own", 5, []holdfast.Option{slow(), holdfast.CrashLimit(3)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				src := w.queue("orders")
				holdfast.Handle(w.app, src, w.fails(nil), c.opts...)
				_, err := w.b.Provision(t.Context(), src, transportWant("orders"))
				check.NoError(t, err)
				w.publish("killer")
				w.crash(src, c.crashes)
				w.run()
				w.pass(time.Minute)
				if !c.dead {
					check.Equal(t, w.ids(), []string{"killer"})
					check.Equal(t, w.attempts(), []int{c.crashes + 1})
					check.Equal(t, len(w.letters()), 0)
					return
				}
				check.Equal(t, len(w.seen()), 0)
				l := w.letter()
				check.Equal(t, l.Reason, "crash-loop")
				check.Equal(t, l.Deliveries, c.crashes+1)
				w.idle()
			})
		})
	}
}

func TestRetriesDoNotCountAsCrashes(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.failsTimes(99, errFlaky), holdfast.Retry{Attempts: 100, Backoff: holdfast.Constant(time.Second)}, holdfast.CrashLimit(1))
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, w.counts(), observe.Counts{Received: 100, Attempts: 100, Retried: 99, Handled: 1})
	})
}
