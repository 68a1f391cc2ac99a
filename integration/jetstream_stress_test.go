package integration_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// A single worker sees the broker's order, also when messages move between the
// channel and the buffer whose leases are kept up.
func TestJetStreamOrderIsKeptForOneWorker(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	// The buffer moves three times a lease.
	rx := w.started(w.source(briefly), want(63))
	const n = 20_000
	nc := w.server.Conn()
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			_ = nc.Publish("orders.a", fmt.Append(nil, i))
			if i%500 == 0 {
				hold(w.ctx, brief/20) // two leases in all
			}
		}
		_ = nc.Flush()
	})
	for i := range n {
		d := w.receive(rx)
		if got := string(d.Message().Body); got != fmt.Sprint(i) {
			t.Fatalf("message %d came as number %s", i, got)
		}
		if err := d.(transport.PipelinedAcker).AckLater(); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

// Many workers, many acks, a connection that is cut again and again: nothing
// acked comes back after the close, nothing is missing.
func TestJetStreamLosesNothingWhenTheConnectionIsCut(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source(briefly)
	rx := w.started(src, transport.Want{Subscription: "billing", Concurrency: 8, Prefetch: 56, Redelivery: true})
	const n = 3000
	nc := w.server.Conn()
	for i := range n {
		if err := nc.Publish("orders.a", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]int{}
	var done atomic.Int64
	ctx, stop := context.WithCancel(w.ctx)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for {
				d, err := rx.Receive(ctx)
				if err != nil {
					return
				}
				for {
					err := d.(transport.PipelinedAcker).AckLater()
					if err == nil {
						mu.Lock()
						seen[string(d.Message().Body)]++
						done.Store(int64(len(seen)))
						mu.Unlock()
					}
					if err == nil || errors.Is(err, transport.ErrLeaseLost) || ctx.Err() != nil {
						break
					}
					hold(ctx, time.Millisecond)
				}
			}
		})
	}
	for range 5 {
		hold(w.ctx, 30*time.Millisecond)
		w.server.CutClients()
	}
	eventually(t, "all are handled", func() bool { return done.Load() == n })
	stop()
	workers.Wait()
	eventually(t, "the connection is back", w.js.Conn().IsConnected)
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.nothing(w.open(src, want(9)), brief+time.Second)
}

func TestJetStreamCloseLeavesNoGoroutine(t *testing.T) {
	// Not parallel: it looks at all goroutines of the process.
	s := natstest.Start(t)
	ctx := testContext(t)
	for range 3 {
		js, err := jetstream.Connect(ctx, s.URL(), jetstream.WithNATS(natstest.Patient()))
		if err != nil {
			t.Fatal(err)
		}
		src := js.Consumer(jetstream.ConsumerConfig{Stream: "S", Subjects: []string{"s"}, Start: jetstream.StartAll()})
		wnt := transport.Want{Subscription: "x", Concurrency: 1, DeadLetter: true}
		if _, err := js.Provision(ctx, src, wnt); err != nil {
			t.Fatal(err)
		}
		rx, err := js.Open(ctx, src, wnt)
		if err != nil {
			t.Fatal(err)
		}
		if err := js.Publish(ctx, transport.Address{Name: "s"}, &transport.Message{ID: "a"}); err != nil {
			t.Fatal(err)
		}
		if _, err := rx.Receive(ctx); err != nil {
			t.Fatal(err)
		}
		if err := rx.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if err := js.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no goroutine of the transport is left", func() bool {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		return !strings.Contains(stacks, "holdfast/jetstream.")
	})
}
