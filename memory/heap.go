package memory

import "container/heap"

// entries is a heap of entries, each of which knows its place in it.
type entries struct {
	list []*entry
	less func(a, b *entry) bool
}

// byTurn orders what waits by priority and then as it was stored, so that a
// message that comes back takes its old place.
func byTurn(a, b *entry) bool {
	if a.priority != b.priority {
		return a.priority > b.priority
	}
	return a.seq < b.seq
}

// byWake orders what is delayed or leased by when that ends.
func byWake(a, b *entry) bool {
	if a.wake.Equal(b.wake) {
		return a.seq < b.seq
	}
	return a.wake.Before(b.wake)
}

func (h *entries) Len() int           { return len(h.list) }
func (h *entries) Less(i, j int) bool { return h.less(h.list[i], h.list[j]) }

func (h *entries) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].index, h.list[j].index = i, j
}

// Push implements heap.Interface.
func (h *entries) Push(x any) {
	e := x.(*entry)
	e.index = len(h.list)
	h.list = append(h.list, e)
}

// Pop implements heap.Interface.
func (h *entries) Pop() any {
	last := len(h.list) - 1
	e := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	e.index = -1
	return e
}

func (h *entries) add(e *entry)    { heap.Push(h, e) }
func (h *entries) remove(e *entry) { heap.Remove(h, e.index) }
func (h *entries) moved(e *entry)  { heap.Fix(h, e.index) }
func (h *entries) take() *entry    { return heap.Pop(h).(*entry) }

// first returns the least entry, or nil when there is none.
func (h *entries) first() *entry {
	if len(h.list) == 0 {
		return nil
	}
	return h.list[0]
}
