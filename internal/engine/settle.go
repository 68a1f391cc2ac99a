package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// settle performs the verdict: the successor first, confirmed, the settlement
// second. What cannot be settled is left to the broker, which hands it out again
// when its lease ends; nothing is settled by accident.
func (w *worker) settle(c *judgement) {
	if c.manual.isSettled() {
		return
	}
	if w.lost.Load() {
		w.counts.lost.Add(1)
		w.s.remember(c)
		switch c.verdict.Action {
		case recovery.DeadLetter, recovery.Reject, recovery.Drop:
			w.s.condemn(c) // should it come back to us, it has used up its attempts
		}
		w.s.settleFailed(c, transport.ErrLeaseLost)
		return
	}
	if c.over {
		w.ack(c, w.counts.of(c.verdict.Action))
		return
	}
	switch c.verdict.Action {
	case recovery.Ack:
		w.ack(c, &w.counts.handled)
	case recovery.RetryLater:
		w.retryLater(c)
	case recovery.Return:
		w.giveBack(c)
	case recovery.DeadLetter:
		w.deadLetter(c)
	case recovery.Drop:
		w.discard(c)
	case recovery.Reject:
		w.reject(c)
	case recovery.Requeue:
		w.requeue(c)
	case uncounted:
		w.postpone(c)
	case keep:
		w.s.keep(c.manual)
	}
}

// ack settles as done. The common case neither waits nor allocates: the receiver
// confirms the ack in the background. Once the receiver is closing there is no
// background left, so the ack waits.
func (w *worker) ack(c *judgement, count *atomic.Uint64) {
	if c.acked {
		count.Add(1)
		w.s.settled(c)
		return
	}
	if w.ackLater(c, count) == nil {
		return
	}
	if err := w.s.persist(c.delivery.Ack); err != nil {
		w.s.unacked(c, err)
		return
	}
	w.acked(c, count)
}

// ackLater acks without waiting, where that is possible.
func (w *worker) ackLater(c *judgement, count *atomic.Uint64) error {
	p, ok := c.delivery.(transport.PipelinedAcker)
	if !ok || w.s.recvCtx.Err() != nil {
		return transport.ErrUnsupported
	}
	if err := p.AckLater(); err != nil {
		return err
	}
	w.acked(c, count)
	return nil
}

func (w *worker) acked(c *judgement, count *atomic.Uint64) {
	count.Add(1)
	w.s.forget(c)
	w.s.settled(c)
}

// unacked remembers a verdict that was performed up to its ack, so that the
// message is only acked when it comes back.
func (s *Subscription) unacked(c *judgement, err error) {
	verdict := c.verdict
	s.ledger.change(c.message.Position, func(n *note) { n.over, n.verdict = true, verdict })
	s.settleFailed(c, err)
}

// retryLater gives the message back with the delay of the verdict.
func (w *worker) retryLater(c *judgement) {
	w.s.remember(c)
	w.s.outlive(c)
	delay := c.verdict.Delay
	if w.isOrdered() { // the lane waits here, see lanes.park
		w.parkFor = max(delay, 1)
		w.counts.retried.Add(1)
		return
	}
	if err := w.s.persist(func(ctx context.Context) error { return c.delivery.Nack(ctx, delay) }); err != nil {
		w.s.settleFailed(c, err)
		return
	}
	w.counts.retried.Add(1)
	w.s.settled(c)
}

// remember notes a delivery that ended in a retry.
func (s *Subscription) remember(c *judgement) {
	if c.err == nil {
		return
	}
	s.ledger.change(c.message.Position, func(n *note) {
		if !c.noted { // a lane retries more than once in one delivery
			n.retries++
		}
		n.attempts, n.seen = c.attempt, c.raw
		n.first, n.began, n.from = c.first, c.began, c.from
	})
	c.noted = true
}

// uncharge notes a delivery whose attempt does not count. What the transport
// leaves out of its own count must not be taken off a second time.
func (s *Subscription) uncharge(c *judgement, leftOut bool) {
	s.ledger.change(c.message.Position, func(n *note) {
		if !leftOut {
			n.returned++
		}
		n.attempts, n.seen = c.attempt-1, c.raw
		if !c.first.IsZero() { // an attempt before this one failed
			n.first, n.began, n.from = c.first, c.began, c.from
		}
	})
}

// returnsUncharged reports whether the transport leaves what is given back out
// of its count of deliveries.
func returnsUncharged(d transport.Delivery) bool {
	_, ok := d.(transport.Returner)
	return ok
}

