package rabbitmq

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// A quorum queue counts every hand-over, and before 4.3 there is no way to give a
// message back uncounted: what was only prefetched would look as if it had been
// tried, and after some stops, or beside a message that ends the process each
// time, as if it were to blame. So what is given back uncharged is moved: a copy
// with the count it had goes to the end of the same queue, and the original is
// acked when the copy is confirmed. The broker counts the copy from zero, so its
// own delivery limit does not come nearer either. A classic queue would only mark
// the message as handed out before; of the copy it knows nothing either.
//
// A copy takes a place behind what waits in the queue. Where that must not be,
// the message keeps its place and the broker counts it.

// movable is a delivery that can be moved. It is no larger than a pointer, so that
// to hand it out costs nothing.
type movable struct{ *delivery }

var _ transport.Returner = movable{}

// returnWait bounds how long a stop waits for copies. While the broker blocks
// publishers there is none.
const returnWait = 2 * time.Second

// Return implements transport.Returner. While nothing can be published the
// message goes back to its place in the queue instead, and a quorum queue counts
// that. It returns when the message was given back.
func (d movable) Return(ctx context.Context) error {
	return d.settle(ctx, "return", func() error { return d.lane.r.giveBack(ctx, d.delivery) })
}

// handOut is d as others see it: what cannot be moved is no transport.Returner,
// for the broker counts it.
func (r *receiver) handOut(d *delivery) transport.Delivery {
	if r.moves(d) {
		return movable{d}
	}
	return d
}

// unordered tells whether a message may be moved to the end of its queue.
func (s *source) unordered(want transport.Want) bool {
	return !s.stream() && !want.Ordered && !s.cfg.SingleActiveConsumer && !s.cfg.Exclusive
}

// strict tells whether a consumer has one message at a time and is the only one, so
// that the whole queue stays in its order: a message that waits for its retry keeps
// its place.
func (s *source) strict(want transport.Want) bool {
	return s.cfg.SingleActiveConsumer && want.Window() == 1 && !s.stream()
}

// longest is how long a message may be held for its retry.
func (s *source) longest() time.Duration {
	if bound := s.Bound(); bound > 0 {
		return bound - min(bound/4, takenBack)
	}
	return math.MaxInt64
}

// movable tells whether messages that are given back may be moved: not where they
// expire either, for a copy would start their time to live anew.
func (s *source) movable(want transport.Want) bool {
	return s.unordered(want) && s.cfg.Arguments[argTTL] == nil
}

// moves tells whether a delivery that is given back uncharged is moved. Where the
// broker bounds retries a copy would start those anew, unless none was made.
func (r *receiver) moves(d *delivery) bool {
	tried := r.want.BrokerRetries > 0 && d.deliveries > 1
	return r.movable && d.raw.Expiration == "" && !tried
}

// wears tells whether the broker has counted so many hand-overs of a delivery
// that its delivery limit comes near. What counts there are deaths of processes,
// reconnects and other members, not this message. The policy bounds what is moved
// on: the count goes on in the copy. A low limit is one that somebody wants to be
// reached, and the check warns of it.
func (r *receiver) wears(d *delivery) bool {
	if d.handed <= fewDeliveries/2 || r.src.cfg.Type == Classic || r.want.BrokerRetries > 0 {
		return false
	}
	limit := r.src.limit()
	return limit >= fewDeliveries && d.handed > limit/2 && r.moves(d)
}

// limit is the delivery limit of the queue, as far as it is known.
func (s *source) limit() int {
	limit := s.cfg.DeliveryLimit
	if own := s.cfg.Arguments[argLimit]; own != nil {
		limit = int(integer(own))
	}
	if s.cfg.Declare == DeclareAdopt {
		// It cannot be seen, and from 4.0 on this is the default.
		limit = min(limit, brokersDeliveryLimit)
	}
	return limit
}

// brokersDeliveryLimit is that of a quorum queue for which nobody has set one.
const brokersDeliveryLimit = 20

// move is a copy on its way to the end of the queue its original came from.
type move struct {
	d       *delivery
	decided atomic.Bool   // somebody settles the original
	done    chan struct{} // closed when the outcome is known
}

// startMove publishes the copy of a delivery that is given back uncharged; nil
// when there is none.
func (r *receiver) startMove(ctx context.Context, d *delivery) *move {
	if !r.moves(d) || ctx.Err() != nil || d.lane.ch.IsClosed() {
		return nil
	}
	id := r.t.nextCopy()
	msg := d.again(id, d.deliveries-1)
	if r.t.checkPublishing("return", QueueAddress(r.src.cfg.Name), &msg) != nil {
		return nil
	}
	m := &move{d: d, done: make(chan struct{})}
	e := &entry{id: id, key: r.src.cfg.Name, then: m.arrived}
	if r.t.publisher.send(ctx, nil, e, &msg) != nil {
		return nil
	}
	return m
}

