package engine

import (
	"time"

	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// suspicion is the part of lanes that handles a suspected message alone. To give
// back what is in hand beside it, as is done where nothing is ordered, would change
// the order of a key, and a broker that counts what is given back would count all of
// it. So everything stays in hand, and while a suspected message is among it the
// lanes go on oldest first, and nothing runs beside that one.
//
// What ends the process is then always the oldest suspected message, and that one is
// judged first after the next start. Whatever waited behind it has been counted as
// often and was never seen: once the killer is dead, that is their excuse. Were one
// of them a killer too, it would be the oldest after the next start.
type suspicion struct {
	seq      uint64    // of the delivery that came last
	suspects int       // in lanes
	alone    bool      // one of them is in a worker's hand
	asked    time.Time // since when one waits to be alone; zero if none does
	killer   bool      // one was found guilty
}

// suspects tells whether a delivery may end the process, for others like it have
// ended without an outcome more often than retries explain. Where attempts are
// counted in a store that is known later, so that every message that comes again is
// handled alone: in a lane that is only what a process left behind.
func (s *Subscription) suspects(d transport.Delivery) bool {
	n := d.Deliveries()
	switch {
	case n <= 1 || s.cfg.Policy.Ack == recovery.AckFirst:
		return false
	case s.cfg.Policy.Counted:
		return true
	}
	var c judgement
	s.recall(&c, d)
	if c.verdict.Action != recovery.Handle {
		return false // no handler runs
	}
	v := s.cfg.Policy.Admit(recovery.Arrival{Deliveries: c.charged, Retries: c.retries})
	return v.Alone || v.Reason == recovery.CrashLoop
}

// nextLocked returns the place in the queue of the lane that is to be taken next, or
// -1 when none is to be taken now.
func (l *lanes) nextLocked() int {
	if l.suspects == 0 && len(l.queue) > 0 {
		return 0
	}
	if l.alone || len(l.queue) == 0 {
		return -1
	}
	oldest := 0
	for i, ln := range l.queue {
		if ln.items[0].seq < l.queue[oldest].items[0].seq {
			oldest = i
		}
	}
	if l.queue[oldest].items[0].suspect && l.inHand > 0 && !l.waitedLocked() {
		return -1
	}
	l.asked = time.Time{}
	return oldest
}

// waitedLocked tells whether a suspected message has waited long enough for the
// handlers that run: a long one may be counted with it.
func (l *lanes) waitedLocked() bool {
	if l.asked.IsZero() {
		l.asked = time.Now()
		time.AfterFunc(soloWait, l.ready.Broadcast)
	}
	return time.Since(l.asked) >= soloWait
}

// clearLocked is for an item that a worker has put down, or that leaves its lane:
// what came back from its handler has not ended the process.
func (l *lanes) clearLocked(it *laneItem) {
	if !it.suspect {
		return
	}
	it.suspect = false
	l.suspects--
	l.asked = time.Time{}
	l.ready.Broadcast() // who waited to be alone, or for one who was
}

// excuses tells whether a message over the crash limit may have been counted beside
// one that was found guilty.
func (l *lanes) excuses() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.killer
}

// foundKiller notes that a message was given up because it ends the process.
func (l *lanes) foundKiller() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.killer = true
}

// excuse lets the handler run once more for a message over the crash limit.
func (s *Subscription) excuse(c *judgement) {
	c.attempt++ // consider took it off
	c.verdict, c.err = recovery.Verdict{Action: recovery.Handle}, nil
	s.cfg.Logger.Warn("message is handled although its deliveries keep ending without an outcome: another one that waited with it was to blame",
		"id", c.message.ID, "subject", c.message.Subject, "deliveries", c.deliveries)
}
