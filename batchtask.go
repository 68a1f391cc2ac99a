package holdfast

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/holdfast-go/holdfast/internal/engine"
	"github.com/holdfast-go/holdfast/recovery"
)

// batchTask is one attempt at a batch that the engine has gathered: its context,
// its messages and what its handler publishes.
type batchTask[T any] struct {
	ctx  engine.Context
	out  outbox
	h    *handling[T]
	b    *batcher[T]
	all  []Message[T] // whatever becomes of them
	errs []error      // of those that the handler does not see

	batch  Batch[T]
	places []int // where the others are in the batch
}

func newBatchTask[T any](h *handling[T], b *batcher[T], attempts []engine.Attempt) *batchTask[T] {
	t := &batchTask[T]{h: h, b: b, all: make([]Message[T], len(attempts)), errs: make([]error, len(attempts))}
	for i := range t.all {
		m := &t.all[i]
		m.fill(h.subscription, attempts[i])
		m.self, m.outbox, m.params = m, &t.out, h.params
	}
	t.out.id, t.out.subscription = t.all[0].ID, h.subscription
	t.ctx.Own(&t.out)
	return t
}

// Context returns the attempt's context.
func (t *batchTask[T]) Context() *engine.Context { return &t.ctx }

// Run decodes the messages and calls the handler with those that make sense.
func (t *batchTask[T]) Run(ctx context.Context) error {
	t.decode()
	t.batch.Messages, t.places = make([]*Message[T], 0, len(t.all)), make([]int, len(t.all))
	for i := range t.all {
		if t.errs[i] == nil {
			t.places[i] = len(t.batch.Messages)
			t.batch.Messages = append(t.batch.Messages, &t.all[i])
		}
	}
	if len(t.batch.Messages) == 0 {
		return nil
	}
	return t.b.call(ctx, &t.batch)
}

// Outcome implements engine.BatchTask. The engine asks after Run.
func (t *batchTask[T]) Outcome(i int, err error) error {
	if t.errs[i] != nil {
		return t.errs[i]
	}
	return t.batch.errOf(t.places[i], err)
}

// decodeLot is how many messages are worth a goroutine of their own.
const decodeLot = 32

// decode decodes all messages, on as many CPUs as that may be worth. It is not done
// here, where a decoder that ends the goroutine would end the batch.
func (t *batchTask[T]) decode() {
	var wg sync.WaitGroup
	n := len(t.all)
	lots := min(runtime.GOMAXPROCS(0), (n+decodeLot-1)/decodeLot)
	for lot := range lots {
		wg.Go(func() { t.decodeLot(&wg, n*lot/lots, n*(lot+1)/lots) })
	}
	wg.Wait()
}

func (t *batchTask[T]) decodeLot(wg *sync.WaitGroup, i, end int) {
	defer func() {
		if i < end { // the decoder has ended the goroutine: another one goes on
			t.errs[i] = errDecoderExited
			wg.Go(func() { t.decodeLot(wg, i+1, end) })
		}
	}()
	for ; i < end; i++ {
		t.errs[i] = t.decodeOne(i)
	}
}

// decodeOne decodes one message. A panic is a failure of this message and of
// nothing else.
func (t *batchTask[T]) decodeOne(i int) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &recovery.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return t.h.decode(&t.all[i])
}
