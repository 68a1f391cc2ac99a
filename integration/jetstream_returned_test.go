package integration_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// jsApp is one process of a program: an app with a connection of its own.
type jsApp struct {
	js   *jetstream.Transport
	app  *holdfast.App
	stop context.CancelFunc
	done chan error
}

// startApp runs a handler on the durable of the world, with a prefetch.
func (w *jsWorld) startApp(handler func(context.Context, *holdfast.Message[string]) error, opts ...holdfast.Option) *jsApp {
	w.Helper()
	a := &jsApp{done: make(chan error, 1)}
	a.js, _ = w.connect(w.server.URL())
	a.app = holdfast.New(holdfast.Config{Name: "billing", Grace: 5 * time.Second})
	src := a.js.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing", Start: jetstream.StartAll()})
	holdfast.Handle(a.app, src, handler, opts...)
	ctx, cancel := context.WithCancel(w.ctx)
	a.stop = cancel
	go func() { a.done <- a.app.Run(ctx) }()
	w.Cleanup(cancel)
	return a
}

// retry is a policy of so many attempts, soon after each other.
func retry(attempts int) holdfast.Option {
	return holdfast.Retry{Attempts: attempts, Backoff: holdfast.Constant(10 * time.Millisecond)}
}

// end stops the app and waits for it. It tells whether all that it had in hand went
// back in time, which a machine that stalls in that moment prevents.
func (a *jsApp) end(t testing.TB) (clean bool) {
	t.Helper()
	a.stop()
	select {
	case err := <-a.done:
		return err == nil
	case <-time.After(patience):
		t.Fatal("the app did not stop")
		return false
	}
}

// Traps 25 and 26: rolling stops burn no attempt of what was prefetched and
// never seen, nor of what a stop cut short, whatever process it comes to next.
func TestJetStreamRollingStopsChargeNoAttempt(t *testing.T) {
	t.Parallel()
	for range 10 {
		if rollingStops(t) {
			return
		}
		t.Log("a stop was not clean: once more")
	}
	t.Error("no three stops in a row were clean")
}

// rollingStops tells whether all stops were clean.
func rollingStops(t *testing.T) bool {
	w := newJSWorld(t)
	const messages = 12
	policy := []holdfast.Option{holdfast.Prefetch(messages), retry(3)}
	w.provision(w.source(func(c *jetstream.ConsumerConfig) { c.AckWait = 30 * time.Second }), transport.Want{Subscription: "billing", Concurrency: 1})
	w.publish("orders.placed", messages)
	for range 3 {
		running := make(chan struct{}, messages)
		a := w.startApp(func(ctx context.Context, _ *holdfast.Message[string]) error {
			running <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}, policy...)
		<-running
		eventually(t, "everything is prefetched", func() bool { return w.consumer("ORDERS", "billing").NumAckPending == messages })
		if !a.end(t) {
			return false
		}
	}
	var mu sync.Mutex
	attempts := map[string]int{}
	last := w.startApp(func(_ context.Context, m *holdfast.Message[string]) error {
		mu.Lock()
		defer mu.Unlock()
		attempts[m.ID] = m.Attempt
		return nil
	}, policy...)
	eventually(t, "all are handled", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(attempts) == messages
	})
	last.end(t)
	for id, n := range attempts {
		if n != 1 {
			t.Errorf("%s is in attempt %d, and no attempt at it has ended", id, n)
		}
	}
	return true
}

// A process that ran before the others stopped has not heard of what they gave
// back. It asks before it gives a message up.
func TestJetStreamAttemptsAreRecountedBeforeTheVerdict(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source(func(c *jetstream.ConsumerConfig) { c.AckWait = 30 * time.Second })
	wnt := want(0)
	w.provision(src, wnt)
	first := w.open(src, wnt)
	w.publish("orders.placed", 1)
	d := w.receive(first)
	// The app is open, with what it knows, before the message is given back.
	var mu sync.Mutex
	var seen []int
	failing := errors.New("not yet")
	a := w.startApp(func(_ context.Context, m *holdfast.Message[string]) error {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, m.Attempt)
		if len(seen) < 2 {
			return failing
		}
		return nil
	}, retry(2))
	eventually(t, "the app waits for messages", func() bool { return w.consumer("ORDERS", "billing").NumWaiting > 0 })
	// This hand-over would use up the first of the policy's two attempts.
	if err := first.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.(transport.Returner).Return(w.ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the app has handled it in its second attempt", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) == 2 && w.consumer("ORDERS", "billing").NumAckPending == 0
	})
	a.end(t)
}

