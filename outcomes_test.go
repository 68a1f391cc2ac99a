package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/observe"
)

var errFlaky = errors.New("flaky dependency")

// slow is a policy with room for retries.
func slow() holdfast.Retry {
	return holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Second)}
}

func TestOutcomeOfEveryRowOfThePolicy(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		err      error
		opts     []holdfast.Option
		attempts []int
		counts   observe.Counts
		reason   string // of the dead letter; empty for none
		class    string
	}{
		{"nil is acked", nil, nil, []int{1}, observe.Counts{Received: 1, Attempts: 1, Handled: 1}, "", ""},
		{"Permanent is a dead letter at once", holdfast.Permanent(errFlaky), nil, []int{1}, observe.Counts{Received: 1, Attempts: 1, Dead: 1}, "permanent", "permanent"},
		{"a wrapped Permanent too", fmt.Errorf("charge: %w", holdfast.Permanent(errFlaky)), nil, []int{1}, observe.Counts{Received: 1, Attempts: 1, Dead: 1}, "permanent", "permanent"},
		{"Discard is acked and counted", holdfast.Discard(errFlaky), nil, []int{1}, observe.Counts{Received: 1, Attempts: 1, Discarded: 1}, "", ""},
		{"nobody to handle it", holdfast.ErrNoHandler, nil, []int{1}, observe.Counts{Received: 1, Attempts: 1, Dead: 1}, "no-handler", "no-handler"},
		{"any other error uses up the attempts", errFlaky, nil, []int{1, 2, 3}, observe.Counts{Received: 3, Attempts: 3, Retried: 2, Dead: 1}, "attempts-exhausted", "transient"},
		{"no retry", errFlaky, []holdfast.Option{holdfast.NoRetry()}, []int{1}, observe.Counts{Received: 1, Attempts: 1, Dead: 1}, "attempts-exhausted", "transient"},
		{"immediate retries stay in process", errFlaky, []holdfast.Option{holdfast.Retry{Attempts: 3, Immediate: 2}}, []int{1, 2, 3}, observe.Counts{Received: 1, Attempts: 3, Retried: 2, Dead: 1}, "attempts-exhausted", "transient"},
		{"no dead letters: dropped and counted", errFlaky, []holdfast.Option{holdfast.NoDeadLetter()}, []int{1, 2, 3}, observe.Counts{Received: 3, Attempts: 3, Retried: 2, Discarded: 1}, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				holdfast.Handle(w.app, w.queue("orders"), w.fails(row.err), append([]holdfast.Option{slow()}, row.opts...)...)
				w.run()
				w.publish("m1")
				w.pass(time.Minute)
				check.Equal(t, w.attempts(), row.attempts, "attempts")
				check.Equal(t, w.counts(), row.counts, "counts")
				w.idle()
				if row.reason == "" {
					check.Equal(t, len(w.letters()), 0, "dead letters")
					return
				}
				l := w.letter()
				check.Equal(t, l.Reason, row.reason)
				check.Equal(t, l.Class, row.class)
				check.Equal(t, l.Attempts, len(row.attempts), "attempts in the letter")
				check.Equal(t, string(l.Body), "m1")
			})
		})
	}
}

func TestDeadLetterTellsItsStory(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(fmt.Errorf("charge card: %w", errFlaky)), slow())
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		l := w.letter()
		check.Equal(t, l.MessageID, "m1")
		check.Equal(t, l.Subscription, "orders")
		check.Equal(t, l.App, "test")
		check.Equal(t, l.Subject, "orders.placed")
		check.Equal(t, l.Error, "charge card: flaky dependency")
		check.Equal(t, l.Stage, "handle")
		check.Equal(t, l.Deliveries, 3)
		check.Equal(t, l.Time.Equal(w.start), true, "time stored")
		check.Equal(t, l.FirstFailed.Equal(w.start), true, "first failed")
		check.Equal(t, l.Failed.Equal(w.start.Add(2*time.Second)), true, "last failed")
		check.True(t, l.Source != "" && l.Host != "" && l.Fingerprint != "" && l.Position != "", "source, host, fingerprint, position")
		check.Equal(t, len(w.logs.with("ERROR message dead-lettered", "id=m1", "reason=attempts-exhausted")), 1, "log lines")
	})
}

func TestRetriesFollowImmediateThenTheListOfDelays(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.Retry{
			Attempts: 5, Immediate: 1, Backoff: holdfast.Delays(200*time.Millisecond, time.Second, 5*time.Second),
		})
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, w.attempts(), []int{1, 2, 3, 4, 5})
		check.Equal(t, w.gaps(), []time.Duration{0, 0, 200 * time.Millisecond, time.Second, 5 * time.Second})
		check.Equal(t, w.letter().Attempts, 5)
	})
}

func TestBackoffShapes(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for _, c := range []struct {
		name string
		b    holdfast.Backoff
		gaps []time.Duration
	}{
		{"constant", holdfast.Constant(3 * s), []time.Duration{0, 3 * s, 3 * s, 3 * s, 3 * s}},
		{"exponential up to its limit", holdfast.Exponential(s, 5*s), []time.Duration{0, s, 2 * s, 4 * s, 5 * s}},
		{"the last of a list repeats", holdfast.Delays(s, 7*s), []time.Duration{0, s, 7 * s, 7 * s, 7 * s}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.Retry{Attempts: 5, Backoff: c.b})
				w.run()
				w.publish("m1")
				w.pass(time.Hour)
				check.Equal(t, w.gaps(), c.gaps)
			})
		})
	}
}

