package rabbitmq

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

var _ transport.PipelinedPublisher = (*Transport)(nil)

// pipeline is a row of publishes on one channel in confirm mode, which its
// goroutine reads. See transport.Pipeline.
//
// What goes to an exchange that may refuse it goes alone: when everything before
// it has its outcome, on a throw-away channel, and what comes after it waits.
// So a refusal, which ends the channel it comes on, concerns that message and no
// other, and the order is kept.
type pipeline struct {
	t      *Transport
	c      *confirming
	report func(tag uint64, err error)
	limits limits
	table  amqp.Table        // of the message that is being sent; used by Send only
	valid  transport.Address // the last one that was checked; used by Send only

	ctx    context.Context // ends with End
	cancel context.CancelFunc
	done   chan struct{}
	over   atomic.Pointer[transport.Error] // why

	refused time.Time   // since when every message was refused; zero if not. Of the reader alone
	closing atomic.Bool // it takes nothing more, and ends when nothing is under way

	mu   sync.Mutex // orders publishes; guards what follows
	held []held
}

// held is a message that waits for those before it.
type held struct {
	e   entry
	msg amqp.Publishing
}

// OpenPipeline implements transport.PipelinedPublisher. A pipeline has a channel
// of its own on the connection for publishing, which it shares with everything
// else that the transport publishes. Messages are persistent and mandatory.
//
// A message that no queue takes is refused for good, with ErrUnroutable. An
// exchange is tried with one message before others follow it, and after the broker
// has ended the channel (it does for a missing exchange, a missing permission, a
// property it does not accept) everything that was under way on it goes one by
// one when it is sent again: the message to blame has an outcome of its own.
func (t *Transport) OpenPipeline(ctx context.Context, report func(tag uint64, err error)) (transport.Pipeline, error) {
	if err := t.refuse("publish", ""); err != nil {
		return nil, err
	}
	c, err := t.publisher.openPipe(ctx)
	switch {
	case errors.Is(err, transport.ErrClosed):
		return nil, &transport.Error{Op: "publish", Kind: transport.Permanent, Err: err}
	case err != nil:
		return nil, ended(err)
	}
	p := &pipeline{
		t: t, c: c, report: report, limits: t.limits(c.s), table: amqp.Table{}, done: make(chan struct{}),
	}
	// It outlives the context of its start; End ends it, and so does the
	// connection.
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	if !t.attend(p.run) {
		p.cancel()
		return nil, &transport.Error{Op: "publish", Kind: transport.Permanent, Err: transport.ErrClosed}
	}
	return p, nil
}

// returnsAhead is how many messages may come back before the pipeline reads them.
// The reader of the connection waits after that.
const returnsAhead = 1024

// openPipe opens a channel in confirm mode, and waits until it can.
func (p *publisher) openPipe(ctx context.Context) (*confirming, error) {
	wait := p.t.set.retryFirst
	for {
		s, changed, why := p.t.publishing.session()
		if p.t.isClosed() {
			return nil, transport.ErrClosed
		}
		if s == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, errors.Join(down(why), context.Cause(ctx))
			}
		}
		c, err := p.openWithin(ctx, s)
		if err == nil {
			return c, nil
		}
		if !s.alive() {
			select {
			case <-s.over: // the link is about to notice
				continue
			case <-ctx.Done():
			}
		}
		// The connection is there and refuses a channel, or does not answer.
		if !pause(ctx, jittered(wait)) {
			return nil, errors.Join(p.explain(context.Cause(ctx)), err)
		}
		wait = p.t.nextWait(wait)
	}
}

// openWithin opens a channel until ctx ends. A broker that has blocked the
// connection answers when it reads again: the channel is then closed.
func (p *publisher) openWithin(ctx context.Context, s *session) (*confirming, error) {
	type opened struct {
		c   *confirming
		err error
	}
	made := make(chan opened)
	begun := p.t.attend(func() {
		c, err := openConfirming(s, returnsAhead)
		select {
		case made <- opened{c, err}:
		case <-ctx.Done():
			if err == nil {
				_ = c.ch.Close() // nobody wants it
			}
		}
	})
	if !begun {
		return nil, transport.ErrClosed
	}
	select {
	case o := <-made:
		return o.c, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// attend runs do in the background, which the end of the connection ends, and
// for which Close waits. It is false when the transport is closed.
func (t *Transport) attend(do func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(do)
	return true
}

// Send implements transport.Pipeline.
func (p *pipeline) Send(to transport.Address, m *transport.Message, tag uint64) error {
	const op = "publish"
	if why := p.over.Load(); why != nil {
		return why
	}
	if p.closing.Load() {
		return ended(errRefused)
	}
	if to != p.valid {
		if err := checkAddress(op, to); err != nil {
			return err
		}
		p.valid = to
	}
	if err := checkHeaders(op, to, m); err != nil {
		return err
	}
	e := entry{id: p.t.nextCopy(), exchange: to.Name, key: to.Key, quiet: directReply(to), tag: tag}
	clear(p.table)
	msg, err := encodeInto(p.table, m, e.id, false)
	if err != nil {
		return err
	}
	if err := p.limits.check(op, to, &msg); err != nil {
		return err
	}
	return p.put(&e, &msg)
}

// put sends e, or holds it back behind what is not to be overtaken.
func (p *pipeline) put(e *entry, msg *amqp.Publishing) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.held) == 0 && p.t.publisher.routes.known(e.exchange) {
		if err := p.c.put(e, msg); err != nil {
			return ended(err)
		}
		return nil
	}
	p.hold(e, *msg)
	return nil
}

// hold keeps a message back. The caller holds the lock.
func (p *pipeline) hold(e *entry, msg amqp.Publishing) {
	msg.Headers = maps.Clone(msg.Headers)
	p.held = append(p.held, held{*e, msg})
	if len(p.held) == 1 {
		p.c.rouse()
	}
}

// ended is the error of a pipeline that is over, or that is not to be had now:
// another one may be opened.
func ended(err error) *transport.Error {
	if errors.Is(err, amqp.ErrClosed) {
		err = errLost
	}
	return &transport.Error{Op: "publish", Kind: transport.Temporary, Err: err, Hint: hintFor(err)}
}

// Flush implements transport.Pipeline. What was sent is on its way already: the
// connection gathers what comes while it writes.
func (p *pipeline) Flush() error { return p.Err() }

// Done implements transport.Pipeline.
func (p *pipeline) Done() <-chan struct{} { return p.done }

// Err implements transport.Pipeline.
func (p *pipeline) Err() error {
	if why := p.over.Load(); why != nil {
		return why
	}
	return nil
}

// Waiting implements transport.Pipeline.
func (p *pipeline) Waiting() error {
	reason := p.c.s.alarm.Load()
	if reason == nil {
		return nil
	}
	return &transport.Error{
		Op: "publish", Kind: transport.Temporary, Err: blockedError(*reason), Hint: hintFor(errBlocked),
	}
}

// End implements transport.Pipeline.
func (p *pipeline) End(stuck bool) {
	if stuck {
		p.c.s.pipe.cut()
	}
	p.cancel()
	<-p.done
}
