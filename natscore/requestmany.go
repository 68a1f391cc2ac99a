package natscore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// RequestMany implements transport.ManyRequester. No answer is dropped in silence:
// they are kept until they are taken, up to DefaultPendingBytes. When more come than
// that, the answers end with an error. A connection that is lost meanwhile costs
// answers that came then, which nobody can tell.
func (t *Transport) RequestMany(ctx context.Context, to transport.Address, m *transport.Message) iter.Seq2[*transport.Message, error] {
	return func(yield func(*transport.Message, error) bool) {
		in, guarded, stop, err := t.askMany(ctx, to, m)
		if err != nil {
			yield(nil, err)
			return
		}
		defer stop()
		msg := &nats.Msg{Subject: to.Name}
		for {
			reply, err := in.next(guarded)
			if err == nil && reply.Header.Get(wire.Reply) == declined {
				continue // one of those who listen has no time; others may
			}
			if err == nil && len(reply.Data) == 0 && reply.Header.Get("Status") == "503" {
				err = nats.ErrNoResponders
			}
			if err == nil {
				err = t.refuseConfirmation(ctx, to.Name, reply)
			} else if errors.Is(err, errManyAnswers) {
				err = &transport.Error{
					Op: "request", Address: to.Name, Kind: transport.Temporary, Err: err,
					Hint: fmt.Sprintf("%d bytes are kept: take answers as fast as they come, or ask fewer who answer less", DefaultPendingBytes),
				}
			} else {
				err = t.requestError(ctx, guarded, msg, err)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(decode(reply), nil) {
				return
			}
		}
	}
}

// answers holds what came and was not taken yet.
type answers struct {
	mu    sync.Mutex // guards msgs, bytes and over; a leaf
	msgs  []*nats.Msg
	bytes int
	over  bool          // there was no room for one
	more  chan struct{} // capacity 1: look at msgs
}

// errManyAnswers ends the answers to a request of which more came than are kept.
var errManyAnswers = errors.New("more answers came than are kept until they are taken, and some were dropped")

// put is called by the client library.
func (a *answers) put(m *nats.Msg) {
	a.mu.Lock()
	if size := m.Size(); a.over || a.bytes+size > DefaultPendingBytes && a.bytes > 0 {
		a.over = true
	} else {
		a.msgs, a.bytes = append(a.msgs, m), a.bytes+size
	}
	a.mu.Unlock()
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// take returns the oldest answer, or nil. What came before one was dropped is
// handed out first.
func (a *answers) take() (*nats.Msg, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.msgs) == 0 {
		if a.over {
			return nil, errManyAnswers
		}
		return nil, nil
	}
	m := a.msgs[0]
	a.msgs[0] = nil
	a.msgs, a.bytes = a.msgs[1:], a.bytes-m.Size()
	return m, nil
}

func (a *answers) next(ctx context.Context) (*nats.Msg, error) {
	for {
		if m, err := a.take(); m != nil || err != nil {
			return m, err
		}
		select {
		case <-a.more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// askMany sends the request. What it returns is to be stopped.
func (t *Transport) askMany(ctx context.Context, to transport.Address, m *transport.Message) (in *answers, guarded context.Context, stop func(), err error) {
	msg, err := encode("request", to, m)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := t.ready(ctx, "request", to.Name); err != nil {
		return nil, nil, nil, err
	}
	nc := t.conn.NATS()
	msg.Reply = nc.NewInbox()
	guarded, unguard := t.conn.Guard(ctx, to.Name)
	in = &answers{more: make(chan struct{}, 1)}
	sub, err := nc.Subscribe(msg.Reply, in.put)
	if err != nil {
		unguard()
		return nil, nil, nil, t.writeError("request", msg, err)
	}
	stop = func() {
		_ = sub.Unsubscribe() // fails when the connection is gone
		unguard()
	}
	err = sub.SetPendingLimits(-1, -1)
	if err == nil {
		err = nc.PublishMsg(msg)
	}
	if err != nil {
		stop()
		return nil, nil, nil, t.writeError("request", msg, err)
	}
	return in, guarded, stop, nil
}
