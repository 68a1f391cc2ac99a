package recovery

import "time"

// Action is what is done with a delivery.
type Action uint8

// The actions, from harmless to final.
const (
	Ack        Action = iota // settle as done
	RetryNow                 // run the handler again, in process
	RetryLater               // give back, not before Delay
	Return                   // give back, nothing charged
	DeadLetter               // bury with Reason, confirmed, then settle
	Drop                     // settle, counted and logged: the message is not kept
	Reject                   // settle by the broker's own terminal
	Handle                   // run the handler (Admit only)
	Requeue                  // give back at once, counted and bounded by the broker
)

// String returns the action's name.
func (a Action) String() string {
	names := [...]string{"ack", "retry now", "retry later", "return", "dead letter", "discard", "reject", "handle", "requeue"}
	if int(a) < len(names) {
		return names[a]
	}
	return "unknown action"
}

// Reason says why a message became a dead letter, or was dropped. The set is
// closed.
type Reason string

// The reasons.
const (
	AttemptsExhausted Reason = "attempts-exhausted" // the last attempt failed
	DeadlineExceeded  Reason = "deadline"           // the next attempt would start after Within
	PermanentError    Reason = "permanent"          // the handler or a rule called the error permanent
	Undecodable       Reason = "undecodable"        // the body could not be decoded
	Invalid           Reason = "invalid"            // the body was refused by its Validate method
	NoHandler         Reason = "no-handler"         // nobody handles messages of this kind
	Expired           Reason = "expired"            // older than MaxAge when received
	CrashLoop         Reason = "crash-loop"         // its deliveries ended without an outcome too often
	Rejected          Reason = "rejected"           // RejectOnError
	Discarded         Reason = "discarded"          // dropped on request; never the reason of a dead letter
)

// Reasons returns all reasons of dead letters in a stable order.
func Reasons() []Reason {
	return []Reason{
		AttemptsExhausted, DeadlineExceeded, PermanentError, Undecodable, Invalid,
		NoHandler, Expired, CrashLoop, Rejected,
	}
}

// Verdict is the answer of a policy.
type Verdict struct {
	Action Action
	// Delay is how long to wait at least, for RetryLater.
	Delay time.Duration
	// Reason is set for DeadLetter, Drop and Reject.
	Reason Reason
	// Class is the class of the error that was judged.
	Class Class
	// Alone: the message may be one that ends the process. Nothing else may be
	// in hand while it is handled, so that no neighbour is counted with it.
	// Handle only.
	Alone bool
}

// Arrival is what is known of a delivery before its handler runs.
type Arrival struct {
	// Deliveries is how often the broker has handed it out, this time included,
	// less those that are known to have been given back uncharged.
	Deliveries int
	// Retries is how many of those are known to have ended in a retry.
	Retries int
	// Age is the time since the broker stored the message; zero if unknown.
	Age time.Duration
}

// Admit decides whether the handler runs at all.
//
// A message that kills the process never reaches Decide, so the crash guard
// stands here. It allows for as many deliveries as the policy has attempts, and
// CrashLimit more.
func (p Policy) Admit(a Arrival) Verdict {
	guarded := p.Ack != AckFirst && !p.BrokerRetries && !p.Counted
	switch {
	case guarded && p.crashed(a.Deliveries-a.Retries):
		return p.bury(CrashLoop, "")
	case p.MaxAge > 0 && a.Age > p.MaxAge:
		return p.bury(Expired, "")
	default:
		return Verdict{Action: Handle, Alone: guarded && p.suspect(a.Deliveries-a.Retries)}
	}
}

// AdmitAttempt decides whether an attempt may start where attempts are counted
// before they start. made is how many are counted without this one, and failed
// how many of those are known to have returned.
//
// Beyond the attempts of the policy, the last one ended without an outcome. The
// last one is made alone if no earlier one is known to have returned: whatever
// was handled beside a message that ends the process has been counted with it.
func (p Policy) AdmitAttempt(made, failed int) Verdict {
	limit := p.mostAttempts()
	if made >= limit {
		return p.bury(CrashLoop, "")
	}
	return Verdict{Action: Handle, Alone: made > 0 && made == limit-1 && failed == 0}
}

// mostAttempts is the largest number of attempts that an error may get.
func (p Policy) mostAttempts() int {
	most := p.attempts()
	for _, r := range p.Rules {
		most = max(most, r.Attempts)
	}
	return most
}

// suspect reports whether more deliveries than the policy causes have ended
// without an outcome, a third of what the crash limit allows.
func (p Policy) suspect(deliveries int) bool {
	few := max(p.crashLimit()/3, 1)
	return deliveries > few && deliveries > few+p.rounds()
}

// crashed reports whether so many deliveries cannot be explained by retries.
func (p Policy) crashed(deliveries int) bool {
	limit := p.crashLimit()
	return deliveries > limit && deliveries > limit+p.rounds()
}

