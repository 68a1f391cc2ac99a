package engine

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// worker runs one handler at a time. Its goroutine owns the delivery in hand,
// unless the handler hangs: then whoever found that out takes the delivery over
// and the goroutine ends without another word when the handler returns.
type worker struct {
	p *pool
	s *Subscription

	timer   *time.Timer // fires when the attempt times out, and again when it hangs
	counts  counters
	parkFor time.Duration // set by settle for a lane's head that waits; the worker's own
	turns   bool          // set likewise for a head that may be somebody else's: its lane turns
	own     judgement     // of the delivery in hand, unless a lane has it; the worker's own
	estate  *estate       // what it takes over when it starts
	extra   bool          // it has no slot: it ends with its estate, and nobody takes its place
	lost    atomic.Bool   // the lease of the delivery is lost, or that of some in the batch
	owing   atomic.Bool   // it has a message that somebody asked for

	mu        sync.Mutex // guards what follows
	delivery  transport.Delivery
	lane      *lane // of the delivery, if the subscription is ordered
	ctx       *Context
	c         *judgement    // of the attempt that runs; whoever takes it over copies it
	turn      uint64        // counts deliveries, or batches, to tell one from the next
	items     []item        // what is in hand instead, if the subscription has batches
	inRoom    bool          // it has a place of Batch.Room
	since     time.Time     // when the first attempt of this turn started; zero until it is armed
	started   time.Time     // when the attempt did that runs; the same
	limit     time.Duration // how long it may take
	deadline  time.Time     // when it times out or, if it is leaving, hangs
	timedOut  bool
	leaving   bool   // its context has ended before it returned
	resume    func() // ends the time in which the worker is alone, if it is
	abandoned bool
}

// estate is a delivery whose worker cannot settle it: its handler hangs, or
// ended the goroutine. Another worker takes it over.
type estate struct {
	c     judgement
	lane  *lane
	lost  bool // the lease of the delivery
	last  bool // the heir ends when it has settled this, for its slot stays empty
	extra bool // it ends then too, for it never had a slot; see Batch
}

// run is the worker's life.
func (w *worker) run() {
	returned := false
	defer func() { w.depart(returned) }()
	w.work()
	returned = true
}

func (w *worker) work() {
	if e := w.estate; e != nil {
		if !w.inherit(e) || e.last || e.extra {
			return
		}
	}
	switch {
	case w.s.lanes != nil:
		w.runLanes(w.s.lanes)
	case w.s.cfg.Batch != nil:
		w.runBatches(w.s.cfg.Batch)
	default:
		w.runPlain()
	}
}

// inherit brings a delivery that was taken over to its end.
func (w *worker) inherit(e *estate) bool {
	w.estate = nil
	c := &w.own
	if e.lane != nil {
		c = &e.lane.head.c
	}
	*c = e.c
	w.hold(c.delivery)
	w.mu.Lock()
	w.lane = e.lane
	w.lost.Store(e.lost)
	w.mu.Unlock()
	if c.verdict.Alone && !w.goAlone(c) {
		c.verdict = recovery.Verdict{Action: recovery.Return}
	}
	if !w.attempts(c) {
		return false
	}
	if e.lane != nil {
		w.finishHead(w.s.lanes, e.lane, c)
		return true
	}
	w.settle(c)
	w.release()
	return true
}

// depart ends the worker's life. returned is false when a handler called
// runtime.Goexit: then another worker goes on where this one cannot.
func (w *worker) depart(returned bool) {
	var left []*estate
	if !returned {
		left = w.bequeath()
	}
	w.mu.Lock()
	w.delivery, w.items = nil, nil
	abandoned := w.abandoned
	w.mu.Unlock()
	w.s.retire(w)
	w.endAlone()
	w.met()
	switch {
	case !abandoned:
		if !returned {
			w.p.succeed(left, !w.extra)
		}
		w.p.leave()
	default:
		w.p.unhang()
	}
}

// errExited is what a handler that calls runtime.Goexit failed with.
var errExited = errors.New("handler ended its goroutine with runtime.Goexit")

// bequeath judges the attempt whose handler ended the goroutine.
func (w *worker) bequeath() []*estate {
	w.mu.Lock()
	left, ctx := w.estatesLocked(), w.ctx
	w.mu.Unlock()
	if ctx == nil {
		return nil
	}
	if _, mine := w.end(ctx); !mine {
		return nil
	}
	for _, e := range left {
		w.ended(&e.c, errExited, 0)
	}
	return left
}

func (w *worker) runPlain() {
	for {
		d := w.p.receive()
		if d == nil {
			return
		}
		w.owing.Store(true)
		if !w.handle(d) {
			return
		}
		w.met()
		w.pauseUncounted()
	}
}