// handBack gives a delivery back at once, uncharged where the transport can.
func handBack(ctx context.Context, d transport.Delivery) error {
	if r, ok := d.(transport.Returner); ok {
		return r.Return(ctx)
	}
	return d.Nack(ctx, 0)
}

// giveBack returns the message uncharged.
func (w *worker) giveBack(c *judgement) {
	if errors.Is(c.err, ErrUnseen) && w.s.recvCtx.Err() == nil && w.isOrdered() {
		w.parkFor = 1 // it stays in its lane, or others would overtake it
		return
	}
	w.s.uncount(c)
	w.s.uncharge(c, returnsUncharged(c.delivery))
	if err := w.s.persist(func(ctx context.Context) error { return handBack(ctx, c.delivery) }); err != nil {
		w.s.settleFailed(c, err)
		return
	}
	w.counts.returned.Add(1)
	w.s.settled(c)
}

// discard acks a message that is not kept.
func (w *worker) discard(c *judgement) {
	w.s.cfg.Logger.Warn("message discarded", w.s.story(c)...)
	w.ack(c, &w.counts.discarded)
}

// reject settles by the broker's own terminal.
func (w *worker) reject(c *judgement) {
	r, ok := c.delivery.(transport.Rejecter)
	if !ok { // refused at start; a transport that changed its mind loses nothing here
		w.s.settleFailed(c, transport.ErrUnsupported)
		return
	}
	text := c.verdict.Reason
	err := w.s.persist(func(ctx context.Context) error { return r.Reject(ctx, string(text)) })
	if err = c.afterDoubt(err); err != nil {
		w.s.condemn(c)
		w.s.settleFailed(c, err)
		w.putOff(err)
		return
	}
	w.s.cfg.Logger.Warn("message rejected", w.s.story(c)...)
	w.counts.rejected.Add(1)
	w.s.forget(c)
	w.s.settled(c)
}

// ackFirst acks before the handler runs, confirmed: that is what at most once
// means. It returns false when the message is left to the broker.
func (w *worker) ackFirst(c *judgement) bool {
	if err := c.afterDoubt(w.s.persist(c.delivery.Ack)); err != nil {
		w.s.settleFailed(c, err)
		if !w.putOff(err) {
			c.verdict.Action = nothing
		}
		return false
	}
	c.acked = true
	return true
}

// afterDoubt is what a settlement says that is tried again: one that is settled
// already was settled by the try whose outcome nobody knew.
func (c *judgement) afterDoubt(err error) error {
	if c.doubt && errors.Is(err, transport.ErrSettled) {
		return nil
	}
	c.doubt = c.doubt || err != nil && transport.KindOf(err) == transport.Unknown
	return err
}

// putOffFor is how long a lane waits for a settlement that failed.
const putOffFor = 5 * time.Second

// putOff keeps the head of a lane whose settlement failed, to try it again: left
// to the broker it would be overtaken. It returns false where nothing is
// overtaken. A message that may be somebody else's now turns its lane.
func (w *worker) putOff(err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.lane == nil || errors.Is(err, transport.ErrSettled):
		return false
	case errors.Is(err, transport.ErrLeaseLost):
		w.turns = true
		return false
	}
	w.parkFor = putOffFor
	return true
}

// deadLetter buries the message, and acks it only after the burial is
// confirmed. A message that cannot be buried goes back with a growing delay, is
// buried without another run of its handler when it returns, and shows in
// health meanwhile.
func (w *worker) deadLetter(c *judgement) {
	s := w.s
	if err := s.bury(c); err != nil {
		w.burialFailed(c, err)
		return
	}
	s.unblock(noBurials)
	s.cfg.Logger.Error("message dead-lettered", s.story(c)...)
	if err := s.persist(c.delivery.Ack); err != nil {
		s.unacked(c, err)
		return
	}
	w.counts.dead.Add(1)
	s.forget(c)
	s.settled(c)
}

// compensation is a run of the application's compensation.
type compensation struct {
	ctx   Context
	s     *Subscription
	a     Attempt
	cause error
}

// Context returns the context of the run.
func (t *compensation) Context() *Context { return &t.ctx }

// Run calls the compensation.
func (t *compensation) Run(ctx context.Context) error { return t.s.cfg.Compensate(ctx, t.a, t.cause) }

// compensate runs the compensation of AckAlways, watched as a handler is. The
// message is acked only after it returned nil. It returns false when the worker
// was left behind.
func (w *worker) compensate(c *judgement) bool {
	c.compensating = true
	a := Attempt{Delivery: c.delivery, Number: c.attempt, Deliveries: c.deliveries}
	err, mine := w.watch(c, &compensation{s: w.s, a: a, cause: c.err}, time.Now())
	if mine {
		w.ended(c, err, 0)
	}
	return mine
}

