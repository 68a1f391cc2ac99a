package memory

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// state is how far a delivery has come.
type state uint8

const (
	open    state = iota // may be settled
	acking               // acked, and waits for the connection to come back
	settled              // done with
	lost                 // the lease ended first
)

// delivery is one hand-over. Broker.mu guards state.
type delivery struct {
	r     *receiver
	e     *entry
	msg   *transport.Message
	count int
	state state
}

// Stored is what Native returns of a delivery: the message as the broker sees
// it.
type Stored struct {
	// Queue is the name of the queue.
	Queue string
	// Sequence is the message's place among all messages of the broker.
	Sequence uint64
	// Deliveries is how often this queue has handed it out.
	Deliveries int
}

// Message implements transport.Delivery. Every delivery has a copy of its own.
func (d *delivery) Message() *transport.Message { return d.msg }

// Deliveries implements transport.Delivery. The count is exact.
func (d *delivery) Deliveries() int { return d.count }

// Native implements transport.Native with a *Stored.
func (d *delivery) Native() any {
	return &Stored{Queue: d.r.q.name, Sequence: d.e.seq, Deliveries: d.count}
}

// Ack implements transport.Delivery.
func (d *delivery) Ack(ctx context.Context) error {
	return d.settle(ctx, OpAck, func() { d.r.q.b.forget(1) })
}

// Nack implements transport.Delivery. When delay has passed, the message takes
// its old place among those that wait.
func (d *delivery) Nack(ctx context.Context, delay time.Duration) error {
	return d.settle(ctx, OpNack, func() {
		if delay > 0 {
			d.r.q.keep(d.e, delay)
			return
		}
		d.r.q.ready.add(d.e)
	})
}

// Return implements transport.Returner: it is as if the message had not been
// handed out.
func (d *delivery) Return(ctx context.Context) error {
	return d.settle(ctx, OpNack, func() {
		d.e.count--
		d.r.q.ready.add(d.e)
	})
}

// Reject implements transport.Rejecter: the message leaves the queue and can be
// seen in Broker.Rejected.
func (d *delivery) Reject(ctx context.Context, reason string) error {
	return d.settle(ctx, OpReject, func() {
		d.r.q.reject(Rejected{Message: clone(d.e.msg), Reason: reason, Deliveries: d.count, Time: time.Now()})
		d.r.q.b.forget(1)
	})
}

// Requeue implements transport.Requeuer: the message takes its old place, unless
// the queue has handed it out again as often as the subscription's BrokerRetries
// allow. Then it leaves the queue as a rejected one does, with the reason
// "delivery limit".
func (d *delivery) Requeue(ctx context.Context) error {
	return d.settle(ctx, OpNack, func() {
		if !d.spent() {
			d.r.q.ready.add(d.e)
		}
	})
}

// spent takes the message away when it was handed out again as often as may be.
// A lease that ends counts like a Requeue.
func (d *delivery) spent() bool {
	if d.r.retries == 0 || d.count <= d.r.retries {
		return false
	}
	d.r.q.reject(Rejected{Message: clone(d.e.msg), Reason: "delivery limit", Deliveries: d.count, Time: time.Now()})
	d.r.q.b.forget(1)
	return true
}

// settle takes the message from its holder and then does what is to be done
// with it. A failure leaves the delivery as it was.
func (d *delivery) settle(ctx context.Context, op Op, do func()) error {
	b := d.r.q.b
	lostAnswer, err := b.begin(ctx, op, d.r.q.name)
	if err != nil {
		return err
	}
	events, err := d.finish(op, do)
	b.mu.Unlock()
	b.observers.emit(events...)
	if err != nil {
		return err
	}
	return lostAnswer
}

// finish is settle under the lock.
func (d *delivery) finish(op Op, do func()) ([]transport.Event, error) {
	events := d.r.q.expire(time.Now())
	err := d.refusal(op)
	if err == nil {
		d.state = settled
		d.r.q.release(d.e)
		do()
	}
	d.r.q.arm()
	d.r.q.dispatch()
	return events, err
}

