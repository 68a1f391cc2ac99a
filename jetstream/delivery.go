package jetstream

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// What is published to the ack subject of a delivery.
var (
	ackBody      = []byte("+ACK")
	nakBody      = []byte("-NAK")
	termBody     = []byte("+TERM")
	progressBody = []byte("+WPI")
)

// minNakDelay keeps a message that fails at once from coming back thousands of
// times a second.
const minNakDelay = time.Millisecond

// States of a delivery.
const (
	stateOpen uint32 = iota
	stateSettling
	stateSettled
	stateLost // the lease has ended: nothing can be settled any more
)

// delivery is one hand-over. The message is part of it, so that both are one
// allocation.
type delivery struct {
	msg        transport.Message
	raw        *nats.Msg
	lane       *lane
	seq        uint64 // in the stream
	order      uint64 // in the consumer: rises with every delivery
	deliveries uint32 // less those given back uncharged
	recorded   bool   // its return was; whoever settles it owns this
	state      atomic.Uint32
	// leased is when the lease was last known to be renewed, by the receiver's
	// coarse clock: never later than it really was by more than a tick.
	leased  atomic.Int64
	rescued *rescuer // not nil: the server does not redeliver it
	// marker: the server's note that it removed messages, not a message.
	marker bool
	again  bool // it was handed out before
	// parkedAs is how often the message was handed out before this copy of it.
	parkedAs uint32
}

var (
	_ transport.Delivery       = (*delivery)(nil)
	_ transport.PipelinedAcker = (*delivery)(nil)
	_ transport.Rejecter       = (*delivery)(nil)
	_ transport.LeaseExtender  = (*delivery)(nil)
	_ transport.Returner       = (*delivery)(nil)
	_ transport.Recounter      = (*delivery)(nil)
	_ transport.Native         = (*delivery)(nil)
)

// headers of the broker on deliveries.
const (
	msgIDHeader  = "Nats-Msg-Id"
	markerHeader = "Nats-Marker-Reason"
)

// newDelivery makes a delivery of m. A reply subject of unknown form is kept:
// the message is still a message, and can be settled. It has no position and no
// time then, and if it brings no ID one of its own: what is not known must not
// look the same for all.
func newDelivery(l *lane, m *nats.Msg) *delivery {
	d := &delivery{raw: m, lane: l}
	info, err := parseAck(m.Reply)
	if err != nil {
		info = ackInfo{deliveries: 1}
	}
	d.seq, d.order = info.streamSeq, info.consumerSeq
	d.again = info.deliveries > 1
	h := transport.Header(m.Header)
	// Field by field: the rest is zero already, and need not be copied.
	d.msg.Subject, d.msg.Header, d.msg.Body = m.Subject, h, m.Data
	if err == nil {
		d.msg.Time, d.msg.Position = info.time(), info.position()
	}
	if len(h) > 0 {
		d.readHeader(h)
	}
	d.deliveries = d.charge(uint32(info.deliveries))
	if d.msg.ID == "" {
		d.msg.ID = d.msg.Position
	}
	if d.msg.ID == "" {
		d.msg.ID = rand.Text()
	}
	return d
}

// readHeader takes from the headers what has a field of its own. A redriven
// copy shows where its original came from.
func (d *delivery) readHeader(h transport.Header) {
	d.msg.ID = h.Get(wire.ID)
	if d.msg.ID == "" {
		d.msg.ID = h.Get(msgIDHeader)
	}
	d.msg.Key = h.Get(wire.Key)
	d.msg.ContentType = h.Get(wire.ContentType)
	d.msg.Resent = h.Get(wire.Resent) != ""
	d.marker = h.Get(markerHeader) != ""
	if d.lane.park {
		d.unpark(h)
		return
	}
	if !d.lane.redrive {
		return
	}
	if s := h.Get(wire.Subject); s != "" {
		d.msg.Subject = wire.Unescape(s)
	}
	if p := h.Get(wire.Position); p != "" {
		d.msg.Position = wire.Unescape(p)
	}
	if at, err := time.Parse(time.RFC3339Nano, h.Get(wire.Time)); err == nil {
		d.msg.Time = at
	}
}

// Message implements transport.Delivery.
func (d *delivery) Message() *transport.Message { return &d.msg }

// Deliveries implements transport.Delivery.
func (d *delivery) Deliveries() int { return int(d.deliveries) }

// Native implements transport.Native: the *nats.Msg as it was received.
// Settling it past the delivery confuses both.
func (d *delivery) Native() any { return d.raw }

// Ack implements transport.Delivery. It waits for the server's confirmation.
func (d *delivery) Ack(ctx context.Context) error {
	return d.settle("ack", func() error {
		if err := d.confirmed(ctx, "ack", ackBody); err != nil {
			return err
		}
		if !d.lane.park {
			d.lane.acked.add(d.seq)
		}
		return nil
	})
}

// AckLater implements transport.PipelinedAcker.
func (d *delivery) AckLater() error {
	return d.settle("ack", func() error { return d.lane.acks.ack(d) })
}

