package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// publisher publishes for everybody over one channel in confirm mode, which one
// goroutine owns: it opens it, reads the confirmations, and opens another when
// it is gone. An entry belongs to the channel it was published on; what was not
// confirmed there is unknown, and whoever published it decides.
type publisher struct {
	t *Transport

	mu      sync.Mutex // orders publishes; guards what follows
	win     window
	cur     *confirming   // nil while there is none
	why     error         // why there is none
	changed chan struct{} // closed and replaced when cur changes
	closed  bool

	// Of the channel there is; used by the goroutine that reads it only.
	refused  bool // a message was
	forsaken int  // publishes that were given up

	routes routes
}

func newPublisher(t *Transport) *publisher {
	return &publisher{
		t: t, changed: make(chan struct{}),
		win:    window{limit: t.set.window, limitBytes: t.set.windowSize},
		routes: newRoutes(),
	}
}

func (p *publisher) change(cur *confirming, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cur, p.why = cur, why
	close(p.changed)
	p.changed = make(chan struct{})
}

// run is the goroutine of the publisher.
func (p *publisher) run(ctx context.Context) {
	for wait := time.Duration(0); ctx.Err() == nil; {
		s, changed, why := p.t.publishing.session()
		if s == nil {
			p.change(nil, why)
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		// Room for all that can be under way to come back.
		c, err := openConfirming(s, p.t.set.window+1)
		if err != nil {
			// The connection is there and refuses a channel, or is gone already.
			p.change(nil, err)
			wait = p.t.nextWait(wait)
			pause(ctx, jittered(wait))
			continue
		}
		wait = 0
		p.change(c, nil)
		p.serve(c)
	}
	p.change(nil, transport.ErrClosed)
}

// serve reads confirmations until the channel is gone.
func (p *publisher) serve(c *confirming) {
	stuck := time.NewTicker(p.t.set.confirm / 4)
	defer stuck.Stop()
	behind := newLag()
	defer behind.stop()
	replaced, opened := false, time.Now()
	p.refused, p.forsaken = false, 0
	for {
		next, empty := c.settle(p.confirmed)
		behind.watch(empty)
		if p.refused && !replaced && time.Since(opened) > mostRefusing {
			replaced = true
			p.change(nil, errRefused)
		}
		if replaced && empty {
			p.end(c)
			return
		}
		select {
		case <-next:
		case <-c.wake:
		case r, ok := <-c.returns:
			c.cameBack(r, ok)
		case e := <-c.closes:
			p.fail(c, e)
			return
		case <-behind.C:
			behind.passed()
			c.passBy(p.confirmed)
		case <-stuck.C:
			p.unstick(c)
		}
	}
}

// mostRefusing is how old a channel on which a message was refused may become. Of
// a quorum queue that had no leader for a moment, RabbitMQ 3.10 remembers on every
// channel that published then that it is full, and refuses all that follows there.
const mostRefusing = time.Second

// end closes a channel that has nothing under way.
func (p *publisher) end(c *confirming) {
	ctx, cancel := context.WithTimeout(p.t.ctx, p.t.set.rpc)
	defer cancel()
	_ = within(ctx, c.ch.Close) // it goes with the connection otherwise
}

// confirmed makes room for another publish, and tells whoever waits for this one.
func (p *publisher) confirmed(e *entry, err error) {
	p.mu.Lock()
	p.win.free(e.size)
	p.mu.Unlock()
	p.refused = p.refused || errors.Is(err, errRefused)
	e.then(err)
}

// outcome is what a confirmation means.
func outcome(e *entry, acked bool) error {
	switch {
	case e.returned:
		return unroutable("publish", addressOf(e.exchange, e.key), "no queue is bound for this routing key, or the node that holds the queue is down")
	case acked:
		return nil
	}
	err := &transport.Error{
		Op: "publish", Address: addressOf(e.exchange, e.key), Kind: transport.Temporary, Err: fmt.Errorf("%w: %w", transport.ErrFull, errRefused),
		Hint: "the queue is full (reject-publish) or its node has trouble: it takes messages again when some were removed",
	}
	if e.exchange != "" {
		// Of several queues one may have refused and the others not.
		err.Kind = transport.Unknown
	}
	return err
}

// errRefused is the cause when the broker answered a publish with a nack. Why it
// did, it does not say: that the queue is full is by far the likeliest.
var errRefused = errors.New("the broker did not take the message")

func addressOf(exchange, key string) string {
	return where(transport.Address{Name: exchange, Key: key})
}

// fail ends what waits on a channel that is gone. All of it is unknown, for a
// channel exception says nothing about which publish caused it; the next ones to
// each of these exchanges go over channels of their own, so that the one to blame
// fails alone.
func (p *publisher) fail(c *confirming, said *amqp.Error) {
	var cause error = errLost
	if said != nil {
		cause = said
	}
	p.mu.Lock()
	if p.cur == c {
		p.cur, p.why = nil, cause
		close(p.changed)
		p.changed = make(chan struct{})
	}
	p.mu.Unlock()
	left := c.rest(p.confirmed)
	p.routes.blame(cause, left)
	if !c.s.alive() {
		p.routes.reset()
	}
	for i := range left {
		e := &left[i]
		p.confirmed(e, &transport.Error{
			Op: "publish", Address: addressOf(e.exchange, e.key), Kind: transport.Unknown, Err: lostCause(cause),
		})
	}
}

func lostCause(cause error) error {
	if errors.Is(cause, errLost) {
		return cause
	}
	return errors.Join(errLost, cause)
}

// unstick is for publishes that have waited for their confirmation for too long
// although the broker does not block. Where others are confirmed their queue is to
// blame, which may have lost its majority: what became of them is unknown.
// Otherwise the connection is, which may be half open, and ends.
func (p *publisher) unstick(c *confirming) {
	if c.s.alarm.Load() != nil {
		return
	}
	stuck, dead := c.giveUp(time.Now().Add(-p.t.set.confirm))
	for i := range stuck {
		e := &stuck[i]
		p.confirmed(e, seamError("publish", addressOf(e.exchange, e.key), errTimeout, true))
	}
	// The client library remembers each until its channel ends.
	p.forsaken += len(stuck)
	if dead || p.forsaken > p.t.set.window {
		c.s.pipe.cut()
	}
}

// send publishes msg and calls then with the outcome, from another goroutine,
// unless it returns an error: then nothing was sent. It waits for a channel and
// for room in the window until ctx ends.
func (p *publisher) send(ctx context.Context, expired <-chan time.Time, e *entry, msg *amqp.Publishing) error {
	e.size = len(msg.Body)
	turn := false // ours has come
	for {
		p.mu.Lock()
		var wait <-chan struct{}
		var room chan struct{}
		why := p.why
		c := p.cur
		switch {
		case p.closed:
			p.pass(turn)
			p.mu.Unlock()
			return transport.ErrClosed
		case c == nil || c.ch.IsClosed():
			c, wait = nil, p.changed
		case c.s.alarm.Load() != nil:
			wait = p.unblocking(c.s)
		case !p.win.take(e.size):
			room = p.win.wait()
			wait = room
		default:
			err := p.put(c, e, msg)
			p.mu.Unlock()
			return err
		}
		if room == nil {
			p.pass(turn)
		}
		p.mu.Unlock()
		if c == nil {
			if s, _, cause := p.t.publishing.session(); s == nil {
				return down(errors.Join(cause, why))
			}
		}
		err := p.await(ctx, expired, wait)
		if err == nil {
			turn = room != nil
			continue
		}
		if room != nil {
			p.mu.Lock()
			p.win.forget(room)
			p.mu.Unlock()
		}
		return err
	}
}

// pass is for a publish whose turn has come and that has no use for the room there
// is: nobody else would be told of it. The caller holds the lock.
func (p *publisher) pass(turn bool) {
	if turn {
		p.win.next()
	}
}

// unblocking returns a channel that is closed when the alarm of s may be over.
func (p *publisher) unblocking(s *session) <-chan struct{} {
	_, changed, _ := p.t.publishing.session()
	if s.alarm.Load() != nil {
		return changed
	}
	over := make(chan struct{})
	close(over)
	return over
}

// await waits until it is worth another try, or says why that took too long.
func (p *publisher) await(ctx context.Context, expired <-chan time.Time, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return p.explain(context.Cause(ctx))
	case <-expired:
		return p.explain(errTimeout)
	}
}

// explain adds to err why a publish has waited in vain, as far as that is known.
func (p *publisher) explain(err error) error {
	s, _, _ := p.t.publishing.session()
	if s == nil {
		return errors.Join(errDown, err)
	}
	if reason := s.alarm.Load(); reason != nil {
		return errors.Join(blockedError(*reason), err)
	}
	return err
}

// put publishes on the channel. The caller holds the lock: entries stand in the
// order of their tags. A write never waits, see pipe.
func (p *publisher) put(c *confirming, e *entry, msg *amqp.Publishing) error {
	e.sent = time.Now()
	err := c.put(e, msg)
	if err != nil {
		p.win.free(e.size)
	}
	return err
}

// drain waits until all that was published is confirmed, refuses what comes
// later, and reports what is left when ctx ends.
func (p *publisher) drain(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		left := p.win.count
		p.mu.Unlock()
		s, _, _ := p.t.publishing.session()
		if left == 0 || s == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return &transport.Error{Op: "close", Kind: transport.Unknown, Err: errors.Join(errUnconfirmed, p.explain(context.Cause(ctx)))}
		case <-tick.C:
		}
	}
}

// errUnconfirmed is the cause when Close could not wait any longer.
var errUnconfirmed = errors.New("some publishes were not confirmed")
