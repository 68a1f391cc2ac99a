package holdfast_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/recovery"
)

// died hands out everything n times without an outcome, as a process that ends each
// time does.
func (w *world) died(cfg memory.QueueConfig, times, messages int) {
	w.t.Helper()
	src := w.b.Queue(cfg)
	want := transportWant(cfg.Name)
	want.Prefetch = messages
	for range times {
		rx, err := w.b.Open(w.t.Context(), src, want)
		check.NoError(w.t, err)
		for range messages {
			_, err = rx.Receive(w.t.Context())
			check.NoError(w.t, err)
		}
		check.NoError(w.t, rx.Close(w.t.Context()))
		w.pass(memory.DefaultLease)
	}
}

// TestSuspectedMessageOfAKeyIsHandledAlone: where messages are ordered nothing runs
// beside a suspected message either, the order is kept, and nobody is buried.
func TestSuspectedMessageOfAKeyIsHandledAlone(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		cfg := memory.QueueConfig{Name: "orders", Subjects: []string{"orders.>"}}
		var running, most atomic.Int64
		holdfast.Handle(w.app, w.b.Queue(cfg), func(_ context.Context, m *holdfast.Message[string]) error {
			now := running.Add(1)
			defer running.Add(-1)
			if m.Deliveries > 9 {
				most.Store(max(most.Load(), now))
			}
			w.see(&m.Meta)
			time.Sleep(100 * time.Millisecond) // virtual
			return nil
		}, slow(), holdfast.Concurrency(4), holdfast.Prefetch(20), holdfast.OrderByKey())
		_, err := w.b.Provision(t.Context(), w.b.Queue(cfg), transportWant("orders"))
		check.NoError(t, err)
		w.publishKeyed("a/1", "b/1", "a/2", "c/1")
		w.died(cfg, 11, 4)
		for i := range 12 {
			w.publishKeyed(fmt.Sprintf("%c/fresh-%d", 'a'+i%3, i))
		}
		w.run()
		w.pass(time.Minute)
		check.Equal(t, most.Load(), int64(1), "handlers beside a suspected message")
		check.Equal(t, w.ids()[:3], []string{"a/1", "b/1", "a/2"}, "oldest first")
		check.Equal(t, len(w.seen()), 16)
		check.Equal(t, slices.IsSortedFunc(keyed(w.ids(), "a"), inSequence), true, "the order of a key")
		check.Equal(t, len(w.letters()), 0)
		w.idle()
	})
}

// keyed returns the IDs of one key.
func keyed(ids []string, key string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !strings.HasPrefix(id, key+"/") })
}

// inSequence orders the IDs of this test: those without "fresh" first.
func inSequence(a, b string) int {
	var m, n int
	_, _ = fmt.Sscanf(a[2:], "fresh-%d", &m)
	_, _ = fmt.Sscanf(b[2:], "fresh-%d", &n)
	return m - n
}

// TestWhatWaitedBehindAKillerIsNotBuriedWithIt: a broker counts what is in hand when
// a process dies. In a lane that is what waited behind the one to blame: only the
// oldest is given up unseen, and the others get their attempt, alone.
func TestWhatWaitedBehindAKillerIsNotBuriedWithIt(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		cfg := memory.QueueConfig{Name: "orders", Subjects: []string{"orders.>"}}
		var running, most atomic.Int64
		holdfast.Handle(w.app, w.b.Queue(cfg), func(_ context.Context, m *holdfast.Message[string]) error {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			w.see(&m.Meta)
			time.Sleep(100 * time.Millisecond) // virtual
			return nil
		}, slow(), holdfast.Concurrency(4), holdfast.Prefetch(20), holdfast.OrderByKey())
		_, err := w.b.Provision(t.Context(), w.b.Queue(cfg), transportWant("orders"))
		check.NoError(t, err)
		w.publishKeyed("a/killer", "a/1", "b/1", "a/2", "c/1")
		w.died(cfg, 60, 5)
		w.run()
		w.pass(time.Minute)
		check.Equal(t, w.ids(), []string{"a/1", "b/1", "a/2", "c/1"})
		check.Equal(t, most.Load(), int64(1), "handlers beside a suspected message")
		letters := w.letters()
		check.Equal(t, len(letters), 1)
		check.Equal(t, letters[0].Reason, string(recovery.CrashLoop))
		check.Equal(t, letters[0].MessageID, "a/killer")
		w.idle()
	})
}

// TestRedeliveredMessageOfAKeyIsCountedAlone: where attempts are counted in a store,
// what a process left behind is handled with nothing beside it, so that only what
// ends the process is counted for that.
func TestRedeliveredMessageOfAKeyIsCountedAlone(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		cfg := memory.QueueConfig{Name: "orders", Subjects: []string{"orders.>"}}
		var running, most atomic.Int64
		holdfast.Handle(w.app, w.b.Queue(cfg), func(_ context.Context, m *holdfast.Message[string]) error {
			now := running.Add(1)
			defer running.Add(-1)
			if m.Deliveries > 1 {
				most.Store(max(most.Load(), now))
			}
			w.see(&m.Meta)
			time.Sleep(100 * time.Millisecond) // virtual
			return nil
		}, slow(), holdfast.CountIn(memory.NewCountStore()), holdfast.Concurrency(4), holdfast.Prefetch(20), holdfast.OrderByKey())
		_, err := w.b.Provision(t.Context(), w.b.Queue(cfg), transportWant("orders"))
		check.NoError(t, err)
		w.publishKeyed("a/1", "b/1", "a/2", "c/1")
		w.died(cfg, 1, 4)
		w.publishKeyed("d/1", "e/1", "f/1")
		w.run()
		w.pass(time.Minute)
		check.Equal(t, most.Load(), int64(1), "handlers beside one that was there before")
		check.Equal(t, len(w.seen()), 7)
		w.idle()
	})
}

// TestSuspectDoesNotWaitForEver: a handler that takes long does not keep a suspected
// message from being handled.
func TestSuspectDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		cfg := memory.QueueConfig{Name: "orders", Subjects: []string{"orders.>"}}
		holdfast.Handle(w.app, w.b.Queue(cfg), func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			if m.ID == "long/1" {
				time.Sleep(30 * time.Minute) // virtual
			}
			return nil
		}, slow(), holdfast.Concurrency(4), holdfast.Prefetch(20), holdfast.OrderByKey())
		_, err := w.b.Provision(t.Context(), w.b.Queue(cfg), transportWant("orders"))
		check.NoError(t, err)
		w.publishKeyed("a/1")
		w.died(cfg, 10, 1)
		src := w.b.Queue(cfg)
		rx, err := w.b.Open(t.Context(), src, transportWant("orders"))
		check.NoError(t, err)
		_, err = rx.Receive(t.Context()) // it is somebody else's until its lease is over
		check.NoError(t, err)
		check.NoError(t, rx.Close(t.Context()))
		w.publishKeyed("long/1")
		w.run()
		w.pass(5 * time.Minute)
		w.publishKeyed("b/1")
		w.pass(time.Minute)
		check.Equal(t, w.ids(), []string{"long/1", "a/1", "b/1"})
		w.pass(time.Hour)
		w.idle()
	})
}
