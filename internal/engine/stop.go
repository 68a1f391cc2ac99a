package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/observe"
)

// A stop has one deadline, that of its grace, from the call of Stop on. Inside it
// the receiver closes and hands back what it buffered, handlers finish, lanes and
// deliveries held by hand go back. Shortly before it, handlers that still run are
// cancelled and their messages returned. What has not ended then is left to its
// fate: the broker hands its messages out again.

const (
	// cutReserve is how much of the grace is kept, at most, for handlers that
	// are cancelled to return and to be settled.
	cutReserve = 2 * time.Second
	// helperSlack is how long the engine's own goroutines may take to see that
	// the grace is over.
	helperSlack = 100 * time.Millisecond
)

// grace is how long a stop may take.
type grace struct {
	cut  chan struct{}   // closed when handlers are cancelled
	ctx  context.Context // ends when the grace is over
	over context.CancelFunc

	mu     sync.Mutex // guards what follows
	end    time.Time  // zero before the stop
	toCut  *time.Timer
	toOver *time.Timer
}

func newGrace(parent context.Context) *grace {
	g := &grace{cut: make(chan struct{})}
	g.ctx, g.over = context.WithCancel(parent)
	return g
}

// begin starts the grace. Another call may shorten it and never lengthens it.
func (g *grace) begin(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d = max(d, 0)
	end := time.Now().Add(d)
	first := g.end.IsZero()
	if !first && !end.Before(g.end) {
		return
	}
	g.end = end
	untilCut := d - min(d/5, cutReserve)
	if first {
		g.toCut = time.AfterFunc(untilCut, sync.OnceFunc(func() { close(g.cut) }))
		g.toOver = time.AfterFunc(d, g.over)
		return
	}
	g.toCut.Reset(untilCut)
	g.toOver.Reset(d)
}

// close ends what the grace needs. What still gives something back gives up.
func (g *grace) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.toCut != nil {
		g.toCut.Stop()
		g.toOver.Stop()
	}
	g.over()
}

// Stop stops taking messages and lets the handlers finish. Those that have not
// shortly before grace ends are cancelled, and their messages given back
// uncharged. Stop does not wait; Done is closed when all is settled, or when
// grace is over. A later call may shorten the grace and never lengthens it.
func (s *Subscription) Stop(grace time.Duration) {
	s.grace.begin(grace)
	s.stop()
	if s.started.CompareAndSwap(false, true) { // never ran: nothing to wait for
		s.grace.close()
		s.setState(observe.StateStopped, "")
		close(s.finished)
	}
}

// Done returns a channel that is closed when the subscription has ended.
func (s *Subscription) Done() <-chan struct{} { return s.finished }

// Err returns what Run returned once Done is closed, and nil before.
func (s *Subscription) Err() error {
	select {
	case <-s.finished:
		return s.fault
	default:
		return nil
	}
}

// finish brings a stop to its end.
func (p *pool) finish() error {
	s := p.s
	defer s.grace.close()
	p.mu.Lock()
	p.checkQuietLocked()
	p.mu.Unlock()
	if !either(p.quiet, s.grace.cut) {
		s.stopping.Store(true)
		p.cancelAttempts()
		p.helpers.Go(p.returnHeld)
		either(p.quiet, s.grace.ctx.Done())
	}
	p.helpers.Go(p.returnHeld) // what was kept since
	close(p.endWork)
	return p.giveUp(p.joinHelpers())
}

// either waits for the first of two channels, and tells whether it was a.
func either(a, b <-chan struct{}) bool {
	select {
	case <-a:
		return true
	case <-b:
		return false
	}
}

// joinHelpers waits for the engine's own goroutines while there is grace. A
// transport that does not hear the end of a context may hold one up.
func (p *pool) joinHelpers() bool {
	joined := make(chan struct{})
	go func() { // it ends with the helpers, and is the way not to wait for them
		p.helpers.Wait()
		close(joined)
	}()
	if either(joined, p.s.grace.ctx.Done()) {
		return true
	}
	slack := time.NewTimer(helperSlack)
	defer slack.Stop()
	select {
	case <-joined:
		return true
	case <-slack.C:
		return false
	}
}

// giveUp leaves behind what has not ended, and returns it as an error. Nothing
// starts after this, no handler is found to hang, and one that returns settles
// nothing.
func (p *pool) giveUp(joined bool) error {
	p.mu.Lock()
	p.gone = true
	unfinished := p.alive + int(p.s.hung.Load())
	p.mu.Unlock()
	p.s.gone.Store(true)
	for _, w := range p.s.allWorkers() {
		w.timer.Stop()
	}
	switch {
	case unfinished > 0:
		return fmt.Errorf("stop subscription %s: %d handlers did not return within the grace period; the broker will hand their messages out again", p.s.cfg.Name, unfinished)
	case !joined:
		return fmt.Errorf("stop subscription %s: its receiver did not end within the grace period; the broker may hand messages out again", p.s.cfg.Name)
	}
	return nil
}

// cancelAttempts ends the context of every attempt that runs.
func (p *pool) cancelAttempts() {
	for _, w := range p.s.allWorkers() {
		w.cancel(context.Canceled)
	}
	if l := p.s.lanes; l != nil {
		l.release()
	}
}

func (s *Subscription) allWorkers() []*worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*worker, 0, len(s.workers))
	for w := range s.workers {
		all = append(all, w)
	}
	return all
}
