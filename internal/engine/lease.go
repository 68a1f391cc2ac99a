package engine

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// keepLeases extends the lease of everything in hand, three times in a lease. A
// lease is fresh when a receiver hands a delivery out, so nobody needs a timer of
// his own for that. Another receiver may have another lease, so the pace is found
// anew with each.
func (p *pool) keepLeases() {
	pace := p.pace()
	timer := time.NewTimer(pace)
	defer timer.Stop()
	for {
		replaced := p.current.Load().over
		select {
		case <-p.endWork:
			return
		case <-replaced:
			if next := p.pace(); next < pace {
				timer.Reset(next)
			}
			pace = p.pace()
			continue
		case <-timer.C:
		}
		pace = p.pace()
		for _, w := range p.s.allWorkers() {
			w.keepLease()
		}
		p.s.keepHeld()
		p.s.forgetBurials()
		if l := p.s.lanes; l != nil {
			l.keepLeases()
		}
		timer.Reset(pace)
	}
}

// pace is how often leases are extended: a third of a lease.
func (p *pool) pace() time.Duration {
	if l, ok := p.current.Load().rx.(transport.Leased); ok && l.Lease() > 0 {
		p.lastPace = l.Lease() / 3
	}
	return p.lastPace
}

// keepLease extends the lease of the worker's delivery. No lock is held
// meanwhile, so the worker may have another one in hand afterwards.
func (w *worker) keepLease() {
	w.mu.Lock()
	d, turn, lost := w.delivery, w.turn, w.lost.Load()
	if w.ctx != nil && w.deadline.IsZero() {
		w.armLocked(time.Now())
	}
	batch := len(w.items) > 0
	w.mu.Unlock()
	if batch {
		w.keepItems()
		return
	}
	if d == nil || lost {
		return
	}
	err := extend(d)
	if err == nil {
		return
	}
	w.mu.Lock()
	if w.delivery == nil || w.turn != turn {
		w.mu.Unlock()
		return
	}
	w.lost.Store(true)
	ctx := w.ctx
	if ctx != nil {
		w.leaveLocked() // and its timer finds out if it hangs
	}
	w.mu.Unlock()
	w.loseLease(d, ctx, err)
}

// loseLease cancels an attempt whose message may be somebody else's now.
func (w *worker) loseLease(d transport.Delivery, ctx *Context, err error) {
	w.s.tellLeaseLost(d, "lease lost: the handler is cancelled and nothing will be settled", err)
	if ctx != nil {
		ctx.end(context.Canceled)
	}
}

// tellLeaseLost makes a lost lease visible.
func (s *Subscription) tellLeaseLost(d transport.Delivery, text string, err error) {
	m := d.Message()
	s.cfg.Logger.Warn(text, "id", m.ID, "subject", m.Subject, "err", err)
	s.observe(observe.Event{Kind: observe.LeaseLost, Subject: m.Subject, MessageID: m.ID, Deliveries: d.Deliveries(), Err: err})
}

// extend extends the lease of a delivery, if it has one. Only a lease that is
// lost for certain is an error: the next try comes in time for any other.
func extend(d transport.Delivery) error {
	e, ok := d.(transport.LeaseExtender)
	if !ok {
		return nil
	}
	if err := e.ExtendLease(); errors.Is(err, transport.ErrLeaseLost) {
		return err
	}
	return nil
}
