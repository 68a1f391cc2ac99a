package spool

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
)

const (
	readOnly  = os.O_RDONLY
	readWrite = os.O_RDWR
	createNew = os.O_RDWR | os.O_CREATE | os.O_EXCL

	// maxBatch bounds what one sync covers, and so the memory of the writer.
	maxBatch = 4 << 20
	// maxGather bounds how long a batch waits for those who were in the last one.
	maxGather = 200 * time.Microsecond
)

// writer is the goroutine that appends. Nobody else touches its fields.
type writer struct {
	j     *journal
	seg   *segment // written to; nil when the next batch begins a new one
	file  File
	batch batch
	last  int           // requests in the last batch
	took  time.Duration // by the last sync
}

// batch is what one sync makes durable.
type batch struct {
	requests []*request
	buf      []byte
	at       int64
	salt     uint32
}

// run writes batches until the journal is shut and its queue is empty.
func (w *writer) run() {
	for w.take() {
		err := w.commit()
		w.finish(err)
	}
	w.seal()
}

// take waits for requests and encodes them. It reports false at the end.
func (w *writer) take() bool {
	for {
		w.gather()
		if w.encode() {
			return true
		}
		w.j.mu.Lock()
		ended := w.j.closed && len(w.j.queue) == 0
		w.j.mu.Unlock()
		if ended {
			return false
		}
		<-w.j.wake
	}
}

// gather lets those whose records were just synced come back with the next ones
// before the next sync begins. Otherwise two groups of callers would take turns,
// and each wait for the other's sync. Who is alone never waits.
func (w *writer) gather() {
	if w.last < 2 {
		return
	}
	limit, tries := min(w.took/4, maxGather), 1000 // where time stands still
	for began := time.Now(); tries > 0 && time.Since(began) < limit; runtime.Gosched() {
		tries--
		w.j.mu.Lock()
		n := len(w.j.queue)
		w.j.mu.Unlock()
		if n == 0 || n >= w.last {
			return
		}
	}
}

// encode takes requests off the queue and copies their records.
func (w *writer) encode() bool {
	j, b := w.j, &w.batch
	b.buf, b.requests = b.buf[:0], b.requests[:0]
	if cap(b.buf) > 2*maxBatch {
		b.buf = nil // a huge record is no reason to keep its room
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.queue) == 0 {
		return false
	}
	b.at = time.Now().UnixNano()
	b.salt = 0
	n := 0
	for _, r := range j.queue {
		if n > 0 && int64(len(b.buf))+r.bytes > maxBatch {
			break
		}
		r.taken, r.seq = true, j.seq
		for i, data := range r.records {
			b.buf = appendRecord(b.buf, b.salt, recordHead{uint32(len(data)), j.seq, b.at, r.sums[i]}, data)
			j.seq++
		}
		n++
	}
	b.requests = append(b.requests, j.queue[:n]...)
	left := copy(j.queue, j.queue[n:])
	clear(j.queue[left:])
	j.queue = j.queue[:left]
	return true
}

// finish tells the callers.
func (w *writer) finish(err error) {
	if err != nil {
		err = fmt.Errorf("%w: %w%s", ErrWrite, err, hint(err))
		w.j.mu.Lock()
		w.j.broken = err
		for _, r := range w.batch.requests {
			w.j.claimed -= r.bytes
		}
		w.j.mu.Unlock()
	}
	w.last = len(w.batch.requests)
	for _, r := range w.batch.requests {
		r.done <- err
	}
	clear(w.batch.requests)
}

// hint says how to mend an error of the disk.
func hint(err error) string {
	switch {
	case diskFull(err):
		return "; the disk is full: free some space, writing goes on without a restart"
	case readOnlyDisk(err):
		return "; the file system is read-only: see the kernel's log, and mount it for writing"
	}
	return "; writing goes on without a restart once the disk works"
}

