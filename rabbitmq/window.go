package rabbitmq

// window bounds what is under way, in messages and in bytes. Its owner guards it
// with a lock of its own.
type window struct {
	limit, limitBytes int
	count, bytes      int
	waiting           []chan struct{} // first come, first served
}

// take counts one message if there is room. A message larger than the window
// goes when nothing else is under way.
func (w *window) take(size int) bool {
	if w.count > 0 && (w.count >= w.limit || w.bytes+size > w.limitBytes) {
		return false
	}
	w.count++
	w.bytes += size
	return true
}

// wait returns a channel that is closed when it is worth another try.
func (w *window) wait() chan struct{} {
	ch := make(chan struct{})
	w.waiting = append(w.waiting, ch)
	return ch
}

// forget is for a waiter that waits no longer. If its turn had come already, the
// next one gets it.
func (w *window) forget(ch chan struct{}) {
	for i, other := range w.waiting {
		if other == ch {
			w.waiting = append(w.waiting[:i], w.waiting[i+1:]...)
			return
		}
	}
	w.next()
}

// free uncounts one message and lets the next waiter try.
func (w *window) free(size int) {
	w.count--
	w.bytes -= size
	w.next()
}

func (w *window) next() {
	if len(w.waiting) > 0 {
		close(w.waiting[0])
		w.waiting = w.waiting[1:]
	}
}

// row holds entries in the order of their tags. Its owner guards it.
type row struct {
	ring []entry // its length is a power of two
	head int     // of the oldest
	n    int
}

func (r *row) len() int { return r.n }

// at returns the i-th oldest entry, which stays where it is until the next push.
func (r *row) at(i int) *entry { return &r.ring[(r.head+i)&(len(r.ring)-1)] }

func (r *row) push(e entry) {
	if r.n == len(r.ring) {
		grown := make([]entry, max(2*len(r.ring), 16))
		for i := range r.n {
			grown[i] = *r.at(i)
		}
		r.ring, r.head = grown, 0
	}
	r.n++
	*r.at(r.n - 1) = e
}

// pop takes the oldest entry.
func (r *row) pop() entry {
	e := *r.at(0)
	*r.at(0) = entry{}
	r.head = (r.head + 1) & (len(r.ring) - 1)
	r.n--
	return e
}
