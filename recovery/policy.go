package recovery

import (
	"errors"
	"fmt"
	"time"
)

// AckPolicy says when a delivery is acked.
type AckPolicy uint8

const (
	// RetryOnError acks after success; a failure is retried within its bounds
	// and then becomes a dead letter. It is the default.
	RetryOnError AckPolicy = iota
	// RejectOnError acks after success; a failure is settled at once by the
	// broker's own terminal.
	RejectOnError
	// AckAlways acks after the handler, whatever it returned, and after its
	// compensation if there is one.
	AckAlways
	// AckFirst acks before the handler runs: at most once.
	AckFirst
	// Manual leaves the settlement to the handler; an error it returns without
	// having settled is retried as with RetryOnError.
	Manual
)

// String returns the policy's name.
func (a AckPolicy) String() string {
	names := [...]string{"retry-on-error", "reject-on-error", "ack-always", "ack-first", "manual"}
	if int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("AckPolicy(%d)", a)
}

// Policy says what to do with a message that failed. The zero value tries once.
// It is a value: copy it, change the copy.
type Policy struct {
	// Ack says when a delivery is acked.
	Ack AckPolicy
	// Attempts is how often the handler runs at most for one message, immediate
	// retries included. Zero means 1, unless Within is set: then the time alone
	// is the bound.
	Attempts int
	// Immediate is how many of the retries follow at once, in process.
	Immediate int
	// Backoff lies between the other attempts.
	Backoff Backoff
	// Jitter lengthens each delay by up to this fraction of it: 0.2 is 20 %. It
	// never shortens one.
	Jitter float64
	// Within bounds the time from the first attempt to the start of the last.
	// Zero means no bound.
	Within time.Duration
	// MaxAge is how old a message may be when it is received, counted from when
	// the broker stored it. An older one becomes a dead letter unseen. Zero
	// means no bound.
	MaxAge time.Duration
	// CrashLimit is how many deliveries of one message may end without an
	// outcome (the process died, the lease ran out) before it becomes a dead
	// letter unseen. Deliveries that ended in a retry are allowed for. Zero
	// means DefaultCrashLimit.
	CrashLimit int
	// Rules treat classes of errors apart; the first that matches counts.
	Rules []Rule
	// DeadLetters: there is a place for dead letters. Without one a message
	// that fails for good is discarded, counted and logged.
	DeadLetters bool
}

// DefaultCrashLimit is how many deliveries without an outcome a message gets.
// Deliveries over-count (a message that was buffered and never seen comes back
// counted), so the limit is generous.
const DefaultCrashLimit = 10

// Rule treats errors of one class in its own way.
type Rule struct {
	// When says which errors the rule is for; see Is and As.
	When func(error) bool
	// Permanent makes such an error a dead letter at once.
	Permanent bool
	// Discard acks the message, counted and logged.
	Discard bool
	// After asks for the next attempt not before this has passed.
	After time.Duration
	// Attempts replaces Policy.Attempts for such an error, if it is not zero.
	Attempts int
	// Backoff replaces Policy.Backoff for such an error, if it is not zero.
	Backoff Backoff
}

// Is matches errors as errors.Is does.
func Is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// As matches errors that have an E in their chain, as errors.As does.
func As[E error]() func(error) bool {
	return func(err error) bool { _, ok := errors.AsType[E](err); return ok }
}

// Validate returns everything that is wrong with the policy, joined.
func (p Policy) Validate() error {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if p.Ack > Manual {
		bad("ack policy %d does not exist", p.Ack)
	}
	if p.Attempts < 0 {
		bad("attempts %d is negative", p.Attempts)
	}
	if p.Immediate < 0 {
		bad("immediate %d is negative", p.Immediate)
	}
	if n := p.attempts(); n > 0 && p.Immediate >= n {
		bad("immediate %d leaves no room in %d attempts: the first attempt counts too", p.Immediate, n)
	}
	if p.Jitter < 0 || p.Jitter > 1 || p.Jitter != p.Jitter {
		bad("jitter %v is not between 0 and 1", p.Jitter)
	}
	for name, d := range map[string]time.Duration{"within": p.Within, "max age": p.MaxAge} {
		if d < 0 {
			bad("%s %v is negative", name, d)
		}
	}
	if p.CrashLimit < 0 {
		bad("crash limit %d is negative", p.CrashLimit)
	}
	if p.Backoff.negative() {
		bad("a backoff delay is not positive, or its limit is below its first delay")
	}
	if p.Delays() && p.Backoff.IsZero() {
		bad("attempts after the immediate ones need a backoff")
	}
	if p.Ack != RetryOnError && p.Ack != Manual && p.attempts() != 1 {
		bad("%s never retries: leave attempts and within out", p.Ack)
	}
	for i, r := range p.Rules {
		faults = append(faults, r.validate(i))
	}
	return errors.Join(faults...)
}

func (r Rule) validate(i int) error {
	switch {
	case r.When == nil:
		return fmt.Errorf("rule %d does not say when it holds", i+1)
	case r.Permanent && r.Discard:
		return fmt.Errorf("rule %d is both permanent and discard", i+1)
	case r.After < 0 || r.Attempts < 0 || r.Backoff.negative():
		return fmt.Errorf("rule %d has a negative setting", i+1)
	}
	return nil
}

// attempts is Attempts with its default; 0 means that only Within bounds.
func (p Policy) attempts() int {
	if p.Attempts == 0 && p.Within == 0 {
		return 1
	}
	return p.Attempts
}

// rounds is how many deliveries the policy itself may cause.
func (p Policy) rounds() int {
	most := p.attempts()
	for _, r := range p.Rules {
		most = max(most, r.Attempts)
	}
	if p.attempts() > 0 {
		return most
	}
	const enough = 100_000 // a policy that retries more often is bounded by its time alone
	n := 1
	for sum := p.Backoff.Delay(1); sum <= p.Within && n < enough; n++ {
		sum += max(p.Backoff.Delay(n+1), minDelay)
	}
	return max(n, most)
}

// crashLimit is CrashLimit with its default.
func (p Policy) crashLimit() int {
	if p.CrashLimit == 0 {
		return DefaultCrashLimit
	}
	return p.CrashLimit
}

// Delays reports whether the policy may ask for a delayed retry. It is what a
// broker without redelivery cannot do. RetryAfter, too, is within its bounds.
func (p Policy) Delays() bool {
	if p.Ack != RetryOnError && p.Ack != Manual {
		return false
	}
	most := p.attempts()
	for _, r := range p.Rules {
		most = max(most, r.Attempts)
	}
	return p.attempts() == 0 || most > p.Immediate+1
}

// MaxDelay is the longest delay the policy asks for, jitter included. A handler
// that asks for RetryAfter may ask for more.
func (p Policy) MaxDelay() time.Duration {
	d := p.Backoff.Max()
	for _, r := range p.Rules {
		d = max(d, r.After, r.Backoff.Max())
	}
	return stretch(d, p.Jitter, 1)
}

// FirstAttempt returns the number of the attempt that a delivery starts with.
// Immediate retries belong to the first delivery; each later one is good for one
// attempt. It is how a broker's delivery count becomes an attempt number, and
// it may over-count, never under-count.
func (p Policy) FirstAttempt(deliveries int) int {
	if deliveries <= 1 {
		return 1
	}
	return p.Immediate + deliveries
}

// MinElapsed is the least time that must have passed between the first attempt
// and this one. It stands in for the true time where that is not known.
func (p Policy) MinElapsed(attempt int) time.Duration {
	return p.Backoff.Sum(max(attempt-p.Immediate-1, 0))
}
