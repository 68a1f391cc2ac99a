package natscore

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

var _ transport.Permitted = (*source)(nil)

// Permissions implements transport.Permitted. The question for streams that
// capture the subject is among them: without it a check cannot tell.
func (s *source) Permissions(_ context.Context, want transport.Want) transport.Permissions {
	return transport.Permissions{
		Publish:   []string{streamNames},
		Subscribe: append(s.listens(), s.t.inboxes()),
		Respond:   want.Reply,
	}
}

// inboxes is what answers come to.
func (t *Transport) inboxes() string {
	if prefix := t.Conn().Opts.InboxPrefix; prefix != "" {
		return prefix + ".>"
	}
	return nats.InboxPrefix + ">"
}

// listens are the subjects that are subscribed to.
func (s *source) listens() []string {
	out := []string{s.cfg.Subject}
	if s.cfg.Service != nil {
		out = append(out, s.cfg.Service.listens()...)
	}
	return out
}

// mayListen checks that the subjects may be subscribed to. It subscribes outside
// of the group, so that no message is taken from anybody.
func (s *source) mayListen(ctx context.Context, want transport.Want) []transport.Finding {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var out []transport.Finding
	for _, subject := range s.listens() {
		if s.t.mayListen(ctx, subject) {
			continue
		}
		f := transport.Finding{
			Code: transport.CodePermission, Level: transport.LevelError, Subscription: want.Subscription,
			Fact: fmt.Sprintf("cannot take messages: the account may not subscribe to %q", subject),
			Fix:  "grant the account this permission",
		}
		if s.cfg.Group != "" {
			f.Level = transport.LevelWarning
			f.Fact += fmt.Sprintf(", unless it may in the group %s and in no other way, which cannot be tried without taking a message", s.cfg.Group)
		}
		out = append(out, f)
	}
	return out
}

// mayListen tells whether the server does not refuse a subscription for certain.
// The end of the subscription is sent behind its begin, before any answer: while
// it is there, requests have a listener that answers none.
func (t *Transport) mayListen(ctx context.Context, subject string) bool {
	mark := t.conn.Mark()
	sub, err := t.Conn().Subscribe(subject, func(*nats.Msg) {})
	if err != nil {
		return true // the connection is lost, which other questions tell
	}
	_ = sub.Unsubscribe() // fails when the connection is gone
	return t.conn.Flush(ctx) != nil || t.conn.DeniedSince(mark, "check", natsconn.Subscribe, subject) == nil
}
