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
