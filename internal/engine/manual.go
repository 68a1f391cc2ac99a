package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// Manual settles a delivery by hand. The first settlement that succeeds counts;
// later ones are ErrSettled. It is safe for concurrent use, and may be used
// after the handler returned: the lease is kept for Config.MaxLease.
type Manual struct {
	s     *Subscription
	until time.Time // how long the lease is kept

	mu      sync.Mutex // guards what follows; not held during a settlement
	c       judgement  // of the attempt that ran last
	settled bool
	busy    bool
}

// byHand makes the Manual of a delivery, or shows it the next attempt.
func (s *Subscription) byHand(c *judgement, now time.Time) *Manual {
	m := c.manual
	if m == nil {
		m = &Manual{s: s, until: now.Add(s.cfg.MaxLease)}
	}
	m.mu.Lock()
	m.c = *c
	m.mu.Unlock()
	return m
}

// isSettled reports whether the delivery was settled by hand. A nil Manual
// never is.
func (m *Manual) isSettled() bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settled
}

// Ack settles the message as done.
func (m *Manual) Ack(ctx context.Context) error {
	return m.settle(func(c *judgement) error {
		c.verdict = recovery.Verdict{Action: recovery.Ack}
		if err := c.delivery.Ack(ctx); err != nil {
			return err
		}
		m.s.forget(c)
		return nil
	})
}

// errNackedByHand is what an attempt that was nacked by hand failed with.
var errNackedByHand = errors.New("given back by hand")

// Nack gives the message back, to be handled again not before delay. It counts
// as a failed attempt: after the last one that the policy gives, the message
// comes back at once and is not handled any more but becomes a dead letter.
func (m *Manual) Nack(ctx context.Context, delay time.Duration) error {
	return m.settle(func(c *judgement) error {
		m.s.nackedByHand(c, delay)
		// Noted before, for it may be back before this returns.
		return c.delivery.Nack(ctx, c.verdict.Delay)
	})
}

// nackedByHand judges an attempt that was nacked by hand.
func (s *Subscription) nackedByHand(c *judgement, delay time.Duration) {
	s.judgeFailure(c, recovery.RetryAfter(errNackedByHand, delay))
	s.remember(c)
	switch c.verdict.Action {
	case recovery.DeadLetter, recovery.Drop, recovery.Reject:
		s.condemn(c)
		delay = 0
	}
	c.verdict = recovery.Verdict{Action: recovery.RetryLater, Delay: delay, Class: c.verdict.Class}
	s.outlive(c)
}

// Reject settles the message by the broker's own terminal.
func (m *Manual) Reject(ctx context.Context, reason string) error {
	return m.settle(func(c *judgement) error {
		r, ok := c.delivery.(transport.Rejecter)
		if !ok {
			return transport.Unsupported("reject", c.message.Subject, "return holdfast.Permanent(err) to dead-letter the message instead")
		}
		c.verdict = recovery.Verdict{Action: recovery.Reject, Reason: recovery.Rejected}
		if err := r.Reject(ctx, reason); err != nil {
			return err
		}
		m.s.forget(c)
		return nil
	})
}

// settle lets one settlement through at a time, and none after one that
// succeeded.
func (m *Manual) settle(do func(*judgement) error) error {
	m.mu.Lock()
	if m.settled || m.busy {
		m.mu.Unlock()
		return transport.ErrSettled
	}
	m.busy = true
	c := m.c
	m.mu.Unlock()

	err := do(&c)

	m.mu.Lock()
	m.busy, m.settled = false, err == nil
	m.c.noted = m.c.noted || c.noted
	m.mu.Unlock()
	if err != nil {
		return err
	}
	m.s.settledByHand(m, &c)
	return nil
}

// settledByHand keeps the books of a settlement by hand.
func (s *Subscription) settledByHand(m *Manual, c *judgement) {
	s.mu.Lock()
	delete(s.held, m)
	switch c.verdict.Action {
	case recovery.Ack:
		s.past.Handled++
	case recovery.RetryLater:
		s.past.Retried++
	case recovery.Reject:
		s.past.Rejected++
	case recovery.Return:
		s.past.Returned++
	}
	s.mu.Unlock()
	s.settled(c)
}

// keep holds a delivery that its handler will settle later.
func (s *Subscription) keep(m *Manual) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !m.isSettled() { // it may have been settled by another goroutine just now
		s.held[m] = struct{}{}
	}
}

// keepHeld extends the leases of what is held. What was held for MaxLease is
// let go: the broker hands it out again.
func (s *Subscription) keepHeld() {
	now := time.Now()
	s.mu.Lock()
	held := make([]*Manual, 0, len(s.held))
	for m := range s.held {
		if now.After(m.until) {
			delete(s.held, m)
			continue
		}
		held = append(held, m)
	}
	s.mu.Unlock()
	for _, m := range held {
		if extend(m.delivery()) != nil {
			s.mu.Lock()
			delete(s.held, m)
			s.mu.Unlock()
		}
	}
}

// delivery is what is settled by hand.
func (m *Manual) delivery() transport.Delivery {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.c.delivery
}

// returnHeld gives back what nobody settled before the stop.
func (p *pool) returnHeld() {
	p.s.mu.Lock()
	held := p.s.held
	p.s.held = make(map[*Manual]struct{})
	p.s.mu.Unlock()
	for m := range held {
		// A failure leaves the message to its lease, which brings it back.
		_ = m.settle(func(c *judgement) error {
			p.s.uncount(c)
			c.verdict = recovery.Verdict{Action: recovery.Return}
			return handBack(p.s.grace.ctx, c.delivery)
		})
	}
}