// refusal says why d cannot be settled or extended, or nil.
func (d *delivery) refusal(op Op) error {
	cause := error(nil)
	switch d.state {
	case open:
		return nil
	case lost:
		cause = transport.ErrLeaseLost
	default:
		cause = transport.ErrSettled
	}
	return &transport.Error{Op: string(op), Address: d.r.q.name, Kind: transport.Permanent, Err: cause}
}

// AckLater implements transport.PipelinedAcker. While the connection is cut the
// ack waits for it to come back.
func (d *delivery) AckLater() error {
	b := d.r.q.b
	b.mu.Lock()
	events, err := d.ackLater()
	b.mu.Unlock()
	b.observers.emit(events...)
	return err
}

// ackLater is AckLater under the lock.
func (d *delivery) ackLater() ([]transport.Event, error) {
	b := d.r.q.b
	if b.closed {
		return nil, closedError(string(OpAck), d.r.q.name)
	}
	events := d.r.q.expire(time.Now())
	if err := d.refusal(OpAck); err != nil {
		d.r.q.dispatch()
		return events, err
	}
	if f := b.fault(OpAckLater); f != nil {
		return events, f.err(string(OpAckLater), d.r.q.name)
	}
	if f := b.fault(OpConfirm); f != nil {
		// The ack never arrives: the message stays leased until that ends.
		d.state = acking
		return append(events, d.unconfirmed(f.err(string(OpConfirm), d.r.q.name))), nil
	}
	if b.down != nil {
		d.state = acking
		d.r.unconfirmed = append(d.r.unconfirmed, d)
		return events, nil
	}
	d.state = settled
	d.r.q.release(d.e)
	b.forget(1)
	d.r.q.arm()
	d.r.q.dispatch()
	return events, nil
}

// lose marks d as one whose lease ended. It returns an event when d was acked
// and the ack had not arrived.
func (d *delivery) lose() (transport.Event, bool) {
	was := d.state
	d.state = lost
	if was != acking {
		return transport.Event{}, false
	}
	for _, other := range d.r.unconfirmed {
		if other == d {
			d.r.abandon(d)
			return d.unconfirmed(transport.ErrLeaseLost), true
		}
	}
	return transport.Event{}, false // it was reported when it was acked
}

func (d *delivery) unconfirmed(cause error) transport.Event {
	return transport.Event{
		Kind: transport.AckUnconfirmed, Subscription: d.r.subscription, Count: 1, Err: cause,
		Detail: "queue " + d.r.q.name,
	}
}

// ExtendLease implements transport.LeaseExtender.
func (d *delivery) ExtendLease() error {
	b := d.r.q.b
	b.mu.Lock()
	events, err := d.extend()
	b.mu.Unlock()
	b.observers.emit(events...)
	return err
}

// extend is ExtendLease under the lock.
func (d *delivery) extend() ([]transport.Event, error) {
	b := d.r.q.b
	if b.closed {
		return nil, closedError(string(OpExtend), d.r.q.name)
	}
	if b.down != nil {
		return nil, b.downError(OpExtend, d.r.q.name)
	}
	if f := b.fault(OpExtend); f != nil {
		return nil, f.err(string(OpExtend), d.r.q.name)
	}
	events := d.r.q.expire(time.Now())
	err := d.refusal(OpExtend)
	if err == nil {
		d.r.q.extend(d.e)
	}
	d.r.q.dispatch()
	return events, err
}

// WantsReply implements transport.Responder.
func (d *delivery) WantsReply() bool { return d.e.req != nil }

// Respond implements transport.Responder. The first answer reaches the one who
// asked; further ones, and those that come too late, reach nobody and are no
// error.
func (d *delivery) Respond(ctx context.Context, m *transport.Message) error {
	b := d.r.q.b
	if d.e.req == nil {
		return &transport.Error{
			Op: string(OpRespond), Address: d.r.q.name, Kind: transport.Permanent,
			Hint: "answer only messages that were sent as requests",
			Err:  errors.New("nobody waits for an answer"),
		}
	}
	if err := b.valid(OpRespond, d.r.q.name, m); err != nil {
		return err
	}
	lostAnswer, err := b.begin(ctx, OpRespond, d.r.q.name)
	if err != nil {
		return err
	}
	defer b.mu.Unlock()
	d.e.req.answer(b.stamp(m, d.msg.Subject))
	return lostAnswer
}
