package sender

import (
	"context"
	"slices"
	"time"
)

// reserve waits for room for one message until ctx ends or its time is over.
func (s *Sender) reserve(ctx context.Context, it *Item, size int) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return closedError(it.To)
	}
	// Who waits goes before who comes.
	if len(s.waiting) == 0 && s.win.room(size, s.cfg) {
		s.win.reserve(size)
		s.mu.Unlock()
		return nil
	}
	w := &waiter{size: size, told: make(chan struct{})}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	err := await(it, func(over <-chan time.Time) error {
		select {
		case <-w.told:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-over:
			return context.DeadlineExceeded
		}
	})
	switch {
	case err != nil:
		s.forget(w)
		return s.notSent(it.To, err)
	case !w.granted:
		return closedError(it.To)
	}
	return nil
}

// waiter waits for room. It is given its room, and need not win it: a large
// message would never find enough while small ones come.
type waiter struct {
	size    int
	told    chan struct{} // closed when it has room, or when there will be none
	granted bool          // set before told is closed
}

// roomLocked gives what room there is to those who wait, in their order. The
// lock is held.
func (s *Sender) roomLocked() {
	for len(s.waiting) > 0 && s.win.room(s.waiting[0].size, s.cfg) {
		w := s.waiting[0]
		s.waiting[0] = nil
		s.waiting = s.waiting[1:]
		s.win.reserve(w.size)
		w.granted = true
		close(w.told)
	}
}

// forget is for one who waits no longer. What it was given meanwhile goes to the
// next.
func (s *Sender) forget(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, w); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	} else if w.granted {
		s.win.unreserve(w.size)
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
