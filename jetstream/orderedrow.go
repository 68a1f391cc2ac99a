package jetstream

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// orderedRow is what an ordered subscription has taken and how far it has got. It
// outlives a receiver that failed, because a permission was withdrawn, say: the
// next one goes on with it. So nothing comes twice for that reason either.
type orderedRow struct {
	address string
	window  int64

	out      chan *orderedDelivery // room for window, so a session never waits
	inUse    atomic.Int64          // asked for, buffered or unsettled
	freed    chan struct{}         // capacity 1: a place came free
	returned chan struct{}         // capacity 1: look at back

	mu   sync.Mutex         // guards back; nothing else is locked under it
	back []*orderedDelivery // given back, the oldest first

	// Of the goroutine of the receiver that has the row.
	begun   bool      // a consumer was made
	last    uint64    // the last sequence taken, or before the start
	created time.Time // of the stream
}

func newOrderedRow(address string, window int) *orderedRow {
	return &orderedRow{
		address: address, window: int64(window), out: make(chan *orderedDelivery, window),
		freed: make(chan struct{}, 1), returned: make(chan struct{}, 1),
	}
}

// takeBack returns the oldest message that was given back, or how long it waits.
func (r *orderedRow) takeBack() (*orderedDelivery, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.back) == 0 {
		return nil, 0
	}
	first := r.back[0]
	if wait := time.Until(first.due); wait > 0 {
		return nil, wait
	}
	r.back = r.back[1:]
	return first, 0
}

func (r *orderedRow) giveBack(d *orderedDelivery) {
	r.mu.Lock()
	at, _ := slices.BinarySearchFunc(r.back, d, func(a, b *orderedDelivery) int { return int(int64(a.d.seq) - int64(b.d.seq)) })
	r.back = slices.Insert(r.back, at, d)
	r.mu.Unlock()
	signal(r.returned)
}

// leftRows are the rows of an ordered source whose receiver has failed, by the name
// of the subscription. It is safe for concurrent use; the zero value works.
type leftRows struct {
	mu   sync.Mutex // guards rows; nothing else is locked under it
	rows map[string]*orderedRow
}

func (l *leftRows) put(subscription string, r *orderedRow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rows == nil {
		l.rows = map[string]*orderedRow{}
	}
	l.rows[subscription] = r
}

// take returns the row that was left, or nil.
func (l *leftRows) take(subscription string) *orderedRow {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rows[subscription]
	delete(l.rows, subscription)
	return r
}
