package memory

import (
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// queue is a queue as it is stored. Broker.mu guards all of it.
type queue struct {
	b        *Broker
	name     string
	subjects []string
	lease    time.Duration

	ready     entries  // may be handed out
	timed     entries  // delayed or leased
	mortal    []mortal // what has a time to live, the first to die first
	leased    int      // how many of timed are leased
	waiters   []*waiter
	receivers map[*receiver]struct{}
	rejected  []Rejected
	seen      map[string]struct{} // deduplication keys
	seenOrder []seenKey           // the same, oldest first

	timer *time.Timer // runs wake; armed only while something is due some time
	armed time.Time   // when it fires; zero when it is not armed
}

type seenKey struct {
	key   string
	until time.Time
}

// mortal is an entry that is dropped unless somebody took it until then.
type mortal struct {
	e     *entry
	until time.Time
}

// entry is one stored message of one queue. msg is never handed out itself.
type entry struct {
	msg      *transport.Message
	seq      uint64
	count    int       // how often it was handed out
	wake     time.Time // when the delay or lease ends
	index    int       // place in the heap it is in
	held     *delivery // who holds it, or nil
	req      *request  // who waits for an answer, or nil
	priority uint8
}

// waiter is one call of Receive that waits.
type waiter struct {
	r  *receiver
	ch chan received // takes one value; written under Broker.mu
}

type received struct {
	d   *delivery
	err error
}

func newQueue(b *Broker, s *source) *queue {
	return &queue{
		b: b, name: s.name, subjects: s.subjects, lease: s.lease,
		ready:     entries{less: byTurn},
		timed:     entries{less: byWake},
		receivers: map[*receiver]struct{}{},
		seen:      map[string]struct{}{},
	}
}

// takes tells whether a message to subject is for this queue.
func (q *queue) takes(subject string) bool {
	for _, pattern := range q.subjects {
		if matches(pattern, subject) {
			return true
		}
	}
	return false
}

// duplicate tells whether key was seen within the window, and remembers it. The
// empty key is never a duplicate.
func (q *queue) duplicate(key string, now time.Time) bool {
	if key == "" {
		return false
	}
	n := 0
	for n < len(q.seenOrder) && !q.seenOrder[n].until.After(now) {
		delete(q.seen, q.seenOrder[n].key)
		n++
	}
	q.seenOrder = q.seenOrder[n:]
	if _, ok := q.seen[key]; ok {
		return true
	}
	q.seen[key] = struct{}{}
	q.seenOrder = append(q.seenOrder, seenKey{key, now.Add(q.b.dedupWindow)})
	return false
}

// store puts the stored copy of m at the end of the queue, or where m asks to be
// put.
func (q *queue) store(m, stored *transport.Message, seq uint64, req *request) {
	q.b.stored++
	e := &entry{msg: stored, seq: seq, req: req, priority: m.Priority}
	due := stored.Time
	if m.NotBefore.After(due) {
		due = m.NotBefore
	}
	if m.TTL > 0 {
		q.bound(e, due.Add(m.TTL))
	}
	if due.After(stored.Time) {
		q.keepUntil(e, due)
		return
	}
	q.ready.add(e)
	q.dispatch()
}

// bound ends the life of e at until, unless somebody takes it before.
func (q *queue) bound(e *entry, until time.Time) {
	i, _ := slices.BinarySearchFunc(q.mortal, until, func(m mortal, until time.Time) int {
		if m.until.After(until) {
			return 1
		}
		return -1
	})
	q.mortal = slices.Insert(q.mortal, i, mortal{e, until})
	q.arm()
}

// dispatch hands out what is ready to those who wait and have room.
func (q *queue) dispatch() {
	for len(q.ready.list) > 0 && !q.halted() {
		w := q.nextWaiter()
		if w == nil {
			return
		}
		w.ch <- received{d: q.handOut(w.r)}
	}
}

// halted tells whether nothing is handed out at present.
func (q *queue) halted() bool { return q.b.closed || q.b.paused || q.b.down != nil }

// nextWaiter removes and returns the first waiter whose receiver has room.
func (q *queue) nextWaiter() *waiter {
	for i, w := range q.waiters {
		if w.r.held < w.r.window {
			q.waiters = append(q.waiters[:i], q.waiters[i+1:]...)
			return w
		}
	}
	return nil
}

// dropWaiter removes w and tells whether it was still waiting.
func (q *queue) dropWaiter(w *waiter) bool {
	for i, other := range q.waiters {
		if other == w {
			q.waiters = append(q.waiters[:i], q.waiters[i+1:]...)
			return true
		}
	}
	return false
}

// handOut leases the first ready message to r.
func (q *queue) handOut(r *receiver) *delivery {
	e := q.ready.take()
	e.count++
	d := &delivery{r: r, e: e, msg: clone(e.msg), count: e.count}
	e.held = d
	r.held++
	q.leased++
	q.keep(e, q.lease)
	return d
}

// keep holds e back for d from now on: a lease or a delay.
func (q *queue) keep(e *entry, d time.Duration) {
	q.keepUntil(e, time.Now().Add(d))
}

func (q *queue) keepUntil(e *entry, at time.Time) {
	e.wake = at
	q.timed.add(e)
	q.arm()
}

// extend makes the lease of e a full one again.
func (q *queue) extend(e *entry) {
	e.wake = time.Now().Add(q.lease)
	q.timed.moved(e)
	q.arm()
}

// release takes e from the one who holds it. The message is then in no heap.
func (q *queue) release(e *entry) {
	e.held.r.held--
	e.held = nil
	q.leased--
	q.timed.remove(e)
}

// expire makes ready whatever is due at now. It returns what became known by
// it: pipelined acks that will never be confirmed.
func (q *queue) expire(now time.Time) (events []transport.Event) {
	for e := q.timed.first(); e != nil && !e.wake.After(now); e = q.timed.first() {
		if d := e.held; d != nil {
			if event, ok := d.lose(); ok {
				events = append(events, event)
			}
			q.release(e)
			if d.spent() {
				continue
			}
		} else {
			q.timed.remove(e)
		}
		q.ready.add(e)
	}
	q.drop(now)
	return events
}

// drop takes away what nobody took in the time it had. What was handed out once
// is not dropped any more: its subscription knows of it.
func (q *queue) drop(now time.Time) {
	for len(q.mortal) > 0 && !q.mortal[0].until.After(now) {
		e := q.mortal[0].e
		q.mortal = slices.Delete(q.mortal, 0, 1)
		if e.count == 0 {
			q.ready.remove(e) // it is due, and nobody holds it
			q.b.forget(1)
		}
	}
}

// next is when something is due next; zero when nothing is.
func (q *queue) next() time.Time {
	var at time.Time
	if first := q.timed.first(); first != nil {
		at = first.wake
	}
	if len(q.mortal) > 0 && (at.IsZero() || q.mortal[0].until.Before(at)) {
		at = q.mortal[0].until
	}
	return at
}

// arm sees to it that wake runs when something is due next.
func (q *queue) arm() {
	at := q.next()
	if at.IsZero() {
		q.disarm()
		return
	}
	if !q.armed.IsZero() && !at.Before(q.armed) {
		return // it fires earlier, finds nothing due and arms itself again
	}
	q.disarm()
	q.b.timers.Add(1)
	q.armed = at
	q.timer = time.AfterFunc(time.Until(at), q.wake)
}

// disarm stops the timer. One that has fired already counts itself off.
func (q *queue) disarm() {
	if q.timer != nil && q.timer.Stop() {
		q.b.timers.Done()
	}
	q.timer, q.armed = nil, time.Time{}
}

// wake runs when a delay or lease may have ended.
func (q *queue) wake() {
	defer q.b.timers.Done()
	q.b.mu.Lock()
	var events []transport.Event
	if !q.b.closed {
		events = q.tend()
	}
	q.b.mu.Unlock()
	q.b.observers.emit(events...)
}

// tend makes ready what is due, hands it out and arms the timer for the rest.
func (q *queue) tend() []transport.Event {
	now := time.Now()
	events := q.expire(now)
	if !q.armed.IsZero() && !q.armed.After(now) {
		q.disarm()
	}
	q.arm()
	q.dispatch()
	return events
}

// shut ends the queue with its broker.
func (q *queue) shut() (events []transport.Event) {
	q.disarm()
	for r := range q.receivers {
		r.closed = true
	}
	for _, e := range q.timed.list {
		if e.held != nil {
			if event, ok := e.held.lose(); ok {
				events = append(events, event)
			}
		}
	}
	q.fail(closedError("receive", q.name), nil)
	q.b.forget(len(q.ready.list) + len(q.timed.list))
	q.ready.list, q.timed.list, q.mortal = nil, nil, nil
	return events
}

// fail ends every waiting Receive of r, or of all receivers when r is nil.
func (q *queue) fail(err error, r *receiver) {
	var left []*waiter
	for _, w := range q.waiters {
		if r != nil && w.r != r {
			left = append(left, w)
			continue
		}
		w.ch <- received{err: err}
	}
	q.waiters = left
}
