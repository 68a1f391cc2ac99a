package holdfast_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// orderKey is whose attempts are counted in these tests.
func orderKey(id string) transport.CountKey {
	return transport.CountKey{Subscription: "orders", Message: id}
}

func TestCountedAttemptsAreThoseOfThePolicy(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		store := memory.NewCountStore()
		retry := holdfast.Retry{Attempts: 4, Immediate: 1, Backoff: holdfast.Constant(time.Second)}
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			n, err := store.Count(t.Context(), orderKey(m.ID))
			check.NoError(t, err)
			check.Equal(t, n, m.Attempt, "counted before the handler runs")
			w.see(&m.Meta)
			return errFlaky
		}, retry, holdfast.CountIn(store))
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, w.attempts(), []int{1, 2, 3, 4}, "attempts")
		check.Equal(t, w.letter().Reason, "attempts-exhausted")
		check.Equal(t, w.letter().Attempts, 4)
		w.idle()
		// Another copy of it, left by a process that died, must not start anew.
		check.Equal(t, store.Len(), 1, "counts left")
		w.pass(24 * time.Hour)
		check.Equal(t, store.Len(), 0, "counts left a day later")
	})
}

// TestAttemptsWithoutAnOutcomeCount: what other processes began and never ended
// is charged, and what has used up its attempts does not run.
func TestAttemptsWithoutAnOutcomeCount(t *testing.T) {
	t.Parallel()
	for made, runs := range map[int]int{0: 3, 1: 2, 2: 1, 3: 0, 7: 0} {
		promise(t, func(t *testing.T, w *world) {
			store := memory.NewCountStore()
			for i := range made {
				_, err := store.Add(t.Context(), orderKey("m1"), strings.Repeat("x", i+1), time.Hour)
				check.NoError(t, err)
			}
			holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), slow(), holdfast.CountIn(store))
			w.run()
			w.publish("m1")
			w.pass(time.Minute)
			check.Equal(t, len(w.seen()), runs, "runs after %d attempts elsewhere", made)
			reason := "attempts-exhausted"
			if runs == 0 {
				reason = "crash-loop"
			}
			check.Equal(t, w.letter().Reason, reason)
			w.idle()
		})
	}
}

// TestCounterThatIsDownIsWaitedFor: nothing runs, nothing is charged, nothing is
// lost, health says so, and it goes on by itself.
func TestCounterThatIsDownIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]holdfast.Option{nil, {holdfast.OrderByKey()}} {
		promise(t, func(t *testing.T, w *world) {
			store := memory.NewCountStore()
			holdfast.Handle(w.app, w.queue("orders"), w.failsTimes(1, errFlaky), append(opts, slow(), holdfast.CountIn(store), holdfast.Concurrency(2))...)
			store.Break(errors.New("connection refused"))
			w.run()
			w.publish("m1", "m2", "m3")
			w.pass(3 * time.Hour)
			check.Equal(t, len(w.seen()), 0, "runs while attempts cannot be counted")
			check.Equal(t, w.health().State, observe.StateStuck)
			check.True(t, strings.HasPrefix(w.health().Reason, "attempt counter unavailable: "), w.health().Reason)
			check.True(t, !w.app.Health().Healthy, "healthy")
			// Three messages, tried once a minute each at most.
			check.True(t, w.counts().Received < 3*60*4, "%d deliveries", w.counts().Received)
			store.Break(nil)
			w.pass(3 * time.Minute)
			check.Equal(t, w.health().State, observe.StateRunning)
			check.Equal(t, len(w.seen()), 6, "runs")
			check.Equal(t, w.counts().Handled, uint64(3), "handled")
			check.Equal(t, len(w.letters()), 0, "dead letters")
			check.Equal(t, store.Len(), 0, "counts left")
			w.idle()
		})
	}
}

// TestStopWhileTheCounterIsDown: nothing is lost, and nothing holds up the stop.
func TestStopWhileTheCounterIsDown(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		store := memory.NewCountStore()
		store.Break(errors.New("away"))
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil), slow(), holdfast.CountIn(store))
		w.run()
		w.publish("m1")
		w.pass(10 * time.Second)
		began := time.Now()
		check.NoError(t, w.end())
		check.True(t, time.Since(began) < 5*time.Second, "the stop took %v", time.Since(began))
		check.Equal(t, w.b.Len("orders"), 1, "messages in the queue")
	})
}

// lossy is a store whose answers to Add are lost, so many times.
type lossy struct {
	*memory.CountStore
	lost int
}

func (l *lossy) Add(ctx context.Context, key transport.CountKey, attempt string, expiry time.Duration) (int, error) {
	n, err := l.CountStore.Add(ctx, key, attempt, expiry)
	if l.lost > 0 {
		l.lost--
		return 0, &transport.Error{Op: "count attempt", Kind: transport.Unknown, Err: errors.New("timeout")}
	}
	return n, err
}

