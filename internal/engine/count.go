package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// Where attempts are counted in a store of their own, each is counted before it
// starts, so that one that ends the process counts. What the store cannot count
// does not run: the message goes back, nothing is charged, and workers take
// messages slowly until the store answers again.

const (
	// countBudget bounds one call of the store that counts attempts.
	countBudget = 5 * time.Second
	// uncountBudget bounds the last call of an attempt that shall not count. A
	// stop waits for it.
	uncountBudget = time.Second
	// How long a message waits that could not be counted.
	uncountedFirst = time.Second
	uncountedLimit = time.Minute
)

// countKey is whose attempts are counted. A message that was redriven starts
// anew.
func (s *Subscription) countKey(m *transport.Message) transport.CountKey {
	key := transport.CountKey{Subscription: s.cfg.Name, Message: m.ID}
	if len(m.Header[wire.Redrives]) > 0 {
		if n := wire.OriginOf(m).Redrives; n > 0 {
			key.Message += " redrive " + strconv.Itoa(n)
		}
	}
	return key
}

// count counts the attempt that is about to start, and corrects its number. It
// returns false when the attempt must not start; then the verdict says why.
func (w *worker) count(c *judgement) (start bool) {
	s := w.s
	w.holdOn(c.delivery) // the lease is kept while the store takes its time
	first := c.counted == ""
	if first && c.deliveries > 1 {
		// Before it is counted it is made sure that nothing else can charge it.
		made, err := s.attemptsMade(c)
		if err != nil {
			return s.countFailed(c, err)
		}
		if !w.admitAttempt(c, made) {
			return false
		}
	}
	n, err := s.addAttempt(c)
	if err != nil {
		return s.countFailed(c, err)
	}
	s.countWorks()
	c.attempt = n
	if v := s.cfg.Policy.AdmitAttempt(n-1, c.retries); v.Action != recovery.Handle {
		s.exhaust(c, v, n-1)
		return false
	}
	return true
}

// admitAttempt asks the policy whether an attempt may follow so many.
func (w *worker) admitAttempt(c *judgement, made int) bool {
	if c.doubtful != "" && made > 0 {
		made-- // it may be among them, and has not started
	}
	v := w.s.cfg.Policy.AdmitAttempt(made, c.retries)
	switch {
	case v.Action != recovery.Handle:
		w.s.exhaust(c, v, made)
		return false
	case v.Alone && w.mayBeAlone() && !w.goAlone(c):
		c.verdict = recovery.Verdict{Action: recovery.Return}
		return false
	}
	return true
}

// holdOn shows the delivery to the keeper of leases, if it is not already.
func (w *worker) holdOn(d transport.Delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.delivery == nil {
		w.holdLocked(d)
	}
}

// mayBeAlone reports whether there is a way to let the worker be alone, and it
// is not already.
func (w *worker) mayBeAlone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lane == nil && w.resume == nil
}

// exhaust is for a message whose attempts are used up before it runs.
func (s *Subscription) exhaust(c *judgement, v recovery.Verdict, made int) {
	c.verdict, c.attempt = v, made
	c.err = fmt.Errorf("%d attempts are counted, and the last one ended without an outcome: it may have ended the process", made)
}

// attemptsMade asks the store.
func (s *Subscription) attemptsMade(c *judgement) (int, error) {
	ctx, cancel := context.WithTimeout(s.settleCtx, countBudget)
	defer cancel()
	return s.cfg.Counts.Count(ctx, s.countKey(c.message))
}

// addAttempt counts one attempt. When nobody knows whether that worked, the next
// try has the same name, here or after the message came back.
func (s *Subscription) addAttempt(c *judgement) (int, error) {
	if c.doubtful == "" {
		c.doubtful = rand.Text()
	}
	ctx, cancel := context.WithTimeout(s.settleCtx, countBudget)
	defer cancel()
	n, err := s.cfg.Counts.Add(ctx, s.countKey(c.message), c.doubtful, s.cfg.CountExpiry)
	if err != nil {
		name := c.doubtful
		s.ledger.change(c.message.Position, func(note *note) { note.doubtful = name })
		return 0, err
	}
	if n < 1 {
		return 0, errMiscounted
	}
	s.ledger.sure(c.message.Position)
	c.counted, c.doubtful = c.doubtful, ""
	return n, nil
}

// errMiscounted is the cause when a store breaks its promise.
var errMiscounted = errors.New("the store says that no attempt is counted after one was added")

