package holdfast

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/holdfast-go/holdfast/internal/engine"
)

// Puller hands out the messages of a subscription when they are asked for. Its
// methods are safe for concurrent use.
type Puller[T any] struct {
	// Subscription is the subscription behind it, with its policy.
	*Subscription
	out chan *Pulled[T]

	mu     sync.Mutex // guards what follows
	asking int        // calls of Next that wait
	busy   int        // workers that were let go for a message and have not come back
	taken  int        // messages that were handed out and have no outcome
	idle   []chan struct{}
	stop   <-chan struct{}
}

// Pulled is a message that was asked for. Done settles it.
type Pulled[T any] struct {
	*Message[T]
	ctx    context.Context
	result chan error // capacity 1

	mu   sync.Mutex
	over bool
}

// Pull registers a subscription whose messages are taken by hand, with Next or
// All, while its policy stays in force: what is given to Done is what a handler
// would have returned. App.Run starts it, as every subscription.
//
// A message is fetched when somebody asks for it, and not before; Concurrency,
// one by default, is how many may be in hand at once. Its lease is extended, and
// its Timeout runs, from the moment it is handed out until Done. A message that
// came too late for its caller waits for the next call, and goes back uncharged
// when its time is over or the subscription stops. With OrderBy as many messages as
// may be in hand are fetched before anybody asks. The options are those of Handle;
// AckFirst is refused, for it would lose such a message.
func Pull[T any](on Registrar, src Source, opts ...Option) *Puller[T] {
	p := &Puller[T]{out: make(chan *Pulled[T])}
	p.Subscription = Handle(on, src, p.hand, opts...)
	set := &p.settings
	if set.policy.Ack == AckFirst || set.policy.Ack == Manual {
		set.faults = append(set.faults, errors.New("Pull settles by Done: leave the ack policies AckFirst and Manual out"))
	}
	if !set.prefetchSet {
		set.prefetch, set.prefetchSet = 0, true
	}
	p.demand, p.met = p.awaitDemand, p.comeBack
	return p
}

// awaitDemand is what a worker waits for before it takes a message. What is
// ordered by key comes as it comes: who waits for a message behind another one
// would hold up all.
func (p *Puller[T]) awaitDemand(stop context.Context) bool {
	p.mu.Lock()
	p.stop = stop.Done()
	if p.settings.orderBy != nil {
		p.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	p.idle = append(p.idle, turn)
	p.demandLocked()
	p.mu.Unlock()
	select {
	case <-turn:
		return true
	case <-stop.Done():
		return false // for good: nobody is counted any longer
	}
}

// comeBack is for a worker that is done with its message, whatever became of it.
func (p *Puller[T]) comeBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	p.demandLocked()
}

// demandLocked lets workers go while more calls wait than messages are on their
// way. One that has its outcome is on its way as well: it may be tried again.
func (p *Puller[T]) demandLocked() {
	for len(p.idle) > 0 && p.asking > p.busy-p.taken {
		p.busy++
		close(p.idle[0])
		p.idle[0] = nil
		p.idle = p.idle[1:]
	}
}

// hand is the handler: it waits for somebody to take the message, and then for
// the outcome.
func (p *Puller[T]) hand(ctx context.Context, m *Message[T]) error {
	p.mu.Lock()
	stop := p.stop
	p.mu.Unlock()
	pulled := &Pulled[T]{Message: m, ctx: ctx, result: make(chan error, 1)}
	select {
	case p.out <- pulled:
	case <-stop:
		return engine.ErrUnseen
	case <-ctx.Done():
		return engine.ErrUnseen
	}
	defer p.give()
	select {
	case err := <-pulled.result:
		return err
	case <-ctx.Done():
	}
	if pulled.expire() {
		return ctx.Err()
	}
	return <-pulled.result // Done came in the same moment
}

// Next waits for the next message until ctx ends. It returns ErrEnded when the
// subscription has ended, or is stopping. Settle the message with Done.
func (p *Puller[T]) Next(ctx context.Context) (*Pulled[T], error) {
	p.ask()
	select {
	case m := <-p.out:
		p.answer(true)
		return m, nil
	case <-p.gone:
		p.answer(false)
		return nil, fmt.Errorf("subscription %s %w", p.name, ErrEnded)
	case <-ctx.Done():
		p.answer(false)
		return nil, context.Cause(ctx)
	}
}

// ask makes a worker take a message, unless one is on its way that nobody else
// waits for.
func (p *Puller[T]) ask() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking++
	p.demandLocked()
}

// answer is for a call of Next that returns.
func (p *Puller[T]) answer(got bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking--
	if got {
		p.taken++
	}
	p.demandLocked()
}

// give is for a message that was handed out and has its outcome.
func (p *Puller[T]) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
}

// All yields messages until ctx ends, the subscription ends or the loop is left.
// The last error is yielded, unless it is the end of ctx. Settle each message with
// Done.
func (p *Puller[T]) All(ctx context.Context) iter.Seq2[*Pulled[T], error] {
	return func(yield func(*Pulled[T], error) bool) {
		for {
			m, err := p.Next(ctx)
			if ctx.Err() != nil && err != nil {
				return
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// Context returns the context of the attempt: it ends after Timeout, when the
// lease of the message is lost, or when a stop runs out of grace. What is published
// with it belongs to the message, as inside a handler.
func (m *Pulled[T]) Context() context.Context { return m.ctx }

// Done settles the message as a handler that returned err would: nil acks it, and
// for an error the policy decides. It does not wait for the broker. It returns
// ErrSettled when the message was settled before, or when its context had ended:
// then it counts as timed out.
func (m *Pulled[T]) Done(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return ErrSettled
	}
	m.over = true
	m.result <- err
	return nil
}

// expire ends the time for Done. It reports false when Done was called.
func (m *Pulled[T]) expire() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return false
	}
	m.over = true
	return true
}
