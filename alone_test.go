package holdfast_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
)

// TestShortLeaseIsKeptFromTheStart: the pace of extensions is that of the
// receiver's own lease, from the first message on.
func TestShortLeaseIsKeptFromTheStart(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := w.b.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"orders.>"}, Lease: 2 * time.Second})
		holdfast.Handle(w.app, src, func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			time.Sleep(30 * time.Second) // virtual
			return nil
		})
		w.run()
		w.publish("a")
		w.pass(time.Minute)
		check.Equal(t, w.seen(), []visit{{"a", 1, 1, 0}})
		w.idle()
	})
}

// TestSuspectedMessageIsHandledAlone: what keeps ending deliveries without an
// outcome is handled with nothing beside it; its neighbours are given back
// uncharged, handled afterwards, and none is buried.
func TestSuspectedMessageIsHandledAlone(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := w.queue("orders")
		var running, most atomic.Int64
		holdfast.Handle(w.app, src, func(_ context.Context, m *holdfast.Message[string]) error {
			now := running.Add(1)
			defer running.Add(-1)
			if m.Deliveries > 9 {
				most.Store(max(most.Load(), now))
			}
			w.see(&m.Meta)
			time.Sleep(100 * time.Millisecond) // virtual
			return nil
		}, slow(), holdfast.Concurrency(3), holdfast.Prefetch(3))
		_, err := w.b.Provision(t.Context(), src, transportWant("orders"))
		check.NoError(t, err)
		for i := range 3 {
			w.publish(fmt.Sprint("suspect-", i))
		}
		want := transportWant("orders")
		want.Prefetch = 10
		for range 11 { // each time all three were in hand when the process died
			rx, err := w.b.Open(t.Context(), src, want)
			check.NoError(t, err)
			for range 3 {
				_, err = rx.Receive(t.Context())
				check.NoError(t, err)
			}
			check.NoError(t, rx.Close(t.Context()))
			w.pass(memory.DefaultLease)
		}
		for i := range 20 {
			w.publish(fmt.Sprint("fresh-", i))
		}
		w.run()
		w.pass(time.Minute)
		check.Equal(t, len(w.seen()), 23)
		check.Equal(t, most.Load(), int64(1), "handlers beside a suspected message")
		check.Equal(t, len(w.letters()), 0)
		check.Equal(t, w.health().Counts.Handled, uint64(23))
		w.idle()
	})
}
