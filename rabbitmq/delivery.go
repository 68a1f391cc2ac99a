package rabbitmq

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// States of a delivery.
const (
	stateOpen uint32 = iota
	stateSettling
	stateSettled
)

// delivery is one hand-over. The message is part of it, so that both are one
// allocation.
type delivery struct {
	msg        transport.Message
	raw        amqp.Delivery
	lane       *lane
	deliveries int
	handed     int // of these, the deliveries of this copy
	due        time.Time
	uncounted  bool // handed out before, and nobody knows how often
	state      atomic.Uint32
}

var (
	_ transport.Delivery       = (*delivery)(nil)
	_ transport.PipelinedAcker = (*delivery)(nil)
	_ transport.Rejecter       = (*delivery)(nil)
	_ transport.Responder      = (*delivery)(nil)
	_ transport.Native         = (*delivery)(nil)
)

func newDelivery(l *lane, raw amqp.Delivery) *delivery {
	d := &delivery{raw: raw, lane: l}
	more := decode(&d.raw, &d.msg)
	n, exact := more.handed()
	d.deliveries, d.handed, d.uncounted, d.due = more.before+n, n, !exact, more.due
	switch {
	case d.msg.Position != "":
	case raw.MessageId == "":
		// Nothing tells two messages of one content apart, and to take one for
		// the other may lose one: a position of this hand-over's own does not.
		d.msg.Position = l.r.t.nextCopy()
	default:
		// A foreign message is known again by its ID and its content. Of two that
		// have both one is the repetition of the other.
		d.msg.Position = contentID(&d.raw)
	}
	return d
}

// Message implements transport.Delivery.
func (d *delivery) Message() *transport.Message { return &d.msg }

// Deliveries implements transport.Delivery: what earlier copies were handed out,
// and the broker's count of this one.
func (d *delivery) Deliveries() int { return d.deliveries }

// Native implements transport.Native: the amqp091.Delivery as it was received.
// Settling it past the delivery confuses both, and a second settlement ends the
// channel with everything on it.
func (d *delivery) Native() any { return d.raw }

// Ack implements transport.Delivery. AMQP confirms no acks: nil means that it was
// handed to the connection.
func (d *delivery) Ack(ctx context.Context) error {
	return d.settle(ctx, "ack", func() error { return d.lane.ack(d.raw.DeliveryTag, true) })
}

// AckLater implements transport.PipelinedAcker. Acks are gathered for a
// millisecond at most.
func (d *delivery) AckLater() error {
	if !d.state.CompareAndSwap(stateOpen, stateSettling) {
		return d.fault("ack", transport.ErrSettled)
	}
	if err := d.lane.ack(d.raw.DeliveryTag, false); err != nil {
		d.state.Store(stateOpen)
		return d.fault("ack", err)
	}
	d.state.Store(stateSettled)
	return nil
}

// Nack implements transport.Delivery. Without a delay the message goes back to
// its queue; with a very short one it is held for that long first. With any other
// a copy of it goes to a retry queue, and the original is acked when the broker
// has confirmed the copy. Nack returns before that: a copy that is not confirmed
// is published again, and the original stays unsettled meanwhile. The only consumer of
// a queue that takes one message at a time holds it for the whole delay, for nothing
// may overtake it. What is held at a stop comes again without the rest of its delay. A message that is
// too large to be copied is held instead, for half a minute at most.
func (d *delivery) Nack(ctx context.Context, delay time.Duration) error {
	r := d.lane.r
	if r.src.stream() {
		return transport.Unsupported("nack", d.address(), "a stream gives nothing back")
	}
	return d.settle(ctx, "nack", func() error {
		switch {
		case delay <= 0:
			return d.lane.reject(d.raw.DeliveryTag, true)
		case r.src.strict(r.want):
			return d.requeueAfter(min(delay, r.src.longest()))
		case len(r.rungs) == 0 || r.holds(d, delay):
			return d.requeueAfter(min(delay, maxHeld))
		}
		err := r.park(ctx, d, delay)
		if errors.Is(err, transport.ErrTooLarge) || errors.Is(err, transport.ErrInvalid) {
			return d.requeueAfter(min(delay, maxHeld)) // no copy of it can be made
		}
		return err
	})
}

const (
	// maxHeld bounds how long a delivery is held where there are no retry queues.
	maxHeld = 30 * time.Second
	// briefly is how long a delivery is held where there are: a retry queue takes
	// less than two thousand messages a second, and a delay this short keeps
	// nobody waiting.
	briefly = 100 * time.Millisecond
)

// holds tells whether a delivery is given back by holding it for its delay: at
// most half of what the receiver may have is held, and no message so often that
// the delivery limit of its queue comes near.
func (r *receiver) holds(d *delivery, delay time.Duration) bool {
	nameless := d.raw.MessageId == "" && d.raw.Headers[wire.Copy] == nil
	if nameless { // nobody would know it again, and what is known of its attempts would be lost
		return false
	}
	if r.src.cfg.Type != Quorum || delay > briefly || d.handed > r.src.cfg.DeliveryLimit/2 {
		return false
	}
	return r.held.Load() < int64(r.prefetch/2)
}

