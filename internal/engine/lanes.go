package engine

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// lanes keep the messages of one key in sequence and those of different keys
// apart. A lane is the messages of one key in hand, oldest first; only its head
// is ever handled. A head that waits for its retry stays here, leased, and holds
// up its own lane and nothing else.
type lanes struct {
	p *pool

	mu     sync.Mutex // guards what follows; taken after Subscription.mu, never before worker.mu
	ready  sync.Cond  // signalled when queue grows or the lanes close
	byKey  map[string]*lane
	queue  []*lane // lanes whose head can be handled, longest waiting first
	count  int     // deliveries in lanes, those in a worker's hand included
	inHand int
	closed bool
	suspicion
}

// lane is guarded by lanes.mu, except for its head, which belongs to the worker
// that took the lane.
type lane struct {
	key   string
	items []*laneItem
	head  *laneItem   // items[0], set when a worker takes the lane
	taken bool        // a worker has the head
	timer *time.Timer // wakes a parked head
	due   time.Time   // when it does; zero when the head is not parked

	turned map[string]bool // positions that go back to the broker, see turn; nil while none do
	late   []*laneItem     // what came meanwhile and goes back behind them
	halted bool            // nothing is handled until they are back
}

type laneItem struct {
	delivery transport.Delivery
	c        judgement
	keyless  error  // why there is no key to file it under
	begun    bool   // c has been filled in
	seq      uint64 // counts up in the order in which the broker handed them out
	suspect  bool   // it may end the process, see suspicion
}

func newLanes(p *pool) *lanes {
	l := &lanes{p: p, byKey: make(map[string]*lane)}
	l.ready.L = &l.mu
	return l
}

// dispatch sorts deliveries into lanes until the stop, and then gives back
// everything that no worker has in hand.
func (l *lanes) dispatch() {
	var d transport.Delivery
	returned := false
	defer func() {
		if !returned { // the key function ended the goroutine: another one goes on
			l.put(d, "", errKeyExited)
			l.p.helpers.Go(l.dispatch)
		}
	}()
	for d = l.p.receive(); d != nil; d = l.p.receive() {
		key, err := l.key(d.Message())
		l.put(d, key, err)
	}
	l.release()
	returned = true
}

// errKeyExited is why there is no key.
var errKeyExited = errors.New("find the ordering key: it ended its goroutine with runtime.Goexit")

// put files a delivery under its key, or in a lane of its own, where it is
// refused because it has none.
func (l *lanes) put(d transport.Delivery, key string, keyless error) {
	it := &laneItem{delivery: d, keyless: keyless}
	if keyless != nil {
		key = "\x00" + d.Message().Position + d.Message().ID
	}
	it.suspect = l.p.s.suspects(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return // its lease brings it back
	}
	l.seq++
	it.seq = l.seq
	ln := l.byKey[key]
	if ln == nil {
		ln = &lane{key: key}
		l.byKey[key] = ln
	}
	if ln.turned != nil && !ln.turned[d.Message().Position] {
		ln.late = append(ln.late, it)
		return
	}
	ln.items = append(ln.items, it)
	l.count++
	if it.suspect {
		l.suspects++
	}
	if len(ln.items) == 1 && !ln.halted {
		l.enqueueLocked(ln)
	}
}

// key asks the application for the key of a message. A panic there is a failure
// of this message and of nothing else.
func (l *lanes) key(m *transport.Message) (key string, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("find the ordering key: %w", &recovery.PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	return l.p.s.cfg.OrderBy(m), nil
}

func (l *lanes) enqueueLocked(ln *lane) {
	ln.due = time.Time{}
	l.queue = append(l.queue, ln)
	l.ready.Signal()
}

// take returns the lane that waited longest, or nil when the lanes are closed.
func (l *lanes) take() *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.nextLocked()
	for ; next < 0 && !l.closed; next = l.nextLocked() {
		l.ready.Wait()
	}
	if l.closed {
		return nil
	}
	ln := l.queue[next]
	l.queue = slices.Delete(l.queue, next, next+1)
	ln.head, ln.taken = ln.items[0], true
	l.inHand++
	l.alone = ln.head.suspect
	return ln
}

// advance takes the head out of its lane, which is done with, and makes the next
// message of the key ready.
func (l *lanes) advance(ln *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.putDownLocked(ln)
	if l.closed {
		return
	}
	ln.items = ln.items[1:]
	l.count--
	l.goOnLocked(ln)
}

// goOnLocked makes the next message of a lane ready, if there is one and it need
// not wait for others to come back.
func (l *lanes) goOnLocked(ln *lane) {
	switch {
	case ln.turned != nil && (len(ln.items) == 0 || ln.halted):
		ln.halted = true
	case len(ln.items) == 0:
		delete(l.byKey, ln.key)
	default:
		ln.halted = false
		l.enqueueLocked(ln)
	}
}

