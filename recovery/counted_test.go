package recovery_test

import (
	"errors"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
)

// TestCountedAttemptsAreBoundedBeforeTheyStart: the policy's number holds for
// attempts without an outcome, and the last one is made alone when no other is
// known to have returned.
func TestCountedAttemptsAreBoundedBeforeTheyStart(t *testing.T) {
	t.Parallel()
	p := recovery.Policy{Attempts: 3, Backoff: recovery.Constant(time.Second), Counted: true, DeadLetters: true}
	for _, c := range []struct {
		made, failed int
		want         recovery.Verdict
	}{
		{0, 0, recovery.Verdict{Action: recovery.Handle}},
		{1, 0, recovery.Verdict{Action: recovery.Handle}},
		{2, 0, recovery.Verdict{Action: recovery.Handle, Alone: true}},
		{2, 1, recovery.Verdict{Action: recovery.Handle}},
		{3, 0, recovery.Verdict{Action: recovery.DeadLetter, Reason: recovery.CrashLoop}},
		{3, 3, recovery.Verdict{Action: recovery.DeadLetter, Reason: recovery.CrashLoop}},
		{9, 0, recovery.Verdict{Action: recovery.DeadLetter, Reason: recovery.CrashLoop}},
	} {
		if got := p.AdmitAttempt(c.made, c.failed); got != c.want {
			t.Errorf("after %d attempts, %d of which failed: %+v, want %+v", c.made, c.failed, got, c.want)
		}
	}
	// What the broker counts says nothing here.
	if got := p.Admit(recovery.Arrival{Deliveries: 1000}); got.Action != recovery.Handle || got.Alone {
		t.Errorf("the thousandth delivery: %+v", got)
	}
	p.Rules = []recovery.Rule{{When: recovery.Is(errors.ErrUnsupported), Attempts: 5}}
	if got := p.AdmitAttempt(3, 1); got.Action != recovery.Handle {
		t.Errorf("a rule gives an error two attempts more: %+v", got)
	}
	once := recovery.Policy{Attempts: 1, Counted: true}
	if got := once.AdmitAttempt(0, 0); got.Alone {
		t.Error("the only attempt of a message is nothing to be wary of")
	}
}

func TestRetriesByTheBrokerLeaveTheRestToThePolicy(t *testing.T) {
	t.Parallel()
	p := recovery.Policy{BrokerRetries: true, DeadLetters: true}
	flaky := errors.New("flaky")
	for name, c := range map[string]struct {
		f    recovery.Failure
		want recovery.Action
	}{
		"the first failure":     {recovery.Failure{Attempt: 1, Err: flaky}, recovery.Requeue},
		"the hundredth failure": {recovery.Failure{Attempt: 100, Err: flaky}, recovery.Requeue},
		"a delay that is asked": {recovery.Failure{Attempt: 1, Err: recovery.RetryAfter(flaky, time.Hour)}, recovery.Requeue},
		"a permanent failure":   {recovery.Failure{Attempt: 1, Err: recovery.Permanent(flaky)}, recovery.DeadLetter},
		"one to discard":        {recovery.Failure{Attempt: 1, Err: recovery.Discard(flaky)}, recovery.Drop},
		"one that a stop cut":   {recovery.Failure{Attempt: 1, Err: flaky, Stopping: true}, recovery.Return},
		"success":               {recovery.Failure{Attempt: 1}, recovery.Ack},
	} {
		if got := p.Decide(c.f); got.Action != c.want {
			t.Errorf("%s: %v, want %v", name, got.Action, c.want)
		}
	}
	if got := p.Admit(recovery.Arrival{Deliveries: 1000}); got.Action != recovery.Handle || got.Alone {
		t.Errorf("the thousandth delivery: %+v", got)
	}
	if p.Delays() || p.Validate() != nil {
		t.Errorf("delays %v, %v", p.Delays(), p.Validate())
	}
}
