package engine

import (
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// When the lease of a message in a lane is lost the broker hands it out again,
// and those behind it must not overtake it. So they go back too, in their order,
// and come after it. What arrives while they go back and is not one of them goes
// back behind them, for it is younger.

// abort is for a head whose lease was lost: its whole lane turns.
func (l *lanes) abort(ln *lane) {
	l.mu.Lock()
	l.putDownLocked(ln)
	if l.closed {
		l.mu.Unlock()
		return
	}
	rest, first := l.turnLocked(ln, 0)
	l.mu.Unlock()
	if first {
		l.turn(ln, rest)
	}
}

// turnLocked takes the item at i, whose lease is lost, and all behind it out of
// the lane. Those behind it are returned, to be turned, unless others of the
// lane are on their way already: then they follow. The lost message itself may
// be among them, handed out anew: it stays, for it comes first.
func (l *lanes) turnLocked(ln *lane, i int) (rest []*laneItem, first bool) {
	first = ln.turned == nil
	if first {
		ln.turned = make(map[string]bool)
	}
	lost := ln.items[i].position()
	ln.turned[lost] = true
	kept := slices.Clone(ln.items[:i])
	for _, it := range ln.items[i+1:] {
		ln.turned[it.position()] = true
		if it.position() == lost {
			kept = append(kept, it)
		} else {
			rest = append(rest, it)
		}
	}
	l.clearLocked(ln.items[i])
	for _, it := range rest {
		l.clearLocked(it)
	}
	l.count -= len(ln.items) - len(kept)
	ln.items = kept
	if i == 0 {
		ln.halted, ln.due = true, time.Time{}
		l.queue = slices.DeleteFunc(l.queue, func(other *lane) bool { return other == ln })
	}
	if !first {
		ln.late = append(rest, ln.late...)
	}
	return rest, first
}

func (it *laneItem) position() string { return it.delivery.Message().Position }

// turn gives items of a lane back and, when nothing came that must follow them,
// lets the lane go on.
func (l *lanes) turn(ln *lane, items []*laneItem) {
	for {
		l.giveBackAll(items, 0)
		l.mu.Lock()
		items, ln.late = ln.late, nil
		for _, it := range items {
			ln.turned[it.position()] = true
		}
		if len(items) == 0 {
			ln.turned = nil
			if ln.halted && !l.closed {
				l.goOnLocked(ln)
			}
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}

// keepLeases extends the leases of everything that no worker has in hand.
func (l *lanes) keepLeases() {
	type place struct {
		ln *lane
		it *laneItem
	}
	l.mu.Lock()
	waiting := make([]place, 0, l.count)
	for _, ln := range l.byKey {
		for i, it := range ln.items {
			if i > 0 || !ln.taken {
				waiting = append(waiting, place{ln, it})
			}
		}
	}
	l.mu.Unlock()
	for _, at := range waiting {
		if err := extend(at.it.delivery); err != nil {
			l.lose(at.ln, at.it, err)
		}
	}
}

// lose drops a message that waited in a lane and may be somebody else's now.
func (l *lanes) lose(ln *lane, it *laneItem, err error) {
	l.mu.Lock()
	i := slices.Index(ln.items, it)
	if l.closed || i < 0 || i == 0 && ln.taken { // its worker finds out by itself
		l.mu.Unlock()
		return
	}
	if i == 0 && ln.timer != nil {
		ln.timer.Stop()
	}
	rest, first := l.turnLocked(ln, i)
	l.mu.Unlock()
	l.p.s.leaseLost(it.delivery, err)
	if first { // not here: this is the keeper of all leases
		l.p.helpers.Go(func() { l.turn(ln, rest) })
	}
}

// leaseLost counts and tells that the lease of a waiting message is lost.
func (s *Subscription) leaseLost(d transport.Delivery, err error) {
	s.mu.Lock()
	s.past.LeasesLost++
	s.mu.Unlock()
	s.tellLeaseLost(d, "lease lost: the message waited for others of its key and is not handled here", err)
}
