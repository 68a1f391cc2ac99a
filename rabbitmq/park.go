package rabbitmq

import (
	"context"
	"errors"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// parked is a copy on its way to another queue of the subscription's own, and
// the original that is acked when it has arrived.
type parked struct {
	d   *delivery
	key string
	msg amqp.Publishing
	err error // why it has not arrived yet

	settled chan struct{} // closed with the outcome; nil unless r.recounted holds it
}

// park puts the delivery into the retry queue for a delay. It does not wait for
// the confirmation.
func (r *receiver) park(ctx context.Context, d *delivery, delay time.Duration) error {
	id := r.t.nextCopy()
	msg := d.again(id, d.deliveries)
	rung, stay := step(r.rungs, delay)
	if stay < delay {
		// It comes back too early, and is put back until it is due.
		msg.Headers[wire.Due] = time.Now().Add(delay).UnixMilli() + 1 // rounded up
	}
	// The time to live is rounded up: never before the delay has passed.
	msg.Expiration = strconv.FormatInt(int64((stay+time.Millisecond-1)/time.Millisecond), 10)
	return r.forward(ctx, &parked{d: d, key: rung.name, msg: msg}, id)
}

// putBack parks a message that came back before it was due.
func (r *receiver) putBack(ctx context.Context, d *delivery, left time.Duration) error {
	id := r.t.nextCopy()
	msg := d.again(id, d.deliveries-1) // nobody has seen it this time
	rung, stay := step(r.rungs, left)
	if stay < left {
		msg.Headers[wire.Due] = d.due.UnixMilli()
	}
	msg.Expiration = strconv.FormatInt(int64((stay+time.Millisecond-1)/time.Millisecond), 10)
	return r.forward(ctx, &parked{d: d, key: rung.name, msg: msg}, id)
}

// recount moves a message that was handed out before, from a queue that counts
// nothing, to the end of that queue, with a count. What ends the process each
// time it is handled is counted by that.
func (r *receiver) recount(ctx context.Context, d *delivery) error {
	id := r.t.nextCopy()
	msg := d.again(id, d.deliveries-1)
	p := &parked{d: d, key: r.src.cfg.Name, msg: msg, settled: make(chan struct{})}
	r.recounted.Store(id, p.settled)
	err := r.forward(ctx, p, id)
	if err != nil {
		r.over(p)
	}
	return err
}

// over is for a copy whose outcome is known.
func (r *receiver) over(p *parked) {
	if p.settled == nil {
		return
	}
	close(p.settled)
	// The copy may come to somebody else.
	time.AfterFunc(returnWait, func() { r.recounted.Delete(p.msg.Headers[wire.Copy]) })
}

// forwardWait is how long a nack waits for a connection and for room in the
// publish window. After that the mender waits in its place, and the worker goes
// on: a delivery that nobody settles would stay with its channel for ever.
const forwardWait = time.Second

// forward publishes the copy. When the outcome is known, arrived is called.
func (r *receiver) forward(ctx context.Context, p *parked, id string) error {
	if p.d.lane.ch.IsClosed() {
		return transport.ErrLeaseLost
	}
	if err := r.t.checkPublishing("nack", QueueAddress(p.key), &p.msg); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, forwardWait, errTimeout)
	defer cancel()
	e := &entry{id: id, key: p.key, then: func(err error) { r.arrived(p, err) }}
	r.underWay(1)
	err := r.t.publisher.send(ctx, nil, e, &p.msg)
	switch {
	case errors.Is(err, transport.ErrClosed):
		r.underWay(-1)
		return err
	case err != nil:
		r.arrived(p, err)
	}
	return nil
}

// arrived settles the original of a copy that is confirmed, and leaves any other
// to the mender. It is called by the goroutine that reads confirmations.
func (r *receiver) arrived(p *parked, err error) {
	if err == nil {
		_ = p.d.lane.ack(p.d.raw.DeliveryTag, p.settled != nil) // a lost lane hands it out again
		r.over(p)
		r.underWay(-1)
		return
	}
	p.err = err
	r.mu.Lock()
	r.failed = append(r.failed, p)
	r.mu.Unlock()
	select {
	case r.trouble <- struct{}{}:
	default:
	}
}

// underWay counts copies without an outcome.
func (r *receiver) underWay(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.copies += n
	if r.copies == 0 && r.idle != nil {
		close(r.idle)
		r.idle = nil
	}
}

// landed returns a channel that is closed when no copy is without an outcome.
func (r *receiver) landed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.idle == nil {
		r.idle = make(chan struct{})
		if r.copies == 0 {
			defer func() { r.idle = nil }()
			close(r.idle)
		}
	}
	return r.idle
}

// mend is a goroutine of the receiver: it publishes again what was not confirmed,
// until it is, or until its original is gone.
func (r *receiver) mend(ctx context.Context) {
	stalled := false
	for wait := time.Duration(0); ; {
		select {
		case <-r.trouble:
		case <-ctx.Done():
			r.giveUp()
			return
		}
		for _, p := range r.takeFailed() {
			if p.d.lane.ch.IsClosed() {
				r.over(p)
				r.underWay(-1) // the broker hands the original out again
				continue
			}
			if transport.KindOf(p.err) != transport.Unknown && !stalled {
				stalled = true
				r.event(transport.Stalled, p.err, "a message cannot be put into its retry queue")
			}
			if !pause(ctx, wait) || r.retry(ctx, p) != nil {
				wait = r.t.nextWait(wait)
				r.arrived(p, p.err)
				continue
			}
			wait = 0
			if stalled {
				stalled = false
				r.event(transport.Flowing, nil, "messages go into the retry queues again")
			}
		}
	}
}

// takeFailed returns what was not confirmed.
func (r *receiver) takeFailed() []*parked {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.failed
	r.failed = nil
	return list
}

// retry publishes a copy again and waits for the outcome.
func (r *receiver) retry(ctx context.Context, p *parked) error {
	if isUnroutable(p.err) && r.src.cfg.Declare != DeclareVerify {
		// The retry queue is gone, and it is ours.
		if _, err := r.t.Provision(ctx, r.src, r.want); err == nil {
			r.event(transport.Recreated, nil, "the queues beside "+r.src.cfg.Name)
		}
	}
	id, _ := p.msg.Headers[wire.Copy].(string)
	err := r.t.confirmed(ctx, "nack", QueueAddress(p.key), id, &p.msg)
	if err != nil {
		p.err = err
		return err
	}
	_ = p.d.lane.ack(p.d.raw.DeliveryTag, true)
	r.over(p)
	r.underWay(-1)
	return nil
}

// giveUp gives back what could not be put into a retry queue: it comes again
// without its delay.
func (r *receiver) giveUp() {
	for _, p := range r.takeFailed() {
		_ = p.d.lane.reject(p.d.raw.DeliveryTag, true) // a lost lane gives it back as well
		r.over(p)
		r.underWay(-1)
	}
}
