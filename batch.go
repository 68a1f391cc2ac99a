package holdfast

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/internal/engine"
	"github.com/holdfast-go/holdfast/recovery"
)

// BatchLimits says when a batch is complete: whatever comes first. Zero fields
// have defaults.
type BatchLimits struct {
	// Messages is how many messages a batch has at most. Default 100.
	Messages int
	// Bytes is how many bytes of undecoded bodies it has at most; a larger
	// message is a batch of its own. Default 4 MiB.
	Bytes int
	// Wait is how long the first message of a batch waits for others. Default
	// 100 ms.
	Wait time.Duration
}

func (l BatchLimits) withDefaults() BatchLimits {
	if l.Messages <= 0 {
		l.Messages = 100
	}
	if l.Bytes <= 0 {
		l.Bytes = 4 << 20
	}
	if l.Wait <= 0 {
		l.Wait = 100 * time.Millisecond
	}
	return l
}

// Batch is what a batch handler gets. It belongs to the handler until it returns.
type Batch[T any] struct {
	// Messages are in the order in which they came.
	Messages []*Message[T]

	errs []error // nil until one is set
}

// Fail makes message i of the batch a failed attempt with err, which the policy
// judges as it judges the error of a handler. The others are not concerned.
func (b *Batch[T]) Fail(i int, err error) {
	if b.errs == nil {
		b.errs = make([]error, len(b.Messages))
	}
	b.errs[i] = err
}

// errOf is the outcome of one message when the handler has returned err.
func (b *Batch[T]) errOf(i int, err error) error {
	if b.errs != nil && b.errs[i] != nil {
		return b.errs[i]
	}
	return err
}

// HandleBatch registers a handler for many messages at once. Each message keeps
// its own attempts, lease and outcome: a handler that returns nil has handled all
// but those it gave to Fail, and one that returns an error has failed for all that
// it did not give to Fail. Only what failed is retried, in later batches.
//
// Concurrency is how many batches are handled at once; messages for one batch
// more are taken meanwhile, and none beyond. A message that cannot be decoded
// never comes into a batch. The context ends when the batch is out of time, or when
// the leases of all its messages are lost, and a batch whose time is over before the
// handler was called goes back uncharged. What is published with it is stored
// before any message of the batch is acked; give it an ID of its own, for a retried
// message may come in another batch. Everything else is as for Handle.
func HandleBatch[T any](on Registrar, src Source, limits BatchLimits, handler func(ctx context.Context, b *Batch[T]) error, opts ...Option) *Subscription {
	if handler == nil {
		return Handle[T](on, src, nil, opts...)
	}
	b := &batcher[T]{limits: limits.withDefaults(), handler: handler}
	s, h := register(on, src, b.handle, opts)
	if s.settings.concurrency < 0 {
		return s // which is refused at start
	}
	if limit := s.settings.timeout; limit > 0 && limit <= b.limits.Wait {
		s.settings.faults = append(s.settings.faults, fmt.Errorf("a batch waits for %v, and with the timeout %v no time would be left to handle it", b.limits.Wait, limit))
	}
	side := max(s.settings.concurrency, 1)
	b.running = make(chan struct{}, side)
	s.batch = &engine.Batch{
		Messages: b.limits.Messages, Bytes: b.limits.Bytes, Wait: b.limits.Wait, Room: b.running,
		NewTask: func(all []engine.Attempt) engine.BatchTask { return newBatchTask(h, b, all) },
	}
	s.settings.concurrency = (side + 1) * b.limits.Messages
	if !s.settings.prefetchSet {
		s.settings.prefetch, s.settings.prefetchSet = 0, true
	}
	return s
}

// gathers reports whether the engine may gather the batches. Where something comes
// between a message and its handler, each message waits in its own worker instead.
func (s *settings) gathers() bool {
	return len(s.middleware) == 0 && s.orderBy == nil && s.counts == nil && s.policy.Ack != AckFirst && s.policy.Ack != Manual
}

