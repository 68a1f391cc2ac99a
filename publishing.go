package holdfast

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/internal/sender"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// publishing is what a Publisher is, apart from the type of its bodies.
type publishing struct {
	caps      transport.Capabilities
	address   string
	timeout   time.Duration
	observers []observe.Observer
	send      *sender.Sender
	spool     *spooling // nil without one
	err       error     // why nothing can be published
	waiters   sync.Pool // of *waiter: not shared with other publishers, whose virtual time may be another
}

func newPublishing(t transport.Transport, to transport.Address, cfg *publisherConfig) *publishing {
	p := &publishing{caps: t.Capabilities(), address: to.String(), timeout: cfg.timeout, observers: cfg.observers}
	window := cfg.window
	window.Patient = cfg.spool != nil
	if len(p.observers) > 0 {
		window.Watch = p.watch
	}
	p.send = sender.New(t, window)
	if cfg.spool != nil {
		p.err = openSpool(p, cfg.spool)
	}
	return p
}

// publish takes one message and waits for its outcome.
func (p *publishing) publish(ctx context.Context, o *outgoing) error {
	if p.err != nil {
		return p.err
	}
	if err := ctx.Err(); err != nil {
		return notSent(o.to, context.Cause(ctx))
	}
	if p.spool != nil {
		return p.spool.publish(ctx, o)
	}
	started := p.clock()
	w := p.waiter()
	tag, err := p.send.Send(ctx, sender.Item{To: o.to, M: &o.m, Then: w, Within: p.timeout})
	if err != nil {
		p.waiters.Put(w)
		p.tell(o, started, 0, err)
		return err
	}
	tries, err := p.wait(ctx, tag, w)
	p.waiters.Put(w)
	p.tell(o, started, tries, err)
	return err
}

// wait waits for the outcome of a message until ctx ends.
func (p *publishing) wait(ctx context.Context, tag uint64, w *waiter) (tries int, err error) {
	select {
	case <-w.done:
		return w.tries, w.err
	case <-ctx.Done():
	}
	if err, ours := p.send.GiveUp(tag, context.Cause(ctx)); ours {
		return 1, err
	}
	<-w.done // the outcome came in the same moment
	return w.tries, w.err
}

// clock is the time where somebody is told when a publish began, and zero
// otherwise: to ask for it is a good part of a publish's cost.
func (p *publishing) clock() time.Time {
	if len(p.observers) == 0 {
		return time.Time{}
	}
	return time.Now()
}

// tell tells the observers that a publish has ended.
func (p *publishing) tell(o *outgoing, started time.Time, tries int, err error) {
	for _, obs := range p.observers {
		obs.Observe(observe.Event{
			Kind: observe.Published, Time: started, Subject: o.to.String(), MessageID: o.m.ID,
			Attempt: tries, Duration: time.Since(started), Err: err,
		})
	}
}

// waiter waits for one outcome. Waiters are reused.
type waiter struct {
	done  chan struct{} // capacity 1
	tries int
	err   error
}

func (p *publishing) waiter() *waiter {
	if w, ok := p.waiters.Get().(*waiter); ok {
		return w
	}
	return &waiter{done: make(chan struct{}, 1)}
}

// Complete implements sender.Completer.
func (w *waiter) Complete(tries int, err error) {
	w.tries, w.err = tries, err
	w.done <- struct{}{}
}

func notSent(to transport.Address, cause error) error {
	return &transport.Error{Op: "publish", Address: to.String(), Kind: transport.Temporary, Err: cause}
}

// Outcome says what became of a published message.
type Outcome string

// The outcomes of a publish.
const (
	// Stored: the broker confirmed it, or the spool has it on disk.
	Stored Outcome = "stored"
	// Unroutable: no queue or stream takes its address. It is stored nowhere.
	Unroutable Outcome = "unroutable"
	// Refused: the broker, or holdfast before it, does not take this message: it
	// is too large, invalid, forbidden, or its queue is full. It is stored
	// nowhere.
	Refused Outcome = "refused"
	// NotSent: it never left, for there was no connection or no room. It is
	// stored nowhere.
	NotSent Outcome = "not-sent"
	// Uncertain: the broker did not say. It may be stored, or yet arrive; publish
	// it again under the same ID.
	Uncertain Outcome = "uncertain"
)

// OutcomeOf returns what an error of a publish means for its message.
func OutcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return Stored
	case transport.KindOf(err) == transport.Unknown:
		return Uncertain
	case errors.Is(err, transport.ErrUnroutable):
		return Unroutable
	case errors.Is(err, transport.ErrFull), transport.KindOf(err) == transport.Permanent && !errors.Is(err, transport.ErrClosed):
		return Refused
	}
	return NotSent
}
