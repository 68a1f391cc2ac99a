package jetstream

import (
	"slices"
	"sync"
)

// seqSet remembers stream sequences as ranges, so that a long run of acks in
// order takes the room of one. It is safe for concurrent use.
type seqSet struct {
	mu     sync.Mutex // guards ranges; nothing else is locked under it
	ranges []seqRange // sorted, not overlapping, not adjacent
}

type seqRange struct{ from, to uint64 }

func (s *seqSet) add(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(seq)
}

func (s *seqSet) insert(seq uint64) {
	// Acks come mostly in order: try the end first.
	i := len(s.ranges)
	if i > 0 && seq <= s.ranges[i-1].to+1 {
		i, _ = slices.BinarySearchFunc(s.ranges, seq, func(r seqRange, v uint64) int {
			switch {
			case r.to+1 < v:
				return -1
			case r.from > v+1:
				return 1
			}
			return 0
		})
	}
	if i == len(s.ranges) || seq+1 < s.ranges[i].from {
		s.ranges = slices.Insert(s.ranges, i, seqRange{seq, seq})
		return
	}
	r := &s.ranges[i]
	r.from, r.to = min(r.from, seq), max(r.to, seq)
	if i+1 < len(s.ranges) && r.to+1 >= s.ranges[i+1].from {
		r.to = max(r.to, s.ranges[i+1].to)
		s.ranges = slices.Delete(s.ranges, i+1, i+2)
	}
}

// addAll adds the sequences of acks.
func (s *seqSet) addAll(acks []sentAck) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range acks {
		s.insert(acks[i].seq)
	}
}

func (s *seqSet) has(seq uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, found := slices.BinarySearchFunc(s.ranges, seq, func(r seqRange, v uint64) int {
		switch {
		case r.to < v:
			return -1
		case r.from > v:
			return 1
		}
		return 0
	})
	return found
}

// trim forgets everything up to floor.
func (s *seqSet) trim(floor uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(s.ranges) && s.ranges[n].to <= floor {
		n++
	}
	s.ranges = slices.Delete(s.ranges, 0, n)
	if len(s.ranges) > 0 && s.ranges[0].from <= floor {
		s.ranges[0].from = floor + 1
	}
}

func (s *seqSet) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ranges = nil
}

// last returns the highest sequence, 0 when empty.
func (s *seqSet) last() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ranges) == 0 {
		return 0
	}
	return s.ranges[len(s.ranges)-1].to
}

// size returns how many ranges are kept.
func (s *seqSet) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ranges)
}
