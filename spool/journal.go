package spool

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

// journal is a row of segments in one directory with one goroutine that writes
// records and one that writes marks. A log has two: what waits, and what was set
// aside. It is safe for concurrent use.
type journal struct {
	fs       FS
	dir      string
	limit    int64         // of a segment
	patience time.Duration // of an append; zero without a limit
	writer   writer
	marker   marker
	workers  sync.WaitGroup
	over     chan struct{} // closed when both goroutines have ended

	mu       sync.Mutex // guards what follows; a leaf, never held across I/O
	segs     []*segment // in order; the last is the newest and is never removed
	seq      uint64     // of the next record
	queue    []*request // not yet taken by the writer
	free     []*request // for use again
	live     int64      // bytes of segments with a record that is not done
	claimed  int64      // bytes of requests that have no answer yet
	pending  int64
	broken   error // why the last write failed
	closed   bool
	grown    chan struct{} // closed and made anew when there is more to read
	unmarked []marks       // done, and not yet in a file
	unsaved  error         // why marks could not be written
	wake     chan struct{} // capacity 1: the queue grew, or closed was set
	mark     chan struct{} // capacity 1: unmarked grew, or a segment ended
}

// request is one call of append.
type request struct {
	records [][]byte
	sums    []uint32
	bytes   int64
	taken   bool        // the writer has it; guarded by the journal's mutex
	done    chan error  // capacity 1
	timer   *time.Timer // nil without patience
	// Set before done: where the first record is.
	seq   uint64
	place place
}

// late returns the channel that fires when the patience is over, or nil.
func (r *request) late() <-chan time.Time {
	if r.timer == nil {
		return nil
	}
	return r.timer.C
}

// place is where a record lies.
type place struct {
	segment uint64
	off     int64
	bytes   int64
}

// marks are numbers of one segment that are done.
type marks struct {
	seg *segment
	span
}

// start begins to write. The segments were set by recovery.
func (j *journal) start() {
	for _, s := range j.segs {
		j.live += s.live()
		j.pending += s.pending
	}
	j.grown = make(chan struct{})
	j.wake, j.mark = make(chan struct{}, 1), make(chan struct{}, 1)
	j.writer.j, j.marker.j = j, j
	j.marker.files = make(map[*segment]*marksFile)
	j.marker.flushes = make(chan chan error)
	j.over = make(chan struct{})
	written := make(chan struct{})
	j.workers.Go(func() {
		defer close(written)
		j.writer.run()
	})
	j.workers.Go(func() {
		defer close(j.over)
		j.marker.run(written)
	})
}

// append returns when the records are synced. With them, no more than limit bytes
// may be kept.
func (j *journal) append(ctx context.Context, records [][]byte, limit int64) (uint64, place, error) {
	if err := ctx.Err(); err != nil {
		return 0, place{}, fmt.Errorf("spool: append: nothing was written: %w", err)
	}
	r := j.request(records)
	if err := j.enqueue(r, limit); err != nil {
		return 0, place{}, err
	}
	over := context.DeadlineExceeded
	select {
	case err := <-r.done:
		return j.answer(r, err)
	case <-r.late():
	case <-ctx.Done():
		over = ctx.Err()
	}
	if j.withdraw(r) {
		return 0, place{}, fmt.Errorf("spool: append: nothing was written: %w", over)
	}
	select {
	case err := <-r.done:
		return j.answer(r, err)
	default:
		return 0, place{}, fmt.Errorf("%w: the disk did not answer in time; the records may be kept or not: %w", ErrUnknown, over)
	}
}

func (j *journal) answer(r *request, err error) (uint64, place, error) {
	if r.timer != nil {
		r.timer.Stop()
	}
	seq, at := r.seq, r.place
	j.mu.Lock()
	clear(r.records)
	j.free = append(j.free, r)
	j.mu.Unlock()
	return seq, at, err
}

// request prepares a call: the checksums are made here, by all callers at once.
func (j *journal) request(records [][]byte) *request {
	j.mu.Lock()
	var r *request
	if n := len(j.free); n > 0 {
		r, j.free = j.free[n-1], j.free[:n-1]
	}
	j.mu.Unlock()
	switch {
	case r == nil:
		r = &request{done: make(chan error, 1)}
		if j.patience > 0 {
			r.timer = time.NewTimer(j.patience)
		}
	case r.timer != nil:
		r.timer.Reset(j.patience)
	}
	r.records, r.sums, r.bytes, r.taken = append(r.records[:0], records...), r.sums[:0], 0, false
	for _, data := range records {
		r.sums = append(r.sums, checksum(data))
		r.bytes += recordHeader + int64(len(data))
	}
	return r
}

func (j *journal) enqueue(r *request, limit int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	if used := j.live + j.claimed; used+r.bytes > limit {
		return &fullError{used: used, more: r.bytes, limit: limit, pending: j.pending}
	}
	j.queue = append(j.queue, r)
	j.claimed += r.bytes
	notify(j.wake)
	return nil
}

