package rabbitmq

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// maxShort is how long a name, a routing key or a property may be in AMQP.
const maxShort = 255

// Exchange is the address of an exchange: what is published there goes to the
// queues that are bound for the routing key. With an alternate exchange the
// broker confirms what no queue takes, and does not return it.
func Exchange(name, key string) transport.Address { return transport.Address{Name: name, Key: key} }

// QueueAddress is the address of one queue and no other, through the default
// exchange.
func QueueAddress(name string) transport.Address { return transport.Address{Key: name} }

// Publish implements transport.Transport. The message is persistent and
// mandatory: nil means that the broker has confirmed it and that at least one
// queue took it. While the broker blocks publishers, Publish waits for ctx and
// for the confirm timeout, and then says why.
//
// A TTL counts when the message is the next in its queue. A priority counts in
// classic queues with x-max-priority, and since 4.0 in quorum queues; the broker
// does not say where it has no effect. NotBefore is refused.
func (t *Transport) Publish(ctx context.Context, to transport.Address, m *transport.Message) error {
	if err := checkHeaders("publish", to, m); err != nil {
		return err
	}
	return t.publish(ctx, "publish", to, m, false)
}

// checkHeaders refuses what a publisher may not set.
func checkHeaders(op string, to transport.Address, m *transport.Message) error {
	for name := range m.Header {
		if ownedByBroker(name) {
			return transport.Invalid(op, where(to), "the header %q belongs to the broker", name)
		}
	}
	return nil
}

// ownedByBroker tells whether a header is the broker's own record: some versions
// take what a client sends there for theirs.
func ownedByBroker(name string) bool {
	return wire.BrokerOwned(name) && !strings.EqualFold(name, "x-delay") && len(name) > 1 && (name[0] == 'x' || name[0] == 'X')
}

// publish checks, encodes and publishes m, and waits for the outcome.
func (t *Transport) publish(ctx context.Context, op string, to transport.Address, m *transport.Message, isCopy bool) error {
	if err := t.refuse(op, where(to)); err != nil {
		return err
	}
	if err := checkAddress(op, to); err != nil {
		return err
	}
	id := t.nextCopy()
	msg, err := encode(m, id, isCopy)
	if err != nil {
		return err
	}
	if err := t.checkPublishing(op, to, &msg); err != nil {
		return err
	}
	return t.confirmed(ctx, op, to, id, &msg)
}

// nextCopy names the next stored copy.
func (t *Transport) nextCopy() string {
	var room [32]byte
	return string(strconv.AppendUint(append(room[:0], t.prefix...), t.copies.Add(1), 36))
}

// waiter waits for the outcome of one publish. Waiters are reused.
type waiter struct {
	done  chan error // capacity 1
	timer *time.Timer
	then  func(error) // writes done
}

// waiters is shared by all transports: it holds memory, not state.
var waiters = sync.Pool{New: func() any {
	w := &waiter{done: make(chan error, 1), timer: time.NewTimer(time.Hour)}
	w.timer.Stop()
	w.then = func(err error) { w.done <- err }
	return w
}}

// confirmed publishes msg and waits for the outcome until ctx or the confirm
// timeout ends.
func (t *Transport) confirmed(ctx context.Context, op string, to transport.Address, id string, msg *amqp.Publishing) error {
	if err := ctx.Err(); err != nil {
		return seamError(op, where(to), err, false)
	}
	if !t.publisher.routes.known(to.Name) {
		if done, err := t.publisher.alone(ctx, to, msg); done {
			return renamed(err, op)
		}
	}
	w := waiters.Get().(*waiter)
	w.timer.Reset(t.set.confirm)
	e := &entry{id: id, exchange: to.Name, key: to.Key, quiet: directReply(to), then: w.then}
	if err := t.publisher.send(ctx, w.timer.C, e, msg); err != nil {
		w.timer.Stop()
		waiters.Put(w)
		return seamError(op, where(to), err, false)
	}
	var err error
	select {
	case err = <-w.done:
		w.timer.Stop()
		waiters.Put(w)
		return renamed(err, op)
	case <-ctx.Done():
		err = t.publisher.explain(context.Cause(ctx))
	case <-w.timer.C:
		err = t.publisher.explain(errTimeout)
	}
	w.timer.Stop()
	// The entry waits on; its outcome goes where nobody reads.
	return seamError(op, where(to), err, true)
}

// directReply tells whether an address is that of somebody who waits for a direct
// reply. The broker hands such a message over without a queue, and would return
// it as unroutable all the same.
func directReply(to transport.Address) bool {
	return to.Name == "" && strings.HasPrefix(to.Key, replyQueue+".")
}

// renamed gives the outcome of an entry the name of what was done.
func renamed(err error, op string) error {
	if e, ok := err.(*transport.Error); ok && e != nil {
		e.Op = op
	}
	return err
}