// arrived settles the original of a copy that is confirmed. It is called by the
// goroutine that reads confirmations.
func (m *move) arrived(err error) {
	if err == nil && m.decided.CompareAndSwap(false, true) {
		_ = m.d.lane.ack(m.d.raw.DeliveryTag, true) // a lost lane hands it out again
	}
	close(m.done)
}

// wait returns false when the copy was not confirmed until ctx ended: then the
// caller settles the original. A copy that arrives later stays beside it.
func (m *move) wait(ctx context.Context) bool {
	if m == nil {
		return false
	}
	select {
	case <-m.done:
	case <-ctx.Done():
	}
	return !m.decided.CompareAndSwap(false, true)
}

// giveBack gives a delivery back uncharged, as far as that is possible.
func (r *receiver) giveBack(ctx context.Context, d *delivery) error {
	ctx, cancel := context.WithTimeoutCause(ctx, returnWait, errTimeout)
	defer cancel()
	if r.startMove(ctx, d).wait(ctx) {
		return nil
	}
	return d.lane.returnUnseen(d.raw.DeliveryTag, r.serverVersion())
}

// giveBackAll does so with many deliveries of one lane that nobody has seen.
func (r *receiver) giveBackAll(ctx context.Context, l *lane, unseen []*delivery) {
	if len(unseen) == 0 {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, returnWait, errTimeout)
	defer cancel()
	moves := make([]*move, len(unseen))
	for i, d := range unseen {
		moves[i] = r.startMove(ctx, d)
	}
	moved := false
	for i, d := range unseen {
		if moves[i].wait(ctx) {
			moved = true
			continue
		}
		_ = l.returnUnseen(d.raw.DeliveryTag, r.serverVersion()) // a lost lane gives it back as well
	}
	if moved {
		l.settledThere(ctx)
	}
}

// handBack returns what no handler has seen.
func (r *receiver) handBack(ctx context.Context, d *delivery) {
	if r.src.stream() {
		_ = d.lane.ack(d.raw.DeliveryTag, false) // the next consumer chooses its offset
		return
	}
	_ = r.giveBack(context.WithoutCancel(ctx), d) // a lost lane gives it back as well
}

// serverVersion is that of the connected server, and the oldest one while there
// is none.
func (r *receiver) serverVersion() version {
	if s, _, _ := r.t.consuming.session(); s != nil {
		return s.version
	}
	return version{}
}

// awaitOriginal waits until the broker has taken the ack of the message that d is
// a copy of, if it was made here to be counted: were the process to end before,
// both would be there, and one more each time.
func (r *receiver) awaitOriginal(ctx context.Context, d *delivery) {
	if d.deliveries == d.handed {
		return // no copy, or one that was never handed out before
	}
	name, _ := d.raw.Headers[wire.Copy].(string) // a stranger may have written anything
	settled, ok := r.recounted.LoadAndDelete(name)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, returnWait)
	defer cancel()
	select {
	case <-settled.(chan struct{}):
	case <-ctx.Done():
	}
	d.lane.ask(ctx)
}

// settledThere waits until the broker has taken what was settled: a process may
// end at once after it has given something back, and what is still on its way
// would be handed out twice, and counted.
func (l *lane) settledThere(ctx context.Context) {
	l.ask(ctx)
	// Its quorum queues are told in the background.
	pause(ctx, ackSettle)
}

// ask waits until the broker has read what was sent on the channel. Any question
// does: it answers in order.
func (l *lane) ask(ctx context.Context) {
	l.rpc.Lock()
	defer l.rpc.Unlock()
	if !l.ch.IsClosed() {
		_ = within(ctx, func() error { return l.ch.Qos(l.r.prefetch, 0, false) })
	}
}

// lastHandOuts is how long the broker may take to hand out what earlier acks made
// room for.
const lastHandOuts = 50 * time.Millisecond

// endConsumer cancels the consumer. What the broker hands out in that moment the
// client library drops, and nobody can give it back: it stays with the channel,
// and is counted. So nothing makes room for more before.
func (l *lane) endConsumer(ctx context.Context) error {
	l.send()
	l.hold(true)
	defer l.hold(false)
	pause(ctx, lastHandOuts)
	l.rpc.Lock()
	defer l.rpc.Unlock()
	return within(ctx, func() error { return l.ch.Cancel(l.tag, false) })
}
