package natscore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// Publish implements transport.Transport. Nil means that the server has taken
// the message, and says nothing about who listens: NATS core stores nothing,
// and a message without a listener is gone.
//
// NotBefore, TTL and Priority are refused with ErrUnsupported.
//
// It costs a round trip, which calls at the same time share. While the
// connection is down it fails at once as Temporary. When the connection is lost
// between sending and the server's answer the outcome is Unknown. A refused
// permission is ErrPermission.
func (t *Transport) Publish(ctx context.Context, to transport.Address, m *transport.Message) error {
	msg, err := encode("publish", to, m)
	if err != nil {
		return err
	}
	return t.send(ctx, "publish", msg)
}

// send writes msg and waits until the server has parsed it.
func (t *Transport) send(ctx context.Context, op string, msg *nats.Msg) error {
	if err := t.ready(ctx, op, msg.Subject); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	mark, epoch := t.conn.Mark(), t.conn.Epoch()
	if err := t.conn.NATS().PublishMsg(msg); err != nil {
		return t.writeError(op, msg, err)
	}
	if err := t.conn.Flush(ctx); err != nil {
		return unknown(op, msg.Subject, err)
	}
	if err := t.conn.DeniedSince(mark, op, natsconn.Publish, msg.Subject); err != nil {
		return err
	}
	if t.conn.Epoch() != epoch {
		return unknown(op, msg.Subject, nats.ErrDisconnected)
	}
	return nil
}

// encode returns the message as it goes over the wire. The caller's message is
// not changed.
func encode(op string, to transport.Address, m *transport.Message) (*nats.Msg, error) {
	if to.Key != "" {
		return nil, transport.Invalid(op, to.String(), "a routing key is for RabbitMQ; write the subject as the name")
	}
	if err := natsconn.CheckSubject(op, to.Name); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, transport.Invalid(op, to.Name, "there is no message")
	}
	if err := plain(op, to.Name, m); err != nil {
		return nil, err
	}
	h := headers(m)
	if err := natsconn.CheckMessage(op, to.Name, h, m.Body); err != nil {
		return nil, err
	}
	for name := range m.Header {
		if name != nats.MsgIdHdr && serverOwned(name) {
			return nil, transport.Invalid(op, to.Name, "the header %q is an instruction to a NATS server", name)
		}
	}
	return &nats.Msg{Subject: to.Name, Header: nats.Header(h), Data: m.Body}, nil
}

// plain refuses what only a broker that stores can do for a message. A stream
// that captures the subject would not do it either.
func plain(op, subject string, m *transport.Message) error {
	switch {
	case !m.NotBefore.IsZero():
		return transport.Unsupported(op, subject, "NATS core keeps nothing back; publish when it is due")
	case m.TTL != 0:
		return transport.Unsupported(op, subject, "NATS core keeps nothing that could expire; publish to a stream with package jetstream")
	case m.Priority != 0:
		return transport.Unsupported(op, subject, "NATS core delivers in the order of publishing; give urgent messages a subject of their own")
	}
	return nil
}

// serverOwned tells whether a header is an instruction to the server: an
// expectation, a rollup of a stream that captures the subject.
func serverOwned(name string) bool {
	const prefix = "Nats-"
	return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

// headers returns the headers of the wire: those of the message, and its
// identity. The identity in the fields of a message wins over the headers it
// came with.
//
// The ID goes where a stream that captures the subject looks for duplicates,
// unless a deduplication key takes that place.
func headers(m *transport.Message) transport.Header {
	h := make(transport.Header, len(m.Header)+5)
	for name, values := range m.Header {
		if name != nats.MsgIdHdr && name != wire.ID && name != wire.Resent {
			h[name] = values
		}
	}
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set(nats.MsgIdHdr, m.ID)
	if m.DedupID != "" && m.DedupID != m.ID {
		set(nats.MsgIdHdr, m.DedupID)
		set(wire.ID, m.ID)
	}
	set(wire.Key, m.Key)
	set(wire.ContentType, m.ContentType)
	if m.Resent {
		h.Set(wire.Resent, "1")
	}
	return h
}

// writeError classifies what the client library says before anything was sent.
func (t *Transport) writeError(op string, msg *nats.Msg, err error) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return &transport.Error{
			Op: op, Address: msg.Subject, Kind: transport.Permanent,
			Hint: "send less, or raise max_payload in the server's configuration",
			Err:  fmt.Errorf("%w: %d bytes with headers, and the server takes %d", transport.ErrTooLarge, msg.Size()-len(msg.Subject)-len(msg.Reply), t.conn.NATS().MaxPayload()),
		}
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, nats.ErrDisconnected):
		return t.downError(op, msg.Subject)
	case errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg), errors.Is(err, nats.ErrHeadersNotSupported):
		return transport.Invalid(op, msg.Subject, "%v", err)
	default:
		return unknown(op, msg.Subject, err)
	}
}

func unknown(op, address string, err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) {
		// The client library ends a flush with this error whenever the
		// connection is lost, restored or not.
		err = nats.ErrDisconnected
	}
	return &transport.Error{Op: op, Address: address, Kind: transport.Unknown, Err: err}
}
