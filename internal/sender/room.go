package sender

import (
	"context"
	"slices"
	"time"
)

// reserve waits for room for one message until ctx ends or its time is over.
func (s *Sender) reserve(ctx context.Context, it Item, size int) error {
	s.mu.Lock()
	for first := true; ; first = false {
		if s.closed {
			s.mu.Unlock()
			return closedError(it.To)
		}
		// Who has waited goes before who comes.
		if (!first || len(s.waiting) == 0) && s.win.room(size, s.cfg) {
			s.win.reserve(size)
			s.roomLocked() // for the next one too, perhaps
			s.mu.Unlock()
			return nil
		}
		ch := make(chan struct{})
		if first {
			s.waiting = append(s.waiting, ch)
		} else {
			s.waiting = slices.Insert(s.waiting, 0, ch)
		}
		s.mu.Unlock()
		if err := await(it.Until, func(over <-chan time.Time) error {
			select {
			case <-ch:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-over:
				return context.DeadlineExceeded
			}
		}); err != nil {
			s.forget(ch)
			return s.notSent(it.To, err)
		}
		s.mu.Lock()
	}
}

// roomLocked lets the first who waits look again. The lock is held.
func (s *Sender) roomLocked() {
	if len(s.waiting) > 0 && s.win.room(0, s.cfg) {
		close(s.waiting[0])
		s.waiting[0] = nil
		s.waiting = s.waiting[1:]
	}
}

// forget is for one who waits no longer. If its turn had come, the next one gets
// it.
func (s *Sender) forget(ch chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, ch); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return
	}
	s.roomLocked()
}

// unreserve gives room back.
func (s *Sender) unreserve(size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.win.unreserve(size)
	s.roomLocked()
}
