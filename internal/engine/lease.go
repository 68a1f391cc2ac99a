package engine

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// keepLeases extends the lease of everything in hand, three times in a lease,
// and ends what has been in hand for too long. A lease is fresh when a receiver
// hands a delivery out, so nobody needs a timer of his own. Another receiver may
// have another lease, so the pace is found anew with each.
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
			w.keepLease(pace)
		}
		p.s.keepHeld(pace)
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

// keepLease extends the lease of the worker's delivery. A delivery that was in
// hand for MaxLease is timed out, as by a timeout of its handler.
func (w *worker) keepLease(pace time.Duration) {
	w.mu.Lock()
	d := w.delivery
	if d == nil || w.lost.Load() {
		w.mu.Unlock()
		return
	}
	w.ticks++
	if err := extend(d); err != nil {
		w.lost.Store(true)
		ctx := w.ctx
		w.mu.Unlock()
		w.loseLease(d, ctx, err)
		return
	}
	if w.ctx != nil && !w.timedOut && time.Duration(w.ticks)*pace > w.s.cfg.MaxLease {
		w.timeOutLocked() // and its timer finds out if it hangs
		return
	}
	w.mu.Unlock()
}

// loseLease cancels an attempt whose message may be somebody else's now.
func (w *worker) loseLease(d transport.Delivery, ctx *Context, err error) {
	m := d.Message()
	w.s.cfg.Logger.Warn("lease lost: the handler is cancelled and nothing will be settled", "id", m.ID, "subject", m.Subject, "err", err)
	w.s.observe(observe.Event{Kind: observe.LeaseLost, Subject: m.Subject, MessageID: m.ID, Deliveries: d.Deliveries(), Err: err})
	if ctx != nil {
		ctx.end(context.Canceled)
	}
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