// TestLostAnswersOfTheCounterChargeNothing: an attempt that was counted without
// our knowing is counted once, however often the answer is lost.
func TestLostAnswersOfTheCounterChargeNothing(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		store := &lossy{memory.NewCountStore(), 20}
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), slow(), holdfast.CountIn(store))
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, w.attempts(), []int{1, 2, 3}, "attempts")
		check.Equal(t, w.letter().Reason, "attempts-exhausted")
	})
}

func TestAttemptCutShortByAStopIsNotCounted(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		store := memory.NewCountStore()
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			if w.see(&m.Meta) == 1 {
				return errFlaky
			}
			<-ctx.Done()
			return ctx.Err()
		}, slow(), holdfast.CountIn(store))
		w.run()
		w.publish("m1")
		w.pass(2 * time.Second)
		check.Equal(t, w.attempts(), []int{1, 2}, "attempts")
		check.NoError(t, w.end())
		n, err := store.Count(t.Context(), orderKey("m1"))
		check.NoError(t, err)
		check.Equal(t, n, 1, "attempts counted")
	}, func(c *holdfast.Config) { c.Grace = time.Second })
}

func TestRedrivenMessageIsCountedAnew(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		store := memory.NewCountStore()
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), slow(), holdfast.CountIn(store))
		w.run()
		// The process that buried it died before it could forget the count.
		for _, attempt := range []string{"a", "b", "c"} {
			_, err := store.Add(t.Context(), orderKey("m1"), attempt, time.Hour)
			check.NoError(t, err)
		}
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, len(w.seen()), 0, "runs before the redrive")
		_, err := store.Add(t.Context(), orderKey("m1"), "d", 24*time.Hour)
		check.NoError(t, err)
		letters := deadletter.Open(w.b.DeadLetters())
		_, err = letters.Redrive(t.Context(), deadletter.Query{All: true}, deadletter.RedriveOptions{})
		check.NoError(t, err)
		w.pass(time.Minute)
		check.Equal(t, w.attempts(), []int{1, 2, 3}, "attempts after the redrive")
	})
}

// TestLongDelayOutlivesTheCount: what a handler asked to wait for is longer than
// a count is kept, and the attempts are still bounded.
func TestLongDelayOutlivesTheCount(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		store := memory.NewCountStore()
		holdfast.Handle(w.app, w.queue("orders"), w.fails(holdfast.RetryAfter(errFlaky, 72*time.Hour)), slow(), holdfast.CountIn(store))
		w.run()
		w.publish("m1")
		w.pass(30 * 24 * time.Hour)
		check.Equal(t, w.attempts(), []int{1, 2, 3}, "attempts")
		w.idle()
	})
}

// TestOrderIsKeptWithCountedAttempts: a head that fails holds up its key only.
func TestOrderIsKeptWithCountedAttempts(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		store := memory.NewCountStore()
		holdfast.Handle(w.app, w.queue("orders"), w.failsTimes(2, errFlaky), slow(), holdfast.CountIn(store), holdfast.OrderByKey())
		w.run()
		w.publishKeyed("a/1", "a/2")
		w.pass(time.Minute)
		check.Equal(t, w.ids(), []string{"a/1", "a/1", "a/1", "a/2", "a/2", "a/2"})
		check.Equal(t, store.Len(), 0, "counts left")
	})
}

func TestBrokerRetriesAreBoundedByTheBroker(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			switch m.Body {
			case "bad":
				return holdfast.Permanent(errFlaky)
			case "flaky":
				return holdfast.RetryAfter(errFlaky, time.Hour)
			}
			return nil
		}, holdfast.BrokerRetries(30))
		w.run()
		w.publish("good", "flaky", "bad")
		w.pass(time.Minute)
		check.Equal(t, len(w.seen()), 1+31+1, "runs")
		check.Equal(t, w.letter().MessageID, "bad")
		rejected := w.b.Rejected("orders")
		if len(rejected) != 1 || rejected[0].Message.ID != "flaky" || rejected[0].Reason != "delivery limit" {
			t.Errorf("rejected are %+v", rejected)
		}
		check.Equal(t, w.counts(), observe.Counts{Received: 33, Attempts: 33, Handled: 1, Retried: 31, Dead: 1}, "counts")
		w.idle()
	})
}

