package natscore

import (
	"context"
	"iter"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// RequestMany implements transport.ManyRequester. No answer is dropped: they are
// kept until they are taken. A connection that is lost meanwhile costs answers
// that came then, which nobody can tell.
func (t *Transport) RequestMany(ctx context.Context, to transport.Address, m *transport.Message) iter.Seq2[*transport.Message, error] {
	return func(yield func(*transport.Message, error) bool) {
		sub, guarded, stop, err := t.askMany(ctx, to, m)
		if err != nil {
			yield(nil, err)
			return
		}
		defer stop()
		msg := &nats.Msg{Subject: to.Name}
		for {
			reply, err := sub.NextMsgWithContext(guarded)
			if err == nil && len(reply.Data) == 0 && reply.Header.Get("Status") == "503" {
				err = nats.ErrNoResponders
			}
			if err == nil {
				err = t.refuseConfirmation(ctx, to.Name, reply)
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

// askMany sends the request. What it returns is to be stopped.
func (t *Transport) askMany(ctx context.Context, to transport.Address, m *transport.Message) (sub *nats.Subscription, guarded context.Context, stop func(), err error) {
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
	sub, err = nc.SubscribeSync(msg.Reply)
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
	return sub, guarded, stop, nil
}
