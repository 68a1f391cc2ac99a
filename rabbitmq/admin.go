package rabbitmq

import (
	"context"
	"regexp"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// admin is a connection for declarations and for looking at dead letters. It is
// made when it is needed: an exception there, or a call that hangs, costs nobody
// else a channel or a connection.
type admin struct {
	s  *session
	ch *amqp.Channel
}

// admin runs do with a connection of its own, which is cut when ctx ends.
func (t *Transport) admin(ctx context.Context, op, address string, do func(*admin) error) error {
	if err := t.refuse(op, address); err != nil {
		return err
	}
	s, err := t.dial(ctx, "admin")
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, s.pipe.cut)
	// Nothing is read from these, and the client library must not wait for us.
	go func() { // ends with the connection
		for range s.blocks {
		}
	}()
	err = do(&admin{s: s})
	if !stop() && err != nil {
		err = context.Cause(ctx)
	}
	s.end(time.Now().Add(closing))
	return seamError(op, address, err, false)
}

// do runs a call on the current channel. An exception ends that channel, and the
// next call gets another.
func (a *admin) do(call func(*amqp.Channel) error) error {
	if a.ch == nil || a.ch.IsClosed() {
		ch, err := a.s.conn.Channel()
		if err != nil {
			return err
		}
		a.ch = ch
	}
	return call(a.ch)
}

// inspect looks at a queue without declaring it.
func (a *admin) inspect(name string) (q amqp.Queue, err error) {
	err = a.do(func(ch *amqp.Channel) error {
		q, err = ch.QueueDeclarePassive(name, true, false, false, false, nil)
		return err
	})
	return q, err
}

func (a *admin) declare(q queue) error {
	return a.do(func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(q.name, true, false, false, false, q.args)
		return err
	})
}

func (a *admin) inspectExchange(e ExchangeConfig) error {
	return a.do(func(ch *amqp.Channel) error {
		kind := e.Kind
		if kind == "" {
			kind = amqp.ExchangeDirect // not looked at
		}
		return ch.ExchangeDeclarePassive(e.Name, kind, true, false, false, false, nil)
	})
}

func (a *admin) declareExchange(e ExchangeConfig) error {
	return a.do(func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare(e.Name, e.Kind, !e.Transient, e.AutoDelete, e.Internal, false, e.declared())
	})
}

// absent tells whether the broker said that something is not there, rather than
// out of reach.
func absent(err error) bool {
	said, ok := exception(err)
	return ok && said.Code == amqp.NotFound && !strings.Contains(said.Reason, "inaccessible")
}

// inequivalent is how the broker tells a difference.
var inequivalent = regexp.MustCompile(`inequivalent arg '([^']+)' for .*: received (.+) but current is (.+)$`)

// difference returns what the broker said about a declaration that does not match
// what is there: one line, for it tells one difference at a time.
func difference(err error) (line string, differs bool) {
	said, ok := exception(err)
	if !ok || said.Code != amqp.PreconditionFailed && said.Code != amqp.ResourceLocked {
		return "", false
	}
	found := inequivalent.FindStringSubmatch(said.Reason)
	if found == nil {
		return said.Reason, true
	}
	return found[1] + ": want " + bare(found[2]) + ", have " + bare(found[3]), true
}

// bare shortens "the value '1000' of type 'long'" to "1000".
func bare(s string) string {
	s = strings.TrimPrefix(s, "the value ")
	if at := strings.Index(s, " of type "); at >= 0 {
		s = s[:at]
	}
	return strings.Trim(s, "'")
}
