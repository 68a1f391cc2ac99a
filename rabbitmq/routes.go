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
// was ended by an exception, therefore goes over a channel of its own.
type routes struct {
	mu   sync.Mutex // guards good
	good map[string]bool
	turn chan struct{} // capacity 1: one publish goes alone at a time
}

func newRoutes() routes {
	return routes{good: map[string]bool{"": true}, turn: make(chan struct{}, 1)}
}

func (r *routes) known(exchange string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.good[exchange]
}

func (r *routes) learn(exchange string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.good[exchange] = true
}

// doubt forgets an exchange.
func (r *routes) doubt(exchange string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.good, exchange)
}

// reset is for a new connection: what was there may be gone.
func (r *routes) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.good = map[string]bool{"": true}
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
		return true, unroutable("publish", address, "there is no exchange of this name: declare it, or correct the address")
	}
	return true, seamError("publish", address, err, true)
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
		if err := ch.Publish(e.exchange, e.key, true, false, *msg); err != nil {
			return err
		}
		a, ok := <-acks
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