// judgeCompensation judges a compensation that ended. One that failed is
// retried like a failed handler.
func (s *Subscription) judgeCompensation(c *judgement, err error) {
	c.compensating = false
	if err == nil {
		c.verdict = recovery.Verdict{Action: recovery.Ack, Class: c.verdict.Class}
		return
	}
	c.err = fmt.Errorf("compensate for %q: %w", c.err, err)
	c.verdict = s.decide(s.cfg.Policy.Compensation(), recovery.Failure{
		Attempt: c.attempt, Err: c.err, Stopping: s.stopping.Load(), Jitter: rand.Float64(),
	})
}

// persist tries a settlement until it succeeds, is refused for good, or its
// budget is used up. Neither a stop nor the end of the app's context cuts it
// short: this is where losses would come from.
func (s *Subscription) persist(settle func(context.Context) error) error {
	// The first try is the common one, and is bounded by the transport itself.
	err := settle(s.settleCtx)
	if err == nil || hopeless(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(s.settleCtx, settleBudget)
	defer cancel()
	return insist(ctx, settle, err)
}

// insist goes on with a settlement whose first try failed with err.
func insist(ctx context.Context, settle func(context.Context) error, err error) error {
	var doubt error // of a try that may have worked
	if transport.KindOf(err) == transport.Unknown {
		doubt = err
	}
	for wait := 50 * time.Millisecond; ; wait = min(wait*2, time.Second) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return cmp.Or(doubt, err)
		}
		err = settle(ctx)
		switch {
		case doubt != nil && errors.Is(err, transport.ErrSettled):
			return nil // a try before had worked, and only its answer was lost
		case err == nil || hopeless(err):
			return err
		}
		if transport.KindOf(err) == transport.Unknown {
			doubt = err
		}
	}
}

// hopeless reports whether another try cannot help.
func hopeless(err error) bool {
	if transport.KindOf(err) == transport.Permanent {
		return true
	}
	for _, final := range []error{transport.ErrSettled, transport.ErrLeaseLost, transport.ErrUnsupported, transport.ErrClosed, transport.ErrTooLarge} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}

// event is what is told of the delivery.
func (c *judgement) event(kind observe.EventKind, err error) observe.Event {
	return observe.Event{
		Kind: kind, Subject: c.message.Subject, MessageID: c.message.ID, Attempt: c.attempt,
		Deliveries: c.deliveries, Verdict: c.verdict, Err: err,
	}
}

// settled tells that a delivery has come to its end.
func (s *Subscription) settled(c *judgement) {
	if s.cfg.Observe != nil {
		s.observe(c.event(observe.Settled, c.err))
	}
}

// settleFailed tells that a delivery was left to the broker.
func (s *Subscription) settleFailed(c *judgement, err error) {
	s.cfg.Logger.Debug("settlement given up: the broker will hand the message out again", "id", c.message.ID, "subject", c.message.Subject, "verdict", c.verdict.Action.String(), "err", err)
	s.observe(c.event(observe.SettleFailed, err))
}

// story is what a log line tells of a message: never its body or its headers.
func (s *Subscription) story(c *judgement) []any {
	attrs := []any{
		slog.String("id", c.message.ID), slog.String("subject", c.message.Subject),
		slog.String("reason", string(c.verdict.Reason)), slog.Int("attempts", c.attempt), slog.Int("deliveries", c.deliveries),
	}
	if c.deadID != "" {
		attrs = append(attrs, slog.String("dead_id", c.deadID))
	}
	if c.err != nil {
		attrs = append(attrs, slog.String("err", c.err.Error()))
	}
	return attrs
}

// timeoutCause is a timeout with what the handler returned in the end.
type timeoutCause struct {
	recovery.TimeoutError
	err error
}

func (e *timeoutCause) Error() string   { return e.TimeoutError.Error() + ": " + e.err.Error() }
func (e *timeoutCause) Unwrap() []error { return []error{&e.TimeoutError, e.err} }

// admitError says why a handler did not run.
func admitError(r recovery.Reason, deliveries int, age time.Duration) error {
	if r == recovery.Expired {
		return fmt.Errorf("message is %v old", age.Round(time.Second))
	}
	return fmt.Errorf("%d deliveries ended without an outcome: the handler may have ended the process or hung each time", deliveries)
}
