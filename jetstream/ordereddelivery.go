package jetstream

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// orderedDelivery is one message of an ordered source. There is no ack for the
// server: settling it makes room for another.
type orderedDelivery struct {
	d          *delivery
	r          *orderedRow
	deliveries int
	due        time.Time
	state      atomic.Uint32
}

var (
	_ transport.Delivery = (*orderedDelivery)(nil)
	_ transport.Returner = (*orderedDelivery)(nil)
	_ transport.Native   = (*orderedDelivery)(nil)
)

// Message implements transport.Delivery.
func (o *orderedDelivery) Message() *transport.Message { return &o.d.msg }

// Deliveries implements transport.Delivery: how often this receiver handed it out.
func (o *orderedDelivery) Deliveries() int { return o.deliveries }

// Native implements transport.Native: the *nats.Msg.
func (o *orderedDelivery) Native() any { return o.d.raw }

// Ack implements transport.Delivery.
func (o *orderedDelivery) Ack(context.Context) error {
	if err := o.settle("ack"); err != nil {
		return err
	}
	o.r.inUse.Add(-1)
	signal(o.r.freed)
	return nil
}

// Nack implements transport.Delivery: the message is handed out again by this
// receiver, before anything later.
func (o *orderedDelivery) Nack(_ context.Context, delay time.Duration) error {
	return o.again("nack", max(delay, minNakDelay), 1)
}

// Return implements transport.Returner.
func (o *orderedDelivery) Return(context.Context) error { return o.again("return", 0, 0) }

func (o *orderedDelivery) again(op string, delay time.Duration, counted int) error {
	if err := o.settle(op); err != nil {
		return err
	}
	o.r.giveBack(&orderedDelivery{d: o.d, r: o.r, deliveries: o.deliveries + counted, due: time.Now().Add(delay)})
	return nil
}

func (o *orderedDelivery) settle(op string) error {
	if !o.state.CompareAndSwap(stateOpen, stateSettled) {
		return &transport.Error{Op: op, Address: fmt.Sprintf("%s seq %d", o.r.address, o.d.seq), Kind: transport.Permanent, Err: transport.ErrSettled}
	}
	return nil
}