// requeueAfter holds the delivery, and gives it back when the delay is over.
func (d *delivery) requeueAfter(delay time.Duration) error {
	if d.lane.ch.IsClosed() {
		return transport.ErrLeaseLost
	}
	r := d.lane.r
	r.held.Add(1)
	time.AfterFunc(delay, func() {
		_ = d.lane.reject(d.raw.DeliveryTag, true) // a lost channel gives it back as well
		r.held.Add(-1)
	})
	return nil
}

// Reject implements transport.Rejecter: the broker moves the message to the
// queue's dead-letter exchange, and notes "rejected". AMQP carries no reason.
func (d *delivery) Reject(ctx context.Context, _ string) error {
	if d.lane.r.src.stream() {
		return transport.Unsupported("reject", d.address(), "a stream has no dead-letter exchange")
	}
	return d.settle(ctx, "reject", func() error { return d.lane.reject(d.raw.DeliveryTag, false) })
}

// settle runs one settlement. Only a success counts: after a failure the delivery
// can be settled again.
func (d *delivery) settle(ctx context.Context, op string, do func() error) error {
	if !d.state.CompareAndSwap(stateOpen, stateSettling) {
		return d.fault(op, transport.ErrSettled)
	}
	err := ctx.Err()
	if err == nil {
		err = do()
	}
	if err != nil {
		d.state.Store(stateOpen)
		return d.fault(op, err)
	}
	d.state.Store(stateSettled)
	return nil
}

// WantsReply implements transport.Responder.
func (d *delivery) WantsReply() bool { return d.raw.ReplyTo != "" }

// Respond implements transport.Responder.
func (d *delivery) Respond(ctx context.Context, m *transport.Message) error {
	if !d.WantsReply() {
		return &transport.Error{Op: "respond", Address: d.address(), Kind: transport.Permanent, Err: errNoQuestion}
	}
	reply := *m
	reply.Header = m.Header.Clone()
	reply.Header.Set(CorrelationID, d.raw.CorrelationId)
	return d.lane.r.t.publish(ctx, "respond", QueueAddress(d.raw.ReplyTo), &reply, false)
}

// errNoQuestion is the cause when nobody waits for an answer.
var errNoQuestion = errors.New("the message is no request")

func (d *delivery) address() string {
	return d.lane.r.src.cfg.Name + " tag " + strconv.FormatUint(d.raw.DeliveryTag, 10)
}

func (d *delivery) fault(op string, err error) error {
	if errors.Is(err, amqp.ErrClosed) {
		err = transport.ErrLeaseLost
	}
	if err == transport.ErrSettled || err == transport.ErrLeaseLost {
		return &transport.Error{Op: op, Address: d.address(), Kind: transport.Permanent, Err: err}
	}
	return seamError(op, d.address(), err, false)
}

// again is a copy of the delivery for the next leg of its way: everything the
// sender wrote, types included, without the broker's records and without what
// the broker would act upon.
func (d *delivery) again(id string, deliveries int) amqp.Publishing {
	raw := &d.raw
	p := amqp.Publishing{
		Headers:         make(amqp.Table, len(raw.Headers)+5),
		ContentType:     raw.ContentType,
		ContentEncoding: raw.ContentEncoding,
		DeliveryMode:    amqp.Persistent,
		Priority:        raw.Priority,
		CorrelationId:   raw.CorrelationId,
		ReplyTo:         raw.ReplyTo,
		MessageId:       raw.MessageId,
		Timestamp:       raw.Timestamp,
		Type:            raw.Type,
		AppId:           raw.AppId,
		Body:            raw.Body,
	}
	for name, v := range raw.Headers {
		switch {
		case wire.BrokerOwned(name):
		case saved(name):
			p.Headers[wire.SavedPrefix+name] = v
		default:
			p.Headers[name] = v
		}
	}
	if raw.Expiration != "" {
		p.Headers[wire.SavedPrefix+Expiration] = raw.Expiration
	}
	if raw.UserId != "" {
		p.Headers[wire.SavedPrefix+UserID] = raw.UserId
	}
	if raw.MessageId == "" {
		p.Headers[wire.ID] = d.msg.ID
	}
	if p.Headers[wire.Subject] == nil {
		p.Headers[wire.Subject] = wire.Escape(d.msg.Subject)
	}
	of := d.msg.Position
	if of == "" {
		of = id
	}
	delete(p.Headers, wire.Due)
	p.Headers[wire.Copy], p.Headers[wire.CopyOf] = id, of
	p.Headers[wire.Deliveries] = int64(deliveries)
	return p
}
