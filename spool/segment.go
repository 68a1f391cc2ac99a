package spool

import (
	"math/bits"
	"sort"
)

// segment is what is known of a file of records. Its journal's mutex guards it,
// but for what is only written before it is shared.
type segment struct {
	first   uint64 // its name; greater than 0
	next    uint64 // one past the last number
	size    int64  // good and synced bytes, header included
	records int64  // how many there are
	pending int64  // how many are not done
	done    []uint64
	low     uint64 // all numbers below are done
	index   []stamp
	gaps    []gap // damage that is known
	held    bool  // damage could not be saved, so the file must stay
	left    bool  // records that failed may lie behind the end
	gone    bool  // removed, or about to be
}

// stamp says where a record lies and how old it is. There is one for each
// second and each 256 KiB at least.
type stamp struct {
	seq uint64
	off int64
	at  int64
}

const (
	stampBytes = 256 << 10
	stampNanos = 1e9
)

func newSegment(first uint64) *segment {
	return &segment{first: first, next: first, low: first, size: segmentHeader}
}

// add takes in a record. Numbers that were left out count as done.
func (s *segment) add(seq uint64, off, at int64) {
	for n := s.next; n < seq; n++ {
		s.set(n)
	}
	if i := int((seq - s.first) / 64); i >= len(s.done) {
		s.done = append(s.done, 0)
	}
	s.next = seq + 1
	s.records++
	s.pending++
	if n := len(s.index); n == 0 || off-s.index[n-1].off >= stampBytes || at-s.index[n-1].at >= stampNanos {
		s.index = append(s.index, stamp{seq, off, at})
	}
}

// has reports whether seq is, or would be, in the segment and not done.
func (s *segment) has(seq uint64) bool {
	return seq >= s.low && seq < s.next && s.done[(seq-s.first)/64]&(1<<((seq-s.first)%64)) == 0
}

// set notes that a number is done.
func (s *segment) set(seq uint64) {
	i := int((seq - s.first) / 64)
	for i >= len(s.done) {
		s.done = append(s.done, 0)
	}
	s.done[i] |= 1 << ((seq - s.first) % 64)
}

// mark notes that a record is done and reports whether it was pending.
func (s *segment) mark(seq uint64) bool {
	if !s.has(seq) {
		return false
	}
	s.set(seq)
	s.pending--
	if seq == s.low {
		s.low = s.oldest()
	}
	return true
}

// oldest returns the first number that is not done, or next.
func (s *segment) oldest() uint64 {
	for i := int((s.low - s.first) / 64); i < len(s.done); i++ {
		if w := ^s.done[i]; w != 0 {
			return min(s.first+uint64(i*64+bits.TrailingZeros64(w)), s.next)
		}
	}
	return s.next
}

// near returns the last stamp at or before a record, or one for the beginning.
func (s *segment) near(seq uint64) stamp {
	i := sort.Search(len(s.index), func(i int) bool { return s.index[i].seq > seq })
	if i == 0 {
		return stamp{seq: s.first, off: segmentHeader}
	}
	return s.index[i-1]
}

// live is what the segment counts against the limit.
func (s *segment) live() int64 {
	if s.pending == 0 {
		return 0
	}
	return s.size
}

// knows reports whether a gap was reported before.
func (s *segment) knows(g gap) bool {
	for _, k := range s.gaps {
		if g.off < k.end && k.off < g.end {
			return true
		}
	}
	return false
}