// retire takes an ended worker out of the books and keeps its counts.
func (s *Subscription) retire(w *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.workers, w)
	w.counts.addTo(&s.past)
}

// handle brings one delivery to its end. It returns false when the worker was
// left behind in the meantime.
func (w *worker) handle(d transport.Delivery) bool {
	w.counts.received.Add(1)
	c := &w.own
	w.s.consider(c, d)
	if c.verdict.Action != recovery.Handle || c.verdict.Alone || w.s.cfg.Policy.Ack == recovery.AckFirst {
		w.hold(d) // otherwise begin does
	}
	if c.verdict.Alone && !w.goAlone(c) {
		c.verdict = recovery.Verdict{Action: recovery.Return}
	}
	if !w.attempts(c) {
		return false
	}
	w.settle(c)
	alone := w.release()
	if alone {
		w.endAlone()
	}
	return true
}

// attempts runs the handler, and its compensation, until the policy wants
// something else than another run at once. It returns false when the worker was
// left behind.
func (w *worker) attempts(c *judgement) bool {
	for {
		if w.lost.Load() {
			return true // whoever has the message now handles it
		}
		mine := true
		switch c.verdict.Action {
		case recovery.Handle:
			if w.s.cfg.Policy.Ack == recovery.AckFirst && !w.ackFirst(c) {
				return true
			}
			if w.s.cfg.Counts != nil && !w.count(c) {
				continue
			}
			mine = w.attempt(c)
		case recovery.RetryNow:
			w.counts.retried.Add(1)
			c.attempt++
			if w.s.cfg.Counts != nil && !w.count(c) {
				continue
			}
			mine = w.attempt(c)
		case compensate:
			mine = w.compensate(c)
		default:
			return true
		}
		if !mine {
			return false
		}
	}
}

// attempt runs the handler once and judges the outcome. It returns false when
// the worker was left behind.
func (w *worker) attempt(c *judgement) bool {
	s := w.s
	started := s.clock()
	if c.from == 0 {
		c.began, c.from = started, c.attempt
	}
	if s.cfg.Policy.Ack == recovery.Manual {
		c.manual = s.byHand(c, started)
	}
	task := s.cfg.NewTask(Attempt{Delivery: c.delivery, Number: c.attempt, Deliveries: c.deliveries, Manual: c.manual})
	err, mine := w.watch(c, task, started)
	if !mine {
		return false
	}
	var took time.Duration
	if s.cfg.Observe != nil {
		took = time.Since(started)
	}
	w.ended(c, err, took)
	if c.verdict.Action == recovery.RetryNow && w.heldTooLong() {
		s.notNow(c, 0)
	}
	return true
}

// clock is the time where something depends on when an attempt starts, and zero
// otherwise: to ask for it is a good part of an attempt's cost.
func (s *Subscription) clock() time.Time {
	if s.exact || s.cfg.Observe != nil || s.cfg.Policy.Within > 0 || s.cfg.Policy.Ack == recovery.Manual {
		return time.Now()
	}
	return time.Time{}
}

// heldTooLong reports whether the delivery was in hand for MaxLease.
func (w *worker) heldTooLong() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.since.IsZero() && time.Since(w.since) >= w.s.cfg.MaxLease
}

// notNow makes a retry that would follow at once one that comes later. A broker
// that does not redeliver has no later.
func (s *Subscription) notNow(c *judgement, delay time.Duration) {
	if s.redelivers {
		c.verdict = recovery.Verdict{Action: recovery.RetryLater, Delay: delay, Class: c.verdict.Class}
	}
}

// watch runs a task under the eyes of the timer and of the keeper of leases.
// mine is false when the delivery was taken over because the task hung.
func (w *worker) watch(c *judgement, task Task, now time.Time) (err error, mine bool) {
	ctx := task.Context()
	w.begin(ctx, c, now)
	err = invoke(ctx, task)
	timedOut, mine := w.end(ctx)
	if err != nil && timedOut {
		err = w.timeoutOf(err)
	}
	return err, mine
}

// timeoutOf is what a handler failed with that was out of time.
func (w *worker) timeoutOf(err error) error {
	return &timeoutCause{TimeoutError: recovery.TimeoutError{After: w.limit}, err: err}
}

// ended counts and judges an attempt, or a compensation, that ended.
func (w *worker) ended(c *judgement, err error, took time.Duration) {
	s := w.s
	if c.compensating {
		s.judgeCompensation(c, err)
		return
	}
	w.counts.attempts.Add(1)
	if s.cfg.Observe != nil {
		e := c.event(observe.Attempted, err)
		e.Verdict, e.Duration = recovery.Verdict{}, took // it is judged next
		s.observe(e)
	}
	s.judge(c, err)
}