// Failure is one attempt that ended.
type Failure struct {
	// Attempt is its number, from 1.
	Attempt int
	// Err is what the handler returned; nil is success.
	Err error
	// Elapsed is the time since the first attempt of this message started.
	Elapsed time.Duration
	// Stopping: the subscription is stopping and cut the attempt short.
	Stopping bool
	// Jitter is a random number from 0 up to 1.
	Jitter float64
}

// Decide returns what to do with a delivery after an attempt. It is total:
// every failure has an answer, and under a policy that Validate accepts no
// sequence of failures goes on for ever. It calls Rule.When of the policy's
// rules, which is the caller's own code.
//
// Rules do not judge an attempt that a stop cut short, for its error is likely
// to come from the stop; what the handler said itself still counts.
func (p Policy) Decide(f Failure) Verdict {
	if f.Err == nil {
		return Verdict{Action: Ack}
	}
	class, after := Classify(f.Err)
	returns := f.Stopping && !final(class) && p.Ack != AckFirst
	if returns {
		return Verdict{Action: Return, Class: class}
	}
	rule := p.rule(f.Err)
	switch {
	case rule.Discard:
		class = ClassDiscard
	case rule.Permanent && class == ClassTransient:
		class = ClassPermanent
	}

	switch {
	case p.Ack == AckAlways && (class == ClassDecode || class == ClassInvalid):
		return p.bury(reasonOf(class), class) // no handler has seen it
	case p.Ack == AckAlways:
		return Verdict{Action: Ack, Class: class}
	case p.Ack == AckFirst:
		return Verdict{Action: Drop, Reason: reasonOf(class), Class: class}
	case class == ClassDiscard:
		return Verdict{Action: Drop, Reason: Discarded, Class: class}
	case final(class):
		return p.bury(reasonOf(class), class)
	case rule.Permanent:
		return p.bury(PermanentError, class)
	case p.Ack == RejectOnError:
		return p.bury(Rejected, class)
	}
	return p.retry(f, rule, class, max(after, rule.After))
}

// retry decides for a transient failure. A policy without delayed retries
// never gives one, whatever the handler asks for: its broker may have none.
func (p Policy) retry(f Failure, rule Rule, class Class, after time.Duration) Verdict {
	if p.BrokerRetries {
		return Verdict{Action: Requeue, Class: class}
	}
	limit := p.attempts()
	if rule.Attempts > 0 {
		limit = rule.Attempts
	}
	if limit > 0 && f.Attempt >= limit {
		return p.bury(AttemptsExhausted, class)
	}
	var delay time.Duration
	if f.Attempt > p.Immediate || after > 0 && p.Delays() {
		delay = p.delay(f, rule, after)
	}
	if p.Within > 0 && add(delay, f.Elapsed) > p.Within {
		return p.bury(DeadlineExceeded, class)
	}
	if delay == 0 {
		return Verdict{Action: RetryNow, Class: class}
	}
	return Verdict{Action: RetryLater, Delay: delay, Class: class}
}

// delay returns how long a delayed retry waits: what was asked for, or the
// backoff with its jitter.
func (p Policy) delay(f Failure, rule Rule, after time.Duration) time.Duration {
	if after > 0 {
		return max(after, minDelay)
	}
	d := p.backoff(rule).Delay(f.Attempt - p.Immediate)
	return max(stretch(d, p.Jitter, f.Jitter), minDelay)
}

// backoff returns the backoff of errors that the rule is for.
func (p Policy) backoff(r Rule) Backoff {
	if r.Backoff.IsZero() {
		return p.Backoff
	}
	return r.Backoff
}

// minDelay keeps a delayed retry from becoming a hot loop.
const minDelay = time.Millisecond

// bury is a dead letter where there is a place for one; otherwise the broker's
// own terminal if that was asked for, and a drop if neither was.
func (p Policy) bury(r Reason, class Class) Verdict {
	action := Drop
	switch {
	case p.DeadLetters:
		action = DeadLetter
	case p.Ack == RejectOnError:
		action = Reject
	}
	return Verdict{Action: action, Reason: r, Class: class}
}

func (p Policy) rule(err error) Rule {
	for _, r := range p.Rules {
		if r.When(err) {
			return r
		}
	}
	return Rule{}
}

// final reports whether no retry can mend an error of this class.
func final(c Class) bool {
	switch c {
	case ClassPermanent, ClassDiscard, ClassDecode, ClassInvalid, ClassNoHandler:
		return true
	}
	return false
}

func reasonOf(c Class) Reason {
	switch c {
	case ClassDecode:
		return Undecodable
	case ClassInvalid:
		return Invalid
	case ClassNoHandler:
		return NoHandler
	case ClassTransient, ClassPanic, ClassTimeout:
		return AttemptsExhausted
	default:
		return PermanentError
	}
}

// stretch lengthens d by up to jitter of it, by the random number r.
func stretch(d time.Duration, jitter, r float64) time.Duration {
	extra := float64(d) * jitter * min(max(r, 0), 1)
	switch {
	case !(extra > 0): // not a number, too
		return d
	case extra >= float64(forever-d):
		return forever
	}
	return d + time.Duration(extra)
}
