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
	// broker's own terminal, or becomes a dead letter if Policy.DeadLetters is
	// set.
	RejectOnError
	// AckAlways acks after the handler, whatever it returned, and after its
	// compensation if there is one. A body that no handler could see, because
	// it could not be decoded or was invalid, is a failure for good.
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
	// BrokerRetries: a transient failure is given back to the broker, which
	// counts and bounds its redeliveries and takes the message away in the end.
	// There are no retries besides, and the crash limit is the broker's too.
	BrokerRetries bool
	// Counted: attempts are counted before they start, outside of the broker, so
	// that Attempts bounds those without an outcome as well. See AdmitAttempt.
	Counted bool
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

// Validate returns everything that is wrong with the policy, joined: settings
// that make no sense, and settings that could never have an effect beside the
// others. It returns nil for a policy that can be kept.
func (p Policy) Validate() error {
	faults := p.ranges()
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if n := p.attempts(); n > 0 && p.Immediate >= n {
		bad("immediate %d leaves no room in %d attempts: the first attempt counts too", p.Immediate, n)
	}
	if !p.retries() && !p.BrokerRetries && p.attempts() != 1 {
		bad("%s never retries: leave attempts and within out", p.Ack)
	}
	if p.BrokerRetries && (p.Ack != RetryOnError || p.attempts() != 1 || p.Counted) {
		bad("retries by the broker leave no room for others: leave attempts, within, the counting and the ack policy out")
	}
	if p.Counted && (p.Ack != RetryOnError || p.Attempts < 1) {
		bad("attempts are counted for a policy that retries and bounds their number: set attempts, and keep the ack policy %v", RetryOnError)
	}
	if p.delayed(p.attempts()) && p.Backoff.IsZero() {
		bad("attempts after the immediate ones need a backoff")
	}
	if p.tooLate(p.Backoff.Delay(1)) && p.delayed(p.attempts()) {
		bad("within %v is over before the first delayed retry, after %v", p.Within, p.Backoff.Delay(1))
	}
	if n := p.attempts(); n > 1 && p.Immediate < n && !p.delayed(n) && !p.delaysByRule() && (!p.Backoff.IsZero() || p.Jitter > 0) {
		bad("backoff and jitter have no effect: all %d retries follow at once", p.Immediate)
	}
	if p.attempts() == 1 && p.Within > 0 {
		bad("within %v has no effect on a single attempt", p.Within)
	}
	if p.Ack == AckFirst && p.CrashLimit > 0 {
		bad("a crash limit has no effect: %s settles before the handler runs", p.Ack)
	}
	for i, r := range p.Rules {
		if err := p.validate(r); err != nil {
			bad("rule %d %w", i+1, err)
		}
	}
	return errors.Join(faults...)
}

// ranges checks each setting by itself.
func (p Policy) ranges() (faults []error) {
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
	if p.CrashLimit < 0 {
		bad("crash limit %d is negative", p.CrashLimit)
	}
	if p.Within < 0 {
		bad("within %v is negative", p.Within)
	}
	if p.MaxAge < 0 {
		bad("max age %v is negative", p.MaxAge)
	}
	if !(p.Jitter >= 0 && p.Jitter <= 1) { // not a number, too
		bad("jitter %v is not between 0 and 1", p.Jitter)
	}
	if p.Backoff.negative() {
		bad("a backoff delay is not positive, or its limit is below its first delay")
	}
	return faults
}

// validate checks a rule beside the policy it is part of. The error goes on
// after "rule N".
func (p Policy) validate(r Rule) error {
	limit := p.limit(r)
	asks := r.After != 0 || r.Attempts != 0 || !r.Backoff.IsZero()
	switch {
	case r.When == nil:
		return errors.New("does not say when it holds")
	case r.Permanent && r.Discard:
		return errors.New("is both permanent and discard")
	case r.After < 0 || r.Attempts < 0 || r.Backoff.negative():
		return errors.New("has a setting that is negative, or a backoff with a delay that is not positive")
	case (r.Permanent || r.Discard) && (p.Ack == AckAlways || p.Ack == AckFirst):
		return fmt.Errorf("has no effect: %s settles whatever the handler returns", p.Ack)
	case asks && (r.Permanent || r.Discard || !p.retries()):
		return errors.New("never retries: leave its attempts, after and backoff out")
	case r.After > 0 && !r.Backoff.IsZero():
		return errors.New("has both after and backoff: after always wins")
	case r.After > 0 && (limit == 1 || !p.Delays()), !r.Backoff.IsZero() && !p.delayed(limit):
		return errors.New("asks for a delay, and there is no delayed retry that could have it")
	case r.Attempts > 0 && p.delayed(limit) && r.After == 0 && p.backoff(r).IsZero():
		return errors.New("has attempts after the immediate ones, which need a backoff")
	case p.tooLate(max(r.After, r.Backoff.Delay(1))):
		return fmt.Errorf("waits longer than within %v", p.Within)
	}
	return nil
}

