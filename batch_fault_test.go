package holdfast_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

func TestABatchHandlerThatEndsItsGoroutineLeavesItsSlotToOthers(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		calls, handled := 0, 0
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 5},
			func(_ context.Context, b *holdfast.Batch[string]) error {
				if calls++; calls <= 3 {
					runtime.Goexit()
				}
				handled += len(b.Messages)
				return nil
			}, holdfast.Retry{Attempts: 5, Backoff: holdfast.Exponential(time.Second, time.Second)})
		w.run()
		w.publish(names("m", 5)...)
		w.pass(time.Minute)
		check.Equal(t, []int{calls, handled}, []int{4, 5})
		w.idle()
	})
}

func TestABatchWhoseTimeEndsBeforeItStartsChargesNobody(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		attempts := map[string]int{}
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 2, Wait: time.Second},
			func(ctx context.Context, b *holdfast.Batch[string]) error {
				check.NoError(t, ctx.Err(), "the handler is called while there is time")
				if b.Messages[0].ID == "slow" {
					time.Sleep(15 * time.Second) // virtual, and longer than it may take
					return nil
				}
				for _, m := range b.Messages {
					attempts[m.ID] = m.Attempt
				}
				return nil
			}, holdfast.Timeout(10*time.Second), holdfast.Retry{Attempts: 3, Backoff: holdfast.Exponential(time.Minute, time.Minute)})
		w.run()
		for i := range 2 {
			w.send("orders.placed", &transport.Message{ID: "slow", DedupID: fmt.Sprint("slow", i), Body: []byte("s")})
		}
		w.pass(2 * time.Second)
		w.publish("a", "b")
		w.pass(10 * time.Minute)
		check.Equal(t, attempts, map[string]int{"a": 1, "b": 1})
	})
}

func TestBatchesThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limits holdfast.BatchLimits
		opts   []holdfast.Option
	}{
		"concurrency": {holdfast.BatchLimits{}, []holdfast.Option{holdfast.Concurrency(-1)}},
		"wait":        {holdfast.BatchLimits{Wait: 10 * time.Second}, []holdfast.Option{holdfast.Timeout(10 * time.Second)}},
	} {
		promise(t, func(t *testing.T, w *world) {
			holdfast.HandleBatch(w.app, w.queue("orders"), c.limits,
				func(context.Context, *holdfast.Batch[string]) error { return nil }, c.opts...)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			check.True(t, w.app.Run(ctx) != nil, name)
		})
	}
}
