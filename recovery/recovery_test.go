package recovery_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
)

func TestBackoffDelays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		backoff recovery.Backoff
		want    []time.Duration
		longest time.Duration
	}{
		{"constant", recovery.Constant(3), []time.Duration{3, 3, 3}, 3},
		{"exponential", recovery.Exponential(1, 7), []time.Duration{1, 2, 4, 7, 7}, 7},
		{"exponential without room", recovery.Exponential(5, 5), []time.Duration{5, 5}, 5},
		{"exponential up to the longest duration", recovery.Exponential(1<<61, math.MaxInt64), []time.Duration{1 << 61, 1 << 62, math.MaxInt64, math.MaxInt64}, math.MaxInt64},
		{"delays", recovery.Delays(2, 9, 4), []time.Duration{2, 9, 4, 4}, 9},
		{"none", recovery.Backoff{}, []time.Duration{0, 0}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got []time.Duration
			for n := range c.want {
				got = append(got, c.backoff.Delay(n+1))
			}
			if !slices.Equal(got, c.want) || c.backoff.Max() != c.longest {
				t.Errorf("delays %d, longest %d; want %d, %d", got, c.backoff.Max(), c.want, c.longest)
			}
			if first := c.backoff.Delay(0); first != c.want[0] {
				t.Errorf("delay 0 is %v, want the first one, %v", first, c.want[0])
			}
		})
	}
}

func TestBackoffSumStopsAtTheLongestDuration(t *testing.T) {
	t.Parallel()
	if got := recovery.Delays(1, 2, 3).Sum(4); got != 9 {
		t.Errorf("sum is %d, want 9", got)
	}
	if got := recovery.Constant(math.MaxInt64 / 2).Sum(100); got != math.MaxInt64 {
		t.Errorf("sum is %d, want the longest duration", got)
	}
}

func TestDelaysDoesNotShareTheCallersSlice(t *testing.T) {
	t.Parallel()
	list := []time.Duration{1, 2}
	b := recovery.Delays(list...)
	list[0] = 100
	if got := b.Delay(1); got != 1 {
		t.Errorf("first delay is %v after the caller changed its slice", got)
	}
}

// TestMinElapsedIsNeverMoreThanWhatPassed plays a message and compares.
func TestMinElapsedIsNeverMoreThanWhatPassed(t *testing.T) {
	t.Parallel()
	p := recovery.Policy{
		Attempts: 9, Immediate: 2, Backoff: recovery.Exponential(time.Second, 10*time.Second), Jitter: 0.2,
		Rules: []recovery.Rule{
			{When: recovery.Is(errBusy), After: 300 * time.Millisecond},
			{When: recovery.Is(errBroken), Backoff: recovery.Constant(2 * time.Second)},
		},
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{errFlaky, errBusy, errBroken} {
		var passed time.Duration
		deliveries, attempt := 1, 1
		for v := (recovery.Verdict{}); v.Action != recovery.Drop; {
			if least := p.MinElapsed(attempt); least > passed {
				t.Fatalf("%v: %v passed before attempt %d, and MinElapsed says %v", err, passed, attempt, least)
			}
			v = p.Decide(recovery.Failure{Attempt: attempt, Err: err, Elapsed: passed, Jitter: 0.9})
			passed += v.Delay
			attempt++
			if v.Action == recovery.RetryLater {
				deliveries++
				attempt = p.FirstAttempt(deliveries)
			}
		}
	}
}

func TestMinElapsedIsTheSumOfTheBackoff(t *testing.T) {
	t.Parallel()
	p := recovery.Policy{Attempts: 9, Immediate: 1, Backoff: recovery.Delays(1*time.Second, 5*time.Second)}
	want := []time.Duration{0, 0, 1 * time.Second, 6 * time.Second, 11 * time.Second}
	for i, w := range want {
		if got := p.MinElapsed(i + 1); got != w {
			t.Errorf("before attempt %d: %v, want %v", i+1, got, w)
		}
	}
	if got := (recovery.Policy{}).MinElapsed(1000); got != 0 {
		t.Errorf("a policy without delays: %v, want 0", got)
	}
}

func TestMarksKeepTheError(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"permanent":   recovery.Permanent(io.ErrUnexpectedEOF),
		"discard":     recovery.Discard(io.ErrUnexpectedEOF),
		"retry after": recovery.RetryAfter(io.ErrUnexpectedEOF, time.Second),
		"decode":      &recovery.DecodeError{Err: io.ErrUnexpectedEOF},
		"invalid":     &recovery.InvalidError{Err: io.ErrUnexpectedEOF},
		"panic":       &recovery.PanicError{Value: io.ErrUnexpectedEOF},
	} {
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s hides its cause: %v", name, err)
		}
	}
}

