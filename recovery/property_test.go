package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
)

// TestEveryPolicyEndsEverySequenceWithinItsBound plays random errors against
// random policies. Those that Validate refuses must still answer; those that it
// accepts must end, inside their own bounds.
func TestEveryPolicyEndsEverySequenceWithinItsBound(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	accepted := 0
	const rounds = 4000
	for i := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, i))
		p := randomPolicy(r)
		if p.Validate() != nil {
			answersAll(p, r)
			continue
		}
		accepted++
		if err := endsWithinBound(p, r); err != nil {
			t.Fatalf("seed %d, round %d: %v\npolicy %+v", seed, i, err, p)
		}
	}
	if accepted < rounds/10 {
		t.Errorf("seed %d: only %d of %d random policies were valid: the test says little", seed, accepted, rounds)
	}
}

// FuzzPolicy lets the fuzzer look for a policy and a sequence that do not end.
func FuzzPolicy(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		p := randomPolicy(r)
		if p.Validate() != nil {
			answersAll(p, r)
			return
		}
		if err := endsWithinBound(p, r); err != nil {
			t.Fatalf("%v\npolicy %+v", err, p)
		}
	})
}

// answersAll fails by a panic only: a policy that is not valid has no bounds.
func answersAll(p recovery.Policy, r *rand.Rand) {
	for i := range p.Rules {
		if p.Rules[i].When == nil { // nobody can ask such a rule
			p.Rules[i].When = func(error) bool { return true }
		}
	}
	p.Decide(randomFailure(p, r, r.IntN(10), time.Duration(r.Int64())-time.Hour))
	p.Admit(recovery.Arrival{Deliveries: r.IntN(1000), Retries: r.IntN(10), Age: time.Duration(r.Int64())})
	p.MaxDelay()
	p.MinElapsed(r.IntN(100))
}

// endsWithinBound plays one message to its end.
func endsWithinBound(p recovery.Policy, r *rand.Rand) error {
	limit := attemptLimit(p)
	var elapsed, began time.Duration
	deliveries, attempt, runs, now := 1, p.FirstAttempt(1), 0, 0
	for {
		runs++
		switch {
		case runs > limit:
			return fmt.Errorf("run %d of at most %d", runs, limit)
		case p.Within > 0 && began > p.Within:
			return fmt.Errorf("run %d began after %v, within is %v", runs, began, p.Within)
		}
		elapsed += time.Duration(r.Int64N(int64(20 * time.Millisecond)))
		f := randomFailure(p, r, attempt, elapsed)
		v := p.Decide(f)
		if err := makesSense(p, f, v); err != nil {
			return err
		}
		switch v.Action {
		case recovery.RetryNow:
			attempt++
			if now++; now > p.Immediate {
				return fmt.Errorf("%d immediate retries of at most %d", now, p.Immediate)
			}
		case recovery.RetryLater:
			elapsed += v.Delay
			deliveries++
			next := p.FirstAttempt(deliveries)
			if next <= attempt {
				return fmt.Errorf("attempt %d is followed by %d", attempt, next)
			}
			attempt = next
		default:
			return nil
		}
		began = elapsed
	}
}

// attemptLimit is the most runs a policy may cost: its attempts, or those of
// one of its rules, or as many milliseconds as there are in Within.
func attemptLimit(p recovery.Policy) int {
	limit := max(p.Attempts, 1)
	if p.Attempts == 0 && p.Within > 0 {
		limit = p.Immediate + 1 + int(p.Within/time.Millisecond)
	}
	for _, r := range p.Rules {
		limit = max(limit, r.Attempts)
	}
	return limit
}

// makesSense checks one verdict by itself.
func makesSense(p recovery.Policy, f recovery.Failure, v recovery.Verdict) error {
	again := v.Action == recovery.RetryNow || v.Action == recovery.RetryLater
	gone := v.Action == recovery.DeadLetter || v.Action == recovery.Drop || v.Action == recovery.Reject
	switch {
	case !again && !gone && v.Action != recovery.Ack && v.Action != recovery.Return:
		return fmt.Errorf("verdict %v is none", v.Action)
	case gone != (v.Reason != ""):
		return fmt.Errorf("%v has reason %q", v.Action, v.Reason)
	case v.Action == recovery.RetryLater && v.Delay < time.Millisecond:
		return fmt.Errorf("a delay of %v is a hot loop", v.Delay)
	case v.Action != recovery.RetryLater && v.Delay != 0:
		return fmt.Errorf("%v has a delay of %v", v.Action, v.Delay)
	case v.Action == recovery.RetryLater && !p.Delays():
		return errors.New("a delayed retry from a policy that says it has none")
	case again && f.Stopping:
		return errors.New("a retry is charged while stopping")
	case v.Action == recovery.DeadLetter && !p.DeadLetters:
		return errors.New("a dead letter without a place for it")
	case v.Action == recovery.Reject && p.Ack != recovery.RejectOnError:
		return errors.New("a reject that nobody asked for")
	case v.Class == "":
		return errors.New("a failure without a class")
	}
	f.Jitter = 0
	if plain := p.Decide(f); plain.Action == recovery.RetryLater && v.Action == recovery.RetryLater && v.Delay < plain.Delay {
		return fmt.Errorf("jitter shortened %v to %v", plain.Delay, v.Delay)
	}
	return nil
}