// The record is holdfast's own: it is no drift, an update keeps it, and other
// metadata is kept beside it.
func TestJetStreamRecordOfReturnsIsNoDrift(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source()
	wnt := want(9)
	w.provision(src, wnt)
	w.retry("put metadata of somebody else", func(ctx context.Context) error {
		cfg := w.consumer("ORDERS", "billing").Config
		cfg.Metadata["team"] = "billing"
		_, err := w.js.JetStream().UpdateConsumer(ctx, "ORDERS", cfg)
		return err
	})
	rx := w.open(src, wnt)
	w.publish("orders.placed", 5)
	eventually(t, "all are buffered", func() bool { return w.consumer("ORDERS", "billing").NumAckPending == 5 })
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		m := w.consumer("ORDERS", "billing").Config.Metadata
		if got := m["holdfast.returned"]; got != "1:1 2:1 3:1 4:1 5:1" || m["team"] != "billing" {
			t.Fatalf("%s the metadata is %v", when, m)
		}
	}
	check("after the stop")
	found, err := w.js.Check(w.ctx, src, wnt)
	if err != nil || len(findings(found, transport.CodeConsumerDrift)) > 0 {
		t.Fatalf("the record counts as drift: %v %s", err, describe(found))
	}
	update := w.source(func(c *jetstream.ConsumerConfig) { c.Mode, c.AckWait = jetstream.ModeUpdate, 5*time.Second })
	if report := w.provision(update, wnt); len(report.Updated) != 1 {
		t.Fatalf("updated %v", report.Updated)
	}
	check("after an update")
	rx = w.open(src, wnt)
	for range 5 {
		d := w.receive(rx)
		if d.Deliveries() != 1 {
			t.Fatalf("%s is delivery %d", d.Message().ID, d.Deliveries())
		}
		w.ack(d)
	}
	// What is acked leaves the record with the next write.
	if err := w.js.Publish(w.ctx, transport.Address{Name: "orders.placed"}, &transport.Message{ID: "m6"}); err != nil {
		t.Fatal(err)
	}
	d := w.receive(rx)
	if err := d.(transport.Returner).Return(w.ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.consumer("ORDERS", "billing").Config.Metadata["holdfast.returned"]; got != "6:1" {
		t.Fatalf("the record is %q", got)
	}
}

// Returns at one time share one write of the consumer.
func TestJetStreamReturnsAtOneTimeAreAllRecorded(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source()
	wnt := transport.Want{Subscription: "billing", Concurrency: 50, Redelivery: true}
	rx := w.started(src, wnt)
	w.publish("orders.placed", 50)
	all := make([]transport.Delivery, 50)
	for i := range all {
		all[i] = w.receive(rx)
	}
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, d := range all {
		wg.Go(func() {
			if err := d.(transport.Returner).Return(w.ctx); err != nil {
				t.Errorf("return: %v", err)
			}
		})
	}
	wg.Wait()
	if got := len(strings.Fields(w.consumer("ORDERS", "billing").Config.Metadata["holdfast.returned"])); got != 50 {
		t.Fatalf("%d of 50 returns are recorded", got)
	}
}

// Where the record cannot be kept, the message is given back all the same, and
// counted.
func TestJetStreamReturnsWithoutAPermissionAreCounted(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.WithUser("admin", "a", nil), natstest.WithUser("app", "b", &server.Permissions{
		Publish: &server.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.CREATE.>"}},
	}))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	admin, _ := w.connect(s.URLFor("admin", "a"))
	w.js = admin
	w.provision(w.source(), want(4))
	w.js, _ = w.connect(s.URLFor("app", "b"))
	rx := w.open(w.source(), want(4))
	w.publish("orders.placed", 1)
	for round := range 3 {
		d := w.receive(rx)
		if d.Deliveries() != 1 {
			t.Fatalf("the receiver that gave it back itself counts %d in round %d", d.Deliveries(), round)
		}
		if err := d.(transport.Returner).Return(w.ctx); err != nil {
			t.Fatalf("return: %v", err)
		}
	}
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	next := w.open(w.source(), want(4))
	d := w.receive(next)
	if n := d.Deliveries(); n < 4 {
		t.Fatalf("delivery %d, where nothing could be remembered", n)
	}
	w.ack(d)
}

// A source in verify mode changes nothing, its consumer's metadata included.
func TestJetStreamVerifyModeRecordsNothing(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.provision(w.source(), want(4))
	rx := w.open(w.source(func(c *jetstream.ConsumerConfig) { c.Mode = jetstream.ModeVerify }), want(4))
	w.publish("orders.placed", 1)
	if err := w.receive(rx).(transport.Returner).Return(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.ack(w.receive(rx))
	if got, there := w.consumer("ORDERS", "billing").Config.Metadata["holdfast.returned"]; there {
		t.Fatalf("it recorded %q", got)
	}
}
