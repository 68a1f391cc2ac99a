package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A broker counts deliveries, not starts of a handler. When a message ends the
// process each time it is handled, everything that was in hand beside it is
// counted as well, and in the end would be taken for a killer too. So a message
// that is suspected is handled alone: what was fetched beside it is given back,
// uncharged where the broker can, and what runs beside it is waited for. Then
// only the killer's own count grows.

// soloWait bounds the wait for the handlers beside a suspected message. A long
// one may be counted with it; it has hours of deliveries left.
const soloWait = 30 * time.Second

// isolation is the part of a pool that lets one worker be alone.
type isolation struct {
	one     *sync.Mutex   // held by the worker that is alone
	alone   chan *solo    // taken by the supervisor
	parked  *atomic.Int64 // workers that wait for a receiver
	arrived chan struct{} // one place: a worker has parked
}

func newIsolation() isolation {
	return isolation{one: new(sync.Mutex), alone: make(chan *solo), parked: new(atomic.Int64), arrived: make(chan struct{}, 1)}
}

// solo is the time in which one worker is alone.
type solo struct {
	closed chan struct{} // closed by the supervisor: the receiver is closed
	over   chan struct{} // closed by the worker
}

// wait is the supervisor's part.
func (a *solo) wait(ctx context.Context) {
	close(a.closed)
	select {
	case <-a.over:
	case <-ctx.Done():
	}
}

// park counts a worker that waits for a receiver.
func (p *pool) park() {
	p.parked.Add(1)
	p.tellParked()
}

// tellParked makes whoever waits for the other workers look again.
func (p *pool) tellParked() {
	select {
	case p.arrived <- struct{}{}:
	default:
	}
}

// isolate makes the calling worker the only one with a message in hand, until
// resume is called. It fails when another worker is alone already, and at a stop.
func (p *pool) isolate() (resume func(), ok bool) {
	if !p.one.TryLock() {
		return nil, false
	}
	a := &solo{closed: make(chan struct{}), over: make(chan struct{})}
	select {
	case p.alone <- a:
	case <-p.s.recvCtx.Done():
		p.one.Unlock()
		return nil, false
	}
	<-a.closed
	p.waitParked()
	return sync.OnceFunc(func() {
		close(a.over)
		p.one.Unlock()
	}), true
}

// waitParked waits until every other worker waits for a receiver.
func (p *pool) waitParked() {
	timer := time.NewTimer(soloWait)
	defer timer.Stop()
	for {
		p.mu.Lock()
		others := int64(p.alive - 1)
		p.mu.Unlock()
		if p.parked.Load() >= others {
			return
		}
		select {
		case <-p.arrived:
		case <-p.s.recvCtx.Done():
			return
		case <-timer.C:
			return
		}
	}
}

// goAlone prepares for a message that may end the process. It returns false
// when that must wait: then the message is given back.
func (w *worker) goAlone(c *judgement) bool {
	resume, ok := w.p.isolate()
	if !ok {
		return false
	}
	w.mu.Lock()
	w.resume = resume
	w.mu.Unlock()
	w.s.cfg.Logger.Warn("message is handled alone: its deliveries keep ending without an outcome", "id", c.message.ID, "subject", c.message.Subject, "deliveries", c.deliveries)
	return true
}

// endAlone lets the other workers go on.
func (w *worker) endAlone() {
	w.mu.Lock()
	resume := w.resume
	w.resume = nil
	w.mu.Unlock()
	if resume != nil {
		resume()
	}
}