// delaysByRule reports whether a rule asks for a delayed retry.
func (p Policy) delaysByRule() bool {
	for _, r := range p.Rules {
		if r.After > 0 || p.delayed(p.limit(r)) {
			return true
		}
	}
	return false
}

// retries reports whether the policy itself may try a failure again.
func (p Policy) retries() bool { return !p.BrokerRetries && (p.Ack == RetryOnError || p.Ack == Manual) }

// limit is how many attempts an error gets that the rule is for; 0 means that
// only Within bounds.
func (p Policy) limit(r Rule) int {
	if r.Attempts > 0 {
		return r.Attempts
	}
	return p.attempts()
}

// delayed reports whether of so many attempts some follow after a delay.
func (p Policy) delayed(limit int) bool {
	return p.retries() && (limit == 0 || limit > p.Immediate+1)
}

// tooLate reports whether a retry after d always comes after Within.
func (p Policy) tooLate(d time.Duration) bool { return p.Within > 0 && d > p.Within }

// attempts is Attempts with its default; 0 means that only Within bounds.
func (p Policy) attempts() int {
	if p.Attempts == 0 && p.Within == 0 {
		return 1
	}
	return p.Attempts
}

// rounds is how many deliveries the policy itself may cause. A policy that only
// time bounds causes as many as its shortest delays fit in.
func (p Policy) rounds() int {
	most := p.mostAttempts()
	if p.attempts() > 0 {
		return most
	}
	const enough = 100_000 // so many crashes are a loop whatever the policy says
	n := 1
	for sum := p.least(1); sum <= p.Within && n < enough; n++ {
		sum = add(sum, p.least(n+1))
	}
	return max(n, most)
}

// least is the shortest delay there can be before delayed retry n, unless the
// handler asks for a shorter one.
func (p Policy) least(n int) time.Duration {
	d := forever
	if !p.Backoff.IsZero() {
		d = p.Backoff.Delay(n)
	}
	for _, r := range p.Rules {
		switch {
		case r.After > 0:
			d = min(d, r.After)
		case !r.Backoff.IsZero():
			d = min(d, r.Backoff.Delay(n))
		}
	}
	return max(d, minDelay)
}

// crashLimit is CrashLimit with its default.
func (p Policy) crashLimit() int {
	if p.CrashLimit == 0 {
		return DefaultCrashLimit
	}
	return p.CrashLimit
}

// Delays reports whether the policy may ask for a delayed retry. It is what a
// broker without redelivery cannot do. A policy without delayed retries gives
// none to RetryAfter either: the retries it has follow at once.
func (p Policy) Delays() bool {
	if p.delayed(p.attempts()) {
		return true
	}
	for _, r := range p.Rules {
		if r.Attempts > 0 && p.delayed(r.Attempts) {
			return true
		}
	}
	return false
}

// MaxDelay is the longest delay the policy asks for, jitter included, and zero
// if it never does. A handler that asks for RetryAfter may ask for more.
func (p Policy) MaxDelay() time.Duration {
	if !p.Delays() {
		return 0
	}
	d := p.Backoff.Max()
	for _, r := range p.Rules {
		d = max(d, r.After, r.Backoff.Max())
	}
	return max(stretch(d, p.Jitter, 1), minDelay)
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
// and this one. It stands in for the true time where that is not known. A
// handler that asked for RetryAfter sooner than the backoff makes it too long,
// and Within ends early then, never late.
func (p Policy) MinElapsed(attempt int) time.Duration {
	var sum time.Duration
	if !p.Delays() {
		return sum
	}
	for n := 1; n < attempt-p.Immediate && sum < forever; n++ {
		sum = add(sum, p.least(n))
	}
	return sum
}

// Compensation is the policy for a compensation that failed: the message is
// retried like one whose handler failed, since acking it would lose it. It has
// this policy's backoff if that is set, and five attempts from one second on
// otherwise.
func (p Policy) Compensation() Policy {
	p.Ack, p.Attempts, p.Immediate = RetryOnError, max(p.Attempts, 5), 0
	if p.Backoff.IsZero() {
		p.Backoff = Exponential(time.Second, time.Minute)
	}
	return p
}
