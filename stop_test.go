package holdfast_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
)

// takes is a handler that takes so long, or until its context ends.
func (w *world) takes(d time.Duration) func(context.Context, *holdfast.Message[string]) error {
	return func(ctx context.Context, m *holdfast.Message[string]) error {
		w.see(&m.Meta)
		wait(ctx, d)
		return ctx.Err()
	}
}

func TestStopLetsHandlersFinishAndReturnsAtOnceThen(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.takes(10*time.Second), holdfast.Concurrency(2))
		w.run()
		w.publish("1", "2", "3", "4")
		w.pass(time.Second)
		began := time.Now()
		check.NoError(t, w.end())
		check.Equal(t, time.Since(began), 9*time.Second, "Run returned after")
		check.Equal(t, w.counts(), observe.Counts{Received: 2, Attempts: 2, Handled: 2})
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Waiting: 2})
		check.Equal(t, w.health().State, observe.StateStopped)
	})
}

func TestUnseenMessagesAreHandedBackUncharged(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.takes(time.Second))
		w.run()
		w.publish("1", "2", "3")
		synctest.Wait()
		check.NoError(t, w.end())
		next := newWorld(t, w.b)
		holdfast.Handle(next.app, next.queue("orders"), next.fails(nil))
		next.run()
		next.pass(time.Second)
		check.NoError(t, next.end())
		check.Equal(t, next.ids(), []string{"2", "3"})
		check.Equal(t, next.attempts(), []int{1, 1})
	})
}

func TestHandlersCutByTheGraceAreReturnedUncharged(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{
		"plain": {holdfast.NoRetry()}, "ordered": {holdfast.NoRetry(), holdfast.OrderByKey()}, "manual": {holdfast.NoRetry(), manual()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				holdfast.Handle(w.app, w.queue("orders"), w.takes(time.Hour), opts...)
				w.run()
				w.publish("m1")
				w.pass(time.Second)
				began := time.Now()
				check.NoError(t, w.end(), "a cut handler is no failure of the stop")
				check.True(t, time.Since(began) <= 20*time.Second, "within the grace")
				check.Equal(t, w.counts(), observe.Counts{Received: 1, Attempts: 1, Returned: 1})
				check.Equal(t, w.b.Stats("orders"), memory.Stats{Waiting: 1})
				check.Equal(t, len(w.letters()), 0)
			}, func(c *holdfast.Config) { c.Grace = 20 * time.Second })
		})
	}
}

func TestWhatACutHandlerSaysItselfStillCounts(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			<-ctx.Done()
			switch m.Body {
			case "permanent":
				return holdfast.Permanent(errFlaky)
			case "done":
				return nil
			default:
				return ctx.Err()
			}
		}, holdfast.Concurrency(3))
		w.run()
		w.publish("permanent", "done", "cut")
		w.pass(time.Second)
		check.NoError(t, w.end())
		check.Equal(t, w.counts(), observe.Counts{Received: 3, Attempts: 3, Handled: 1, Dead: 1, Returned: 1})
	})
}

func TestHandlerThatIgnoresTheStopIsReportedWithinTheGrace(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		holdfast.Handle(w.app, w.queue("orders"), w.hanging(release))
		w.run()
		w.publish("hangs")
		w.pass(time.Second)
		began := time.Now()
		err := w.end()
		check.Equal(t, time.Since(began), 5*time.Second)
		check.True(t, err != nil && strings.Contains(err.Error(), "1 handlers did not return"), err)
		close(release)
	}, func(c *holdfast.Config) { c.Grace = 5 * time.Second })
}

func TestStopDuringABackoffKeepsTheDelayAtTheBroker(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), slow())
		w.run()
		w.publish("m1")
		synctest.Wait()
		began := time.Now()
		check.NoError(t, w.end())
		check.Equal(t, time.Since(began), 0, "a backoff does not hold up a stop")
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Delayed: 1})
	})
}

func TestRetriesGoOnWhereTheLastProcessStopped(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), slow())
		w.run()
		w.publish("m1")
		synctest.Wait()
		check.NoError(t, w.end())
		next := newWorld(t, w.b)
		holdfast.Handle(next.app, next.queue("orders"), next.fails(errFlaky), slow())
		next.run()
		next.pass(time.Minute)
		check.NoError(t, next.end())
		check.Equal(t, next.attempts(), []int{2, 3})
		check.Equal(t, next.letter().Attempts, 3)
	})
}

func TestStopWhileTheBrokerIsGone(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.takes(2*time.Second))
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		w.b.Disconnect(errors.New("cable cut"))
		began := time.Now()
		_ = w.end() // the settlement may be left open: the lease brings the message back
		check.True(t, time.Since(began) <= 30*time.Second, "within the grace")
		w.b.Reconnect()
		w.pass(time.Minute)
		check.Equal(t, w.b.Len("orders"), 1, "the message is not lost")
	})
}