// randomPolicy returns a policy, valid or not. Its times are short, so that one
// bound by time alone ends after some thousand runs at most.
func randomPolicy(r *rand.Rand) recovery.Policy {
	p := recovery.Policy{
		Backoff:     randomBackoff(r),
		Jitter:      []float64{0, 0.2, 1}[r.IntN(3)],
		DeadLetters: r.IntN(2) == 0,
		CrashLimit:  r.IntN(3),
	}
	if r.IntN(4) == 0 {
		p.Ack = recovery.AckPolicy(r.IntN(6))
	}
	if r.IntN(3) > 0 {
		p.Attempts = r.IntN(12) - 1
	}
	if r.IntN(2) == 0 {
		p.Immediate = r.IntN(5) - 1
	}
	if r.IntN(2) == 0 {
		p.Within = time.Duration(r.Int64N(int64(2*time.Second))) - 10*time.Millisecond
	}
	for range max(r.IntN(6)-2, 0) {
		p.Rules = append(p.Rules, randomRule(r))
	}
	return p
}

func randomRule(r *rand.Rand) recovery.Rule {
	rule := recovery.Rule{When: recovery.Is([]error{errFlaky, errBusy, errBroken}[r.IntN(3)])}
	switch r.IntN(8) {
	case 0:
		rule.Permanent = true
	case 1:
		rule.Discard = true
	case 2:
		rule.After = randomDelay(r)
	case 3:
		rule.Attempts, rule.After = r.IntN(20), randomDelay(r)
	case 4:
		rule.Attempts = r.IntN(20)
	case 5:
		rule.Backoff = randomBackoff(r)
	case 6:
		rule.Attempts, rule.Backoff = r.IntN(20), randomBackoff(r)
	default:
		rule.When = nil
	}
	return rule
}

func randomBackoff(r *rand.Rand) recovery.Backoff {
	switch r.IntN(5) {
	case 0:
		return recovery.Constant(randomDelay(r))
	case 1:
		first := randomDelay(r)
		return recovery.Exponential(first, first*time.Duration(r.IntN(100)))
	case 2:
		return recovery.Exponential(randomDelay(r), math.MaxInt64)
	case 3:
		return recovery.Delays(randomDelay(r), randomDelay(r), randomDelay(r))
	default:
		return recovery.Backoff{}
	}
}

func randomDelay(r *rand.Rand) time.Duration {
	switch r.IntN(10) {
	case 0:
		return time.Duration(r.Int64N(1000)) // nanoseconds
	case 1:
		return math.MaxInt64 - time.Duration(r.IntN(2))
	case 2:
		return -time.Second
	default:
		return time.Duration(r.Int64N(int64(500 * time.Millisecond)))
	}
}

// randomFailure fails for sure; a few of its errors end the message at once.
func randomFailure(p recovery.Policy, r *rand.Rand, attempt int, elapsed time.Duration) recovery.Failure {
	f := recovery.Failure{Attempt: attempt, Elapsed: elapsed, Err: randomError(r), Stopping: r.IntN(100) == 0}
	if p.Jitter > 0 {
		f.Jitter = []float64{0, 0.3, math.Nextafter(1, 0), -1, 2, math.NaN()}[r.IntN(6)]
	}
	return f
}

func randomError(r *rand.Rand) error {
	err := []error{errFlaky, errBusy, errBroken, context.Canceled}[r.IntN(4)]
	switch r.IntN(60) {
	case 0:
		return recovery.Permanent(err)
	case 1:
		return recovery.Discard(err)
	case 2:
		return &recovery.DecodeError{Err: err}
	case 3:
		return recovery.ErrNoHandler
	case 4, 5, 6:
		return &recovery.PanicError{Value: err}
	case 7, 8, 9:
		return &recovery.TimeoutError{After: time.Second}
	case 10, 11, 12, 13, 14, 15:
		return errors.Join(errFlaky, fmt.Errorf("wrapped: %w", recovery.RetryAfter(err, randomDelay(r))))
	default:
		return err
	}
}

// TestFirstAttemptOnlyGrows is what makes the bound hold over redeliveries.
func TestFirstAttemptOnlyGrows(t *testing.T) {
	t.Parallel()
	for immediate := range 5 {
		p := recovery.Policy{Immediate: immediate}
		last := 0
		for deliveries := range 50 {
			n := p.FirstAttempt(deliveries)
			if n < last || n < deliveries {
				t.Errorf("immediate %d: delivery %d starts with attempt %d, the one before with %d", immediate, deliveries, n, last)
			}
			last = n
		}
	}
}

// TestTheCrashGuardEndsEveryAcceptedPolicy: a message whose deliveries never
// have an outcome is buried, however long the policy's own retries may go on.
func TestTheCrashGuardEndsEveryAcceptedPolicy(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	for i := range uint64(500) {
		p := randomPolicy(rand.New(rand.NewPCG(seed, i)))
		if p.Validate() != nil || p.Ack == recovery.AckFirst {
			continue
		}
		enough := attemptLimit(p) + max(p.CrashLimit, recovery.DefaultCrashLimit)
		if v := p.Admit(recovery.Arrival{Deliveries: enough + 1}); v.Reason != recovery.CrashLoop {
			t.Fatalf("seed %d, round %d: delivery %d -> %v\npolicy %+v", seed, i, enough+1, v.Action, p)
		}
		if v := p.Admit(recovery.Arrival{Deliveries: max(p.Attempts, 1)}); v.Action != recovery.Handle {
			t.Fatalf("seed %d, round %d: delivery %d -> %v\npolicy %+v", seed, i, max(p.Attempts, 1), v.Action, p)
		}
	}
}
