package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
)

// survey is what a directory of segments holds, found without changing it.
type survey struct {
	fs       FS
	dir      string
	parts    []*part // in order
	dead     []uint64
	orphans  []string // marks without a segment
	badMarks int
	torn     int64  // bytes that a crash left
	seq      uint64 // greater than every number seen, at least 1
}

// part is one segment.
type part struct {
	*segment
	head   header
	good   bool  // the header is
	length int64 // of the file
	end    int64 // where records may end
	ended  bool  // by what the next segment says
	torn   int64 // bytes at the end of the newest that are no record
}

// takeSurvey reads everything.
func takeSurvey(ctx context.Context, fsys FS, dir string) (*survey, error) {
	v := &survey{fs: fsys, dir: dir, seq: 1}
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var marked []string
	for _, e := range entries {
		name := e.Name()
		if first, ok := firstOf(name, segmentSuffix); ok && e.Type().IsRegular() {
			if err := v.head(first); err != nil {
				return nil, err
			}
		}
		if _, ok := firstOf(name, marksSuffix); ok {
			marked = append(marked, name)
		}
	}
	v.chain()
	for i, p := range v.parts {
		if err := v.scan(ctx, p, v.after(i)); err != nil {
			return nil, fmt.Errorf("spool: read %s: %w", filepath.Join(dir, segmentName(p.first)), err)
		}
	}
	for _, name := range marked {
		first, _ := firstOf(name, marksSuffix)
		if !slices.ContainsFunc(v.parts, func(p *part) bool { return p.first == first }) {
			v.orphans = append(v.orphans, name)
		}
	}
	v.parts = slices.DeleteFunc(v.parts, func(p *part) bool { return p.gone })
	return v, nil
}

// head reads the header of a segment.
func (v *survey) head(first uint64) error {
	p := &part{segment: newSegment(first)}
	v.seq = max(v.seq, first+1)
	f, err := v.fs.OpenFile(filepath.Join(v.dir, segmentName(first)), readOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a writer beside us has removed it
	}
	if err != nil {
		return err
	}
	p.length, err = f.Size()
	if err == nil {
		b := make([]byte, segmentHeader)
		n, readErr := f.ReadAt(b, 0)
		if readErr != nil && !errors.Is(readErr, io.EOF) {
			err = readErr
		} else {
			p.head, p.good, err = decodeHeader(b[:n], first)
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	v.parts = append(v.parts, p)
	return nil
}

// chain follows from the newest segment back who was written before whom, and
// drops what the chain passes over: the remains of writes that failed.
func (v *survey) chain() {
	for n := len(v.parts); n > 0 && v.parts[n-1].unborn(); n = len(v.parts) {
		v.torn += v.parts[n-1].length
		v.dead = append(v.dead, v.parts[n-1].first)
		v.parts = v.parts[:n-1]
	}
	var next *part
	for i := len(v.parts) - 1; i >= 0; i-- {
		p := v.parts[i]
		p.end = p.length
		if next != nil && next.good {
			if next.head.prev < p.first {
				v.dead = append(v.dead, p.first)
				v.parts = slices.Delete(v.parts, i, i+1)
				continue
			}
			if next.head.prev == p.first {
				p.end, p.ended = next.head.prevEnd, true
			}
		}
		next = p
	}
}

// unborn reports whether a crash came before the header was synced, and so
// before any record.
func (p *part) unborn() bool { return !p.good && p.length <= segmentHeader }

// after returns the first number that cannot be in part i, or 0 if it is the
// newest.
func (v *survey) after(i int) uint64 {
	if i+1 == len(v.parts) {
		return 0
	}
	return v.parts[i+1].first
}

// scan reads the records of a segment and its marks.
func (v *survey) scan(ctx context.Context, p *part, after uint64) error {
	f, err := v.fs.OpenFile(filepath.Join(v.dir, segmentName(p.first)), readOnly)
	if errors.Is(err, fs.ErrNotExist) {
		p.gone = true
		return nil
	}
	if err != nil {
		return err
	}
	err = v.records(ctx, p, f, after)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	v.seq = max(v.seq, p.next)
	return v.marks(p)
}

func (v *survey) records(ctx context.Context, p *part, f File, after uint64) error {
	sc := newScanner(f, p.first, min(p.end, p.length))
	sc.below = after
	var tail gap
	for {
		r, g, ok, err := sc.next()
		if err != nil {
			return err
		}
		if ok {
			if g.end > g.off {
				p.gaps = append(p.gaps, g)
			}
			p.add(r.seq, r.off, r.at)
			p.size = r.off + r.bytes()
		}
		if !ok {
			tail = g
			break
		}
		if p.records%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if !p.good && (p.records > 0 || after != 0) && p.length > 0 {
		p.gaps = append([]gap{{0, min(segmentHeader, p.length), 0}}, p.gaps...)
	}
	switch {
	case after == 0: // the newest
		p.torn = max(p.length-p.size, 0)
		v.torn += p.torn
	case p.end > tail.off: // what is missing altogether counts as well
		tail.end = p.end
		if after > sc.last {
			tail.records = after - sc.last - 1
		}
		p.gaps = append(p.gaps, tail)
		fallthrough
	default:
		p.size = max(min(p.end, p.length), segmentHeader)
	}
	return nil
}

// marks applies the marks of a segment.
func (v *survey) marks(p *part) error {
	f, err := v.fs.OpenFile(filepath.Join(v.dir, marksName(p.first)), readOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	size, err := f.Size()
	buf, salt := make([]byte, 4096*markSize), saltOf(p.first)
	for off := int64(0); err == nil && off < size; {
		var n int
		n, err = f.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		for b := buf[:n-n%markSize]; len(b) > 0; b = b[markSize:] {
			s, ok := decodeMarks(b, salt)
			if !ok {
				v.badMarks++
				continue
			}
			v.seq = max(v.seq, s.to)
			for seq := max(s.from, p.low); seq < min(s.to, p.next); seq++ {
				p.mark(seq)
			}
		}
		if n < markSize {
			break // a torn entry at the end
		}
		off += int64(n - n%markSize)
	}
	return errors.Join(err, f.Close())
}

// pending yields the records of a segment that are not done, until yield
// returns false. The data is valid during the call only.
func (v *survey) pending(ctx context.Context, p *part, yield func(found) bool) (more bool, err error) {
	if p.pending == 0 {
		return true, nil
	}
	f, err := v.fs.OpenFile(filepath.Join(v.dir, segmentName(p.first)), readOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // it was done meanwhile
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // it is only read
	sc := newScanner(f, p.first, p.size)
	sc.below = p.next
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		r, _, ok, err := sc.next()
		if err != nil || !ok {
			return err == nil, err
		}
		if p.has(r.seq) && !yield(r) {
			return false, nil
		}
	}
}
