package holdfast

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// RemoteError is an error that the other side's handler returned.
type RemoteError struct {
	// Message is the text of the error.
	Message string
	// Code is the application's code, if its error has a method Code() string,
	// or one of the Code constants below; else empty.
	Code string
}

// Error returns the other side's text and code.
func (e *RemoteError) Error() string {
	if e.Code == "" {
		return "remote: " + e.Message
	}
	return "remote: " + e.Message + " (" + e.Code + ")"
}

// Codes of remote errors that holdfast itself gives.
const (
	CodeBadRequest = "bad-request" // the request could not be decoded or was not valid
	CodeInternal   = "internal"    // the handler panicked; its text stays on the other side
)

// Coder is an error with a stable code, which travels with the answer.
type Coder interface{ Code() string }

// Request publishes a request and waits for its answer until ctx ends; without a
// deadline, for DefaultPublishTimeout. An error of the other side's handler is a
// *RemoteError. ErrUnroutable means that nobody listens; ErrUnsupported that the
// broker has no requests.
//
// A request is sent once: whether one that timed out was handled is unknown. At
// and After are refused, as is what the broker cannot do.
func Request[Req, Resp any](ctx context.Context, t transport.Transport, to transport.Address, body Req, opts ...PublishOption) (Resp, error) {
	var answer Resp
	r, ok := t.(transport.Requester)
	if !ok {
		return answer, transport.Unsupported("request", to.String(), "use a broker with requests, such as NATS core")
	}
	o := &outgoing{to: to}
	if err := prepareRequest(t.Capabilities(), o, body, opts); err != nil {
		return answer, err
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultPublishTimeout)
		defer cancel()
	}
	m, err := r.Request(ctx, o.to, &o.m)
	if err != nil {
		return answer, err
	}
	return decodeAnswer[Resp](o, m)
}

// Values of the reply header.
const (
	replyOK    = "ok"
	replyError = "error"
)

// Reply registers a handler that answers requests. An error it returns is carried
// back to the caller as a *RemoteError and is not retried; neither is a request
// that cannot be decoded. A panic is answered with CodeInternal and counted as
// discarded. A message that asks for no answer is discarded. WithCodec is for the
// request and the answer.
func Reply[Req, Resp any](on Registrar, src Source, handler func(ctx context.Context, m *Message[Req]) (Resp, error), opts ...Option) *Subscription {
	var codec Codec
	// The answer to a request that cannot be decoded is made by a middleware
	// nearest to the handler: decoding happens inside of it.
	all := append([]Option{optionFunc(func(s *settings) { s.reply = true }), NoDeadLetter(), NoRetry()}, opts...)
	all = append(all, Use(answerFailures))
	s := Handle(on, src, func(ctx context.Context, m *Message[Req]) error {
		answer, err := handler(ctx, m)
		if err != nil {
			return err
		}
		data, err := codec.Encode(answer)
		if err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
		return respond(ctx, &m.Meta, &transport.Message{Body: data, ContentType: codec.ContentType(), Header: transport.Header{wire.Reply: {replyOK}}})
	}, all...)
	codec = codecFor[Resp](s.settings.codec) // before the subscription can be started
	return s
}

// refusalBudget bounds an answer that tells of a failure: the context of a
// handler that timed out has ended, and its caller waits all the same.
const refusalBudget = 5 * time.Second

// answerFailures answers with the error, whatever it is.
func answerFailures(next HandlerFunc) HandlerFunc {
	return func(ctx context.Context, m *Meta) (err error) {
		r, ok := m.delivery.(transport.Responder)
		if !ok || !r.WantsReply() {
			return Discard(errors.New("the message asks for no answer"))
		}
		returned := false
		defer func() {
			if !returned { // runtime.Goexit: nobody else can answer any more
				_ = refuse(ctx, m, &RemoteError{Message: failedInside, Code: CodeInternal})
			}
		}()
		err = caught(ctx, m, next)
		returned = true
		if err == nil {
			return nil
		}
		refusal := remote(err)
		sent := refuse(ctx, m, refusal)
		if refusal.Code == CodeInternal || sent != nil {
			return Discard(errors.Join(err, sent))
		}
		return nil
	}
}

// failedInside is what a caller learns of a panic: its text may tell too much.
const failedInside = "the handler failed"

// refuse answers with an error.
func refuse(ctx context.Context, m *Meta, e *RemoteError) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refusalBudget)
	defer cancel()
	return respond(ctx, m, &transport.Message{Header: transport.Header{
		wire.Reply: {replyError}, wire.Error: {wire.Escape(e.Message)}, wire.ErrorCode: {wire.Escape(e.Code)},
	}})
}

// caught runs next and turns a panic into an error.
func caught(ctx context.Context, m *Meta, next HandlerFunc) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &recovery.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return next(ctx, m)
}

// remote is what the caller gets to see of an error.
func remote(err error) *RemoteError {
	if _, ok := errors.AsType[*recovery.PanicError](err); ok {
		return &RemoteError{Message: failedInside, Code: CodeInternal}
	}
	e := &RemoteError{Message: err.Error()}
	var coder Coder
	switch class, _ := recovery.Classify(err); {
	case class == recovery.ClassDecode || class == recovery.ClassInvalid:
		e.Code = CodeBadRequest
	case errors.As(err, &coder):
		e.Code = coder.Code()
	}
	return e
}

func respond(ctx context.Context, m *Meta, answer *transport.Message) error {
	r, ok := m.delivery.(transport.Responder)
	if !ok {
		return transport.Unsupported("respond", m.Subject, "")
	}
	answer.ID = m.ID
	if err := r.Respond(ctx, answer); err != nil {
		return fmt.Errorf("answer request %s: %w", m.ID, err)
	}
	return nil
}
