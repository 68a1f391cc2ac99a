//go:build linux

package main

import (
	"fmt"
	"slices"
)

// terms are what a row promises.
type terms struct {
	faults []span // when something was broken
	// window bounds the duplicates of each fault: what one publisher has
	// unconfirmed. Zero allows none.
	window int
	// mayRefuse names messages that may be refused; nil for none.
	mayRefuse func(id) bool
	// spooled: a message goes to the broker after its publish has returned, so
	// that nobody knows whether it was under way at a fault.
	spooled bool
	// copies bounds how often one message is stored; zero means no bound but the
	// faults.
	copies int
	// gone are messages that were accepted and then removed on purpose.
	gone func(id, span) bool
	// overtaken is how many messages may be stored behind later ones: those that
	// the broker refused for a moment, while others were under way. They are no
	// reordering, which is for connections that break.
	overtaken int
	// aside is how many accepted messages the publisher says it has set aside.
	aside int
}

// tally is what the checker found.
type tally struct {
	Accepted   int
	Lost       int // accepted and not stored
	Duplicated int // copies beyond the first
	Reordered  int // first copies behind a later one of their lane
	Overtaken  int // the same, where it is allowed
	Refused    int // with a certain outcome
	Unknown    int // the publisher says that it does not know
	Phantom    int // refused for certain and stored all the same
	Unasked    int // duplicates of messages that were not under way at a fault
	Stored     int // different messages at the broker
	broken     []string
}

// check compares the ledger with what the broker has, in its order.
func check(l *ledger, stored []string, t terms) tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	var r tally
	copies := make(map[id]int, len(stored))
	highest := map[string]int{}
	for _, s := range stored {
		name, err := parseID(s)
		if err != nil {
			r.broke("a stored message: %v", err)
			continue
		}
		copies[name]++
		if copies[name] > 1 {
			r.Duplicated++
			continue
		}
		if top, seen := highest[name.lane]; seen && name.n < top && r.Overtaken < t.overtaken {
			r.Overtaken++
		} else if seen && name.n < top {
			r.Reordered++
			r.first(r.Reordered, "%v is stored behind %s-%d", name, name.lane, top)
		}
		highest[name.lane] = max(highest[name.lane], name.n)
	}
	r.Stored = len(copies)
	r.losses(l, copies, t)
	r.refusals(l, copies, t)
	r.duplicates(l, copies, t)
	for _, w := range l.wrong {
		r.broke("the ledger has a line that is not understood: %s", w)
	}
	return r
}

func (r *tally) losses(l *ledger, copies map[id]int, t terms) {
	for name, s := range l.accepted {
		if t.gone != nil && t.gone(name, s) {
			continue
		}
		r.Accepted++
		if copies[name] == 0 {
			r.Lost++
		}
	}
	r.Lost -= t.aside
	if r.Lost != 0 {
		r.broke("%d accepted messages are not stored (%d set aside), such as %v", r.Lost, t.aside, r.some(l, copies))
	}
}

// some names a few lost messages.
func (r *tally) some(l *ledger, copies map[id]int) []string {
	var names []string
	for name := range l.accepted {
		if copies[name] == 0 {
			names = append(names, name.String())
		}
	}
	slices.Sort(names)
	return names[:min(len(names), 3)]
}

func (r *tally) refusals(l *ledger, copies map[id]int, t terms) {
	for name, f := range l.refused {
		if f.outcome == "uncertain" {
			r.Unknown++
			continue
		}
		r.Refused++
		if copies[name] > 0 {
			r.Phantom++
			r.first(r.Phantom, "%v is stored and was %s: %s", name, f.outcome, f.err)
		}
	}
	bad := 0
	for name, f := range l.refused {
		if t.mayRefuse == nil || !t.mayRefuse(name) {
			bad++
			r.first(bad, "%v should not have been refused: %s: %s", name, f.outcome, f.err)
		}
	}
	if bad > 3 {
		r.broke("%d messages were refused and should not have been", bad)
	}
}

func (r *tally) duplicates(l *ledger, copies map[id]int, t terms) {
	most := 0
	for name, n := range copies {
		if most = max(most, n); n < 2 {
			continue
		}
		s, known := l.accepted[name]
		if !known {
			if f, refused := l.refused[name]; refused {
				s, known = f.span, true
			}
		}
		// One whose outcome nobody noted was under way when its publisher died.
		if known && !t.spooled && !slices.ContainsFunc(t.faults, s.overlaps) {
			r.Unasked += n - 1
			r.first(r.Unasked, "%v is stored %d times and was not under way at any fault", name, n)
		}
	}
	if limit := t.window * len(t.faults); r.Duplicated > limit {
		r.broke("%d duplicates are more than the %d of %d faults", r.Duplicated, limit, len(t.faults))
	}
	if t.copies > 0 && most > t.copies {
		r.broke("a message is stored %d times, and %d is the most there may be", most, t.copies)
	}
	if r.Reordered > 0 {
		r.broke("%d messages are out of order", r.Reordered)
	}
}

func (r *tally) broke(format string, args ...any) {
	r.broken = append(r.broken, fmt.Sprintf(format, args...))
}

// first notes the first few of many.
func (r *tally) first(n int, format string, args ...any) {
	if n <= 3 {
		r.broke(format, args...)
	}
}
