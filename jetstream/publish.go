package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// Publish implements transport.Transport: it returns nil only after the stream
// has confirmed that it stored m, or that it holds m already under the same
// DedupID. A subject no stream takes is ErrUnroutable.
func (t *Transport) Publish(ctx context.Context, to transport.Address, m *transport.Message) error {
	if to.Key != "" {
		return transport.Invalid("publish", to.String(), "NATS has no routing key; the address is the subject alone")
	}
	if err := natsconn.CheckSubject("publish", to.Name); err != nil {
		return err
	}
	for name := range m.Header {
		if brokerHeader(name) {
			return transport.Invalid("publish", to.Name, "the header %q belongs to the broker", name)
		}
	}
	_, err := t.store(ctx, "publish", to.Name, m, nil)
	return err
}

// pubAck is the confirmation of a publish.
type pubAck struct {
	Error     *natsjs.APIError `json:"error,omitempty"`
	Stream    string           `json:"stream"`
	Sequence  uint64           `json:"seq"`
	Duplicate bool             `json:"duplicate,omitempty"`
}

// store publishes m and waits for the confirmation. extra are headers of the
// broker, such as an expectation. The confirmation is returned only where it
// says more than "stored".
func (t *Transport) store(ctx context.Context, op, subject string, m *transport.Message, extra nats.Header) (*pubAck, error) {
	header := encodeHeader(m, extra)
	if err := natsconn.CheckMessage(op, subject, transport.Header(header), m.Body); err != nil {
		return nil, err
	}
	msg := &nats.Msg{Subject: subject, Header: header, Data: m.Body}
	if limit := t.nc().MaxPayload(); limit > 0 && int64(len(m.Body)) > limit-headerSize(header) {
		return nil, &transport.Error{
			Op: op, Address: subject, Kind: transport.Permanent, Err: transport.ErrTooLarge,
			Hint: fmt.Sprintf("body and headers are %d bytes, the server takes %d (max_payload)", int64(len(m.Body))+headerSize(header), limit),
		}
	}
	if t.isClosed() || !t.nc().IsConnected() {
		return nil, seamError(op, subject, t.notConnected(), false)
	}
	reply, sent, err := t.ask(ctx, msg, t.set.pubTimeout)
	if err != nil {
		return nil, t.publishError(op, subject, err, sent)
	}
	ack, err := parsePubAck(reply.Data)
	return ack, seamError(op, subject, err, true)
}

// notConnected says why nothing can be sent now.
func (t *Transport) notConnected() error {
	if t.isClosed() || t.conn.Lost() {
		return nats.ErrConnectionClosed
	}
	return nats.ErrDisconnected
}

// sendError is the cause when something could not be sent: a connection that is
// closed and will be made anew counts as one that is being restored.
func (t *Transport) sendError(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return t.notConnected()
	}
	return err
}

func (t *Transport) publishError(op, subject string, err error, sent bool) error {
	if errors.Is(err, nats.ErrNoResponders) {
		// Temporary, because it is also what a publisher sees while a leader is
		// elected or a stream is made.
		return &transport.Error{
			Op: op, Address: subject, Kind: transport.Temporary,
			Err:  fmt.Errorf("%w: %w", transport.ErrUnroutable, err),
			Hint: "no stream takes this subject: create one, or add the subject to an existing one",
		}
	}
	return seamError(op, subject, err, sent)
}

// parsePubAck reads a confirmation. The ordinary one is recognised by its form;
// only an unusual one is decoded and returned.
func parsePubAck(data []byte) (*pubAck, error) {
	if bytes.HasPrefix(data, []byte(`{"stream":"`)) && !bytes.Contains(data, []byte(`"error"`)) && !bytes.Contains(data, []byte(`"duplicate"`)) {
		return nil, nil
	}
	ack := &pubAck{}
	if err := json.Unmarshal(data, ack); err != nil || ack.Error == nil && ack.Stream == "" {
		return nil, errBadAnswer
	}
	if ack.Error != nil {
		return nil, ack.Error
	}
	return ack, nil
}

// brokerHeader tells whether the broker acts upon a header of this name.
func brokerHeader(name string) bool {
	return len(name) >= 5 && strings.EqualFold(name[:5], "Nats-")
}

// encodeHeader builds the headers of m as they travel.
func encodeHeader(m *transport.Message, extra nats.Header) nats.Header {
	h := make(nats.Header, len(m.Header)+len(extra)+4)
	for name, values := range m.Header {
		h[name] = values
	}
	for name, values := range extra {
		h[name] = values
	}
	dedup := m.DedupID
	if dedup == "" {
		dedup = m.ID
	}
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{value}
		}
	}
	set(natsjs.MsgIDHeader, dedup)
	if m.ID != dedup {
		set(wire.ID, m.ID)
	}
	set(wire.Key, m.Key)
	set(wire.ContentType, m.ContentType)
	return h
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
