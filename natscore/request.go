package natscore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// Request implements transport.Requester. The answer is returned as it came: an
// error that a handler sent back is in its headers. It is ErrUnroutable when
// nobody listens, which is known at once, and when a stream that captures the
// subject answered in place of a handler.
func (t *Transport) Request(ctx context.Context, to transport.Address, m *transport.Message) (*transport.Message, error) {
	msg, err := encode("request", to, m)
	if err != nil {
		return nil, err
	}
	if err := t.ready(ctx, "request", to.Name); err != nil {
		return nil, err
	}
	guarded, stop := t.conn.Guard(ctx, to.Name)
	defer stop()
	reply, err := t.conn.NATS().RequestMsgWithContext(guarded, msg)
	if err != nil {
		return nil, t.requestError(ctx, guarded, msg, err)
	}
	if err := t.refuseConfirmation(ctx, to.Name, reply); err != nil {
		return nil, err
	}
	return decode(reply), nil
}

func (t *Transport) requestError(ctx, guarded context.Context, msg *nats.Msg, err error) error {
	denied, _ := errors.AsType[*transport.Error](context.Cause(guarded))
	switch {
	case denied != nil && ctx.Err() == nil:
		return denied
	case errors.Is(err, nats.ErrNoResponders):
		return &transport.Error{
			Op: "request", Address: msg.Subject, Kind: transport.Temporary, Err: transport.ErrUnroutable,
			Hint: "nobody listens to this subject: start the service that answers, or correct the subject",
		}
	case ctx.Err() != nil:
		return &transport.Error{
			Op: "request", Address: msg.Subject, Kind: transport.Unknown, Err: ctx.Err(),
			Hint: "somebody listens, and no answer came in time",
		}
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionClosed):
		return unknown("request", msg.Subject, err)
	default:
		return t.writeError("request", msg, err)
	}
}

// refuseConfirmation returns an error when the answer is not that of a handler
// but the confirmation of a stream, which stores the request because it
// captures the subject. Whether it does is asked of the server, so that a
// handler whose answers look the same is not mistaken for one.
func (t *Transport) refuseConfirmation(ctx context.Context, subject string, reply *nats.Msg) error {
	stream, ok := confirmation(reply)
	if !ok {
		return nil
	}
	streams, err := t.streams(ctx, subject)
	if err == nil && !slices.Contains(streams, stream) {
		return nil
	}
	return &transport.Error{
		Op: "request", Address: subject, Kind: transport.Permanent,
		Err: fmt.Errorf("%w: the stream %s captures the subject and answered in place of a handler", transport.ErrUnroutable, stream),
		Hint: fmt.Sprintf("the request is stored in %s now; take requests on a subject that no stream captures, or take %s out of the subjects of %s",
			stream, subject, stream),
	}
}

// confirmation returns the stream of a reply that has the shape of a JetStream
// publish confirmation.
func confirmation(reply *nats.Msg) (stream string, ok bool) {
	if len(reply.Header[wire.Reply]) > 0 || !bytes.HasPrefix(reply.Data, []byte("{")) {
		return "", false
	}
	var ack map[string]json.RawMessage
	if json.Unmarshal(reply.Data, &ack) != nil || ack["seq"] == nil {
		return "", false
	}
	for key := range ack {
		if !strings.Contains(" stream seq domain duplicate error batch count val ", " "+key+" ") {
			return "", false
		}
	}
	if json.Unmarshal(ack["stream"], &stream) != nil || stream == "" {
		return "", false
	}
	return stream, true
}