func TestJitterOnlyLengthens(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.Retry{Attempts: 40, Backoff: holdfast.Constant(time.Second), Jitter: 0.5})
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		different := map[time.Duration]bool{}
		gaps := w.gaps()
		check.Equal(t, len(gaps), 40)
		for _, gap := range gaps[1:] {
			different[gap] = true
			check.True(t, gap >= time.Second && gap <= 1500*time.Millisecond, "gap "+gap.String())
		}
		check.True(t, len(different) > 10, "the delays differ")
	})
}

func TestRetryAfterIsHonouredWithinTheBounds(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(holdfast.RetryAfter(errFlaky, 42*time.Second)), slow())
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, w.gaps(), []time.Duration{0, 42 * time.Second, 42 * time.Second})
		check.Equal(t, w.letter().Reason, "attempts-exhausted")
	})
}

func TestRetryAfterBeyondWithinIsADeadLetter(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		r := slow()
		r.Within = time.Minute
		holdfast.Handle(w.app, w.queue("orders"), w.fails(holdfast.RetryAfter(errFlaky, time.Hour)), r)
		w.run()
		w.publish("m1")
		w.pass(2 * time.Hour)
		check.Equal(t, w.attempts(), []int{1})
		check.Equal(t, w.letter().Reason, "deadline")
	})
}

func TestWithinBoundsTheStartOfTheLastAttempt(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.Retry{Within: 10 * time.Second, Backoff: holdfast.Constant(3 * time.Second)})
		w.run()
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, w.gaps(), []time.Duration{0, 3 * time.Second, 3 * time.Second, 3 * time.Second})
		check.Equal(t, w.letter().Reason, "deadline")
	})
}

func TestMessageOlderThanMaxAgeIsADeadLetterUnseen(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := w.queue("orders")
		holdfast.Handle(w.app, src, w.fails(nil), holdfast.MaxAge(time.Minute))
		_, err := w.b.Provision(t.Context(), src, transportWant("orders"))
		check.NoError(t, err)
		w.publish("old")
		w.pass(2 * time.Minute)
		w.publish("fresh")
		w.run()
		w.pass(time.Second)
		check.Equal(t, w.ids(), []string{"fresh"})
		l := w.letter()
		check.Equal(t, l.MessageID, "old")
		check.Equal(t, l.Reason, "expired")
		check.Equal(t, l.Attempts, 0)
		w.idle()
	})
}

func TestRulesTreatClassesOfErrorsApart(t *testing.T) {
	t.Parallel()
	gone, busy, noise := errors.New("gone"), &busyError{}, errors.New("noise")
	promise(t, func(t *testing.T, w *world) {
		errs := map[string]error{"gone": gone, "busy": busy, "noise": noise, "other": errFlaky}
		r := slow()
		r.Rules = []holdfast.Rule{
			{When: holdfast.ErrorIs(gone), Permanent: true},
			{When: holdfast.ErrorAs[*busyError](), Attempts: 2, Backoff: holdfast.Constant(time.Minute)},
			{When: holdfast.ErrorIs(noise), Discard: true},
		}
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			return fmt.Errorf("wrapped: %w", errs[m.Body])
		}, r)
		w.run()
		for id, attempts := range map[string]int{"gone": 1, "busy": 2, "noise": 1, "other": 3} {
			before := len(w.seen())
			w.publish(id)
			w.pass(time.Hour)
			check.Equal(t, len(w.seen())-before, attempts, id)
		}
		reasons := map[string]string{}
		for _, l := range w.letters() {
			reasons[l.MessageID] = l.Reason
		}
		check.Equal(t, reasons, map[string]string{"gone": "permanent", "busy": "attempts-exhausted", "other": "attempts-exhausted"})
		check.Equal(t, w.counts().Discarded, 1)
	})
}

type busyError struct{}

func (*busyError) Error() string { return "busy" }

func TestRuleThatPanicsDoesNotEndTheProgram(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		r := slow()
		r.Rules = []holdfast.Rule{{When: func(error) bool { panic("bad rule") }, Permanent: true}}
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), r)
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, w.attempts(), []int{1, 2, 3})
		check.Equal(t, w.letter().Error, "flaky dependency")
		check.Equal(t, len(w.logs.with("ERROR", "rule", "bad rule")), 3, "log lines")
	})
}

func TestPanicIsAFailureWithAStack(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			return explode()
		}, slow())
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, w.attempts(), []int{1, 2, 3})
		l := w.letter()
		check.Equal(t, l.Class, "panic")
		check.Equal(t, l.Error, "handler panicked: boom")
		check.True(t, strings.Contains(l.Stack, "holdfast_test.explode"), "the stack names the function")
		check.Equal(t, w.health().State, observe.StateRunning)
	})
}

func explode() error { panic("boom") }

func TestHandlerThatCallsGoexitIsAFailureAndLosesNoWorker(t *testing.T) {
	t.Parallel()
	for _, opts := range map[string][]holdfast.Option{
		"plain": {slow()}, "ordered": {slow(), holdfast.OrderByKey()}, "with timeout": {slow(), holdfast.Timeout(time.Minute)},
	} {
		promise(t, func(t *testing.T, w *world) {
			holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
				w.see(&m.Meta)
				if m.Body == "bad" {
					runtime.Goexit()
				}
				return nil
			}, opts...)
			w.run()
			w.publish("bad")
			w.pass(time.Minute)
			w.publish("good")
			w.pass(time.Second)
			check.Equal(t, w.ids(), []string{"bad", "bad", "bad", "good"})
			l := w.letter()
			check.Equal(t, l.Reason, "attempts-exhausted")
			check.True(t, strings.Contains(l.Error, "runtime.Goexit"), "error: "+l.Error)
			check.Equal(t, w.health().Hung, 0)
			check.Equal(t, w.counts().Attempts, 4)
			w.idle()
		})
	}
}
