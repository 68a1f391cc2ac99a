package jetstream

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// Pipelined acks are confirmed by fences.
//
// An ack is published without a reply subject and remembered. Every fenceEvery
// acks, or when acks have waited for fenceAfter, one ack carries a reply
// subject: the fence. The server puts the acks of a consumer into one queue in
// the order in which its connection sent them, and one goroutine takes them out
// in that order, so the answer to the fence says that all acks before it on the
// same connection were processed (on a replicated consumer: proposed in that
// order, and the answer is sent when the fence's own entry was applied).
//
// Two things can break that order, and both end in a second delivery, never in
// a loss: the connection is replaced between an ack and its fence, which is
// noticed by the count of reconnects, and the batch is sent again; or the
// leader of the consumer changes in between and the old one drops acks it had
// not processed, which cannot be noticed, and those messages come back when
// their lease ends.
const (
	fenceEvery   = 64
	fenceAfter   = 15 * time.Millisecond
	fenceTimeout = 2 * time.Second
)

// sentAck is an ack that was published and not confirmed yet.
type sentAck struct {
	subject string
	seq     uint64
}

// ackLog keeps the unconfirmed acks of one lane. It is safe for concurrent use.
type ackLog struct {
	lane  *lane
	count atomic.Uint64
	// active: the confirming goroutine looks after this log.
	active atomic.Bool

	mu     sync.Mutex // guards what follows; the inbox is locked under it
	batch  []sentAck  // published since the last fence
	conn   uint64     // reconnects when the batch was begun
	fenced uint64     // fences sent, to see whether one was sent since the last look
	flying []*fence
	again  []*fence // to be sent again
	spare  [][]sentAck
	open   int // acks without a confirmation, wherever they are now
	closed bool
}

// fence is one batch whose confirmation is waited for.
type fence struct {
	log   *ackLog
	acks  []sentAck // the last one carries the reply subject
	token uint64
	conn  uint64
	begun time.Time
	sent  time.Time
	pause time.Duration // before it is sent again; doubles
}

var errAckTimeout = errors.New("no confirmation came within the lease")

// ack publishes the ack of d. Every fenceEvery-th one is a fence.
func (g *ackLog) ack(d *delivery) error {
	a := sentAck{subject: d.raw.Reply, seq: d.seq}
	if g.count.Add(1)%fenceEvery == 0 {
		return g.ackWithFence(a)
	}
	if err := g.lane.r.t.nc().Publish(a.subject, ackBody); err != nil {
		return err
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return g.confirmNow(a)
	}
	g.batch = append(g.batch, a)
	g.open++
	g.mu.Unlock()
	g.wake()
	return nil
}

// confirmNow confirms a single ack that came after the receiver was closed. The
// caller has no context to give; the timeout is the transport's own.
func (g *ackLog) confirmNow(a sentAck) error {
	ctx, cancel := backgroundFor(apiTimeout)
	defer cancel()
	_, _, err := g.lane.r.t.ask(ctx, &nats.Msg{Subject: a.subject, Data: ackBody}, apiTimeout)
	return err
}

// ackWithFence takes the batch so far, all of which was published before, and
// publishes a with a reply subject behind it.
func (g *ackLog) ackWithFence(a sentAck) error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return g.confirmNow(a)
	}
	f := g.takeBatch(time.Now())
	f.acks = append(f.acks, a)
	g.open++
	g.mu.Unlock()
	if err := g.publishFence(f); err != nil {
		// The one ack failed and is the caller's again; the others were sent.
		g.mu.Lock()
		f.acks = f.acks[:len(f.acks)-1]
		g.open--
		if len(f.acks) > 0 {
			g.again = append(g.again, f)
		}
		g.mu.Unlock()
		g.wake()
		return err
	}
	g.wake()
	return nil
}

// takeBatch turns the batch into a fence. g.mu is held.
func (g *ackLog) takeBatch(now time.Time) *fence {
	f := &fence{log: g, acks: g.batch, conn: g.conn, begun: now, sent: now}
	g.batch = nil
	if n := len(g.spare); n > 0 {
		g.batch, g.spare = g.spare[n-1][:0], g.spare[:n-1]
	} else {
		g.batch = make([]sentAck, 0, fenceEvery+fenceEvery/4)
	}
	g.conn = g.lane.r.t.connections()
	g.fenced++
	return f
}

// publishFence publishes the last ack of f with a reply subject. On an error f
// is not flying.
func (g *ackLog) publishFence(f *fence) error {
	box := g.lane.r.t.inbox
	g.mu.Lock()
	// Registered under the lock, so that an answer finds f in flight.
	token := box.expect(f)
	f.token = token
	g.flying = append(g.flying, f)
	g.mu.Unlock()
	err := g.lane.r.t.nc().PublishRequest(f.acks[len(f.acks)-1].subject, box.reply(token), ackBody)
	if err != nil && box.forget(token) {
		g.land(f)
		return err
	}
	// When the inbox has answered f already, it looks after f.
	return nil
}

// land removes f from those in flight.
func (g *ackLog) land(f *fence) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flying = slices.DeleteFunc(g.flying, func(o *fence) bool { return o == f })
}

// askedAt implements asker.
func (f *fence) askedAt() string { return f.acks[len(f.acks)-1].subject }

