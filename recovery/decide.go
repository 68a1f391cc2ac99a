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
)

// String returns the action's name.
func (a Action) String() string {
	names := [...]string{"ack", "retry now", "retry later", "return", "dead letter", "discard", "reject", "handle"}
	if int(a) < len(names) {
		return names[a]
	}
	return "unknown action"
}

// Reason says why a message became a dead letter. The set is closed.
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
)

// Reasons returns all reasons in a stable order.
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
	switch {
	case p.Ack == AckFirst:
		return Verdict{Action: Handle}
	case p.crashed(a.Deliveries - a.Retries):
		return p.bury(CrashLoop, "")
	case p.MaxAge > 0 && a.Age > p.MaxAge:
		return p.bury(Expired, "")
	default:
		return Verdict{Action: Handle}
	}
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
// every failure has an answer, and no sequence of failures goes on for ever.
func (p Policy) Decide(f Failure) Verdict {
	if f.Err == nil {
		return Verdict{Action: Ack}
	}
	class, after := Classify(f.Err)
	rule := p.rule(f.Err)
	switch {
	case rule.Discard:
		class = ClassDiscard
	case rule.Permanent && class == ClassTransient:
		class = ClassPermanent
	}
	after = max(after, rule.After)

	switch p.Ack {
	case AckAlways:
		return Verdict{Action: Ack, Class: class}
	case AckFirst:
		return Verdict{Action: Drop, Reason: reasonOf(class), Class: class}
	}
	if f.Stopping && !final(class) {
		return Verdict{Action: Return, Class: class}
	}
	switch {
	case class == ClassDiscard:
		return Verdict{Action: Drop, Reason: PermanentError, Class: class}
	case final(class):
		return p.bury(reasonOf(class), class)
	case rule.Permanent:
		return p.bury(PermanentError, class)
	case p.Ack == RejectOnError:
		return p.bury(Rejected, class)
	}
	return p.retry(f, rule, class, after)
}

// retry decides for a transient failure.
func (p Policy) retry(f Failure, rule Rule, class Class, after time.Duration) Verdict {
	limit := p.attempts()
	if rule.Attempts > 0 {
		limit = rule.Attempts
	}
	if limit > 0 && f.Attempt >= limit {
		return p.bury(AttemptsExhausted, class)
	}
	if after == 0 && f.Attempt <= p.Immediate {
		return Verdict{Action: RetryNow, Class: class}
	}
	backoff := p.Backoff
	if !rule.Backoff.IsZero() {
		backoff = rule.Backoff
	}
	delay := after
	if delay == 0 {
		delay = stretch(backoff.Delay(f.Attempt-p.Immediate), p.Jitter, f.Jitter)
	}
	delay = max(delay, minDelay)
	if p.Within > 0 && f.Elapsed+delay > p.Within {
		return p.bury(DeadlineExceeded, class)
	}
	return Verdict{Action: RetryLater, Delay: delay, Class: class}
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
	if float64(d)+extra > float64(1<<63-1) {
		return 1<<63 - 1
	}
	return d + time.Duration(extra)
}
