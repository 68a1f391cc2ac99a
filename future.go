package holdfast

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/internal/sender"
	"github.com/holdfast-go/holdfast/transport"
)

// Future is the outcome of one PublishAsync, which comes later. It is safe for
// concurrent use.
type Future struct {
	o       outgoing
	p       *publishing
	started time.Time

	mu    sync.Mutex // guards what follows
	over  bool
	err   error
	ready chan struct{} // made when somebody asks for it
}

// ID returns the ID of the message.
func (f *Future) ID() string { return f.o.m.ID }

// Done returns a channel that is closed when the outcome is there.
func (f *Future) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ready == nil {
		f.ready = make(chan struct{})
		if f.over {
			close(f.ready)
		}
	}
	return f.ready
}

// Err returns the outcome: nil for a message that is stored, and otherwise an
// error that OutcomeOf explains. Before Done it is ErrPending.
func (f *Future) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.over {
		return ErrPending
	}
	return f.err
}

// ErrPending is the error of a Future whose outcome is not there yet.
var ErrPending = errors.New("the outcome is not there yet")

// Wait waits for the outcome and returns it. When ctx ends first the outcome is
// unknown, and the publisher goes on with the message.
func (f *Future) Wait(ctx context.Context) error {
	f.mu.Lock()
	over, err := f.over, f.err
	f.mu.Unlock()
	if over {
		return err
	}
	select {
	case <-f.Done():
		return f.Err()
	case <-ctx.Done():
		return &transport.Error{
			Op: "publish", Address: f.o.to.String(), Kind: transport.Unknown, Err: context.Cause(ctx),
			Hint: "the publisher goes on with it: wait again",
		}
	}
}

// complete is told the outcome.
func (f *Future) complete(tries int, err error) {
	f.mu.Lock()
	f.over, f.err = true, err
	if f.ready != nil {
		close(f.ready)
	}
	f.mu.Unlock()
	if len(f.p.observers) > 0 {
		f.p.tell(&f.o, f.started, tries, err)
	}
}

// completion keeps Complete out of the methods of Future.
type completion Future

// Complete implements sender.Completer.
func (c *completion) Complete(tries int, err error) { (*Future)(c).complete(tries, err) }

// PublishAsync hands body to the publisher and returns without waiting for the
// broker. It waits until ctx ends while the window is full. An error means that
// the message was not taken, and is not sent. ctx and PublishTimeout bound the
// message as well: when one ends before the broker has confirmed, it is given up.
//
// With a Spool it waits for the disk: the outcome is there when it returns.
// Inside a handler the message that is handled is acked only when the outcome is
// there; one that is not stored is a failed attempt.
func (p *Publisher[T]) PublishAsync(ctx context.Context, body T, opts ...PublishOption) (*Future, error) {
	f := &Future{o: outgoing{to: p.to}}
	if err := p.prepare(ctx, &f.o, body, opts); err != nil {
		return nil, err
	}
	if err := p.core.start(ctx, f); err != nil {
		return nil, err
	}
	if m := handled(ctx); m != nil {
		m.add(f)
	}
	return f, nil
}

// start takes the message of f.
func (p *publishing) start(ctx context.Context, f *Future) error {
	f.p, f.started = p, p.clock()
	if p.spool != nil || p.err != nil {
		if err := p.publish(ctx, &f.o); err != nil {
			return err
		}
		f.over = true
		return nil
	}
	if ctx.Err() != nil {
		return notSent(f.o.to, context.Cause(ctx))
	}
	it := sender.Item{To: f.o.to, M: &f.o.m, Then: (*completion)(f), Within: p.timeout}
	if ctx.Done() != nil {
		it.Ctx = ctx
	}
	_, err := p.send.Send(ctx, it)
	return err
}

// Outgoing is one message of a batch.
type Outgoing[T any] struct {
	Body    T
	Options []PublishOption
}

// Result is the outcome of one message of a batch.
type Result struct {
	// ID is the ID of the message; empty when it could not even be made.
	ID string
	// Err is nil for a message that is stored; OutcomeOf explains it.
	Err error
}

// PublishBatch publishes many messages, in order and side by side, and waits
// until each has its outcome. There is one result for each, in the order of
// batch; the error joins those of all that are not stored. Messages are not
// stored all or none: each has an outcome of its own.
func (p *Publisher[T]) PublishBatch(ctx context.Context, batch []Outgoing[T]) ([]Result, error) {
	results := make([]Result, len(batch))
	futures := make([]*Future, len(batch))
	for i, b := range batch {
		f := &Future{o: outgoing{to: p.to}}
		if results[i].Err = p.prepare(ctx, &f.o, b.Body, b.Options); results[i].Err == nil {
			futures[i], results[i].ID = f, f.o.m.ID
		}
	}
	p.core.publishAll(ctx, futures, results)
	var faults []error
	for _, r := range results {
		faults = append(faults, r.Err)
	}
	return results, errors.Join(faults...)
}

// publishAll publishes what could be made, which is not nil, and fills in the
// results.
func (p *publishing) publishAll(ctx context.Context, futures []*Future, results []Result) {
	if p.spool != nil && p.err == nil {
		p.spoolAll(ctx, futures, results)
		return
	}
	for i, f := range futures {
		if f != nil {
			results[i].Err = p.start(ctx, f)
		}
	}
	for i, f := range futures {
		if f != nil && results[i].Err == nil {
			<-f.Done() // bounded by ctx and PublishTimeout, as every message is
			results[i].Err = f.Err()
		}
	}
}

// spoolAll writes them with one sync, all or none.
func (p *publishing) spoolAll(ctx context.Context, futures []*Future, results []Result) {
	var good []*outgoing
	for _, f := range futures {
		if f != nil {
			good = append(good, &f.o)
		}
	}
	err := p.spool.publish(ctx, good...)
	for i, f := range futures {
		if f != nil {
			results[i].Err = err
		}
	}
}
