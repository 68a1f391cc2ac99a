package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// judgement is what is known of a delivery on its way through the rooms.
type judgement struct {
	delivery   transport.Delivery
	message    *transport.Message
	deliveries int
	charged    int // deliveries that are not known to have been given back uncharged
	retries    int // how many of those are known to have ended in a retry
	attempt    int
	verdict    recovery.Verdict
	err        error
	first      time.Time // when its first known attempt ended; zero if none failed
	began      time.Time // when the first attempt of which this process knows started; zero where nobody needs it
	from       int       // the number of that attempt; 0 before it
	raw        int       // deliveries as the broker said when it handed this one out
	noted      bool      // the ledger has this delivery as a retry
	recounted  bool      // the broker was asked anew how often it handed the message out
	failed     time.Time // when the last one ended
	manual     *Manual
	deadID     string // of its dead letter, once that was made

	condemned    bool // the verdict could not be performed before
	doubt        bool // nobody knows whether a settlement that failed has worked
	acked        bool // before the handler ran, see AckFirst
	over         bool // the verdict was performed before, and only the ack is missing
	compensating bool // what runs is the compensation

	doubtful string // an attempt that may be counted and has not started
	counted  string // the attempt that is counted, and not forgotten
}

// consider judges a delivery before its handler runs.
func (s *Subscription) consider(c *judgement, d transport.Delivery) {
	s.recall(c, d)
	if c.verdict.Action != recovery.Handle {
		return
	}
	if c.charged == 1 && s.cfg.Policy.MaxAge == 0 {
		return // only its age could speak against a first delivery
	}
	s.admit(c)
	if c.verdict.Reason == recovery.CrashLoop && s.recount(c) {
		s.admit(c)
	}
	if c.verdict.Action != recovery.Handle {
		c.attempt--
	}
}

// recall fills c with what the broker and the ledger know of a delivery. Its verdict
// is to handle it, unless there is one already.
func (s *Subscription) recall(c *judgement, d transport.Delivery) {
	m := d.Message()
	n := d.Deliveries()
	*c = judgement{delivery: d, message: m, deliveries: n, raw: n, verdict: recovery.Verdict{Action: recovery.Handle}}
	known := s.ledger.look(m.Position)
	if known.over {
		c.verdict, c.over = known.verdict, true
		return
	}
	if g := known.grave; g != nil {
		c.verdict, c.err, c.attempt, c.first, c.failed = g.verdict, g.err, g.attempts, g.first, g.failed
		c.condemned = true
		return
	}
	c.doubtful = known.doubtful
	charged := max(n-known.returned, 1)
	c.charged, c.retries = charged, known.retries
	c.attempt, c.first = s.cfg.Policy.FirstAttempt(charged), known.first
	if next, ok := known.next(n); ok {
		c.attempt = next
	}
	c.began, c.from = known.began, known.from
}

// admit asks the policy whether the handler runs at all.
func (s *Subscription) admit(c *judgement) {
	a := recovery.Arrival{Deliveries: c.charged, Retries: c.retries}
	if s.cfg.Policy.MaxAge > 0 && !c.message.Time.IsZero() {
		a.Age = time.Since(c.message.Time)
	}
	c.verdict, c.err = s.cfg.Policy.Admit(a), nil
	if c.verdict.Action != recovery.Handle {
		c.err = admitError(c.verdict.Reason, c.deliveries, a.Age)
	}
}

// recount asks the broker, once, whether deliveries that this process did not
// see were given back uncharged by others, and corrects the number of the
// attempt. It reports whether there is something to judge again. A broker that
// does not answer leaves the count as it is, which over-counts.
func (s *Subscription) recount(c *judgement) bool {
	r, ok := c.delivery.(transport.Recounter)
	if !ok || c.recounted || s.cfg.Counts != nil {
		return false
	}
	c.recounted = true
	n, err := r.Recount(s.settleCtx)
	if err != nil || n >= c.deliveries {
		return false
	}
	charged := max(c.charged-(c.deliveries-n), 1)
	p := s.cfg.Policy
	less := p.FirstAttempt(c.charged) - p.FirstAttempt(charged)
	c.attempt = max(c.attempt-less, 1)
	if c.from > 0 {
		c.from = max(c.from-less, 1)
	}
	c.charged, c.deliveries = charged, n
	return true
}

// judge asks the policy about an attempt that ended.
func (s *Subscription) judge(c *judgement, err error) {
	c.err = err
	if err == nil && s.cfg.Policy.Ack != recovery.Manual {
		c.verdict = recovery.Verdict{Action: recovery.Ack}
		return
	}
	if c.manual.isSettled() {
		c.verdict = recovery.Verdict{Action: nothing}
		return
	}
	if errors.Is(err, ErrUnseen) && !c.acked {
		c.verdict = recovery.Verdict{Action: recovery.Return}
		return
	}
	if err == nil {
		c.verdict = recovery.Verdict{Action: keep}
		return
	}
	s.judgeFailure(c, err)
	if c.verdict.Action == recovery.Ack && s.cfg.Compensate != nil {
		c.verdict.Action = compensate
	}
}

// judgeFailure asks the policy about an attempt that failed. Before the message
// is given up because of deliveries that nobody here has seen, the broker is
// asked about them.
func (s *Subscription) judgeFailure(c *judgement, err error) {
	c.err, c.failed = err, time.Now()
	if c.first.IsZero() {
		c.first = c.failed
	}
	s.decideOn(c, err)
	unseen := c.charged-c.retries > 1
	if unseen && gaveUp(c.verdict) && s.recount(c) {
		s.decideOn(c, err)
	}
}

// decideOn asks the policy about the failure of the attempt that ended. The time
// since the first attempt is what is known of it here, and at least what the
// attempts before must have taken.
func (s *Subscription) decideOn(c *judgement, err error) {
	var elapsed time.Duration
	if s.cfg.Policy.Within > 0 && !c.began.IsZero() {
		elapsed = c.failed.Sub(c.began) + s.cfg.Policy.MinElapsed(c.from)
	}
	c.verdict = s.decide(s.cfg.Policy, recovery.Failure{
		Attempt: c.attempt, Err: err, Elapsed: elapsed,
		Stopping: s.stopping.Load(), Jitter: rand.Float64(),
	})
}

// gaveUp reports whether a verdict rests on how often the message was tried.
func gaveUp(v recovery.Verdict) bool {
	return v.Reason == recovery.AttemptsExhausted || v.Reason == recovery.DeadlineExceeded
}

// decide asks the policy. The When of a rule is the user's code and may panic:
// then the failure is judged without rules.
func (s *Subscription) decide(p recovery.Policy, f recovery.Failure) (v recovery.Verdict) {
	defer func() {
		if panicked := recover(); panicked != nil {
			s.cfg.Logger.Error("a rule of the policy panicked: the failure is judged without rules", "panic", fmt.Sprint(panicked))
			p.Rules = nil
			v = p.Decide(f)
		}
	}()
	return p.Decide(f)
}

// Actions of the engine's own, beyond those of the policy.
const (
	keep       recovery.Action = 100 + iota // leave unsettled: a manual handler settles later
	nothing                                 // it is settled, or left to the broker
	compensate                              // run the compensation, then ack
	uncounted                               // give back, for the attempt could not be counted
)