func TestNothingRunsOnAfterRunReturned(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.failsTimes(1, errFlaky), slow(), holdfast.Concurrency(4))
		holdfast.Handle(w.app, w.queue("bills"), w.fails(nil), holdfast.OrderByKey(), holdfast.Concurrency(4), holdfast.Timeout(time.Minute))
		w.run()
		w.publish("1", "2", "3")
		w.pass(time.Minute)
		check.NoError(t, w.end())
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for _, g := range strings.Split(string(stacks), "\n\n") {
			if strings.Contains(g, "internal/engine.") && strings.Contains(g, bubbleOf(string(stacks))) {
				t.Errorf("a goroutine is left:\n%s", g)
			}
		}
	})
}

// bubbleOf is how the stack of the running goroutine names its bubble.
func bubbleOf(stacks string) string {
	first, _, _ := strings.Cut(stacks, "\n")
	_, bubble, _ := strings.Cut(first, "synctest ")
	return "synctest " + strings.TrimSuffix(bubble, ":")
}

func TestSubscriptionsComeAndGoWhileTheAppRuns(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		orders := holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
		check.Equal(t, orders.Health().State, observe.StateIdle)
		w.run()
		w.publish("1")
		w.pass(time.Second)

		bills := holdfast.Handle(w.app, w.b.Queue(memory.QueueConfig{Name: "bills", Subjects: []string{"orders.>"}}), w.fails(nil))
		check.True(t, !w.app.Health().Healthy, "a subscription that is not started is not healthy")
		check.NoError(t, bills.Start(t.Context()))
		check.ErrorIs(t, bills.Start(t.Context()), holdfast.ErrRunning)
		synctest.Wait()
		check.True(t, w.app.Health().Healthy, "both run")
		w.publish("2")
		w.pass(time.Second)
		check.Equal(t, w.ids(), []string{"1", "2", "2"})

		check.NoError(t, orders.Stop(t.Context()))
		check.Equal(t, orders.Health().State, observe.StateStopped)
		check.True(t, w.app.Health().Healthy, "one that was stopped on purpose is no fault")
		w.publish("3")
		w.pass(time.Second)
		check.Equal(t, w.ids(), []string{"1", "2", "2", "3"})

		again := holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
		check.NoError(t, again.Start(t.Context()), "its name is free again")
		w.pass(time.Second)
		check.Equal(t, w.ids(), []string{"1", "2", "2", "3", "3"})
		check.True(t, orders.Start(t.Context()) != nil, "Start after Stop")
		check.NoError(t, w.end())
		check.True(t, !w.app.Health().Healthy, "an app that ended is not healthy")
	})
}

func TestStopOfOneSubscriptionKeepsToItsContext(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		s := holdfast.Handle(w.app, w.queue("orders"), w.takes(time.Hour))
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		check.NoError(t, s.Stop(ctx))
		check.True(t, time.Since(began) < 10*time.Second, "before the context ended")
		check.Equal(t, s.Health().Counts.Returned, 1)
		check.NoError(t, s.Stop(t.Context()), "a second stop")
	})
}

func TestStartIsForAppsThatRun(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		s := holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
		check.True(t, s.Start(t.Context()) != nil, "Start before Run")
		check.NoError(t, s.Stop(t.Context()))
		w.run()
		check.ErrorIs(t, w.app.Run(t.Context()), holdfast.ErrRunning)
		check.NoError(t, w.end())
		check.ErrorIs(t, w.app.Run(t.Context()), holdfast.ErrEnded)
	})
}

func TestStartRefusesWhatRunWouldRefuse(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
		w.run()
		twin := holdfast.Handle(w.app, w.queue("bills"), w.fails(nil), holdfast.Name("orders"))
		var refused *holdfast.ContractError
		check.True(t, errors.As(twin.Start(t.Context()), &refused), "a ContractError")
		check.Equal(t, twin.Health().State, observe.StateIdle)
	})
}

func TestContextOfRunReachesHandlersWithItsValuesOnly(t *testing.T) {
	t.Parallel()
	type key struct{}
	promise(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		inside := make(chan error)
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			check.Equal(t, ctx.Value(key{}), any("value"))
			cancel()
			wait(ctx, time.Second)
			inside <- ctx.Err()
			return nil
		})
		done := make(chan error)
		go func() { done <- w.app.Run(ctx) }()
		synctest.Wait()
		w.publish("m1")
		check.NoError(t, <-inside, "the handler's context outlives the stop")
		check.NoError(t, <-done)
		check.Equal(t, w.counts().Handled, 1)
	})
}
