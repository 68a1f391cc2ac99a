package rabbitmq

import (
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// run is the goroutine of the pipeline. It reads the channel, and is the only one
// that reports.
func (p *pipeline) run() {
	defer close(p.done)
	defer p.cancel()
	why := p.cause(p.serve())
	p.over.Store(ended(why))
	p.t.publisher.routes.blame(why, p.c.rest(p.tell))
	if !p.c.ch.IsClosed() {
		// It takes the broker to answer, which may take its time.
		p.t.attend(func() { _ = p.c.ch.Close() })
	}
}

// cause is why the channel is gone, if it is, whatever was noticed first: Send may
// have failed, and End have been called, before the reader knew.
func (p *pipeline) cause(noticed error) error {
	if !p.c.ch.IsClosed() {
		return noticed
	}
	if said := <-p.c.closes; said != nil { // nil when it was read before
		return lostCause(said)
	}
	return noticed
}

// serve tells outcomes until the channel is gone or End is called, and says which.
func (p *pipeline) serve() error {
	behind := newLag()
	defer behind.stop()
	for {
		next, empty := p.c.settle(p.tell)
		behind.watch(empty)
		if p.refusing(empty) {
			return errRefused
		}
		if empty {
			waits, err := p.release()
			if err != nil {
				return err
			}
			if !waits {
				continue
			}
		}
		select {
		case <-next:
		case <-p.c.wake:
		case <-behind.C:
			behind.passed()
			p.c.passBy(p.tell)
		case r, ok := <-p.c.returns:
			p.c.cameBack(r, ok)
		case said := <-p.c.closes:
			if said == nil {
				return errLost
			}
			return lostCause(said)
		case <-p.ctx.Done():
			return transport.ErrClosed
		}
	}
}

// tell reports the outcome of e.
func (p *pipeline) tell(e *entry, err error) {
	switch {
	case err == nil:
		p.refused = time.Time{}
	case errors.Is(err, errRefused) && p.refused.IsZero():
		p.refused = time.Now()
	}
	p.report(e.tag, final(err))
}

// refusing tells whether the channel is to be replaced: it has refused all there
// was for so long that it may be the cause itself, see mostRefusing. It takes
// nothing more then, and ends when nothing is under way: what had no outcome would
// be sent twice.
func (p *pipeline) refusing(empty bool) bool {
	if p.refused.IsZero() || time.Since(p.refused) <= mostRefusing {
		return false
	}
	p.closing.Store(true)
	return empty
}

// final makes a refusal of a pipeline out of the outcome of a publish: whoever
// publishes in a row does not wait for a queue that may be bound one day.
func final(err error) error {
	if e, ok := err.(*transport.Error); ok && errors.Is(e.Err, transport.ErrUnroutable) {
		e.Kind = transport.Permanent
	}
	return err
}

// release sends what was held back, as far as the first message that must go
// alone. If that is the very first, and nothing else is under way, it goes now.
// waits tells that there is nothing left to do until something happens.
func (p *pipeline) release() (waits bool, err error) {
	p.mu.Lock()
	n := 0
	for ; n < len(p.held) && p.t.publisher.routes.known(p.held[n].e.exchange); n++ {
		if err := p.c.put(&p.held[n].e, &p.held[n].msg); err != nil {
			p.mu.Unlock()
			return false, err
		}
	}
	p.held = dropped(p.held, n)
	alone := n == 0 && len(p.held) > 0
	waits = len(p.held) == 0
	var first held
	if alone {
		first = p.held[0] // it stays there, so that nothing overtakes it
	}
	p.mu.Unlock()
	if !alone {
		return waits, nil
	}
	if err := p.alone(&first.e, &first.msg); err != nil {
		return false, err
	}
	p.mu.Lock()
	p.held = dropped(p.held, 1)
	p.mu.Unlock()
	return false, nil
}

// dropped returns list without its first n messages, and does not keep them alive.
func dropped(list []held, n int) []held {
	clear(list[:n])
	if n == len(list) {
		return nil
	}
	return list[n:]
}

// alone sends a message on a channel of its own and reports its outcome. An error
// means that it has none, and that the pipeline is over.
func (p *pipeline) alone(e *entry, msg *amqp.Publishing) error {
	acked, err := single(p.ctx, p.c.s, e, msg)
	switch {
	case err == nil:
		p.t.publisher.routes.learn(e.exchange)
		p.tell(e, outcome(e, acked))
	case missing(err):
		p.tell(e, noExchange("publish", addressOf(e.exchange, e.key)))
	case ofChannel(err):
		p.tell(e, seamError("publish", addressOf(e.exchange, e.key), err, true))
	case p.ctx.Err() != nil:
		return transport.ErrClosed
	default:
		return err
	}
	return nil
}
