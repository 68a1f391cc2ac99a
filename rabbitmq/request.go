package rabbitmq

import (
	"context"
	"errors"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// replyQueue is the broker's name for direct replies: what is sent there goes to
// the channel that asked, and is kept nowhere.
const replyQueue = "amq.rabbitmq.reply-to"

// requester asks questions over one channel, many at once.
type requester struct {
	t    *Transport
	turn chan struct{} // capacity 1: one opens the channel at a time
	wg   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	cur    *asking    // nil while there is none
	closed bool
}

// asking is one channel for questions.
type asking struct {
	s       *session
	ch      *amqp.Channel
	in      <-chan amqp.Delivery
	returns chan amqp.Return

	mu      sync.Mutex // guards waiting
	waiting map[string]chan answer
	over    bool
}

type answer struct {
	m   *transport.Message
	err error
}

func newRequester(t *Transport) *requester { return &requester{t: t, turn: make(chan struct{}, 1)} }

// Request implements transport.Requester, by direct reply-to. A question that no
// queue takes is ErrUnroutable; one that nobody answers ends with ctx.
func (t *Transport) Request(ctx context.Context, to transport.Address, m *transport.Message) (*transport.Message, error) {
	const op = "request"
	if err := t.refuse(op, where(to)); err != nil {
		return nil, err
	}
	if err := checkAddress(op, to); err != nil {
		return nil, err
	}
	id := t.nextCopy()
	msg, err := encode(m, id, false)
	if err != nil {
		return nil, err
	}
	msg.ReplyTo, msg.CorrelationId = replyQueue, id
	if err := t.checkPublishing(op, to, &msg); err != nil {
		return nil, err
	}
	reply, asked, err := t.requester.ask(ctx, to, id, msg)
	return reply, seamError(op, where(to), err, asked)
}

// ask publishes the question and waits for the answer; asked tells whether
// somebody may have got it.
func (r *requester) ask(ctx context.Context, to transport.Address, id string, msg amqp.Publishing) (m *transport.Message, asked bool, err error) {
	s, err := r.t.publisher.unblocked(ctx)
	if err != nil {
		return nil, false, err
	}
	if err := r.exists(ctx, s, to.Name); err != nil {
		return nil, false, err
	}
	c, err := r.open(ctx, s)
	if err != nil {
		return nil, false, err
	}
	out, err := c.expect(id)
	if err != nil {
		return nil, false, err
	}
	defer c.forget(id)
	if err := c.ch.Publish(to.Name, to.Key, true, false, msg); err != nil {
		return nil, false, err
	}
	select {
	case a := <-out:
		return a.m, !errors.Is(a.err, transport.ErrUnroutable), a.err
	case <-ctx.Done():
		return nil, true, context.Cause(ctx)
	}
}

// exists refuses an exchange that is not there: to publish to it would end the
// channel with all questions on it.
func (r *requester) exists(ctx context.Context, s *session, exchange string) error {
	if r.t.publisher.routes.known(exchange) {
		return nil
	}
	err := within(ctx, func() error {
		ch, err := s.conn.Channel()
		if err != nil {
			return err
		}
		defer func() { _ = ch.Close() }()
		return ch.ExchangeDeclarePassive(exchange, amqp.ExchangeDirect, true, false, false, false, nil)
	})
	switch {
	case err == nil:
		r.t.publisher.routes.learn(exchange)
		return nil
	case absent(err):
		return unroutable("request", exchange, "there is no exchange of this name: declare it, or correct the address")
	case isCode(err, amqp.AccessRefused):
		return nil // to look needs more than to publish
	}
	return err
}

// open returns the channel for questions on the session, and makes it first if
// there is none.
func (r *requester) open(ctx context.Context, s *session) (*asking, error) {
	if c := r.current(s); c != nil {
		return c, nil
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if c := r.current(s); c != nil {
		return c, nil
	}
	made := make(chan *asking, 1)
	err := within(ctx, func() error {
		defer close(made)
		c, err := openAsking(s)
		if err == nil {
			made <- c
		}
		return err
	})
	if err != nil {
		r.t.attend(func() {
			if late := <-made; late != nil {
				_ = late.ch.Close() // nobody waits for it any more
			}
		})
		return nil, err
	}
	return r.begin(<-made)
}

// begin makes c the current channel and starts its reader.
func (r *requester) begin(c *asking) (*asking, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, transport.ErrClosed
	}
	r.cur = c
	r.wg.Go(c.read)
	return c, nil
}

func (r *requester) current(s *session) *asking {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cur == nil || r.cur.s != s || r.cur.ch.IsClosed() {
		return nil
	}
	return r.cur
}

// close waits for the reader, which ends with its connection.
func (r *requester) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}

// openAsking opens a channel that takes direct replies.
func openAsking(s *session) (*asking, error) {
	ch, err := s.conn.Channel()
	if err != nil {
		return nil, err
	}
	c := &asking{s: s, ch: ch, returns: ch.NotifyReturn(make(chan amqp.Return, 256)), waiting: map[string]chan answer{}}
	c.in, err = ch.Consume(replyQueue, "replies", true, false, false, false, nil)
	return c, err
}

// read is the goroutine of the channel: it hands out answers and what came back.
func (c *asking) read() {
	for {
		select {
		case raw, ok := <-c.in:
			if !ok {
				c.end()
				return
			}
			m := &transport.Message{}
			decode(&raw, m)
			c.tell(raw.CorrelationId, answer{m: m})
		case back, ok := <-c.returns:
			if !ok {
				c.returns = nil
				continue
			}
			c.tell(back.CorrelationId, answer{err: unroutable("request", addressOf(back.Exchange, back.RoutingKey), "no queue is bound for this routing key")})
		}
	}
}

func (c *asking) expect(id string) (<-chan answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return nil, errLost
	}
	out := make(chan answer, 1)
	c.waiting[id] = out
	return out, nil
}

func (c *asking) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// tell answers the question with this ID. An answer that nobody waits for any
// more is dropped.
func (c *asking) tell(id string, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if out, ok := c.waiting[id]; ok {
		delete(c.waiting, id)
		out <- a
	}
}

// end fails what still waits.
func (c *asking) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for id, out := range c.waiting {
		delete(c.waiting, id)
		out <- answer{err: errLost}
	}
}