// commit writes the batch and syncs it. After a write that failed the file is
// cut to its last good byte. After a sync that failed nobody knows what of the
// file is on the disk, and a second sync that succeeds would prove nothing: the
// batch goes to a new file.
func (w *writer) commit() error {
	w.roll()
	fresh := w.seg == nil
	if fresh {
		if err := w.begin(); err != nil {
			return err
		}
	}
	if err := w.write(); err != nil {
		if cut := w.file.Truncate(w.seg.size); cut != nil {
			w.abandon()
		}
		return err
	}
	err := w.sync()
	if err == nil {
		w.j.committed(w.seg, &w.batch)
		return nil
	}
	w.abandon()
	if fresh {
		return err
	}
	if again := w.begin(); again != nil {
		return errors.Join(err, again)
	}
	again := w.write()
	if again == nil {
		again = w.sync()
	}
	if again != nil {
		w.abandon()
		return errors.Join(err, again)
	}
	w.j.committed(w.seg, &w.batch)
	return nil
}

// roll ends the segment when it is full, or when it holds enough that is done.
func (w *writer) roll() {
	if w.seg == nil {
		return
	}
	w.j.mu.Lock()
	full := w.seg.size >= w.j.limit || (w.seg.pending == 0 && w.seg.size >= w.j.limit/4)
	w.j.mu.Unlock()
	if full {
		_ = w.file.Close() // all that counts is synced
		w.seg, w.file = nil, nil
	}
}

// begin makes a new segment, which says where the one before ends.
func (w *writer) begin() error {
	j := w.j
	j.mu.Lock()
	h := header{first: j.seq}
	if len(w.batch.requests) > 0 {
		h.first = w.batch.requests[0].seq
	}
	if prev := j.newest(); prev != nil {
		h.prev, h.prevEnd = prev.first, prev.size
	}
	j.mu.Unlock()
	name := j.path(segmentName(h.first))
	f, err := j.fs.OpenFile(name, createNew)
	if err != nil {
		return err
	}
	if err := start(j.fs, f, j.dir, h); err != nil {
		// If it cannot be removed, the next segment passes it over.
		return errors.Join(err, f.Close(), j.fs.Remove(name))
	}
	w.seg, w.file = newSegment(h.first), f
	j.begun(w.seg)
	return nil
}

// start makes the beginning of a segment durable, and its name.
func start(fsys FS, f File, dir string, h header) error {
	b := h.encode()
	n, err := f.WriteAt(b, 0)
	if err == nil && n < len(b) {
		err = fmt.Errorf("only %d of %d bytes were written", n, len(b))
	}
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

// abandon leaves a file that cannot be trusted. Its good part can still be read;
// what lies behind is cut off here if that is possible, and in any case by the
// next segment, which says where this one ends and stays as long as this one.
func (w *writer) abandon() {
	_ = w.file.Truncate(w.seg.size)
	_ = w.file.Close()
	w.j.mu.Lock()
	w.seg.left = true
	w.j.mu.Unlock()
	w.seg, w.file = nil, nil
}

// seal ends the last segment: at the next start a tail that cannot be read is
// damage then, and not the remains of a crash. If that fails, it only stays
// unsaid.
func (w *writer) seal() {
	w.j.mu.Lock()
	newest := w.j.newest()
	seal := newest != nil && (newest.records > 0 || newest.left)
	w.j.mu.Unlock()
	if w.file != nil {
		_ = w.file.Close() // all that counts is synced
		w.seg, w.file = nil, nil
	}
	if !seal {
		return
	}
	w.batch.requests = nil
	if w.begin() == nil {
		_ = w.file.Close()
	}
}

func (w *writer) write() error {
	salt := saltOf(w.seg.first)
	resalt(w.batch.buf, w.batch.salt, salt)
	w.batch.salt = salt
	n, err := w.file.WriteAt(w.batch.buf, w.seg.size)
	if err == nil && n < len(w.batch.buf) {
		err = fmt.Errorf("only %d of %d bytes were written", n, len(w.batch.buf))
	}
	return err
}

func (w *writer) sync() error {
	began := time.Now()
	err := w.file.Sync()
	w.took = time.Since(began)
	return err
}