func TestMarksOfNoErrorAreNoError(t *testing.T) {
	t.Parallel()
	if err := errors.Join(recovery.Permanent(nil), recovery.Discard(nil), recovery.RetryAfter(nil, time.Second)); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestErrorsSayWhatHappened(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"boom":                             recovery.Permanent(errors.New("boom")),
		"decode body: boom":                &recovery.DecodeError{Err: errors.New("boom")},
		"validate body: boom":              &recovery.InvalidError{Err: errors.New("boom")},
		"handler panicked: boom":           &recovery.PanicError{Value: "boom"},
		"no handler for this message":      recovery.ErrNoHandler,
		"handler did not return within 3s": &recovery.TimeoutError{After: 3 * time.Second},
		"handler did not return within 3s, nor after its context was cancelled": &recovery.TimeoutError{After: 3 * time.Second, Hung: true},
		"decode body: <nil>":   &recovery.DecodeError{},
		"validate body: <nil>": &recovery.InvalidError{},
		fmt.Sprintf("handler panicked: %v", errors.New("a value that is an error")): &recovery.PanicError{Value: errors.New("a value that is an error")},
	} {
		if got := err.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if !(&recovery.TimeoutError{}).Timeout() {
		t.Error("a TimeoutError is no timeout")
	}
	if (&recovery.PanicError{Value: 7}).Unwrap() != nil {
		t.Error("a panic with a number has an error in it")
	}
}

func TestNamesAreStable(t *testing.T) {
	t.Parallel()
	for a, want := range map[fmt.Stringer]string{
		recovery.RetryOnError: "retry-on-error", recovery.Manual: "manual", recovery.AckPolicy(9): "AckPolicy(9)",
		recovery.Ack: "ack", recovery.Drop: "discard", recovery.Handle: "handle", recovery.Action(99): "unknown action",
	} {
		if got := a.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	want := []recovery.Reason{
		"attempts-exhausted", "deadline", "permanent", "undecodable", "invalid",
		"no-handler", "expired", "crash-loop", "rejected",
	}
	if got := recovery.Reasons(); !slices.Equal(got, want) {
		t.Errorf("reasons %q, want %q: they stand in stored dead letters and are never renamed", got, want)
	}
}

func TestAFailedCompensationIsRetriedWithinBounds(t *testing.T) {
	t.Parallel()
	for _, p := range []recovery.Policy{
		{Ack: recovery.AckAlways, DeadLetters: true},
		{Ack: recovery.AckAlways, DeadLetters: true, Backoff: recovery.Constant(time.Second)},
	} {
		c := p.Compensation()
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		for attempt := 1; attempt < 5; attempt++ {
			if v := c.Decide(recovery.Failure{Attempt: attempt, Err: errFlaky}); v.Action != recovery.RetryLater {
				t.Errorf("attempt %d -> %v", attempt, v.Action)
			}
		}
		if v := c.Decide(recovery.Failure{Attempt: 5, Err: errFlaky}); v.Action != recovery.DeadLetter {
			t.Errorf("attempt 5 -> %v", v.Action)
		}
	}
}
