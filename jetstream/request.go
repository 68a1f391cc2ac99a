package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// apiTimeout bounds one call of the management API and one settlement.
const apiTimeout = 5 * time.Second

// call is a question whose asker waits for the answer. Calls are reused.
type call struct {
	subject string
	done    chan answer // capacity 1; written by the inbox only
	timer   *time.Timer
}

type answer struct {
	msg *nats.Msg
	err error
}

func (c *call) askedAt() string               { return c.subject }
func (c *call) answer(m *nats.Msg, err error) { c.done <- answer{m, err} }

// calls is shared by all transports: it holds memory, not state.
var calls = sync.Pool{New: func() any {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return &call{done: make(chan answer, 1), timer: timer}
}}

// ask publishes m with a reply subject and waits for the answer until ctx or
// timeout ends. sent tells whether m was handed to the connection: false means
// that nobody can have received it.
func (t *Transport) ask(ctx context.Context, m *nats.Msg, timeout time.Duration) (reply *nats.Msg, sent bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	if err := t.inbox.refused(); err != nil {
		return nil, false, err
	}
	c := calls.Get().(*call)
	c.subject = m.Subject
	token := t.inbox.expect(c)
	m.Reply = t.inbox.reply(token)
	if err := t.nc().PublishMsg(m); err != nil {
		t.abandon(c, token)
		return nil, false, t.sendError(err)
	}
	c.timer.Reset(timeout)
	var a answer
	select {
	case a = <-c.done:
		c.timer.Stop()
		calls.Put(c)
	case <-ctx.Done():
		t.abandon(c, token)
		return nil, true, ctx.Err()
	case <-c.timer.C:
		t.abandon(c, token)
		return nil, true, nats.ErrTimeout
	}
	if a.err != nil {
		// A denied question was not received by anybody.
		return nil, !errors.Is(a.err, transport.ErrPermission), a.err
	}
	if len(a.msg.Data) == 0 && a.msg.Header.Get("Status") == "503" {
		return nil, false, nats.ErrNoResponders
	}
	return a.msg, true, nil
}

// abandon forgets a call. When the answer came in that moment it is taken out,
// so that the call can be used again.
func (t *Transport) abandon(c *call, token uint64) {
	c.timer.Stop()
	if !t.inbox.forget(token) {
		<-c.done
	}
	calls.Put(c)
}

// apiResponse is the part that all answers of the management API share.
type apiResponse struct {
	Error *natsjs.APIError `json:"error,omitempty"`
}

// manage calls one subject of the management API and decodes the answer into
// out. The error is the API's own, or that of the transport below it.
func (t *Transport) manage(ctx context.Context, verb string, in, out any) error {
	var body []byte
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = b
	}
	reply, _, err := t.ask(ctx, &nats.Msg{Subject: t.api + verb, Data: body}, apiTimeout)
	if err != nil {
		return err
	}
	var failed apiResponse
	if err := json.Unmarshal(reply.Data, &failed); err != nil {
		return errBadAnswer
	}
	if failed.Error != nil {
		return failed.Error
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(reply.Data, out)
}

func (t *Transport) streamInfo(ctx context.Context, stream string) (*natsjs.StreamInfo, error) {
	info := &natsjs.StreamInfo{}
	if err := t.manage(ctx, "STREAM.INFO."+stream, nil, info); err != nil {
		return nil, err
	}
	return info, nil
}

func (t *Transport) createStream(ctx context.Context, cfg natsjs.StreamConfig) (*natsjs.StreamInfo, error) {
	info := &natsjs.StreamInfo{}
	if err := t.manage(ctx, "STREAM.CREATE."+cfg.Name, external(cfg), info); err != nil {
		return nil, err
	}
	return info, nil
}

func (t *Transport) updateStream(ctx context.Context, cfg natsjs.StreamConfig) (*natsjs.StreamInfo, error) {
	info := &natsjs.StreamInfo{}
	if err := t.manage(ctx, "STREAM.UPDATE."+cfg.Name, external(cfg), info); err != nil {
		return nil, err
	}
	return info, nil
}

func (t *Transport) consumerInfo(ctx context.Context, stream, consumer string) (*natsjs.ConsumerInfo, error) {
	info := &natsjs.ConsumerInfo{}
	if err := t.manage(ctx, "CONSUMER.INFO."+stream+"."+consumer, nil, info); err != nil {
		return nil, err
	}
	return info, nil
}

// consumerRequest is the body of a consumer creation.
type consumerRequest struct {
	Stream string                 `json:"stream_name"`
	Config *natsjs.ConsumerConfig `json:"config"`
	Action string                 `json:"action,omitempty"`
}

// Actions of a consumer creation; a server before 2.10 ignores them.
const (
	actionCreate = "create"
	actionUpdate = "update"
)

func (t *Transport) putConsumer(ctx context.Context, stream, action string, cfg natsjs.ConsumerConfig) (*natsjs.ConsumerInfo, error) {
	info := &natsjs.ConsumerInfo{}
	in := consumerRequest{Stream: stream, Config: &cfg, Action: action}
	if err := t.manage(ctx, "CONSUMER.CREATE."+stream+"."+cfg.Name, in, info); err != nil {
		return nil, err
	}
	return info, nil
}

func (t *Transport) deleteConsumer(ctx context.Context, stream, consumer string) error {
	return t.manage(ctx, "CONSUMER.DELETE."+stream+"."+consumer, nil, nil)
}

// streamsFor returns the names of the streams that take the subject or a part
// of it.
func (t *Transport) streamsFor(ctx context.Context, subject string) ([]string, error) {
	in := struct {
		Subject string `json:"subject"`
	}{subject}
	var out struct {
		Streams []string `json:"streams"`
	}
	err := t.manage(ctx, "STREAM.NAMES", in, &out)
	return out.Streams, err
}

// accountInfo is what is used of an account: whether it has JetStream, and the
// API level of the server, 0 before 2.11.
type accountInfo struct {
	API struct {
		Level int `json:"level"`
	} `json:"api"`
}

func (t *Transport) accountInfo(ctx context.Context) (*accountInfo, error) {
	info := &accountInfo{}
	if err := t.manage(ctx, "INFO", nil, info); err != nil {
		return nil, err
	}
	return info, nil
}
