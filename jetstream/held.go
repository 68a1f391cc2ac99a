package jetstream

import (
	"sync"
	"sync/atomic"
)

// held is the part of the buffer whose leases are kept up: a queue in the
// broker's order that Receive looks at before the channel.
type held struct {
	// busy is the number of deliveries held, plus moving while some are being
	// moved here. A worker that took a message from the channel and sees it not
	// zero must compare: what is held may be older. The mover raises it before
	// it takes the first message from the channel, so a worker that received a
	// later message is sure to see it.
	busy atomic.Int64

	mu    sync.Mutex // guards queue; lane.mu may be locked under it
	queue []*delivery
}

const moving = 1 << 32

// fill runs move, which adds deliveries at the end.
func (h *held) fill(move func(add func(*delivery))) {
	h.busy.Add(moving)
	h.mu.Lock()
	move(func(d *delivery) {
		h.queue = append(h.queue, d)
		h.busy.Add(1)
	})
	h.mu.Unlock()
	h.busy.Add(-moving)
}

// pop returns the oldest delivery, or nil.
func (h *held) pop() *delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.queue) == 0 {
		return nil
	}
	d := h.queue[0]
	h.queue[0] = nil
	h.queue = h.queue[1:]
	h.busy.Add(-1)
	return d
}

// swap keeps d in its place and returns the oldest, which may be d itself.
func (h *held) swap(d *delivery) *delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := len(h.queue)
	for i > 0 && (h.queue[i-1].lane != d.lane || h.queue[i-1].order > d.order) {
		i--
	}
	if i == 0 {
		return d
	}
	h.queue = append(h.queue, nil)
	copy(h.queue[i+1:], h.queue[i:])
	h.queue[i] = d
	first := h.queue[0]
	h.queue[0] = nil
	h.queue = h.queue[1:]
	return first
}

// each calls fn for everything held, oldest first, without holding the lock.
func (h *held) each(fn func(*delivery)) {
	h.mu.Lock()
	all := make([]*delivery, len(h.queue))
	copy(all, h.queue)
	h.mu.Unlock()
	for _, d := range all {
		fn(d)
	}
}

// drain removes and returns everything.
func (h *held) drain() []*delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.queue
	h.queue = nil
	h.busy.Add(-int64(len(all)))
	return all
}

// any tells whether something is held.
func (h *held) any() bool { return h.busy.Load()&(moving-1) != 0 }
