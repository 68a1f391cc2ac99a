package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// How a receiver that failed is opened again.
const (
	reopenFirst = 100 * time.Millisecond
	reopenLimit = 30 * time.Second
	openBudget  = 30 * time.Second
	closeBudget = 10 * time.Second
)

// Run takes and handles messages until Stop, and returns when everything in hand
// is settled or the grace is over. ctx gives handlers its values; its end does
// not stop the subscription. The error tells of handlers that never returned.
func (s *Subscription) Run(ctx context.Context) error {
	if !s.started.CompareAndSwap(false, true) {
		return nil // it was stopped before it ran, which is a clean stop
	}
	defer close(s.finished)
	s.setState(observe.StateStarting, "")
	p := newPool(s, context.WithoutCancel(ctx))
	p.start()
	<-s.recvCtx.Done()
	s.setState(observe.StateStopping, "")
	s.fault = p.finish()
	s.setState(observe.StateStopped, "")
	return s.fault
}

// supervise keeps a receiver open until the stop, and closes the last one.
func (p *pool) supervise() {
	s := p.s
	for failures := 0; s.recvCtx.Err() == nil; {
		rx, err := s.open(failures > 0)
		if err != nil {
			failures++
			s.pauseAfter(failures, err)
			continue
		}
		opened := time.Now()
		p.feed(rx)
		s.receiving.Store(true)
		s.unblock(noFlow) // it was said of the receiver before
		s.setState(observe.StateRunning, "")
		alone, err := p.waitFailure(s.recvCtx)
		p.feed(nil)
		s.receiving.Store(false)
		s.closeReceiver(rx)
		if alone != nil { // also at a stop: a worker waits for this
			alone.wait(s.recvCtx)
			failures = 0
			continue
		}
		if s.recvCtx.Err() != nil {
			return
		}
		if time.Since(opened) > reopenLimit {
			failures = 0
		}
		failures++
		s.pauseAfter(failures, err)
	}
}

// open makes a receiver. A source that was there at start may be gone after a
// failure, so it is provisioned again.
func (s *Subscription) open(again bool) (transport.Receiver, error) {
	ctx, cancel := context.WithTimeout(s.recvCtx, openBudget)
	defer cancel()
	t := s.cfg.Source.Transport()
	if again {
		if err := s.provision(ctx, t); err != nil {
			return nil, fmt.Errorf("provision %s: %w", s.cfg.Source, err)
		}
	}
	rx, err := t.Open(ctx, s.cfg.Source, s.cfg.Want)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", s.cfg.Source, err)
	}
	return rx, nil
}

// provision makes what has gone missing. A contract that cannot be kept any more
// is a failure, as it is at the start.
func (s *Subscription) provision(ctx context.Context, t transport.Transport) error {
	report, err := t.Provision(ctx, s.cfg.Source, s.cfg.Want)
	if err != nil {
		return err
	}
	for _, what := range slices.Concat(report.Created, report.Updated) {
		s.cfg.Logger.Warn("made again", "what", what)
	}
	for _, f := range report.Findings {
		if f.Level == transport.LevelError {
			return errors.New(f.String())
		}
	}
	return nil
}

// pauseAfter makes a failure visible and waits before the next try.
func (s *Subscription) pauseAfter(failures int, err error) {
	s.setState(observe.StateRetrying, err.Error())
	d := min(reopenFirst<<min(failures-1, 20), reopenLimit)
	d += time.Duration(rand.Float64() * float64(d) / 4)
	select {
	case <-time.After(d):
	case <-s.recvCtx.Done():
	}
}

// closeReceiver hands back what was buffered. At a stop it has the whole grace
// for it, beside the handlers that finish.
func (s *Subscription) closeReceiver(rx transport.Receiver) {
	ctx, cancel := context.WithTimeout(s.grace.ctx, closeBudget)
	defer cancel()
	if err := rx.Close(ctx); err != nil && !errors.Is(err, transport.ErrClosed) {
		s.cfg.Logger.Warn("close receiver", "err", err)
	}
}

// pool holds the workers of a subscription and the receiver they share. Workers
// outlive receivers: a long handler does not hold up a reopening.
type pool struct {
	s    *Subscription
	base context.Context // values for handlers

	current atomic.Pointer[tap] // read by every worker for every message
	turn    chan struct{}       // one place: taken by the worker that gathers a batch
	isolation

	mu     sync.Mutex    // guards what follows, and changes of current
	failed chan error    // one place: the failure of rx
	alive  int           // workers that have not ended and do not hang
	empty  int           // slots without a worker, because too many hang
	gone   bool          // Run has returned, or is about to: no worker starts any more
	quiet  chan struct{} // closed when alive is 0 after the stop

	lastPace time.Duration // of the keeper, which alone uses it

	helpers sync.WaitGroup // all that is not a worker: supervisor, keeper, dispatcher, and what gives back
	endWork chan struct{}  // closed when the helpers must end
}

// tap is a receiver that the workers take messages from. It is replaced, never
// changed.
type tap struct {
	rx   transport.Receiver // nil while there is none
	over chan struct{}      // closed when another tap has taken its place
}

func newPool(s *Subscription, base context.Context) *pool {
	p := &pool{
		s: s, base: base, failed: make(chan error, 1), turn: make(chan struct{}, 1),
		quiet: make(chan struct{}), endWork: make(chan struct{}), lastPace: leaseless,
	}
	p.current.Store(&tap{over: make(chan struct{})})
	p.isolation = newIsolation()
	return p
}