// withdraw takes a request back that the writer has not taken.
func (j *journal) withdraw(r *request) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.taken {
		return false
	}
	for i, q := range j.queue {
		if q == r {
			j.queue = append(j.queue[:i], j.queue[i+1:]...)
			j.claimed -= r.bytes
			break
		}
	}
	return true
}

// used is what counts against the limit: what is on the disk, and what is on its
// way there.
func (j *journal) used() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.live + j.claimed
}

// newest returns the last segment, or nil. The caller holds the mutex.
func (j *journal) newest() *segment {
	if len(j.segs) == 0 {
		return nil
	}
	return j.segs[len(j.segs)-1]
}

// segmentOf returns the segment that holds a number, or nil. The caller holds
// the mutex.
func (j *journal) segmentOf(seq uint64) *segment {
	lo, hi := 0, len(j.segs)
	for lo < hi {
		if mid := (lo + hi) / 2; j.segs[mid].first <= seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 || seq >= j.segs[lo-1].next {
		return nil
	}
	return j.segs[lo-1]
}

// markDone notes that a record is done, which it may be already.
func (j *journal) markDone(seq uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	s := j.segmentOf(seq)
	if s == nil || !s.has(seq) {
		return nil
	}
	live := s.live()
	s.mark(seq)
	j.live += s.live() - live
	j.pending--
	if n := len(j.unmarked); n > 0 && j.unmarked[n-1].seg == s && j.unmarked[n-1].to == seq {
		j.unmarked[n-1].to++
	} else {
		j.unmarked = append(j.unmarked, marks{s, span{seq, seq + 1}})
	}
	notify(j.mark)
	return nil
}

// remark has the mark of a record that is done written once more.
func (j *journal) remark(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if s := j.segmentOf(seq); s != nil && !s.has(seq) {
		j.unmarked = append(j.unmarked, marks{s, span{seq, seq + 1}})
	}
}

// committed takes in records that are synced.
func (j *journal) committed(s *segment, batch *batch) {
	j.mu.Lock()
	defer j.mu.Unlock()
	live, pending, off := s.live(), s.pending, s.size
	for _, r := range batch.requests {
		r.place = place{s.first, off, 0}
		for i, data := range r.records {
			s.add(r.seq+uint64(i), off, batch.at)
			off += recordHeader + int64(len(data))
		}
		r.place.bytes = off - r.place.off
		j.claimed -= r.bytes
	}
	s.size = off
	j.live += s.live() - live
	j.pending += s.pending - pending
	j.broken = nil
	if !j.closed {
		close(j.grown)
		j.grown = make(chan struct{})
	}
}

// begun takes in a new segment.
func (j *journal) begun(s *segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segs = append(j.segs, s)
	notify(j.mark) // the one before may be done
}

// shut refuses what comes from now on; what is queued is still written.
func (j *journal) shut() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	j.closed = true
	close(j.grown)
	notify(j.wake)
}

// oldest returns when the oldest pending record was appended.
func (j *journal) oldest() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segs {
		if s.pending > 0 {
			return time.Unix(0, s.near(s.oldest()).at)
		}
	}
	return time.Time{}
}

func (j *journal) path(name string) string { return filepath.Join(j.dir, name) }

// open opens a segment for reading.
func (j *journal) open(first uint64) (File, error) {
	return j.fs.OpenFile(j.path(segmentName(first)), readOnly)
}

// read returns the record at a place.
func (j *journal) read(at place) (f found, err error) {
	file, err := j.open(at.segment)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sc := newScanner(file, at.segment, at.off+at.bytes)
	f, _, ok, err := sc.at(at.off)
	if err == nil && !ok {
		err = fmt.Errorf("the record at %d of %s is damaged", at.off, segmentName(at.segment))
	}
	return f, err
}

// find looks up where a pending record lies.
func (j *journal) find(seq uint64) (place, error) {
	j.mu.Lock()
	s := j.segmentOf(seq)
	if s == nil || !s.has(seq) {
		j.mu.Unlock()
		return place{}, ErrDone
	}
	from, end, first := s.near(seq), s.size, s.first
	j.mu.Unlock()
	f, err := j.open(first)
	if err != nil {
		return place{}, err
	}
	sc := newScanner(f, first, end)
	sc.pos, sc.last = from.off, max(from.seq, 1)-1
	for {
		r, _, ok, err := sc.next()
		if err == nil && (!ok || r.seq > seq) {
			err = fmt.Errorf("record %d of %s cannot be read", seq, segmentName(first))
		}
		if err != nil || r.seq == seq {
			return place{first, r.off, r.bytes()}, errors.Join(err, f.Close())
		}
	}
}

// notify wakes who waits, once.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
