package holdfast

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/holdfast-go/holdfast/internal/engine"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// Message is what a handler gets: a decoded body and what is known of the
// message. It belongs to the handler until it returns.
type Message[T any] struct {
	Meta
	// Body is the decoded body.
	Body T
}

// Meta is what is known of a message besides its body.
type Meta struct {
	// ID names the logical message. It stays the same through redelivery, retry
	// and redrive, so it is the key for idempotent effects. It is never empty.
	ID string
	// Key is the ordering key; may be empty.
	Key string
	// Subject is the address the message was published to.
	Subject string
	// ContentType is the media type of the body; may be empty.
	ContentType string
	// Header holds the headers the sender set.
	Header Header
	// Time is when the broker stored the message; zero if it does not say.
	Time time.Time
	// Attempt is the number of this run of the handler, from 1. It may
	// over-count after a crash and never under-counts.
	Attempt int
	// Deliveries is how often the broker has handed the message out.
	Deliveries int
	// Redrives is how often the message came back from the dead letters.
	Redrives int
	// Subscription is the name of the subscription.
	Subscription string

	delivery transport.Delivery
	manual   *engine.Manual
	self     any // the *Message[T] that this is part of
	outbox   *outbox
	params   transport.Templated // nil where addresses have none
}

// Data returns the undecoded body. Treat it as read only. A Meta that did not
// come from a subscription has none.
func (m *Meta) Data() []byte {
	if m.delivery == nil {
		return nil
	}
	return m.delivery.Message().Body
}

// Param returns what stands for a parameter of the source's address: for the
// address "orders.{region}.{id}" and a message to orders.eu.7, Param("region") is
// "eu". It is empty where there is no such parameter.
func (m *Meta) Param(name string) string {
	if m.params == nil {
		return ""
	}
	value, _ := m.params.Param(m.Subject, name)
	return value
}

// Params returns all parameters of the source's address with what stands for
// them; nil where there are none.
func (m *Meta) Params() map[string]string {
	if m.params == nil {
		return nil
	}
	return m.params.Params(m.Subject)
}

// Raw returns the client library's own message (a *nats.Msg, say), or nil when
// the transport has none. Settling it yourself takes it away from holdfast: do
// that with the ack policy Manual only, and through this Meta if you can.
func (m *Meta) Raw() any {
	if n, ok := m.delivery.(transport.Native); ok {
		return n.Native()
	}
	return nil
}

// Ack settles the message as done; for the ack policy Manual. It waits for the
// broker's confirmation, and before that for what the handler has published: when
// something is not stored, it says so and the message is not acked. It may be
// called after the handler returned.
func (m *Meta) Ack(ctx context.Context) error {
	if m.manual == nil {
		return ErrNotManual
	}
	if m.outbox != nil {
		if err := m.outbox.wait(ctx); err != nil {
			return fmt.Errorf("not acked: %w", err)
		}
	}
	return m.manual.Ack(ctx)
}

// Nack gives the message back, to be handled again not before delay; for the ack
// policy Manual. It counts as a failed attempt: after the last one the message
// becomes a dead letter.
func (m *Meta) Nack(ctx context.Context, delay time.Duration) error {
	if m.manual == nil {
		return ErrNotManual
	}
	return m.manual.Nack(ctx, delay)
}

// Reject settles the message by the broker's own terminal; for the ack policy
// Manual. To dead-letter a message return Permanent instead.
func (m *Meta) Reject(ctx context.Context, reason string) error {
	if m.manual == nil {
		return ErrNotManual
	}
	return m.manual.Reject(ctx, reason)
}

// Header holds the headers a sender set: names to values, in their order. Those
// of the broker and of holdfast are left out. The zero Header is empty.
type Header struct{ h transport.Header }

// Get returns the first value of name, or "". Names are compared exactly.
func (h Header) Get(name string) string {
	if values := h.Values(name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Values returns all values of name. Treat them as read only.
func (h Header) Values(name string) []string {
	if hidden(name) {
		return nil
	}
	if values, ok := h.h[name]; ok {
		return values
	}
	if other, ok := wire.Shield(name); ok {
		return h.h[other]
	}
	return nil
}

// All yields every name with its values, in no particular order.
func (h Header) All() iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		for name, values := range h.h {
			own, shielded := wire.Unshield(name)
			if (shielded || !hidden(name)) && !yield(own, values) {
				return
			}
		}
	}
}

func hidden(name string) bool { return wire.Reserved(name) || name == wire.ContentType }

// fill makes the meta of one attempt.
func (m *Meta) fill(subscription string, a engine.Attempt) {
	t := a.Delivery.Message()
	m.ID, m.Key, m.Subject, m.ContentType, m.Time = t.ID, t.Key, t.Subject, t.ContentType, t.Time
	m.Header = Header{t.Header}
	m.Attempt, m.Deliveries, m.Subscription = a.Number, a.Deliveries, subscription
	if len(t.Header[wire.Redrives]) > 0 {
		m.Redrives = wire.OriginOf(t).Redrives
	}
	m.delivery, m.manual = a.Delivery, a.Manual
}
