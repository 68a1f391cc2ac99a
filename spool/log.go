package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"sync"
	"time"
)

// Log is an open spool. It is safe for concurrent use. It runs four goroutines
// until it is closed, and Close waits for them.
type Log struct {
	opts  Options
	lock  io.Closer
	main  *journal
	aside *journal
	quar  quarantine

	reading chan struct{} // capacity 1: held by who uses the cursor
	cursor  cursor
	closing chan struct{} // capacity 1: held by who closes
	unlock  sync.Once

	mu          sync.Mutex // guards what follows; taken before a journal's
	entries     map[uint64]entry
	quarantined int
}

// entry is a record that was set aside.
type entry struct {
	seq   uint64 // its number in aside/
	place place
}

// Open opens the spool in a directory, which is made when it is missing, takes
// its lock, and repairs what a crash left. It reads everything once, in the time
// the disk needs for that and with flat memory; the context can end it.
//
// The errors say what is in the way: ErrLocked, a directory that is a symlink,
// belongs to somebody else or holds other files, a disk that does not read or
// write, files of a newer version.
func Open(ctx context.Context, dir string, opts Options) (*Log, Recovery, error) {
	began := time.Now()
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, Recovery{}, err
	}
	dir = filepath.Clean(dir)
	l := &Log{
		opts: opts, quar: quarantine{opts.FS, dir}, entries: make(map[uint64]entry),
		reading: make(chan struct{}, 1), closing: make(chan struct{}, 1),
	}
	if err := opts.FS.Prepare(dir); err != nil {
		return nil, Recovery{}, fmt.Errorf("spool: %w", err)
	}
	if l.lock, err = opts.FS.Lock(filepath.Join(dir, lockName)); err != nil {
		return nil, Recovery{}, fmt.Errorf("spool: %s: %w", dir, err)
	}
	rec, err := l.recover(ctx, dir)
	if err != nil {
		return nil, Recovery{}, errors.Join(err, l.lock.Close())
	}
	l.cursor = cursor{j: l.main, damaged: l.damaged}
	l.quarantined = l.quar.count()
	l.main.patience = opts.Patience // not of aside: who sets records aside waits for the disk
	l.main.start()
	l.aside.start()
	rec.Pending, rec.SetAside = l.main.pending, len(l.entries)
	rec.Bytes = l.main.live + l.aside.live
	rec.Took = time.Since(began)
	return l, rec, nil
}

// Append keeps records and returns the number of the first; the others follow
// it. It returns nil when all of them are synced, and shares the sync with
// everybody who appends at the same time. The records are not used after it has
// returned.
//
// Errors are ErrFull and ErrTooLarge (nothing was written), ErrWrite (the disk
// refused, the records are not accepted), ErrUnknown (the context or the patience
// ended while the disk was at work), ErrClosed, and the context's own when it
// ended before anything was written; context.DeadlineExceeded stands for the
// patience.
func (l *Log) Append(ctx context.Context, records ...[]byte) (uint64, error) {
	if len(records) == 0 {
		return 0, nil
	}
	total := int64(segmentHeader)
	for _, r := range records {
		total += recordHeader + int64(len(r))
		if len(r) > MaxRecord {
			return 0, fmt.Errorf("%w: it has %d bytes, and %d are possible", ErrTooLarge, len(r), MaxRecord)
		}
	}
	if total > l.opts.MaxBytes {
		return 0, fmt.Errorf("%w: %s at once, and the limit of the whole spool is %s", ErrTooLarge, size(total), size(l.opts.MaxBytes))
	}
	seq, _, err := l.main.append(ctx, records, l.opts.MaxBytes-l.aside.used())
	return seq, err
}

// Next returns the oldest record that was not handed out since Open and is not
// done. It waits until there is one, the context ends, or the log is closed
// (ErrClosed). A record that is handed out and never marked is handed out again
// after the next Open. Another error is one of the disk; nothing was skipped, so
// it can be called again, after a pause.
//
// What cannot be read because it was damaged is copied to quarantine, counted in
// the status, and passed over.
func (l *Log) Next(ctx context.Context) (Record, error) {
	select {
	case l.reading <- struct{}{}:
		defer func() { <-l.reading }()
	case <-ctx.Done():
		return Record{}, ctx.Err()
	}
	for {
		r, grown, err := l.cursor.next()
		if err != nil {
			if !errors.Is(err, ErrClosed) {
				err = fmt.Errorf("spool: read: %w", err)
			}
			return Record{}, err
		}
		if grown == nil {
			return r.record(), nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return Record{}, ctx.Err()
		}
	}
}

// Done marks a record as sent. The mark is written right after, without waiting
// for it. To mark a record that is done already does nothing. The error is
// ErrClosed, and then the record is handed out again after the next Open.
func (l *Log) Done(seq uint64) error { return l.main.markDone(seq) }

