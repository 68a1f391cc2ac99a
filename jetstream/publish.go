package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// Publish implements transport.Transport: it returns nil only after the stream
// has confirmed that it stored m, or that it holds m already under the same
// DedupID. A subject no stream takes is ErrUnroutable, a stream that is full is
// ErrFull, and one with too much under way ErrBusy.
//
// A message with a TTL needs nats-server 2.11 or later and a stream with
// allow_msg_ttl, as Provision makes them. The server counts in whole seconds,
// and keeps a message longer where the stream's subject_delete_marker_ttl is
// longer. One with a NotBefore needs nats-server 2.12 or later and a stream that
// keeps messages for later, see EnableSchedules; until it is due it can be taken
// back with CancelScheduled, and publishing it again under its ID replaces it.
// Priority is refused with ErrUnsupported.
func (t *Transport) Publish(ctx context.Context, to transport.Address, m *transport.Message) error {
	if to.Key != "" {
		return transport.Invalid("publish", to.String(), "NATS has no routing key; the address is the subject alone")
	}
	if err := natsconn.CheckSubject("publish", to.Name); err != nil {
		return err
	}
	if err := checkUserHeader("publish", to.Name, m.Header); err != nil {
		return err
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
	Batch     string           `json:"batch,omitempty"`
	Count     int              `json:"count,omitempty"`
}

// store publishes m and waits for the confirmation. extra are headers of the
// broker, such as an expectation. The confirmation is returned only where it
// says more than "stored".
func (t *Transport) store(ctx context.Context, op, subject string, m *transport.Message, extra nats.Header) (*pubAck, error) {
	if !m.NotBefore.IsZero() {
		var err error
		if subject, m, err = t.scheduled(ctx, op, subject, m); err != nil {
			return nil, err
		}
	}
	if err := checkAsked(t.nc(), op, subject, m); err != nil {
		return nil, err
	}
	var own headers
	header := own.encode(m)
	if err := own.check(op, subject, m); err != nil {
		return nil, err
	}
	maps.Copy(header, extra)
	return t.confirm(ctx, op, &nats.Msg{Subject: subject, Header: header, Data: m.Body})
}

// confirm publishes msg as it is and waits for the confirmation of a stream.
func (t *Transport) confirm(ctx context.Context, op string, msg *nats.Msg) (*pubAck, error) {
	subject := msg.Subject
	if limit, size := t.nc().MaxPayload(), int64(len(msg.Data))+headerSize(msg.Header); limit > 0 && size > limit {
		return nil, tooLarge(op, subject, size, limit)
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

func tooLarge(op, subject string, size, limit int64) error {
	return &transport.Error{
		Op: op, Address: subject, Kind: transport.Permanent, Err: transport.ErrTooLarge,
		Hint: fmt.Sprintf("body and headers are %d bytes, the server takes %d (max_payload)", size, limit),
	}
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
		return unroutable(op, subject, err)
	}
	return seamError(op, subject, err, sent)
}

// unroutable is Temporary, because it is also what a publisher sees while a
// leader is elected or a stream is made.
func unroutable(op, subject string, err error) error {
	return &transport.Error{
		Op: op, Address: subject, Kind: transport.Temporary,
		Err:  fmt.Errorf("%w: %w", transport.ErrUnroutable, err),
		Hint: "no stream takes this subject: create one, or add the subject to an existing one",
	}
}

// parsePubAck reads a confirmation. The ordinary one is recognised by its form;
// one of another form is decoded and returned.
func parsePubAck(data []byte) (*pubAck, error) {
	if bareAck(data) {
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

// bareAck tells whether a confirmation says stream, domain and sequence and
// nothing else.
func bareAck(data []byte) bool {
	rest, ok := cutField(data, `{"stream":"`)
	if !ok {
		return false
	}
	if after, ok := cutField(rest, `"domain":"`); ok {
		rest = after
	}
	rest, ok = bytes.CutPrefix(rest, []byte(`"seq":`))
	if !ok || len(rest) < 2 || rest[len(rest)-1] != '}' {
		return false
	}
	for _, c := range rest[:len(rest)-1] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// cutField removes a field with a text, which begins so, and what separates it
// from the next.
func cutField(data []byte, begin string) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(data, []byte(begin))
	end := bytes.IndexByte(rest, '"')
	if !ok || end < 0 {
		return data, false
	}
	return bytes.TrimLeft(rest[end+1:], ", "), true
}
