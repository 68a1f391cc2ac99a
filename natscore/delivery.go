package natscore

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// delivery is a message of NATS core. There is nothing to settle: the server
// forgot the message when it sent it.
type delivery struct {
	r       *receiver
	native  *nats.Msg
	message transport.Message
	settled atomic.Bool
	since   time.Time // of a request to an endpoint of a service
}

func newDelivery(r *receiver, m *nats.Msg) *delivery {
	d := &delivery{r: r, native: m}
	fill(&d.message, m)
	if r.endpoint != nil {
		d.since = time.Now()
	}
	return d
}

// decode returns a message of the wire.
func decode(m *nats.Msg) *transport.Message {
	out := new(transport.Message)
	fill(out, m)
	return out
}

// fill reads a message of the wire. Its headers are shared, not copied. The
// subject is that of the wire: what an account may publish to is decided by it,
// and a header that names another one can be forged.
func fill(out *transport.Message, m *nats.Msg) {
	h := transport.Header(m.Header)
	out.ID = firstOf(h.Get(wire.ID), h.Get(nats.MsgIdHdr))
	if out.ID == "" {
		// Nothing tells one message from another here, and none comes twice.
		out.ID = rand.Text()
	}
	out.Subject = m.Subject
	out.Key = h.Get(wire.Key)
	out.ContentType = h.Get(wire.ContentType)
	out.Resent = h.Get(wire.Resent) != ""
	out.Header = h
	out.Body = m.Data
}

// Message implements transport.Delivery.
func (d *delivery) Message() *transport.Message { return &d.message }

// Deliveries implements transport.Delivery: a message is handed out once.
func (d *delivery) Deliveries() int { return 1 }

// Ack implements transport.Delivery. It sends nothing.
func (d *delivery) Ack(context.Context) error {
	if d.settled.Swap(true) {
		return &transport.Error{Op: "ack", Address: d.native.Subject, Kind: transport.Permanent, Err: transport.ErrSettled}
	}
	return nil
}

// Nack implements transport.Delivery: it is not supported, and sends nothing.
func (d *delivery) Nack(context.Context, time.Duration) error {
	return transport.Unsupported("nack", d.native.Subject, "NATS core hands out a message once and never again; take it from a stream with jetstream.Consumer")
}

// Native implements transport.Native with a *nats.Msg. Do not settle or answer
// it: when a stream captures its subject, its reply subject belongs to the
// publisher's confirmation.
func (d *delivery) Native() any { return d.native }

// WantsReply implements transport.Responder.
func (d *delivery) WantsReply() bool { return d.native.Reply != "" }

// Respond implements transport.Responder. Nil means that the server has taken
// the answer.
func (d *delivery) Respond(ctx context.Context, m *transport.Message) error {
	if d.native.Reply == "" {
		return transport.Unsupported("respond", d.native.Subject, "the message is not a request: nobody waits for an answer")
	}
	msg, err := encode("respond", transport.Address{Name: d.native.Reply}, m)
	if err != nil {
		return err
	}
	if d.r.endpoint == nil {
		return d.r.t.send(ctx, "respond", msg)
	}
	text, code, failed := failureOf(m)
	if failed {
		mark(msg, text, code)
	}
	d.r.endpoint.answered(time.Since(d.since), text, failed)
	return d.r.t.send(ctx, "respond", msg)
}
