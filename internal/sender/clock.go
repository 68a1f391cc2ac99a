package sender

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// tick is how often the window is looked through while anything is in it. Times
// of messages are counted in ticks: reading the clock for each would cost more
// than it tells.
const tick = 100 * time.Millisecond

// clock counts ticks while there is something to wait for.
type clock struct {
	ticks uint64
	calm  uint64 // no message counts as unanswered from before
	timer *time.Timer
	armed bool
}

func (c *clock) stop() {
	if c.timer != nil {
		c.timer.Stop()
	}
}

// armLocked makes the clock run. The caller holds the lock.
func (s *Sender) armLocked() {
	if s.clock.armed || s.life.Err() != nil {
		return
	}
	s.clock.armed = true
	if s.clock.timer == nil {
		s.clock.timer = time.AfterFunc(tick, s.sweep)
		return
	}
	s.clock.timer.Reset(tick)
}

// sweep is called every tick: it gives up what nobody waits for any longer, and
// finds out that the broker does not answer.
func (s *Sender) sweep() {
	s.mu.Lock()
	p := s.pipe
	s.mu.Unlock()
	var alarm error
	if p != nil {
		alarm = p.Waiting()
	}
	s.mu.Lock()
	s.clock.ticks++
	s.alarm = alarm
	var over []uint64
	s.win.each(func(tag uint64, e *entry) bool {
		if e.over(s.clock.ticks) {
			over = append(over, tag)
		}
		return true
	})
	found := s.unanswered()
	p = s.pipe
	s.mu.Unlock()
	if found && len(s.turn) > 0 {
		p.End(true) // the keeper may be the one whose write does not return
	}
	for _, tag := range over {
		s.expire(tag)
	}
	s.mu.Lock()
	s.clock.armed = false
	if s.win.pending > 0 {
		s.armLocked()
	}
	st := s.statsLocked()
	due := s.cfg.Watch != nil && (st.Pending == 0 || s.clock.ticks%watchTicks == 0)
	s.mu.Unlock()
	if due {
		s.cfg.Watch(st)
	}
}

// watchTicks is how many ticks lie between two calls of Watch.
const watchTicks = uint64(time.Second / tick)

// over tells whether nobody waits for e any longer.
func (e *entry) over(now uint64) bool {
	return e.item.Ctx != nil && e.item.Ctx.Err() != nil || e.due > 0 && now >= e.due
}

func (s *Sender) expire(tag uint64) {
	s.mu.Lock()
	e := s.win.at(tag)
	if e == nil || !e.over(s.clock.ticks) {
		s.mu.Unlock()
		return
	}
	cause := context.DeadlineExceeded
	if ctx := e.item.Ctx; ctx != nil && ctx.Err() != nil {
		cause = context.Cause(ctx)
	}
	s.settleLocked(e, s.givenUp(e, cause))
}

// unanswered gives the connection up when the oldest message at the broker has
// waited too long for its outcome, and tells that it does. The lock is held.
func (s *Sender) unanswered() (found bool) {
	if s.pipe == nil || s.win.flying == 0 || s.stuck {
		return false
	}
	if s.alarm != nil {
		s.clock.calm = s.clock.ticks
		return false
	}
	limit := uint64(s.cfg.Confirm / tick)
	s.win.each(func(_ uint64, e *entry) bool {
		if e.state != sent {
			return true
		}
		if s.clock.ticks-max(e.sentAt, s.clock.calm) > limit {
			s.stuck, s.flow, s.why = true, nil, errUnanswered
			s.wakeLocked()
			found = true
		}
		return false
	})
	return found
}

// errUnanswered is the cause when the broker did not confirm in time.
var errUnanswered = errors.New("the broker did not confirm in time, so the connection is made anew")

// unansweredError adds what the pipeline knows of the reason. That it was ended,
// and so is closed, is none.
func unansweredError(why error) error {
	if why == nil || errors.Is(why, transport.ErrClosed) {
		return errUnanswered
	}
	return fmt.Errorf("%w: %w", errUnanswered, why)
}