// start starts the workers and the keeper of their leases.
func (p *pool) start() {
	if p.s.cfg.OrderBy != nil {
		l := newLanes(p)
		p.s.mu.Lock()
		p.s.lanes = l
		p.s.mu.Unlock()
		p.helpers.Go(l.dispatch)
	}
	p.helpers.Go(p.keepLeases)
	p.helpers.Go(p.supervise)
	for range p.slots() {
		p.spawn(nil)
	}
}

// spawn starts a worker, which first settles e if there is one. It is joined
// through alive and quiet and not through a WaitGroup, because a worker whose
// handler hangs is taken out of the count.
func (p *pool) spawn(e *estate) {
	w := &worker{p: p, s: p.s, estate: e, extra: e != nil && e.extra}
	w.timer = time.AfterFunc(time.Hour, w.overdue)
	w.timer.Stop()
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return
	}
	p.alive++
	p.mu.Unlock()
	p.s.mu.Lock()
	p.s.workers[w] = struct{}{}
	p.s.mu.Unlock()
	go w.run()
}

// hang counts a handler that was left behind. It tells whether its slot, if it has
// one, stays empty, because too many hang.
func (p *pool) hang(slot bool) (hung int, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hung = int(p.s.hung.Add(1))
	last = slot && hung > p.slots()*hungLimit
	if last {
		p.empty++
	}
	return hung, last
}

// unhang is for a handler that was left behind and has returned: there is room
// again.
func (p *pool) unhang() {
	p.mu.Lock()
	p.s.hung.Add(-1)
	fill := p.empty > 0 && p.s.recvCtx.Err() == nil
	if fill {
		p.empty--
	}
	p.mu.Unlock()
	if fill {
		p.spawn(nil)
		p.tellSlots()
	}
}

// slots is how many workers there are: one for each handler that runs at once,
// and with batches one more, which gathers the next.
func (p *pool) slots() int {
	if b := p.s.cfg.Batch; b != nil {
		return cap(b.Room) + 1
	}
	return max(p.s.cfg.Want.Concurrency, 1)
}

// tellSlots makes it visible whether there is a slot left. Whoever says
// something looks again, so that what was said last is true.
func (p *pool) tellSlots() {
	for told := -1; ; {
		p.mu.Lock()
		empty := p.empty
		p.mu.Unlock()
		if empty == told {
			return
		}
		told = empty
		if empty >= p.slots() {
			p.s.block(noSlots, errHungLimit.Error())
		} else {
			p.s.unblock(noSlots)
		}
	}
}

// leave takes a worker out of the count of those that are waited for.
func (p *pool) leave() {
	p.mu.Lock()
	p.alive--
	p.checkQuietLocked()
	p.mu.Unlock()
	p.tellParked() // whoever waits for the others waits for one less
}

// checkQuietLocked closes quiet when there is nobody left to wait for. Before
// the stop an empty pool means that every handler hangs, and may fill again.
func (p *pool) checkQuietLocked() {
	if p.alive > 0 || p.s.recvCtx.Err() == nil {
		return
	}
	select {
	case <-p.quiet:
	default:
		close(p.quiet)
	}
}

// feed gives the workers another receiver; nil makes them wait for one.
func (p *pool) feed(rx transport.Receiver) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.current.Swap(&tap{rx: rx, over: make(chan struct{})}).over)
	select { // a failure of the receiver before is none of this one
	case <-p.failed:
	default:
	}
}

// receive waits for a delivery from whatever receiver there is; nil at the stop.
func (p *pool) receive() transport.Delivery {
	if demand := p.s.cfg.Demand; demand != nil && !demand(p.s.recvCtx) {
		return nil
	}
	for {
		t := p.current.Load()
		if t.rx != nil {
			d, err := t.rx.Receive(p.s.recvCtx)
			if err == nil {
				return d
			}
			p.fail(t, err)
		}
		p.park()
		select {
		case <-t.over:
			p.parked.Add(-1)
		case <-p.s.recvCtx.Done():
			p.parked.Add(-1)
			return nil
		}
	}
}

// receiveNow waits for a delivery from the receiver there is until ctx ends, and
// returns nil then, or when there is no receiver: whoever has messages in hand
// handles them before he waits for another.
func (p *pool) receiveNow(ctx context.Context) transport.Delivery {
	t := p.current.Load()
	if t.rx == nil {
		return nil
	}
	d, err := t.rx.Receive(ctx)
	switch {
	case err == nil:
		return d
	case ctx.Err() == nil:
		p.fail(t, err)
	}
	return nil
}

// met tells, once, that whoever asked for the message need not wait for this
// worker any more.
func (w *worker) met() {
	if w.s.cfg.Met != nil && w.owing.Swap(false) {
		w.s.cfg.Met()
	}
}

// fail reports the failure of a receiver to the supervisor, once.
func (p *pool) fail(t *tap, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current.Load() != t || p.s.recvCtx.Err() != nil {
		return
	}
	select {
	case p.failed <- err:
	default:
	}
}

// waitFailure waits until the receiver fails, a message must be handled alone,
// or ctx ends.
func (p *pool) waitFailure(ctx context.Context) (alone *solo, err error) {
	select {
	case err := <-p.failed:
		return nil, fmt.Errorf("receive from %s: %w", p.s.cfg.Source, err)
	case alone := <-p.alone:
		return alone, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
