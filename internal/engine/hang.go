package engine

import (
	"time"

	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/recovery"
)

// abandonLocked takes the delivery, or the batch, over from a handler that hangs
// and starts another worker in its place, which settles the delivery as a timeout.
// When too many handlers hang, that worker ends then: each costs a goroutine and
// whatever its handler holds. It unlocks w.mu.
func (w *worker) abandonLocked() {
	s := w.s
	left := w.estatesLocked()
	w.abandoned = true
	w.delivery, w.items, w.ctx, w.c = nil, nil, nil, nil
	err := &recovery.TimeoutError{After: w.limit, Hung: true}
	if !w.timedOut { // its lease was lost before
		err.After = time.Since(w.started).Round(time.Second)
	}
	w.mu.Unlock()
	w.met()

	hung, last := w.p.hang(!w.extra)
	c := &left[0].c
	s.cfg.Logger.Error("handler hangs and was left behind", "id", c.message.ID, "subject", c.message.Subject, "attempt", c.attempt, "messages", len(left), "hung", hung)
	for _, e := range left {
		e.last = last
		w.judgeHung(&e.c, err)
	}
	if last {
		w.p.tellSlots()
	}
	w.p.succeed(left, !w.extra && !last)
	w.p.leave()
	w.leaveRoom()
	w.endAlone()
}

// judgeHung judges an attempt whose handler hangs.
func (w *worker) judgeHung(c *judgement, err error) {
	s := w.s
	s.observe(c.event(observe.Abandoned, err))
	if c.compensating {
		s.judgeCompensation(c, err)
	} else {
		w.counts.attempts.Add(1)
		s.judge(c, err)
	}
	if c.verdict.Action == recovery.RetryNow { // not beside the one that hangs
		s.notNow(c, hangGrace)
	}
}

// estatesLocked is what the worker leaves behind: the delivery of its attempt, or
// all of its batch, each for a worker without a slot.
func (w *worker) estatesLocked() []*estate {
	if w.c != nil {
		return []*estate{{c: *w.c, lane: w.lane, lost: w.lost.Load(), extra: w.extra}}
	}
	left := make([]*estate, 0, len(w.items))
	for _, it := range w.items {
		left = append(left, &estate{c: it.c, lost: it.lost, extra: true})
	}
	return left
}

// succeed starts workers for what was left behind. Where none of them has a slot
// and there is one to fill, another worker starts.
func (p *pool) succeed(left []*estate, slot bool) {
	for _, e := range left {
		slot = slot && e.extra
		p.spawn(e)
	}
	if slot {
		p.spawn(nil)
	}
}
