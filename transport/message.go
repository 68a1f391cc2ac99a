package transport

import (
	"slices"
	"time"
)

// Header holds the headers of a message: names to values, in the order they
// were sent. Names are compared exactly, as NATS and AMQP do. A nil Header is
// an empty one that can be read.
type Header map[string][]string

// Get returns the first value of name, or "" when there is none.
func (h Header) Get(name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Set replaces every value of name by value.
func (h Header) Set(name, value string) { h[name] = []string{value} }

// Add appends value to the values of name.
func (h Header) Add(name, value string) { h[name] = append(h[name], value) }

// Del removes every value of name.
func (h Header) Del(name string) { delete(h, name) }

// Clone returns a deep copy; the clone of a nil Header is an empty one that can
// be written.
func (h Header) Clone() Header {
	c := make(Header, len(h))
	for name, values := range h {
		c[name] = slices.Clone(values)
	}
	return c
}

// Message is a message on its way to or from a broker.
//
// A received message is shared by everything that looks at it: treat it, its
// Header and its Body as read only.
type Message struct {
	// ID names the logical message: it stays the same through redelivery,
	// retry, burial and redrive. On a received message it is never empty: a
	// transport derives a stable one from Position when the sender gave none.
	ID string

	// DedupID is the key under which the broker may suppress a second copy of
	// this leg (the first send, a dead letter, a redrive). Empty means ID. It
	// is used when publishing only.
	DedupID string

	// Subject is the address the message was published to: the NATS subject or
	// the routing key. A redriven message shows its original one. It is set on
	// received messages only.
	Subject string

	// Key orders messages: those with one key belong in sequence. May be empty.
	Key string

	// ContentType is the media type of Body. May be empty.
	ContentType string

	// Header holds everything else that travels with the message. On a received
	// message it is what the wire carried, names of the broker and of holdfast
	// included.
	Header Header

	// Body is the payload. Empty and nil are the same.
	Body []byte

	// Time is when the broker stored the message; zero when it does not say.
	Time time.Time

	// Resent: an earlier copy of this very publish may have been stored, its
	// outcome was never known. On a received message it is what the sender said.
	Resent bool

	// NotBefore keeps the message back until then, where Capabilities.Schedules.
	// Zero means at once. It is used when publishing only.
	NotBefore time.Time

	// TTL lets the broker drop the message when nobody took it for so long,
	// where Capabilities.Expires. Zero means never. It is used when publishing
	// only.
	TTL time.Duration

	// Priority puts the message before those of a lower one, where
	// Capabilities.Priorities. It is used when publishing only.
	Priority uint8

	// Position names the stored copy this delivery came from, unique for ever
	// among all copies its broker stored (a stream and sequence with the time
	// of storage, say). It tells two messages apart that were given one ID.
	// Empty when the broker has no such thing. It is set on received messages
	// only.
	Position string
}

// Address is where a message is published to.
type Address struct {
	// Name is the subject on NATS and in memory, the exchange on RabbitMQ.
	Name string
	// Key is the routing key on RabbitMQ, and must be empty elsewhere.
	Key string
}

// String returns the address as a person would write it.
func (a Address) String() string {
	if a.Key == "" {
		return a.Name
	}
	return a.Name + "/" + a.Key
}

// Envelope is a body of which a part comes from the message around the bytes,
// such as a revision of a key in a bucket, where a deletion has no value. It is
// implemented by a pointer to the body.
type Envelope interface {
	// Fill takes what the message says. decode tells whether there are bytes to
	// decode into Body. An error means that the message cannot be decoded.
	Fill(m *Message) (decode bool, err error)
	// Body returns a pointer to where the bytes are decoded to. It decides over
	// the codec that is taken by default.
	Body() any
}
