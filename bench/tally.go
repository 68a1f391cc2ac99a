package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// tally counts handler calls by message, and measures from the call after the
// warm-up to the last one that is expected. It is safe for concurrent use.
type tally struct {
	pid   int // of the server
	msgs  int
	want  int64 // calls expected in all
	warm  int64 // calls before the measurement
	calls atomic.Int64
	seen  []atomic.Uint32 // calls by message

	once  sync.Once
	done  chan struct{} // closed by the last call
	start snapshot
	end   snapshot
}

// newTally expects want calls for msgs messages and leaves out the first warm.
func newTally(pid, msgs int, want, warm int64) *tally {
	return &tally{
		pid: pid, msgs: msgs, want: want, warm: max(warm, 1),
		seen: make([]atomic.Uint32, msgs), done: make(chan struct{}),
	}
}

// hit counts a call for a message and returns how many there were of it. 0 says
// that there is no such message.
func (t *tally) hit(seq uint64) uint32 {
	if seq >= uint64(len(t.seen)) {
		return 0
	}
	n := t.seen[seq].Add(1)
	switch t.calls.Add(1) {
	case t.warm:
		t.start = look(t.pid, true)
	case t.want:
		t.end = look(t.pid, false)
		t.once.Do(func() { close(t.done) })
	}
	return n
}

// sample is what was measured. It may be called once done is closed.
func (t *tally) sample() sample {
	share := float64(t.want-t.warm) / float64(t.want)
	return t.end.since(t.start, float64(t.msgs)*share)
}

// check compares the calls with what was expected of each message.
func (t *tally) check(expect func(seq uint64) uint32) error {
	var wrong int
	var first string
	for i := range t.seen {
		if got, want := t.seen[i].Load(), expect(uint64(i)); got != want {
			if wrong == 0 {
				first = fmt.Sprintf("message %d was handled %d times instead of %d", i, got, want)
			}
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d messages were not handled as often as they should have been: %s", wrong, t.msgs, first)
	}
	if got := t.calls.Load(); got != t.want {
		return fmt.Errorf("%d handler calls instead of %d", got, t.want)
	}
	return nil
}

// percentile returns the p-th part of sorted durations.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}
