package rabbitmq

import (
	"context"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// routes remembers which exchanges take our publishes. A publish to an exchange
// that is missing or forbidden ends its channel, and what was published around
// it is in doubt: the first publish to an exchange, and each one after a channel
// was ended by an exception, therefore goes over a channel of its own, and as
// many after it as were on the channel that ended: the one to blame is among them.
type routes struct {
	mu sync.Mutex // guards doubts
	// doubts is how many publishes to an exchange go alone before it is trusted:
	// none where it takes them, and one where it is not listed.
	doubts map[string]int
	turn   chan struct{} // capacity 1: one publish goes alone at a time
}

func newRoutes() routes {
	return routes{doubts: map[string]int{"": 0}, turn: make(chan struct{}, 1)}
}

func (r *routes) known(exchange string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.doubts[exchange]
	return ok && n == 0
}

// learn notes that an exchange took a publish.
func (r *routes) learn(exchange string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubts[exchange] = max(r.doubts[exchange]-1, 0)
}

// blame doubts the exchanges of what had no outcome when its channel ended, if an
// exception of the server ended it.
func (r *routes) blame(cause error, left []entry) {
	if !ofChannel(cause) {
		return // the connection is gone, and no publish is to blame
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range left {
		r.doubts[left[i].exchange]++
	}
}

// ofChannel tells whether err is an exception that ended a channel and no more.
func ofChannel(err error) bool {
	said, ok := exception(err)
	if !ok {
		return false
	}
	switch said.Code {
	case amqp.ContentTooLarge, amqp.NoRoute, amqp.NoConsumers, amqp.AccessRefused, amqp.NotFound, amqp.ResourceLocked, amqp.PreconditionFailed:
		return true
	}
	return false
}

// reset is for a new connection: what was there may be gone.
func (r *routes) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for exchange, n := range r.doubts {
		if n == 0 && exchange != "" {
			delete(r.doubts, exchange)
		}
	}
}

// alone publishes msg over a channel of its own and returns the outcome, unless
// the exchange has become known while it waited for its turn.
func (p *publisher) alone(ctx context.Context, to transport.Address, msg *amqp.Publishing) (done bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.t.set.confirm, errTimeout)
	defer cancel()
	address := where(to)
	select {
	case p.routes.turn <- struct{}{}:
		defer func() { <-p.routes.turn }()
	case <-ctx.Done():
		return true, seamError("publish", address, p.explain(context.Cause(ctx)), false)
	}
	if p.routes.known(to.Name) {
		return false, nil
	}
	s, err := p.unblocked(ctx)
	if err != nil {
		return true, seamError("publish", address, err, false)
	}
	e := &entry{exchange: to.Name, key: to.Key}
	acked, err := single(ctx, s, e, msg)
	if err == nil {
		p.routes.learn(to.Name)
		return true, outcome(e, acked)
	}
	if missing(err) {
		return true, noExchange("publish", address)
	}
	return true, seamError("publish", address, err, true)
}

func noExchange(op, address string) error {
	return unroutable(op, address, "there is no exchange of this name: declare it, or correct the address")
}

// unblocked waits until the broker takes publishes.
func (p *publisher) unblocked(ctx context.Context) (*session, error) {
	for {
		s, changed, why := p.t.publishing.session()
		if s == nil {
			return nil, down(why)
		}
		if s.alarm.Load() == nil {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, p.explain(context.Cause(ctx))
		}
	}
}

// single publishes one message on a throw-away channel and waits for the answer:
// the confirmation, or the exception of the server as an error.
func single(ctx context.Context, s *session, e *entry, msg *amqp.Publishing) (acked bool, err error) {
	type answer struct{ acked, returned bool }
	out := make(chan answer, 1)
	err = within(ctx, func() error {
		ch, err := s.conn.Channel()
		if err != nil {
			return err
		}
		defer func() { _ = ch.Close() }()
		acks := ch.NotifyPublish(make(chan amqp.Confirmation, 1))
		returns := ch.NotifyReturn(make(chan amqp.Return, 1))
		closes := ch.NotifyClose(make(chan *amqp.Error, 1))
		if err := ch.Confirm(false); err != nil {
			return err
		}
		if err := ch.Publish(e.exchange, e.key, !e.quiet, false, *msg); err != nil {
			return err
		}
		var a amqp.Confirmation
		var ok bool
		select {
		case a, ok = <-acks:
		case <-ctx.Done():
			return context.Cause(ctx) // and the channel is closed
		}
		if !ok {
			if said := <-closes; said != nil {
				return said
			}
			return errLost
		}
		select {
		case <-returns:
			out <- answer{a.Ack, true}
		default:
			out <- answer{a.Ack, false}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	got := <-out
	e.returned = got.returned
	return got.acked, nil
}
