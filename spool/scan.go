package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

const readAhead = 256 << 10

// scanner reads the records of a segment in order. It holds one window of the
// file, so memory does not grow with the file.
type scanner struct {
	f    File
	salt uint32
	pos  int64  // of the next record
	end  int64  // where good bytes end; may grow
	last uint64 // the number of the record before
	// below, if it is not 0, is greater than all numbers of the segment. A number
	// beyond it is of a write that failed and was taken again for another record.
	below uint64

	buf   []byte
	start int64 // where buf lies in the file
}

func newScanner(f File, first uint64, end int64) *scanner {
	return &scanner{f: f, salt: saltOf(first), pos: segmentHeader, end: end, last: first - 1}
}

// found is a record of a segment. The data is valid until the next call.
type found struct {
	recordHead
	off  int64
	data []byte
}

func (r found) bytes() int64 { return recordHeader + int64(r.size) }

// gap is a part of a segment that holds no record.
type gap struct {
	off, end int64
	records  uint64 // numbers that are missing, at most
}

// next returns the next record, after what cannot be read before it. At the end
// it reports false, and the gap is what is left.
func (s *scanner) next() (r found, g gap, ok bool, err error) {
	g.off, g.end = s.pos, s.pos
	if s.pos >= s.end {
		return r, g, false, nil
	}
	r, known, ok, err := s.at(s.pos)
	if err != nil {
		return r, g, false, err
	}
	if !ok {
		from := s.pos + 1
		if known { // the length is right, only the data is damaged
			from = s.pos + r.bytes()
		}
		if r, ok, err = s.search(from); err != nil {
			return r, g, false, err
		}
	}
	if !ok {
		g.end = s.end
		s.pos = s.end
		return r, g, false, nil
	}
	g.end = r.off
	if g.end > g.off {
		g.records = r.seq - s.last - 1
	}
	s.pos, s.last = r.off+r.bytes(), r.seq
	return r, g, true, nil
}

// at reads the record at off. known reports that its header is good, so that its
// length can be relied on even where the data is damaged.
func (s *scanner) at(off int64) (r found, known, ok bool, err error) {
	if s.end-off < recordHeader {
		return r, false, false, nil
	}
	b, err := s.view(off, recordHeader)
	if err != nil {
		return r, false, false, err
	}
	r.off = off
	if r.recordHead, ok = decodeHead(b, s.salt); !ok || r.seq <= s.last || s.end-off < r.bytes() || (s.below > 0 && r.seq >= s.below) {
		return r, false, false, nil
	}
	if b, err = s.view(off, int(r.bytes())); err != nil {
		return r, true, false, err
	}
	r.data = b[recordHeader:]
	return r, true, checksum(r.data) == r.sum, nil
}

// search looks for the first good record at or after off.
func (s *scanner) search(off int64) (r found, ok bool, err error) {
	for off <= s.end-recordHeader {
		if r, _, ok, err = s.at(off); ok || err != nil {
			return r, ok, err
		}
		n := min(s.end-off, readAhead)
		b, err := s.view(off, int(n))
		if err != nil {
			return r, false, err
		}
		if i := bytes.Index(b[1:], []byte(recordMagic)); i >= 0 {
			off += int64(i) + 1
			continue
		}
		off += max(n-int64(len(recordMagic))+1, 1)
	}
	return r, false, nil
}

// view returns n bytes of the file; they must lie before the end.
func (s *scanner) view(off int64, n int) ([]byte, error) {
	if i := off - s.start; i >= 0 && i+int64(n) <= int64(len(s.buf)) {
		return s.buf[i : i+int64(n)], nil
	}
	want := min(max(int64(n), readAhead), s.end-off)
	if int64(cap(s.buf)) < want || (cap(s.buf) > 4*readAhead && want <= readAhead) {
		s.buf = make([]byte, max(want, readAhead))
	}
	got, err := s.f.ReadAt(s.buf[:want], off)
	s.buf, s.start = s.buf[:got], off
	if got >= n {
		return s.buf[:n], nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("read %d bytes at %d: %w", n, off, err)
}