// checkAddress refuses what AMQP has no room for.
func checkAddress(op string, to transport.Address) error {
	switch {
	case to.Name == "" && to.Key == "":
		return transport.Invalid(op, "", "an address needs an exchange or, for the default exchange, the name of a queue")
	case len(to.Name) > maxShort || len(to.Key) > maxShort:
		return transport.Invalid(op, to.Name, "an exchange's name and a routing key have %d bytes at most", maxShort)
	case !validText(to.Name) || !validText(to.Key):
		return transport.Invalid(op, to.Name, "an exchange's name and a routing key are text without control characters")
	}
	return nil
}

func validText(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// checkPublishing refuses what would end the channel or the connection: by then
// other publishes would be lost with it.
func (t *Transport) checkPublishing(op string, to transport.Address, msg *amqp.Publishing) error {
	s, _, _ := t.publishing.session()
	return t.limits(s).check(op, to, msg)
}

// limits is what one message may have, in bytes.
type limits struct {
	body  int
	frame int // as it was agreed with the broker
}

// limits returns those of a connection, or the usual ones where s is nil.
func (t *Transport) limits(s *session) limits {
	l := limits{body: version{}.maxMessageSize(), frame: 128 << 10}
	if s != nil {
		l.body = s.version.maxMessageSize()
		if s.conn.Config.FrameSize > 0 {
			l.frame = s.conn.Config.FrameSize
		}
	}
	if t.set.maxSize > 0 {
		l.body = t.set.maxSize
	}
	return l
}

// check refuses what is beyond the limits.
func (l limits) check(op string, to transport.Address, msg *amqp.Publishing) error {
	if len(msg.Body) > l.body {
		return &transport.Error{
			Op: op, Address: where(to), Kind: transport.Permanent, Err: transport.ErrTooLarge,
			Hint: fmt.Sprintf("the body has %d bytes, and the broker is taken to accept %d: send less, or raise its max_message_size and say so with WithMaxMessageSize", len(msg.Body), l.body),
		}
	}
	for _, p := range [...]string{
		msg.ContentType, msg.ContentEncoding, msg.CorrelationId, msg.ReplyTo, msg.Expiration,
		msg.MessageId, msg.Type, msg.UserId, msg.AppId,
	} {
		if len(p) > maxShort {
			return transport.Invalid(op, where(to), "a property of the message has %d bytes, and AMQP takes %d", len(p), maxShort)
		}
	}
	if msg.Expiration != "" {
		if n, err := strconv.ParseUint(msg.Expiration, 10, 32); err != nil || strconv.FormatUint(n, 10) != msg.Expiration {
			return transport.Invalid(op, where(to), "the expiration %q is not a number of milliseconds", msg.Expiration)
		}
	}
	if _, named := msg.Headers[wire.Copy]; named && len(msg.Headers) == 1 {
		return nil // there is nothing else in it
	}
	size, err := tableSize(msg.Headers, 0)
	if err != nil {
		return transport.Invalid(op, where(to), "%v", err)
	}
	if room := l.frame - 16*maxShort; size > room {
		return &transport.Error{
			Op: op, Address: where(to), Kind: transport.Permanent, Err: transport.ErrTooLarge,
			Hint: fmt.Sprintf("the headers have %d bytes, and must fit into one frame with room for %d", size, room),
		}
	}
	return nil
}

// tableSize is how many bytes a header table takes, or what cannot be sent of it.
func tableSize(table amqp.Table, depth int) (int, error) {
	if depth > maxNesting {
		return 0, fmt.Errorf("headers are nested more than %d deep", maxNesting)
	}
	n := 4
	for name, v := range table {
		if len(name) > maxShort {
			return 0, fmt.Errorf("the name of a header has %d bytes, and AMQP takes %d", len(name), maxShort)
		}
		size, err := fieldSize(name, v, depth)
		if err != nil {
			return 0, err
		}
		n += 1 + len(name) + size
	}
	return n, nil
}

func fieldSize(name string, v any, depth int) (int, error) {
	switch v := v.(type) {
	case string:
		return 5 + len(v), nil
	case []byte:
		return 5 + len(v), nil
	case amqp.Table:
		n, err := tableSize(v, depth+1)
		return 1 + n, err
	case []any:
		return arraySize(name, v, depth+1)
	case nil, bool, int8, uint8, int16, uint16, int, int32, uint32, int64, float32, float64, amqp.Decimal, time.Time:
		return 9, nil
	}
	return 0, fmt.Errorf("the header %q has the type %T, which AMQP has not", name, v)
}

func arraySize(name string, list []any, depth int) (int, error) {
	if depth > maxNesting {
		return 0, fmt.Errorf("headers are nested more than %d deep", maxNesting)
	}
	n := 5
	for _, item := range list {
		size, err := fieldSize(name, item, depth)
		if err != nil {
			return 0, err
		}
		n += size
	}
	return n, nil
}