func TestStrategiesThatCannotBeKeptAreRefused(t *testing.T) {
	t.Parallel()
	store := memory.NewCountStore()
	backoff := holdfast.Constant(time.Second)
	for what, opts := range map[string][]holdfast.Option{
		"counting without retries":            {holdfast.CountIn(store), holdfast.Ack(holdfast.RejectOnError)},
		"counting what is settled by hand":    {holdfast.CountIn(store), holdfast.Ack(holdfast.Manual)},
		"counting at most once":               {holdfast.CountIn(store), holdfast.Ack(holdfast.AckFirst)},
		"counting without a bound":            {holdfast.CountIn(store), holdfast.Retry{Within: time.Minute, Backoff: backoff}},
		"no retries by the broker":            {holdfast.BrokerRetries(0)},
		"two who retry":                       {holdfast.BrokerRetries(3), holdfast.Retry{Attempts: 2, Backoff: backoff}},
		"two who retry, the other way":        {holdfast.Retry{Attempts: 2, Backoff: backoff}, holdfast.BrokerRetries(3)},
		"two who count":                       {holdfast.BrokerRetries(3), holdfast.CountIn(store)},
		"retries by the broker in order":      {holdfast.BrokerRetries(3), holdfast.OrderByKey()},
		"retries by the broker and rejecting": {holdfast.BrokerRetries(3), holdfast.Ack(holdfast.RejectOnError)},
	} {
		b := memory.New()
		app := holdfast.New(holdfast.Config{})
		holdfast.Handle(app, b.Queue(memory.QueueConfig{Name: "orders"}), nop, opts...)
		findings, err := app.Check(t.Context())
		check.NoError(t, err)
		if !(&holdfast.ContractError{Findings: findings}).Has(transport.CodeInvalid) {
			t.Errorf("%s: found %v", what, findings)
		}
	}
}

// TestNearestStrategyCounts: what an app says is a default.
func TestNearestStrategyCounts(t *testing.T) {
	t.Parallel()
	b := memory.New()
	store := memory.NewCountStore()
	app := holdfast.New(holdfast.Config{Options: []holdfast.Option{holdfast.CountIn(store), slow()}})
	queue := func(name string) transport.Source { return b.Queue(memory.QueueConfig{Name: name}) }
	holdfast.Handle(app, queue("a"), nop)
	holdfast.Handle(app, queue("b"), nop, holdfast.CountIn(nil), holdfast.BrokerRetries(3))
	holdfast.Handle(app, queue("c"), nop, holdfast.CountIn(nil), holdfast.Ack(holdfast.RejectOnError))
	group := app.Group("", holdfast.CountIn(nil), holdfast.BrokerRetries(3))
	holdfast.Handle(group, queue("d"), nop, slow())
	findings, err := app.Check(t.Context())
	check.NoError(t, err)
	for _, f := range findings {
		if f.Level != transport.LevelInfo {
			t.Errorf("found %v", f)
		}
	}
}

func TestBrokerThatDoesNotBoundRetriesIsRefused(t *testing.T) {
	t.Parallel()
	app := holdfast.New(holdfast.Config{})
	holdfast.Handle(app, bareSource{&poor{Broker: memory.New()}, "orders", ""}, nop, holdfast.BrokerRetries(3))
	holdfast.Handle(app, bareSource{&poor{Broker: memory.New()}, "bills", ""}, nop, holdfast.CountIn(memory.NewCountStore()), holdfast.Retry{Attempts: 2, Immediate: 1})
	var refused *holdfast.ContractError
	if err := app.Run(t.Context()); !errors.As(err, &refused) {
		t.Fatalf("Run returned %v", err)
	}
	check.True(t, refused.Has(transport.CodeNoRequeue), "the first is refused for its retries")
	check.True(t, refused.Has(transport.CodeNoRedelivery), "the second for what it does while the store is down")
}

// TestCheckAsksTheCounter: a store that is down is a warning, and one that
// forgets too early is an error.
func TestCheckAsksTheCounter(t *testing.T) {
	t.Parallel()
	b := memory.New()
	store := memory.NewCountStore()
	store.Break(errors.New("away"))
	app := holdfast.New(holdfast.Config{})
	holdfast.Handle(app, b.Queue(memory.QueueConfig{Name: "a"}), nop, holdfast.CountIn(store))
	holdfast.Handle(app, b.Queue(memory.QueueConfig{Name: "b"}), nop, holdfast.CountIn(forgetful{memory.NewCountStore()}))
	findings, err := app.Check(t.Context())
	check.NoError(t, err)
	var got []string
	for _, f := range findings {
		if f.Level != transport.LevelInfo {
			got = append(got, f.Subscription+" "+string(f.Code)+" "+string(f.Level))
		}
	}
	check.Equal(t, got, []string{"a HF1505 warning", "b HF1501 error"})
}

// forgetful keeps counts for a minute.
type forgetful struct{ *memory.CountStore }

func (forgetful) MaxExpiry() time.Duration { return time.Minute }
