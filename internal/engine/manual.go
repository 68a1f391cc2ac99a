package engine

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// Manual settles a delivery by hand. The first settlement that succeeds counts;
// later ones are ErrSettled. It is safe for concurrent use, and may be used
// after the handler returned: the lease is kept for Config.MaxLease.
type Manual struct {
	s *Subscription
	c judgement

	mu      sync.Mutex // guards what follows; not held during a settlement
	settled bool
	busy    bool

	until time.Time // how long the lease is kept
}

func newManual(s *Subscription, c *judgement, now time.Time) *Manual {
	return &Manual{s: s, c: *c, until: now.Add(s.cfg.MaxLease)}
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
	return m.settle(recovery.Verdict{Action: recovery.Ack}, func() error { return m.c.delivery.Ack(ctx) })
}

// Nack gives the message back, to be handled again not before delay.
func (m *Manual) Nack(ctx context.Context, delay time.Duration) error {
	v := recovery.Verdict{Action: recovery.RetryLater, Delay: delay}
	return m.settle(v, func() error { return m.c.delivery.Nack(ctx, delay) })
}

// Reject settles the message by the broker's own terminal.
func (m *Manual) Reject(ctx context.Context, reason string) error {
	r, ok := m.c.delivery.(transport.Rejecter)
	if !ok {
		return transport.Unsupported("reject", m.c.message.Subject, "return holdfast.Permanent(err) to dead-letter the message instead")
	}
	v := recovery.Verdict{Action: recovery.Reject, Reason: recovery.Rejected}
	return m.settle(v, func() error { return r.Reject(ctx, reason) })
}

func (m *Manual) settle(v recovery.Verdict, do func() error) error {
	m.mu.Lock()
	if m.settled || m.busy {
		m.mu.Unlock()
		return transport.ErrSettled
	}
	m.busy = true
	m.mu.Unlock()

	err := do()

	m.mu.Lock()
	m.busy, m.settled = false, err == nil
	m.mu.Unlock()
	if err != nil {
		return err
	}
	m.s.settledByHand(m, v)
	return nil
}

// settledByHand keeps the books of a settlement by hand.
func (s *Subscription) settledByHand(m *Manual, v recovery.Verdict) {
	s.mu.Lock()
	delete(s.held, m)
	switch v.Action {
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
	c := m.c
	c.verdict = v
	s.settled(&c)
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
		if extend(m.c.delivery) != nil {
			s.mu.Lock()
			delete(s.held, m)
			s.mu.Unlock()
		}
	}
}

// returnHeld gives back what nobody settled before the stop.
func (p *pool) returnHeld() {
	p.s.mu.Lock()
	held := p.s.held
	p.s.held = make(map[*Manual]struct{})
	p.s.mu.Unlock()
	for m := range held {
		// A failure leaves the message to its lease, which brings it back.
		_ = m.settle(recovery.Verdict{Action: recovery.Return}, func() error { return handBack(p.s.grace.ctx, m.c.delivery) })
	}
}
