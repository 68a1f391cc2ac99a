package sender

// state is where a message in the window stands.
type state uint8

const (
	settled state = iota // has its outcome, or was never there
	queued               // is to be sent
	sent                 // is at the broker, without an outcome
)

// entry is a message in the window.
type entry struct {
	item    Item
	size    int
	state   state
	tries   int
	copies  int    // of it that may be at the broker
	born    uint64 // ticks of the clock
	due     uint64 // when it is given up; zero for never
	sentAt  uint64
	refused uint64 // when the broker first refused it for a moment, plus one
	killed  int    // connections that ended for want of its outcome alone
	err     error  // what the broker said when it refused it for a moment
}

// window holds the messages without an outcome in the order of their tags. Its
// owner guards it.
type window struct {
	ring       []entry // its length is a power of two
	head, tail uint64  // tags; those from head on, before tail, are in the ring
	pending    int     // of them without an outcome
	flying     int     // of them in state sent
	bytes      int
	reserved   int // messages that have room and no tag yet
}

const firstRing = 16

// push enters an item for which room was reserved.
func (w *window) push(it Item, size int, now uint64) (uint64, *entry) {
	if w.tail-w.head == uint64(len(w.ring)) {
		w.grow()
	}
	tag := w.tail
	w.tail++
	w.pending++
	w.reserved--
	e := w.slot(tag)
	*e = entry{item: it, size: size, state: queued, born: now}
	if it.Within > 0 {
		e.due = now + uint64((it.Within+tick-1)/tick) + 1 // the tick that runs has begun before
	}
	if it.Again {
		e.copies = 1
	}
	return tag, e
}

func (w *window) grow() {
	ring := make([]entry, max(2*len(w.ring), firstRing))
	for tag := w.head; tag < w.tail; tag++ {
		ring[tag&uint64(len(ring)-1)] = *w.slot(tag)
	}
	w.ring = ring
}

func (w *window) slot(tag uint64) *entry { return &w.ring[tag&uint64(len(w.ring)-1)] }

// at returns the entry of a tag, nil when it has its outcome.
func (w *window) at(tag uint64) *entry {
	if tag < w.head || tag >= w.tail {
		return nil
	}
	if e := w.slot(tag); e.state != settled {
		return e
	}
	return nil
}

// send marks an entry as sent. A second copy says what it is.
func (w *window) send(e *entry, now uint64) {
	w.flying++
	e.state, e.sentAt, e.err = sent, now, nil
	e.item.M.Resent = e.copies > 0
	e.tries++
	e.copies++
}

// requeue takes a sent entry back. stored tells whether the broker may have a
// copy of it.
func (w *window) requeue(e *entry, stored bool) {
	w.flying--
	e.state = queued
	if !stored {
		e.copies--
	}
}

// remove ends an entry.
func (w *window) remove(e *entry) {
	if e.state == sent {
		w.flying--
	}
	w.pending--
	w.bytes -= e.size
	*e = entry{}
	for w.head < w.tail && w.slot(w.head).state == settled {
		w.head++
	}
}

// oldest returns the first entry without an outcome.
func (w *window) oldest() *entry {
	if w.head == w.tail {
		return nil
	}
	return w.slot(w.head)
}

// room tells whether a message of this size may come in. One that is larger than
// the window goes when nothing else is there.
func (w *window) room(size int, cfg Config) bool {
	span := int(w.tail-w.head) + w.reserved
	return span == 0 || span < cfg.Messages && w.bytes+size <= cfg.Bytes
}

func (w *window) reserve(size int) {
	w.reserved++
	w.bytes += size
}

func (w *window) unreserve(size int) {
	w.reserved--
	w.bytes -= size
}

// each calls fn for every entry without an outcome, in order, until it returns
// false.
func (w *window) each(fn func(tag uint64, e *entry) bool) {
	for tag := w.head; tag < w.tail; tag++ {
		if e := w.slot(tag); e.state != settled && !fn(tag, e) {
			return
		}
	}
}