// SetAside keeps a record apart, with the reason, until it is retried or
// dropped. It does not wait in the way of the others any more. It returns when
// that is durable; the limit does not apply. Errors are those of Append, and
// ErrDone.
func (l *Log) SetAside(ctx context.Context, seq uint64, reason string) error {
	at, err := l.main.find(seq)
	if err != nil {
		return fmt.Errorf("spool: set aside record %d: %w", seq, err)
	}
	r, err := l.main.read(at)
	if err != nil {
		return fmt.Errorf("spool: set aside record %d: %w", seq, err)
	}
	kept, at, err := l.aside.append(ctx, [][]byte{encodeAside(seq, r.at, reason, r.data)}, math.MaxInt64)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.entries[seq] = entry{kept, at}
	l.mu.Unlock()
	_ = l.main.markDone(seq) // when closed, the next Open finds it in aside
	return nil
}

// Retry appends a record that was set aside anew, as the last one, and returns
// its new number. If the process ends in between, it is both set aside and
// pending. Errors are those of Append, and ErrNotFound.
func (l *Log) Retry(ctx context.Context, seq uint64) (uint64, error) {
	e, err := l.entry(seq)
	if err != nil {
		return 0, err
	}
	r, err := l.aside.read(e.place)
	if err != nil {
		return 0, fmt.Errorf("spool: retry record %d: %w", seq, err)
	}
	_, _, _, data, ok := decodeAside(r.data)
	if !ok {
		return 0, fmt.Errorf("spool: retry record %d: it is damaged", seq)
	}
	again, err := l.Append(ctx, data)
	if err != nil {
		return 0, err
	}
	return again, l.Drop(ctx, seq)
}

// Drop forgets a record that was set aside, durably. The error is ErrNotFound or
// one of the disk.
func (l *Log) Drop(ctx context.Context, seq uint64) error {
	e, err := l.entry(seq)
	if err != nil {
		return err
	}
	// First the mark that it is done where it was: nothing may bring it back. It
	// is written anew, for the one there is may never have reached the disk.
	l.main.remark(seq)
	if err := l.main.flush(ctx); err != nil {
		return fmt.Errorf("spool: drop record %d: %w", seq, err)
	}
	if err := l.aside.markDone(e.seq); err != nil {
		return fmt.Errorf("spool: drop record %d: %w", seq, err)
	}
	l.mu.Lock()
	delete(l.entries, seq)
	l.mu.Unlock()
	if err := l.aside.flush(ctx); err != nil {
		return fmt.Errorf("spool: drop record %d: %w", seq, err)
	}
	return nil
}

func (l *Log) entry(seq uint64) (entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.entries[seq]
	if !ok {
		return e, fmt.Errorf("%w: %d", ErrNotFound, seq)
	}
	return e, nil
}

// Status tells the state of the log. It does no I/O.
func (l *Log) Status() Status {
	l.mu.Lock()
	s := Status{MaxBytes: l.opts.MaxBytes, SetAside: len(l.entries), Quarantined: l.quarantined}
	l.mu.Unlock()
	s.Oldest = l.main.oldest()
	for _, j := range []*journal{l.main, l.aside} {
		j.mu.Lock()
		s.Bytes += j.live + j.claimed
		for _, seg := range j.segs {
			if seg.records > 0 {
				s.Segments++
			}
		}
		if s.Broken == nil {
			s.Broken = j.broken
		}
		if s.MarksBroken == nil {
			s.MarksBroken = j.unsaved
		}
		j.mu.Unlock()
	}
	l.main.mu.Lock()
	s.Pending = l.main.pending
	l.main.mu.Unlock()
	return s
}

// damaged keeps damage that was found while reading.
func (l *Log) damaged(first uint64, g gap) Damage {
	d := l.quar.save("", first, g)
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.Err == nil {
		l.quarantined++
	}
	return d
}

// Close refuses new records, waits until those that are being appended and all
// marks are written, and gives up the lock. When the context ends before, it
// returns its error, the disk hangs, and the lock stays taken until a later
// Close has waited for it or the process ends. It may be called again.
func (l *Log) Close(ctx context.Context) error {
	l.main.shut()
	l.aside.shut()
	ended := make(chan struct{})
	select {
	case l.closing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("spool: close: the disk does not answer: %w", ctx.Err())
	}
	go func() { // ends with the last write; nothing can end a write
		defer func() { <-l.closing }()
		l.main.workers.Wait()
		l.aside.workers.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("spool: close: the disk does not answer: %w", ctx.Err())
	}
	l.reading <- struct{}{} // who reads has seen that the journal is shut
	l.cursor.close()
	<-l.reading
	var err error
	l.unlock.Do(func() { err = l.lock.Close() })
	return err
}

// size writes a number of bytes for people.
func size(n int64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1024 && unit < len(units)-1 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", f, units[unit])
}

// fullError says what is in the way of an append.
type fullError struct {
	used, more, limit, pending int64
}

func (e *fullError) Error() string {
	return fmt.Sprintf("%v: %s of %s are used by %d waiting records, and %s more do not fit; it has room again when waiting records were sent, or with a larger MaxBytes",
		ErrFull, size(e.used), size(max(e.limit, 0)), e.pending, size(e.more))
}

// Unwrap makes it an ErrFull.
func (e *fullError) Unwrap() error { return ErrFull }