// countFailed gives up an attempt that could not be counted.
func (s *Subscription) countFailed(c *judgement, err error) bool {
	s.uncounted.Store(true)
	s.block(noCounter, "attempt counter unavailable: "+err.Error())
	tries := 0
	s.ledger.change(c.message.Position, func(n *note) {
		n.returned++
		tries = n.returned
	})
	c.attempt--
	s.remember(c) // the attempt before, if there was one in this delivery
	c.err = fmt.Errorf("count the attempt: %w", err)
	c.verdict = recovery.Verdict{Action: uncounted, Delay: min(uncountedFirst<<min(max(tries-1, 0), 10), uncountedLimit)}
	return false
}

// countWorks takes the obstacle away. It is cheap while there is none.
func (s *Subscription) countWorks() {
	if s.uncounted.Load() && s.uncounted.CompareAndSwap(true, false) {
		s.unblock(noCounter)
	}
}

// postpone gives back a message whose attempt could not be counted. It is not
// charged, whoever gets it next.
func (w *worker) postpone(c *judgement) {
	delay := c.verdict.Delay
	if w.isOrdered() { // the lane waits here, see lanes.park
		w.parkFor = delay
		return
	}
	if err := w.s.persist(func(ctx context.Context) error { return c.delivery.Nack(ctx, delay) }); err != nil {
		w.s.settleFailed(c, err)
		return
	}
	w.counts.returned.Add(1)
	w.s.settled(c)
}

// pauseUncounted keeps a worker from taking one message after the other while
// none can be counted.
func (w *worker) pauseUncounted() {
	if !w.s.uncounted.Load() {
		return
	}
	timer := time.NewTimer(uncountedFirst)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.s.recvCtx.Done():
	}
}

// uncount takes an attempt back that shall not count.
func (s *Subscription) uncount(c *judgement) {
	if c.counted == "" {
		return
	}
	ctx, cancel := context.WithTimeout(s.settleCtx, uncountBudget)
	defer cancel()
	if err := s.cfg.Counts.Remove(ctx, s.countKey(c.message), c.counted); err != nil {
		s.cfg.Logger.Warn("an attempt that was cut short stays counted", "id", c.message.ID, "err", err)
	}
	c.counted = ""
}

// outlive keeps the count of a message that waits for long: it must not be
// forgotten before the next attempt.
func (s *Subscription) outlive(c *judgement) {
	if c.counted == "" || c.verdict.Delay < s.cfg.CountExpiry/2 {
		return
	}
	ctx, cancel := context.WithTimeout(s.settleCtx, countBudget)
	defer cancel()
	if _, err := s.cfg.Counts.Add(ctx, s.countKey(c.message), c.counted, c.verdict.Delay+s.cfg.CountExpiry); err != nil {
		s.cfg.Logger.Warn("the count of a message that waits for long may be forgotten before it returns", "id", c.message.ID, "delay", c.verdict.Delay, "err", err)
	}
}

// forget drops what is known of a message that has come to its end. The count of
// one that failed for good stays until it expires: where a process died between a
// retry copy and its ack there is another copy, which must not start anew. So
// does a count that cannot be dropped now.
func (s *Subscription) forget(c *judgement) {
	s.ledger.forget(c.message.Position)
	failed := c.verdict.Action == recovery.DeadLetter || c.verdict.Action == recovery.Reject
	if s.cfg.Counts == nil || failed || c.attempt == 0 && !c.over {
		return
	}
	ctx, cancel := context.WithTimeout(s.settleCtx, uncountBudget)
	defer cancel()
	if err := s.cfg.Counts.Forget(ctx, s.countKey(c.message)); err != nil {
		s.cfg.Logger.Debug("the count of a message that is done with is left to expire", "id", c.message.ID, "err", err)
	}
}

// requeue gives a failed message back to the broker, which counts and bounds how
// often it hands it out again.
func (w *worker) requeue(c *judgement) {
	r, ok := c.delivery.(transport.Requeuer)
	if !ok { // refused at start; a transport that changed its mind loses nothing here
		w.s.settleFailed(c, transport.ErrUnsupported)
		return
	}
	w.s.remember(c)
	if err := w.s.persist(r.Requeue); err != nil {
		w.s.settleFailed(c, err)
		return
	}
	w.counts.retried.Add(1)
	w.s.settled(c)
}