// Nack implements transport.Delivery. A delay below a millisecond is raised to
// one. A message with a long delay is parked, where that was provisioned for: Nack
// waits until its copy is confirmed. Where it cannot be parked it waits in its
// consumer.
func (d *delivery) Nack(ctx context.Context, delay time.Duration) error {
	return d.settle("nack", func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if d.mayPark(delay) {
			err := d.parkAway(ctx, delay)
			if err == nil || transport.KindOf(err) == transport.Unknown {
				d.lane.r.parkWorks()
				return err
			}
			d.lane.r.parkFailed(err)
		}
		d.lane.nacked.Add(1)
		if d.rescued != nil {
			d.rescued.park(d, max(delay, minNakDelay), int(d.deliveries))
			return nil
		}
		buf := make([]byte, 0, 48)
		buf = append(buf, `-NAK {"delay": `...)
		buf = strconv.AppendInt(buf, int64(max(delay, minNakDelay)), 10)
		return d.lane.r.t.nc().Publish(d.raw.Reply, append(buf, '}'))
	})
}

// Return implements transport.Returner. That it is not counted is remembered in
// the metadata of the durable consumer, which a server before 2.10 does not
// have, a source in ModeVerify does not touch, and an account without the
// permission to update the consumer cannot write: other processes count it then.
func (d *delivery) Return(ctx context.Context) error {
	return d.settle("return", func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if d.rescued != nil {
			d.rescued.park(d, minNakDelay, int(d.deliveries)-1)
			return nil
		}
		if !d.recorded {
			d.recorded = true
			d.lane.recordReturned(ctx, d.seq)
		}
		return d.lane.r.t.nc().Publish(d.raw.Reply, nakBody)
	})
}

// Recount implements transport.Recounter.
func (d *delivery) Recount(ctx context.Context) (int, error) {
	if d.rescued != nil {
		return d.Deliveries(), nil // the server has given it up, and counts no more
	}
	info, err := d.lane.r.t.consumerInfo(ctx, d.lane.stream, d.lane.consumer)
	if err != nil {
		return 0, seamError("recount", d.address(), err, false)
	}
	d.lane.returned.learn(info.Config.Metadata, info.AckFloor.Stream)
	counted, err := parseAck(d.raw.Reply)
	if err != nil {
		return d.Deliveries(), nil
	}
	return int(d.charge(uint32(counted.deliveries))), nil
}

// Reject implements transport.Rejecter: the server forgets the message for this
// consumer and announces it with the reason.
func (d *delivery) Reject(ctx context.Context, reason string) error {
	return d.settle("reject", func() error {
		body := termBody
		if reason != "" && serverAtLeast(d.lane.r.t.nc(), 2, 10, 4) {
			// An older server takes a reason for an unknown word and redelivers.
			body = []byte("+TERM " + reason)
		}
		return d.confirmed(ctx, "reject", body)
	})
}

// ExtendLease implements transport.LeaseExtender.
func (d *delivery) ExtendLease() error {
	if d.state.Load() != stateOpen {
		return d.fault("extend lease", d.over())
	}
	if d.leaseLost() {
		return d.fault("extend lease", transport.ErrLeaseLost)
	}
	if err := d.lane.r.t.nc().Publish(d.raw.Reply, progressBody); err != nil {
		return d.fault("extend lease", err)
	}
	d.leased.Store(d.lane.r.clock.Load())
	return nil
}

// settle runs one settlement. Only a success counts: after a failure the
// delivery can be settled again.
func (d *delivery) settle(op string, do func() error) error {
	if !d.state.CompareAndSwap(stateOpen, stateSettling) {
		return d.fault(op, d.over())
	}
	if d.leaseLost() {
		// Its place is free: the broker has the message again.
		d.state.Store(stateLost)
		d.lane.free()
		return d.fault(op, transport.ErrLeaseLost)
	}
	if err := do(); err != nil {
		d.state.Store(stateOpen)
		return d.fault(op, err)
	}
	d.state.Store(stateSettled)
	d.lane.free()
	return nil
}

// over says why a delivery that is not open cannot be settled.
func (d *delivery) over() error {
	if d.state.Load() == stateLost {
		return transport.ErrLeaseLost
	}
	return transport.ErrSettled
}

// leaseLost tells whether the lease has ended for certain: the coarse clock is
// behind by a tick at most, so a tick is added to the lease.
func (d *delivery) leaseLost() bool {
	r := d.lane.r
	if d.rescued != nil {
		return false // nobody else is handed it
	}
	return r.clock.Load()-d.leased.Load() > int64(r.lease+2*r.tick)
}

// confirmed publishes body to the ack subject and waits for the confirmation.
func (d *delivery) confirmed(ctx context.Context, op string, body []byte) error {
	t := d.lane.r.t
	_, sent, err := t.ask(ctx, &nats.Msg{Subject: d.raw.Reply, Data: body}, apiTimeout)
	return seamError(op, d.address(), err, sent)
}

func (d *delivery) address() string {
	return fmt.Sprintf("%s/%s seq %d", d.lane.stream, d.lane.consumer, d.seq)
}

func (d *delivery) fault(op string, err error) error {
	if err == transport.ErrSettled || err == transport.ErrLeaseLost {
		return &transport.Error{Op: op, Address: d.address(), Kind: transport.Permanent, Err: err}
	}
	return seamError(op, d.address(), d.lane.r.t.sendError(err), false)
}
