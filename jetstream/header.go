package jetstream

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// ttlHeader lets the server remove a message when the time has passed.
const ttlHeader = "Nats-TTL"

// brokerHeader tells whether the broker acts upon a header of this name.
func brokerHeader(name string) bool {
	return len(name) >= 5 && strings.EqualFold(name[:5], "Nats-")
}

// ownHeader is one header that is not the user's.
type ownHeader struct {
	name  string
	value [1]string
}

// headers builds the headers of messages, one after the other. What it returns
// is good until the next message: the map and the values are used again. It is
// not safe for concurrent use; the zero value works.
type headers struct {
	h     nats.Header
	own   [9]ownHeader // as many as there can be, those of a batch included
	n     int
	built int  // so many of own are in h as they are named
	mixed bool // h holds others as well
}

// encode returns the headers of m as they travel.
func (e *headers) encode(m *transport.Message) nats.Header {
	e.n = 0
	dedup := m.DedupID
	if dedup == "" {
		dedup = m.ID
	}
	e.put(natsjs.MsgIDHeader, dedup)
	if m.ID != dedup {
		e.put(wire.ID, m.ID)
	}
	e.put(wire.Key, m.Key)
	e.put(wire.ContentType, m.ContentType)
	if m.Resent {
		e.put(wire.Resent, "1")
	}
	if m.TTL > 0 {
		e.put(ttlHeader, ttlValue(m.TTL))
	}
	e.build(m.Header)
	return e.h
}

func (e *headers) put(name, value string) {
	if value == "" {
		return
	}
	own := &e.own[e.n]
	if own.name != name {
		own.name = name
		e.built = min(e.built, e.n)
	}
	own.value[0] = value
	e.n++
}

// build puts the headers into the map. Those of a message like the one before
// are in it already.
func (e *headers) build(user transport.Header) {
	if e.built == e.n && !e.mixed && len(user) == 0 && e.h != nil {
		return
	}
	if e.h == nil {
		e.h = make(nats.Header, len(user)+len(e.own))
	}
	clear(e.h)
	for name, values := range user {
		e.h[name] = values
	}
	for i := range e.own[:e.n] {
		e.h[e.own[i].name] = e.own[i].value[:]
	}
	e.built, e.mixed = e.n, len(user) > 0
}

// set adds a header to what encode has returned.
func (e *headers) set(name, value string) {
	e.put(name, value)
	e.h[name] = e.own[e.n-1].value[:]
	e.mixed = true
}

// check returns an error of op for headers that would not arrive as they are.
// The names of our own need no look.
func (e *headers) check(op, subject string, m *transport.Message) error {
	for i := range e.own[:e.n] {
		if err := natsconn.CheckValue(op, subject, e.own[i].name, e.own[i].value[0]); err != nil {
			return err
		}
	}
	if len(m.Header) == 0 {
		return nil
	}
	return natsconn.CheckMessage(op, subject, m.Header, m.Body)
}

// checkUserHeader refuses the headers that the broker would act upon.
func checkUserHeader(op, subject string, h transport.Header) error {
	for name := range h {
		if brokerHeader(name) {
			return transport.Invalid(op, subject, "the header %q belongs to the broker", name)
		}
	}
	return nil
}

// ttlValue is a time to live as the server reads it: whole seconds, one at
// least. A part of a second is rounded up, so that nothing goes too early.
func ttlValue(ttl time.Duration) string {
	return strconv.FormatInt(int64((ttl-1)/time.Second)+1, 10)
}

// checkAsked refuses what m asks of its broker and the server of nc does not do.
func checkAsked(nc *nats.Conn, op, subject string, m *transport.Message) error {
	if m.TTL == 0 && m.Priority == 0 {
		return nil
	}
	switch {
	case m.Priority != 0:
		return transport.Unsupported(op, subject, "JetStream keeps messages in the order they were stored; give urgent ones a stream or subject of their own")
	case m.TTL < 0:
		return transport.Invalid(op, subject, "the time to live is %s; it is positive, or zero for none", m.TTL)
	case !serverAtLeast(nc, 2, 11, 0):
		return transport.Unsupported(op, subject, "the server "+nc.ConnectedServerVersion()+" would ignore the time to live; it needs nats-server 2.11 or later")
	}
	return nil
}

// headerSize is how many bytes the headers take on the wire.
func headerSize(h nats.Header) int64 {
	if len(h) == 0 {
		return 0
	}
	n := len("NATS/1.0\r\n\r\n")
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(": \r\n") + len(v)
		}
	}
	return int64(n)
}
