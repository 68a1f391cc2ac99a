package rabbitmq

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

const (
	// ackGather is how many acks are sent together at most, and ackDelay how long
	// one waits for others at most. A worker that finds nothing to do sends them
	// at once. The more is being handled, the fewer acks follow one another and
	// the more the queue's next deliveries are worth: fewer are gathered then.
	ackGather = 64
	ackDelay  = time.Millisecond
	// ackSettle is how long a channel is kept after its last ack: a quorum queue
	// takes acks in the background, and forgets those under way when the channel
	// is closed.
	ackSettle = 100 * time.Millisecond
)

// lane is one channel with one consumer, from its opening to its end. A delivery
// belongs to its lane: when the lane is gone, so is the right to settle it.
type lane struct {
	r       *receiver
	ch      *amqp.Channel
	tag     string
	in      <-chan amqp.Delivery
	closes  chan *amqp.Error
	cancels chan string
	next    chan struct{} // closed when another lane takes over

	waiting atomic.Int32 // acks the broker does not know
	gather  int

	rpc sync.Mutex // held by the one who waits for an answer; taken before mu

	mu      sync.Mutex // guards what follows
	log     ackLog
	out     int // handed out and not settled
	timer   *time.Timer
	acked   time.Time // when the last ack was sent
	held    bool      // acks wait for the end of the consumer
	retired bool      // nothing more comes; it ends with its last delivery
	ended   bool
}

func newLane(r *receiver, ch *amqp.Channel, tag string) *lane {
	l := &lane{
		r: r, ch: ch, tag: tag,
		closes:  ch.NotifyClose(make(chan *amqp.Error, 1)),
		cancels: ch.NotifyCancel(make(chan string, 1)),
		next:    make(chan struct{}),
		gather:  min(max(r.prefetch/4, 1), ackGather),
		log:     ackLog{most: 4 * r.prefetch},
	}
	return l
}

// wait returns when the lane can give nothing more: true when its channel is
// gone, false when only its consumer is.
func (l *lane) wait(ctx context.Context) (gone bool, why error) {
	select {
	case e := <-l.closes:
		if e == nil {
			return true, errLost
		}
		return true, e
	case <-l.cancels:
		return false, errCancelled
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// take counts a delivery as handed out.
func (l *lane) take() {
	l.mu.Lock()
	l.out++
	l.mu.Unlock()
}

// ack settles a delivery as done. Unless it is to be sent at once, the ack waits
// for others.
func (l *lane) ack(tag uint64, now bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ch.IsClosed() {
		l.abandon()
		return transport.ErrLeaseLost
	}
	l.log.set(tag, tagDone)
	l.out--
	switch {
	case now || l.retired || l.log.unsent > l.gather/(l.busy()+1):
		l.flush()
	case l.log.unsent == 1:
		l.arm()
	}
	l.waiting.Store(int32(l.log.unsent))
	l.finish()
	return nil
}

// busy is how many deliveries are being handled; the caller holds the lock.
func (l *lane) busy() int { return max(l.out-int(l.r.held.Load()), 0) }

// arm makes sure that what is gathered is sent soon.
func (l *lane) arm() {
	if l.timer == nil {
		l.timer = time.AfterFunc(ackDelay, l.send)
		return
	}
	l.timer.Reset(ackDelay)
}

// send sends what is gathered.
func (l *lane) send() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	l.waiting.Store(int32(l.log.unsent))
}

// flush sends what is gathered; the caller holds the lock. What cannot be sent is
// lost with the channel, and the broker hands those messages out again.
func (l *lane) flush() {
	if l.held {
		return
	}
	due := l.log.unsent > 0
	if l.log.flush(l.ch.Ack) == nil && due {
		l.noteSent()
	}
}

// hold keeps acks back, or sends what was kept.
func (l *lane) hold(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = on
	l.flush()
	l.waiting.Store(int32(l.log.unsent))
}

// noteSent remembers that the broker was told something; the caller holds the
// lock.
func (l *lane) noteSent() {
	l.acked = time.Now()
	l.r.t.acked.Store(l.acked.UnixNano())
}

// reject gives a delivery back to its queue, or to its dead-letter exchange.
func (l *lane) reject(tag uint64, requeue bool) error {
	return l.refuse(tag, func() error { return l.ch.Reject(tag, requeue) })
}

// returnUnseen gives back what no handler has seen, at the lowest price.
func (l *lane) returnUnseen(tag uint64, v version) error {
	return l.refuse(tag, func() error {
		if v.quietReturn() {
			return l.ch.Nack(tag, false, true)
		}
		return l.ch.Reject(tag, true)
	})
}

func (l *lane) refuse(tag uint64, do func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ch.IsClosed() {
		l.abandon()
		return transport.ErrLeaseLost
	}
	if err := do(); err != nil {
		return err
	}
	l.log.set(tag, tagGone)
	l.noteSent()
	l.flush()
	l.waiting.Store(int32(l.log.unsent))
	l.out--
	l.finish()
	return nil
}

// retire says that nothing more is taken from the lane.
func (l *lane) retire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retired = true
	l.flush()
	l.finish()
}

// finish ends a retired lane once all its deliveries are settled; the caller
// holds the lock. It does so in the background: the broker needs a moment.
func (l *lane) finish() {
	if !l.retired || l.out > 0 || l.ended {
		return
	}
	l.ended = true
	if l.ch.IsClosed() {
		l.r.dropLane(l)
		return
	}
	wait := time.Until(l.acked.Add(ackSettle))
	l.r.t.linger(func() {
		defer l.r.dropLane(l)
		if !pause(l.r.t.ctx, wait) {
			return // the connection is closed with all its channels
		}
		ctx, cancel := context.WithTimeout(l.r.t.ctx, l.r.t.set.rpc)
		defer cancel()
		l.rpc.Lock()
		defer l.rpc.Unlock()
		_ = within(ctx, l.ch.Close) // it goes with the connection otherwise
	})
}

// abandon forgets a retired lane whose channel is gone: nobody watches it any more,
// and none of its deliveries can be settled. The caller holds the lock.
func (l *lane) abandon() {
	if l.retired && !l.ended {
		l.ended = true
		l.r.dropLane(l)
	}
}

// dead is for a lane whose channel is gone. It returns how many acks went with
// it.
func (l *lane) dead() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := l.log.unsent
	l.log = ackLog{}
	l.waiting.Store(0)
	if l.timer != nil {
		l.timer.Stop()
	}
	if !l.ended {
		l.ended = true
		l.r.dropLane(l)
	}
	return lost
}
