package holdfast

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// Until says when enough answers have come: whichever is reached first ends the
// iteration without an error. The zero value waits for DefaultPublishTimeout.
type Until struct {
	// Count is how many answers are enough. 0: any number.
	Count int
	// Time is how long to wait in all. 0: DefaultPublishTimeout.
	Time time.Duration
	// Stall is how long to wait for another answer once the first one came. 0: no
	// such end.
	Stall time.Duration
}

// RequestMany publishes a request and yields the answers of all who answer, as
// they come, until enough have come. An answer that tells of an error is yielded
// as a *RemoteError, and one that cannot be decoded as an error too; the
// iteration goes on after both. Any other error ends it: ErrUnroutable when
// nobody listens, that of ctx when it ends, ErrUnsupported when the broker cannot.
//
// Those who listen in one queue group answer once between them. A request is sent
// once; an answer that does not come in time is not missed by anybody.
func RequestMany[Req, Resp any](ctx context.Context, t transport.Transport, to transport.Address, body Req, until Until, opts ...PublishOption) iter.Seq2[Resp, error] {
	return func(yield func(Resp, error) bool) {
		var none Resp
		r, ok := t.(transport.ManyRequester)
		if !ok {
			yield(none, transport.Unsupported("request many", to.String(), "use a broker on which many can answer, such as NATS core"))
			return
		}
		o := &outgoing{to: to}
		if err := prepareRequest(t.Capabilities(), o, body, opts); err != nil {
			yield(none, err)
			return
		}
		if until.Time <= 0 {
			until.Time = DefaultPublishTimeout
		}
		for m, err := range until.answers(ctx, r, o) {
			answer := none
			if err == nil {
				answer, err = decodeAnswer[Resp](o, m)
			}
			if !yield(answer, err) {
				return
			}
		}
	}
}

// prepareRequest applies the options, encodes the body and gives it an ID.
func prepareRequest[Req any](can transport.Capabilities, o *outgoing, body Req, opts []PublishOption) error {
	for _, opt := range opts {
		opt.applyMessage(o)
	}
	if err := o.address(); err != nil {
		return err
	}
	if err := o.encode(codecFor[Req](nil), body); err != nil {
		return err
	}
	if !o.m.NotBefore.IsZero() {
		return transport.Invalid("request", o.to.String(), "a request is answered at once: leave At and After out")
	}
	if err := o.refuse(can); err != nil {
		return err
	}
	if o.m.ID == "" {
		o.m.ID = newID()
	}
	return nil
}

// answers yields messages until enough have come.
func (u Until) answers(ctx context.Context, r transport.ManyRequester, o *outgoing) iter.Seq2[*transport.Message, error] {
	return func(yield func(*transport.Message, error) bool) {
		bounded, cancel := context.WithTimeoutCause(ctx, u.Time, errEnough)
		defer cancel()
		stalled, stall := context.WithCancelCause(bounded)
		defer stall(nil)
		var quiet *time.Timer
		n := 0
		for m, err := range r.RequestMany(stalled, o.to, &o.m) {
			if err != nil && errors.Is(context.Cause(stalled), errEnough) && ctx.Err() == nil {
				return
			}
			n++
			if !yield(m, err) || err != nil || n == u.Count {
				return
			}
			if u.Stall <= 0 {
				continue
			}
			if quiet == nil {
				quiet = time.AfterFunc(u.Stall, func() { stall(errEnough) })
				defer quiet.Stop()
			} else {
				quiet.Reset(u.Stall)
			}
		}
	}
}

// errEnough ends the wait for answers without being an error of it.
var errEnough = errors.New("enough answers have come")

// decodeAnswer reads one answer.
func decodeAnswer[Resp any](o *outgoing, m *transport.Message) (answer Resp, err error) {
	if m.Header.Get(wire.Reply) == replyError {
		return answer, &RemoteError{Message: wire.Unescape(m.Header.Get(wire.Error)), Code: wire.Unescape(m.Header.Get(wire.ErrorCode))}
	}
	if err := codecFor[Resp](o.codec).Decode(m.Body, &answer); err != nil {
		return answer, &transport.Error{Op: "request", Address: o.to.String(), Kind: transport.Permanent, Err: fmt.Errorf("decode answer: %w", err)}
	}
	return answer, nil
}
