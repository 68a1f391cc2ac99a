package integration_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// parkWorld is a server and a transport that parks what waits longer than after.
func parkWorld(t *testing.T, after time.Duration, opts ...natstest.Option) *jsWorld {
	t.Helper()
	w := &jsWorld{T: t, server: natstest.Start(t, opts...)}
	var cancel context.CancelFunc
	w.ctx, cancel = context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	w.js, w.events = w.connect(w.server.URL(), jetstream.Parking(jetstream.ParkConfig{After: after}))
	return w
}

// longWant asks for delays of up to a day.
func longWant(prefetch int) transport.Want {
	wnt := want(prefetch)
	wnt.MaxDelay = 24 * time.Hour
	return wnt
}

// fill stores n messages with IDs m1, m2, ... without waiting for each.
func (w *jsWorld) fill(subject string, n int) {
	w.Helper()
	natstest.Fill(w, w.js.JetStream(), n, func(i int) *nats.Msg {
		m := nats.NewMsg(subject)
		m.Data = fmt.Appendf(nil, "body %d", i+1)
		m.Header.Set(nats.MsgIdHdr, fmt.Sprintf("m%d", i+1))
		return m
	})
}

// parked is how many messages the park stream holds.
func (w *jsWorld) parked() int {
	w.Helper()
	n := -1
	w.retry("look at the park stream", func(ctx context.Context) error {
		s, err := w.js.JetStream().Stream(ctx, "HOLDFAST_PARK")
		if err == nil {
			n = int(s.CachedInfo().State.Msgs)
		}
		return err
	})
	return n
}

// takers runs handle for what rx hands out, in several goroutines, until the
// returned function is called.
func (w *jsWorld) takers(rx transport.Receiver, n int, handle func(transport.Delivery)) (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for {
				d, err := rx.Receive(ctx)
				if err != nil {
					return
				}
				handle(d)
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// scale is how many messages the large tests park: enough to be many times what
// may be pending, or what HOLDFAST_PARKED says.
func scale(t *testing.T, usual int) int {
	t.Helper()
	s := os.Getenv("HOLDFAST_PARKED")
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("HOLDFAST_PARKED: %v", err)
	}
	return n
}

// Messages that wait for an hour are not pending in their consumer: many times
// more than may be pending are parked, fresh messages come as ever, nothing comes
// early, and nothing is lost when the server is killed.
func TestJetStreamParkedMessagesLeaveRoomForFreshOnes(t *testing.T) {
	t.Parallel()
	n := scale(t, 20_000)
	w := parkWorld(t, time.Second)
	src := w.source(func(c *jetstream.ConsumerConfig) { c.MaxAckPending, c.AckWait = 500, 30*time.Second })
	rx := w.started(src, longWant(200))
	w.fill("orders.placed", n)

	var parked, early atomic.Int64
	fresh := make(chan string, 10)
	stop := w.takers(rx, 8, func(d transport.Delivery) {
		switch {
		case d.Message().Subject == "orders.fresh":
			fresh <- d.Message().ID
			_ = d.Ack(w.ctx)
		case d.Deliveries() > 1:
			early.Add(1)
		default:
			if err := d.Nack(w.ctx, time.Hour); err != nil {
				w.Errorf("nack: %v", err)
			}
			parked.Add(1)
		}
	})
	defer stop()
	began := time.Now()
	waitFor(w, "all are parked", func() bool { return parked.Load() == int64(n) })
	w.Logf("%d messages were parked in %v", n, time.Since(began))
	waitFor(w, "all were told how long to wait", func() bool {
		info := w.consumer("HOLDFAST_PARK", "billing@ORDERS")
		return info.NumPending == 0 && info.NumAckPending == n
	})
	if got := w.parked(); got != n {
		t.Fatalf("%d messages are parked, want %d", got, n)
	}
	w.freshFlows(fresh)

	w.server.Restart()
	w.freshFlows(fresh)
	if got := w.parked(); got != n {
		t.Errorf("after the restart %d messages are parked, want %d", got, n)
	}
	if got := early.Load(); got > 0 {
		t.Errorf("%d messages came back at once, and were to wait an hour", got)
	}
	if c := w.consumer("ORDERS", "billing"); c.NumPending > 0 || c.NumAckPending > 100 {
		t.Errorf("the consumer has %d messages pending and %d unacked", c.NumPending, c.NumAckPending)
	}
}

// waitFor is eventually with the patience of the world's context.
func waitFor(w *jsWorld, what string, ok func() bool) {
	w.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.Fatalf("not in time: %s", what)
		}
	}
}

// freshFlows publishes one message and waits for it.
func (w *jsWorld) freshFlows(fresh <-chan string) {
	w.Helper()
	id := fmt.Sprintf("fresh-%d", time.Now().UnixNano())
	began := time.Now()
	w.retry("publish", func(ctx context.Context) error {
		return w.js.Publish(ctx, transport.Address{Name: "orders.fresh"}, &transport.Message{ID: id})
	})
	select {
	case got := <-fresh:
		if got != id {
			w.Errorf("got %s, want %s", got, id)
		}
		w.Logf("a fresh message was handled after %v", time.Since(began))
	case <-time.After(patience):
		w.Fatal("a fresh message does not come")
	}
}

// Every parked message comes back, once, when it is due and not before, also when
// the server is killed while they wait.
func TestJetStreamParkedMessagesComeBackWhenDue(t *testing.T) {
	t.Parallel()
	n := scale(t, 2_000)
	delay := max(6*time.Second, time.Duration(n)*500*time.Microsecond)
	w := parkWorld(t, time.Second)
	src := w.source(func(c *jetstream.ConsumerConfig) { c.MaxAckPending, c.AckWait = 300, 30*time.Second })
	rx := w.started(src, longWant(100))
	w.fill("orders.placed", n)

	var mu sync.Mutex
	due, back := map[string]time.Time{}, map[string]int{}
	var again []string // came back more than once
	var early, late time.Duration
	var parked, done atomic.Int64
	stop := w.takers(rx, 8, func(d transport.Delivery) {
		id, now := d.Message().ID, time.Now()
		if d.Deliveries() == 1 {
			mu.Lock()
			due[id] = now.Add(delay)
			mu.Unlock()
			if err := d.Nack(w.ctx, delay); err != nil {
				w.Errorf("nack: %v", err)
			}
			parked.Add(1)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		back[id]++
		early = max(early, due[id].Sub(now))
		late = max(late, now.Sub(due[id]))
		if d.Deliveries() != 2 || back[id] > 1 {
			again = append(again, id)
		}
		if err := d.Ack(w.ctx); err != nil {
			w.Logf("ack: %v", err)
		}
		done.Add(1)
	})
	defer stop()
	waitFor(w, "all are parked", func() bool { return parked.Load() == int64(n) })
	w.server.Restart()
	restarted := time.Now()
	waitFor(w, "all come back", func() bool { return done.Load() >= int64(n) })
	waitFor(w, "nothing is left", func() bool { return w.parked() == 0 })
	mu.Lock()
	defer mu.Unlock()
	if len(back) != n {
		t.Errorf("%d messages came back, want %d", len(back), n)
	}
	for _, id := range again {
		// On a slow machine some are due when the server restarts, and in hand.
		if due[id].After(restarted) {
			t.Errorf("%s came back %d times, or was counted more than once", id, back[id])
		}
	}
	if early > 0 {
		t.Errorf("a message came %v early", early)
	}
	w.Logf("the last message was %v late", late)
}
