package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// markSync is how long marks may stay unsynced, and how long a failed write of
// them waits.
const markSync = time.Second

// marker is the goroutine that writes marks and removes segments whose records
// are all done. Nobody else touches its fields, but for flushes.
type marker struct {
	j       *journal
	files   map[*segment]*marksFile
	named   bool       // a name is not durable yet
	garbage []*garbage // done and not removed yet
	flushes chan chan error
}

// garbage is a segment whose records are all done. Its last marks are written only
// where it cannot be removed: until that is durable, a restart finds it.
type garbage struct {
	seg   *segment
	marks []marks
}

// marksFile is an open file of marks.
type marksFile struct {
	f     File
	end   int64
	dirty bool
}

// run works until the writer has ended, and then once more.
func (m *marker) run(written <-chan struct{}) {
	timer := time.NewTimer(markSync)
	timer.Stop()
	armed := false
	for {
		select {
		case <-m.j.mark:
			_ = m.work() // told by the status, and tried again
		case reply := <-m.flushes:
			m.named = true // a removal by an earlier process may not be durable
			err := m.work()
			reply <- errors.Join(err, m.sync())
		case <-timer.C:
			armed = false
			_ = m.work()
			_ = m.sync()
		case <-written:
			_ = m.work()
			_ = m.sync()
			m.close()
			return
		}
		if !armed && m.late() {
			timer.Reset(markSync)
			armed = true
		}
	}
}

// late reports whether something is left for later.
func (m *marker) late() bool {
	for _, f := range m.files {
		if f.dirty {
			return true
		}
	}
	m.j.mu.Lock()
	defer m.j.mu.Unlock()
	return len(m.garbage) > 0 || len(m.j.unmarked) > 0
}

// work writes the marks there are and removes the segments that are done.
func (m *marker) work() error {
	list := m.collect()
	failed, stuck := m.sweep()
	slices.SortStableFunc(list, func(a, b marks) int { return cmp.Compare(a.seg.first, b.seg.first) })
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].seg == list[0].seg {
			n++
		}
		if err := m.write(list[:n]); err != nil {
			failed = errors.Join(failed, err)
			m.back(list[:n])
		}
		list = list[n:]
	}
	m.j.mu.Lock()
	m.j.unsaved = errors.Join(failed, stuck)
	m.j.mu.Unlock()
	return failed
}

// collect takes the new marks, and the segments that are done with theirs, out of
// the journal.
func (m *marker) collect() []marks {
	j := m.j
	j.mu.Lock()
	defer j.mu.Unlock()
	list := j.unmarked
	j.unmarked = nil
	newest, needed := j.newest(), false
	j.segs = slices.DeleteFunc(j.segs, func(s *segment) bool {
		s.gone = s.pending == 0 && s != newest && !s.held && !needed
		if s.gone {
			m.garbage = append(m.garbage, &garbage{seg: s})
			return true
		}
		needed = s.left // the next one says where this one ends
		return false
	})
	for _, g := range m.garbage {
		list = slices.DeleteFunc(list, func(k marks) bool {
			if k.seg == g.seg {
				g.marks = append(g.marks, k)
			}
			return k.seg == g.seg
		})
	}
	return list
}

// back keeps marks that could not be written.
func (m *marker) back(list []marks) {
	m.j.mu.Lock()
	defer m.j.mu.Unlock()
	m.j.unmarked = append(m.j.unmarked, list...)
}

// write appends marks of one segment to their file.
func (m *marker) write(list []marks) error {
	seg := list[0].seg
	f, err := m.file(seg)
	if err != nil {
		return err
	}
	var b []byte
	for _, k := range list {
		b = appendMarks(b, saltOf(seg.first), k.span)
	}
	n, err := f.f.WriteAt(b, f.end)
	if err == nil && n < len(b) {
		err = fmt.Errorf("only %d of %d bytes were written", n, len(b))
	}
	if err != nil {
		return fmt.Errorf("write marks: %w", err)
	}
	f.end += int64(len(b))
	f.dirty = true
	return nil
}

func (m *marker) file(s *segment) (*marksFile, error) {
	if f, ok := m.files[s]; ok {
		return f, nil
	}
	f, err := m.j.fs.OpenFile(m.j.path(marksName(s.first)), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("write marks: %w", err)
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write marks: %w", err), f.Close())
	}
	m.named = true
	m.files[s] = &marksFile{f: f, end: size - size%markSize}
	return m.files[s], nil
}

// sync makes the marks durable. A sync that fails loses nothing: what is not
// durable is sent again.
func (m *marker) sync() error {
	var failed error
	for _, f := range m.files {
		if f.dirty {
			failed = errors.Join(failed, f.f.Sync())
			f.dirty = false
		}
	}
	if m.named {
		failed = errors.Join(failed, m.j.fs.SyncDir(m.j.dir))
		m.named = false
	}
	return failed
}

// sweep removes the files of segments that are done. The marks go last: a
// segment without them would be sent again. failed is what of a segment that stays
// could not be marked, stuck why it stays.
func (m *marker) sweep() (failed, stuck error) {
	m.garbage = slices.DeleteFunc(m.garbage, func(g *garbage) bool {
		if f, ok := m.files[g.seg]; ok {
			_ = f.f.Close()
			delete(m.files, g.seg)
		}
		err := removeSegment(m.j.fs, m.j.dir, g.seg.first)
		if err == nil {
			return true
		}
		stuck = errors.Join(stuck, err)
		failed = errors.Join(failed, m.keep(g))
		return false
	})
	return failed, stuck
}

// keep writes the marks of a segment that could not be removed. What was written
// before may not be synced, so all of it is.
func (m *marker) keep(g *garbage) error {
	f, err := m.file(g.seg)
	if err != nil {
		return err
	}
	f.dirty = true
	if len(g.marks) == 0 {
		return nil
	}
	if err := m.write(g.marks); err != nil {
		return err
	}
	g.marks = nil
	return nil
}

// removeSegment removes a segment and then its marks.
func removeSegment(fsys FS, dir string, first uint64) error {
	j := journal{fs: fsys, dir: dir}
	if err := removed(fsys.Remove(j.path(segmentName(first)))); err != nil {
		return err
	}
	if err := fsys.SyncDir(dir); err != nil {
		return err
	}
	return removed(fsys.Remove(j.path(marksName(first))))
}

// removed takes what is not there for removed.
func removed(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (m *marker) close() {
	for _, f := range m.files {
		_ = f.f.Close()
	}
}

// flush returns when all marks there are now are durable.
func (j *journal) flush(ctx context.Context) error {
	reply := make(chan error, 1)
	select {
	case j.marker.flushes <- reply:
	case <-j.over:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