// invoke calls the task and turns a panic into an error.
func invoke(ctx context.Context, t Task) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &recovery.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return t.Run(ctx)
}

// hold shows the delivery to the keeper of leases.
func (w *worker) hold(d transport.Delivery) {
	w.mu.Lock()
	w.holdLocked(d)
	w.mu.Unlock()
}

func (w *worker) holdLocked(d transport.Delivery) {
	w.delivery = d
	w.turn++
	if !w.since.IsZero() {
		w.since = time.Time{}
	}
}

// release takes it away from the keeper. It reports whether the worker was alone
// with it.
func (w *worker) release() (alone bool) {
	w.mu.Lock()
	w.delivery = nil
	if w.lost.Load() { // a load is cheaper than a store, and this is for every message
		w.lost.Store(false)
	}
	alone = w.resume != nil
	w.mu.Unlock()
	return alone
}

// begin marks the start of an attempt; c is nil for that of a batch. now is zero
// where nobody needs it.
func (w *worker) begin(ctx *Context, c *judgement, now time.Time) {
	w.mu.Lock()
	if c != nil && w.delivery == nil {
		w.holdLocked(c.delivery)
	}
	if c != nil && c.compensating { // it follows an attempt that may have taken all the time
		w.since = time.Time{}
	}
	w.ctx, w.c, w.started, w.timedOut, w.leaving = ctx, c, now, false, false
	if w.s.exact {
		w.armLocked(now)
	}
	ctx.start(w.p.base, w.deadline)
	late := c != nil && w.lost.Load()
	if late {
		w.leaveLocked()
	}
	w.mu.Unlock()
	if late || w.s.stopping.Load() {
		ctx.end(context.Canceled)
	}
}

// armLocked bounds the attempt that runs. Where it need not be exact the keeper
// of leases does it the first time it comes by: most attempts have ended by
// then, and a timer costs more than the rest of the way.
func (w *worker) armLocked(now time.Time) {
	if w.since.IsZero() {
		w.since = now
	}
	if w.started.IsZero() {
		w.started = now
	}
	w.limit = w.s.cfg.MaxLease - now.Sub(w.since)
	if t := w.s.cfg.Timeout; t > 0 {
		w.limit = min(w.limit, t)
	}
	w.deadline = now.Add(w.limit)
	w.timer.Reset(w.limit)
}

// end marks the end of an attempt. mine is false when the delivery was taken
// over because the handler hung, or left to the broker because Run has returned.
func (w *worker) end(ctx *Context) (timedOut, mine bool) {
	w.mu.Lock()
	timedOut, mine = w.timedOut, !w.abandoned && !w.s.gone.Load()
	armed := !w.deadline.IsZero()
	if armed {
		w.deadline = time.Time{}
	}
	w.ctx, w.c = nil, nil
	w.mu.Unlock()
	if armed {
		w.timer.Stop()
	}
	ctx.end(context.Canceled)
	return timedOut, mine
}

// busyWith is how many messages a handler runs for, or a batch has gathered.
func (w *worker) busyWith() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx != nil {
		return max(len(w.items), 1)
	}
	return len(w.items)
}

// cancel ends the context of the attempt that runs, if one does.
func (w *worker) cancel(err error) {
	w.mu.Lock()
	ctx := w.ctx
	w.mu.Unlock()
	if ctx != nil {
		ctx.end(err)
	}
}

// overdue is the timer's call: first the attempt is out of time, then it hangs.
// A call that comes late for an attempt that has ended finds another deadline or
// none.
func (w *worker) overdue() {
	w.mu.Lock()
	if w.ctx == nil || w.deadline.IsZero() || time.Now().Before(w.deadline) || w.s.gone.Load() {
		w.mu.Unlock()
		return
	}
	if !w.leaving {
		w.timeOutLocked()
		return
	}
	w.abandonLocked()
}

// leaveLocked gives a handler whose context ends a last grace to return.
func (w *worker) leaveLocked() {
	if w.leaving {
		return
	}
	w.leaving = true
	w.deadline = time.Now().Add(hangGrace)
	w.timer.Reset(hangGrace)
}

// timeOutLocked ends the attempt's context. It unlocks w.mu.
func (w *worker) timeOutLocked() {
	ctx := w.ctx
	w.timedOut = true
	w.leaveLocked()
	w.mu.Unlock()
	ctx.end(context.DeadlineExceeded)
}
