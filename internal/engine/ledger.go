package engine

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
)

// ledgerSize bounds what is remembered; the oldest entry goes first. Forgetting
// is safe: counts fall back on the broker's, which over-count.
const ledgerSize = 1 << 16

// note is what this process remembers of a message that will come back.
type note struct {
	position string
	first    time.Time // when its first known attempt ended
	began    time.Time // when that started
	from     int       // and its number
	attempts int       // charged so far, when the count of deliveries was seen
	seen     int
	retries  int  // deliveries that ended in a retry
	returned int  // deliveries given back uncharged that the broker counts
	over     bool // verdict was performed, only the ack is missing
	verdict  recovery.Verdict
	grave    *grave // the verdict of death that could not be performed yet
	doubtful string // an attempt that may or may not be counted in Config.Counts
}

// next returns the number of the attempt that delivery number n starts with, if
// that is known: each delivery that ended elsewhere is charged as one attempt.
func (n note) next(deliveries int) (attempt int, known bool) {
	return n.attempts + max(deliveries-n.seen, 1), n.seen > 0
}

// grave is a verdict of death and what led to it.
type grave struct {
	verdict  recovery.Verdict
	err      error
	attempts int
	first    time.Time
	failed   time.Time
	times    int // how often it was not performed
}

// ledger remembers messages that come back, by position. It is empty while
// nothing fails, and then costs one atomic load a message. It is safe for
// concurrent use.
type ledger struct {
	size atomic.Int64

	mu    sync.Mutex // guards what follows
	notes map[string]*list.Element
	order list.List // of *note, oldest first
}

// look returns a copy of what is known of the message.
func (l *ledger) look(position string) note {
	if l.size.Load() == 0 || position == "" {
		return note{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.notes[position]; ok {
		return *e.Value.(*note)
	}
	return note{}
}

// change applies f to the note of the message, making it if there is none.
func (l *ledger) change(position string, f func(*note)) {
	if position == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.notes[position]
	if !ok {
		if l.notes == nil {
			l.notes = make(map[string]*list.Element)
		}
		if l.order.Len() >= ledgerSize {
			oldest := l.order.Front()
			delete(l.notes, oldest.Value.(*note).position)
			l.order.Remove(oldest)
		}
		e = l.order.PushBack(&note{position: position})
		l.notes[position] = e
	}
	f(e.Value.(*note))
	l.size.Store(int64(l.order.Len()))
}

// sure notes that no attempt of the message is doubtful any more.
func (l *ledger) sure(position string) {
	if l.size.Load() == 0 || position == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.notes[position]; ok {
		e.Value.(*note).doubtful = ""
	}
}

// forget drops the note of a message that is done with.
func (l *ledger) forget(position string) {
	if l.size.Load() == 0 || position == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.notes[position]; ok {
		delete(l.notes, position)
		l.order.Remove(e)
		l.size.Store(int64(l.order.Len()))
	}
}