// batcher gathers messages, each of which waits in its own worker. It does so where
// the engine does not, and for messages that the engine handles apart: those that
// are tried again at once, say.
type batcher[T any] struct {
	limits  BatchLimits
	handler func(context.Context, *Batch[T]) error
	running chan struct{} // holds a token for each batch that is handled

	mu   sync.Mutex
	next *gathering[T] // takes messages; nil when there is none
}

// gathering is a batch from its first message to its end.
type gathering[T any] struct {
	batch Batch[T]
	bytes int
	full  chan struct{} // closed when no other message fits
	done  chan struct{} // closed when err is there
	err   error
}

// handle is the handler of one message: it joins a batch and waits for its
// outcome. The first message of a batch calls the handler.
func (b *batcher[T]) handle(ctx context.Context, m *Message[T]) error {
	g, i := b.join(m)
	if i > 0 {
		<-g.done // as a handler waits for itself: it ends when the context says so
		return g.batch.errOf(i, g.err)
	}
	wait := time.NewTimer(b.limits.Wait)
	select {
	case <-g.full:
	case <-wait.C:
	case <-ctx.Done():
	}
	wait.Stop()
	select {
	case b.running <- struct{}{}: // until then others may join
		defer b.leave(ctx)() // also when the handler ends the goroutine
	case <-ctx.Done():
	}
	b.close(g)
	if ctx.Err() != nil {
		// The handler would fail for all of them. Nobody has seen them.
		g.err = engine.ErrUnseen
		close(g.done)
		return g.err
	}
	b.run(ctx, g)
	return g.batch.errOf(0, g.err)
}

// hangGrace is how long a handler whose context has ended keeps its place. After
// that it is taken to hang, and others go on beside it.
const hangGrace = 5 * time.Second

// leave returns what gives back the place of the batch that runs under ctx. When the
// handler hangs that happens without its help.
func (b *batcher[T]) leave(ctx context.Context) (over func()) {
	free := sync.OnceFunc(func() { <-b.running })
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(hangGrace, free) })
	return func() {
		stop()
		free()
	}
}

// join adds a message to the batch that takes messages, or to a new one.
func (b *batcher[T]) join(m *Message[T]) (*gathering[T], int) {
	size := len(m.Data())
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.next
	if g != nil && g.bytes+size > b.limits.Bytes {
		close(g.full)
		g = nil
	}
	if g == nil {
		g = &gathering[T]{full: make(chan struct{}), done: make(chan struct{})}
		g.batch.Messages = make([]*Message[T], 0, b.limits.Messages)
		b.next = g
	}
	i := len(g.batch.Messages)
	g.batch.Messages = append(g.batch.Messages, m)
	g.bytes += size
	if i+1 == b.limits.Messages || g.bytes >= b.limits.Bytes {
		close(g.full)
		b.next = nil
	}
	return g, i
}

// close lets no other message in.
func (b *batcher[T]) close(g *gathering[T]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == g {
		b.next = nil
	}
}

// errBatchExited is the outcome of a batch whose handler called runtime.Goexit.
var errBatchExited = errors.New("the batch handler ended its goroutine with runtime.Goexit")

// errDecoderExited is the outcome of a message whose decoder did.
var errDecoderExited = errors.New("the decoder ended its goroutine with runtime.Goexit")

// run calls the handler and tells every message, also when the handler panics.
func (b *batcher[T]) run(ctx context.Context, g *gathering[T]) {
	g.err = errBatchExited
	defer close(g.done)
	g.err = b.call(ctx, &g.batch)
}

// call calls the handler. A panic is a failure of the whole batch.
func (b *batcher[T]) call(ctx context.Context, batch *Batch[T]) (err error) {
	defer func() {
		if v := recover(); v != nil {
			batch.errs, err = nil, &recovery.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	err = b.handler(ctx, batch)
	if box := handled(ctx); box != nil {
		err = box.settled(ctx, err) // nothing is acked before what was published is stored
	}
	return err
}