func (l *lanes) putDownLocked(ln *lane) {
	ln.taken = false
	l.inHand--
	if l.suspects > 0 {
		l.alone = l.alone && !ln.head.suspect
		l.clearLocked(ln.head)
		l.ready.Broadcast() // one may wait to be alone
	}
}

// park keeps the head, and with it its lane, for d. It returns false when the
// lanes are closed: then the head goes back to the broker.
func (l *lanes) park(ln *lane, d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.putDownLocked(ln)
	if l.closed {
		return false
	}
	ln.due = time.Now().Add(d)
	ln.timer = time.AfterFunc(d, func() { l.unpark(ln) })
	return true
}

func (l *lanes) unpark(ln *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && !ln.due.IsZero() {
		l.enqueueLocked(ln)
	}
}

// release closes the lanes and gives back what no worker has in hand. It does not
// wait for that: the one who stops does, while there is grace.
func (l *lanes) release() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	// The messages of one key go back one after the other, in their order, and
	// keys do not wait for each other.
	for _, ln := range l.byKey {
		var delay time.Duration
		if !ln.due.IsZero() {
			ln.timer.Stop()
			delay = max(time.Until(ln.due), 0)
		}
		items := ln.items
		if ln.taken {
			items = items[1:]
		}
		l.p.helpers.Go(func() { l.giveBackAll(items, delay) })
	}
	l.byKey, l.queue, l.count = nil, nil, 0
	l.ready.Broadcast()
	l.mu.Unlock()
}

// giveBackAll returns deliveries of one key, which is held up for delay.
func (l *lanes) giveBackAll(items []*laneItem, delay time.Duration) {
	for _, it := range items {
		l.giveBack(it, delay)
	}
}

// giveBack returns a delivery; one whose handler never ran is not charged. Where
// it waits behind a head that waits for its retry it must not overtake that, and
// then it goes back with the same delay.
func (l *lanes) giveBack(it *laneItem, delay time.Duration) {
	s := l.p.s
	atOnce := !it.begun && delay == 0
	if !it.begun {
		s.recall(&it.c, it.delivery)
		s.uncharge(&it.c, atOnce && returnsUncharged(it.delivery))
	}
	// A failure leaves the message to its lease, which brings it back.
	if atOnce {
		_ = handBack(s.grace.ctx, it.delivery)
	} else {
		_ = it.delivery.Nack(s.grace.ctx, delay)
	}
	s.mu.Lock()
	s.past.Returned++
	s.mu.Unlock()
}

// waiting is how many deliveries no worker has in hand.
func (l *lanes) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.count-l.inHand, 0)
}

// runLanes is the life of a worker of an ordered subscription.
func (w *worker) runLanes(l *lanes) {
	for {
		ln := l.take()
		if ln == nil || !w.step(l, ln) {
			return
		}
		w.pauseUncounted()
	}
}

// step handles the head of a lane once. It returns false when the worker was
// left behind.
func (w *worker) step(l *lanes, ln *lane) bool {
	it := ln.head
	w.mu.Lock()
	w.lane = ln
	w.mu.Unlock()
	w.hold(it.delivery)
	w.parkFor, w.turns = 0, false
	if !it.begun {
		w.counts.received.Add(1)
		it.begun = true
		w.s.consider(&it.c, it.delivery)
		if it.c.verdict.Reason == recovery.CrashLoop && l.excuses() {
			w.s.excuse(&it.c)
		}
		if it.keyless != nil && it.c.verdict.Action == recovery.Handle {
			it.c.attempt-- // no handler sees it
			w.s.judge(&it.c, recovery.Permanent(it.keyless))
		}
	}
	c := &it.c
	if !w.attempts(c) {
		return false
	}
	w.finishHead(l, ln, c)
	return true
}

// isOrdered reports whether the delivery in hand is the head of a lane.
func (w *worker) isOrdered() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lane != nil
}

// finishHead performs the verdict on a lane's head.
func (w *worker) finishHead(l *lanes, ln *lane, c *judgement) {
	defer w.release()
	w.settle(c)
	if c.verdict.Reason == recovery.CrashLoop && w.parkFor == 0 && !w.lost.Load() {
		l.foundKiller()
	}
	switch {
	case w.lost.Load() || w.turns:
		l.abort(ln)
	case w.parkFor > 0:
		w.parkHead(l, ln, c)
	default:
		l.advance(ln)
	}
}

// parkHead keeps a head for its next attempt, or gives it back if the stop came
// first.
func (w *worker) parkHead(l *lanes, ln *lane, c *judgement) {
	switch c.verdict.Action {
	case uncounted:
		c.err = nil // it has not failed
		fallthrough
	case recovery.RetryLater:
		c.attempt++
		c.verdict = recovery.Verdict{Action: recovery.Handle}
	case recovery.Return: // nobody has seen it
		c.err, c.verdict = nil, recovery.Verdict{Action: recovery.Handle}
	}
	if !l.park(ln, w.parkFor) {
		_ = c.delivery.Nack(w.s.grace.ctx, w.parkFor)
	}
}