// answer implements asker: the whole batch is confirmed, or goes out again.
func (f *fence) answer(m *nats.Msg, err error) {
	g := f.log
	ok := err == nil && m.Header.Get("Status") == "" && g.lane.r.t.connections() == f.conn
	if ok && !g.lane.park { // what is acked there is not stored any more
		g.lane.acked.addAll(f.acks)
	}
	g.mu.Lock()
	g.flying = slices.DeleteFunc(g.flying, func(o *fence) bool { return o == f })
	if ok {
		g.open -= len(f.acks)
		if len(g.spare) < 16 {
			clear(f.acks)
			g.spare = append(g.spare, f.acks)
		}
	} else {
		g.again = append(g.again, f)
	}
	g.mu.Unlock()
	if !ok {
		g.wake()
	}
}

// wake makes the confirming goroutine look after this log.
func (g *ackLog) wake() {
	if g.active.Load() || !g.active.CompareAndSwap(false, true) {
		return
	}
	select {
	case g.lane.r.dirty <- struct{}{}:
	default:
	}
}

// unconfirmed counts the acks without a confirmation.
func (g *ackLog) unconfirmed() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// each calls fn for the sequence of every ack without a confirmation.
func (g *ackLog) each(fn func(seq uint64)) {
	g.mu.Lock()
	var seqs []uint64
	note := func(acks []sentAck) {
		for _, a := range acks {
			seqs = append(seqs, a.seq)
		}
	}
	note(g.batch)
	for _, f := range slices.Concat(g.flying, g.again) {
		note(f.acks)
	}
	g.mu.Unlock()
	for _, seq := range seqs {
		fn(seq)
	}
}

// tend is called every fenceAfter while something is unconfirmed. It fences
// what has waited, and repeats what was not confirmed. seen is the number of
// fences at the last call; the new number is returned.
func (g *ackLog) tend(seen uint64, now time.Time) uint64 {
	g.mu.Lock()
	var out []*fence
	if len(g.batch) > 0 && g.fenced == seen {
		out = append(out, g.takeBatch(now))
	}
	fenced := g.fenced
	var late []*fence
	for _, f := range g.flying {
		if now.Sub(f.sent) > fenceTimeout {
			late = append(late, f)
		}
	}
	again := g.again
	g.again = nil
	g.mu.Unlock()

	for _, f := range out {
		g.send(f, false)
	}
	for _, f := range late {
		if g.lane.r.t.inbox.forget(f.token) {
			g.land(f)
			again = append(again, f)
		}
	}
	g.repeat(again, now)
	return fenced
}

// repeat sends whole batches again, or gives them up when their leases ended.
func (g *ackLog) repeat(batches []*fence, now time.Time) {
	for _, f := range batches {
		if now.Sub(f.begun) > g.lane.r.lease {
			g.giveUp(f)
			continue
		}
		if !g.lane.r.t.nc().IsConnected() || now.Sub(f.sent) < f.pause {
			g.mu.Lock()
			g.again = append(g.again, f)
			g.mu.Unlock()
			continue
		}
		g.send(f, true)
	}
}

// send publishes a fence, behind the acks before it when those go out again.
func (g *ackLog) send(f *fence, all bool) {
	f.sent = time.Now()
	f.pause = min(max(2*f.pause, fenceAfter), fenceTimeout)
	var err error
	if all {
		f.conn = g.lane.r.t.connections()
		for _, a := range f.acks[:len(f.acks)-1] {
			if err = g.lane.r.t.nc().Publish(a.subject, ackBody); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = g.publishFence(f)
	}
	if err != nil {
		g.mu.Lock()
		g.again = append(g.again, f)
		g.mu.Unlock()
	}
}

// giveUp reports acks that nobody confirmed within the lease.
func (g *ackLog) giveUp(f *fence) {
	g.mu.Lock()
	g.open -= len(f.acks)
	g.mu.Unlock()
	r := g.lane.r
	r.t.conn.Emit(transport.Event{
		Kind: transport.AckUnconfirmed, Subscription: r.want.Subscription, Count: len(f.acks), Err: errAckTimeout,
		Detail: "consumer " + g.lane.address() + ": these messages may be delivered again",
	})
}

// close makes later acks confirm themselves, and gives up what is left.
func (g *ackLog) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.drop()
}

// drop gives up every ack without a confirmation.
func (g *ackLog) drop() {
	g.mu.Lock()
	left := g.again
	for _, f := range g.flying {
		if g.lane.r.t.inbox.forget(f.token) {
			left = append(left, f)
		}
	}
	if len(g.batch) > 0 {
		left = append(left, &fence{log: g, acks: g.batch})
	}
	g.batch, g.flying, g.again = nil, nil, nil
	g.mu.Unlock()
	for _, f := range left {
		g.giveUp(f)
	}
}

// confirm is a goroutine of the receiver: it sleeps while nothing is
// unconfirmed and tends the logs every fenceAfter otherwise. It ends when
// r.settled is closed.
func (r *receiver) confirm() {
	seen := make([]uint64, len(r.lanes))
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-r.settled:
			return
		case <-r.dirty:
		case <-timer.C:
		}
		busy := false
		now := time.Now()
		for i, l := range r.lanes {
			seen[i] = l.acks.tend(seen[i], now)
			if l.acks.unconfirmed() == 0 {
				l.acks.active.Store(false)
				// An ack that was logged in between has not woken us.
				if l.acks.unconfirmed() > 0 {
					l.acks.active.Store(true)
				}
			}
			busy = busy || l.acks.active.Load()
		}
		if busy {
			timer.Reset(fenceAfter)
		}
	}
}
