//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The lines of a ledger begin with one of these, and a space.
const (
	markReady    = "b" // connected
	markAccepted = "a" // lane-number, submitted, accepted
	markRefused  = "r" // lane-number, submitted, refused, outcome, error
	markHanded   = "u" // lane-number: handed back by Close
	markStored   = "c" // how many the broker has confirmed so far; with a spool only
	markEnd      = "e" // the report, as JSON
)

// id names a message: a lane, in which order counts, and a number in it.
type id struct {
	lane string
	n    int
}

func (i id) String() string { return i.lane + "-" + strconv.Itoa(i.n) }

func parseID(s string) (id, error) {
	lane, number, ok := strings.Cut(s, "-")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return id{}, fmt.Errorf("%q is no ID of ours", s)
	}
	return id{lane, n}, nil
}

// span is the time from before a publish to after its outcome.
type span struct{ from, to time.Time }

func (s span) overlaps(o span) bool { return !s.to.Before(o.from) && !o.to.Before(s.from) }

// refusal is an outcome that is not "stored".
type refusal struct {
	span
	outcome string
	err     string
}

// endReport is the last line of a publisher that ended in peace.
type endReport struct {
	Submitted   int
	Silent      int    // publishes without any outcome, not even from Close
	CloseTook   int64  // ms, of Publisher.Close
	EndTook     int64  // ms, of Transport.Close
	Goroutines  int    // left behind
	Stacks      string // of those
	Resent      uint64
	Connections uint64
	SetAside    int
	SpoolErr    string
	FlushErr    string
	Slowest     int64 // us, of Publish
	P99         int64 // us, of Publish
}

// ledger is what publishers have said, all those of a trial together. It is safe
// for concurrent use.
type ledger struct {
	mu       sync.Mutex // guards what follows
	accepted map[id]span
	refused  map[id]refusal
	handed   map[id]bool
	stored   int // confirmed by the broker, of the publisher that runs
	last     time.Time
	ready    int
	ends     []endReport
	wrong    []string // lines that were not understood
}

func newLedger() *ledger {
	return &ledger{accepted: map[id]span{}, refused: map[id]refusal{}, handed: map[id]bool{}}
}

// add takes in a line. The last one of a process that was killed may be cut.
func (l *ledger) add(line string) {
	mark, rest, _ := strings.Cut(line, " ")
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.enter(mark, rest); err != nil {
		l.wrong = append(l.wrong, fmt.Sprintf("%q: %v", line, err))
	}
}

func (l *ledger) enter(mark, rest string) error {
	switch mark {
	case markReady:
		l.ready++
		return nil
	case markEnd:
		var e endReport
		if err := json.Unmarshal([]byte(rest), &e); err != nil {
			return err
		}
		l.ends = append(l.ends, e)
		return nil
	case markStored:
		n, err := strconv.Atoi(rest)
		l.stored = n
		return err
	}
	f := strings.SplitN(rest, " ", 5)
	name, err := parseID(f[0])
	if err != nil {
		return err
	}
	if mark == markHanded {
		l.handed[name] = true
		return nil
	}
	if len(f) < 3 {
		return fmt.Errorf("there are %d fields", len(f))
	}
	s, err := parseSpan(f[1], f[2])
	if err != nil {
		return err
	}
	switch {
	case mark == markAccepted:
		l.accepted[name], l.last = s, time.Now()
	case mark == markRefused && len(f) == 5:
		l.refused[name] = refusal{s, f[3], f[4]}
	default:
		return fmt.Errorf("unknown line")
	}
	return nil
}

func parseSpan(from, to string) (span, error) {
	a, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return span{}, err
	}
	b, err := strconv.ParseInt(to, 10, 64)
	if err != nil {
		return span{}, err
	}
	return span{time.Unix(0, a), time.Unix(0, b)}, nil
}

// counts returns how many were accepted, confirmed to the running publisher, and
// refused.
func (l *ledger) counts() (accepted, stored, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted), l.stored, len(l.refused)
}

func (l *ledger) connected() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready
}

func (l *ledger) reports() []endReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]endReport(nil), l.ends...)
}
