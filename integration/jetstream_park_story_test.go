package integration_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/integration/internal/oldnats"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// graves lists the dead letters.
func (w *jsWorld) graves() []deadletter.Letter {
	w.Helper()
	return w.letters(deadletter.Open(w.js.DeadLetters()))
}

// parkSoon parks all that waits for longer than half a second.
func parkSoon() jetstream.Option {
	return jetstream.Parking(jetstream.ParkConfig{After: 500 * time.Millisecond})
}

// A message that is parked between its attempts is the message it was: its
// identity, its headers and its count, and its dead letter tells the whole story.
func TestJetStreamParkedMessageKeepsItsStory(t *testing.T) {
	t.Parallel()
	w := parkWorld(t, 500*time.Millisecond)
	const attempts = 3
	var mu sync.Mutex
	var seen []holdfast.Meta
	var last time.Time
	app := holdfast.New(holdfast.Config{Name: "billing"})
	holdfast.Handle(app, w.source(), func(_ context.Context, m *holdfast.Message[string]) error {
		mu.Lock()
		defer mu.Unlock()
		if gap := time.Since(last); len(seen) > 0 && gap < time.Second {
			t.Errorf("attempt %d came %v after the one before", m.Attempt, gap)
		}
		seen, last = append(seen, m.Meta), time.Now()
		return errors.New("not today")
	}, holdfast.Retry{Attempts: attempts, Backoff: holdfast.Constant(time.Second)})
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	w.retry("the stream is made", func(ctx context.Context) error {
		return w.js.Publish(ctx, transport.Address{Name: "orders.eu.placed"}, &transport.Message{
			ID: "order-1", Key: "k", ContentType: "text/plain; charset=utf-8", Body: []byte("body"),
			Header: transport.Header{"Tenant": {"a", "b"}},
		})
	})
	eventually(t, "the message is buried", func() bool { return len(w.graves()) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != attempts {
		t.Fatalf("%d attempts, want %d", len(seen), attempts)
	}
	for i, m := range seen {
		if m.Attempt != i+1 || m.ID != "order-1" || m.Key != "k" || m.Subject != "orders.eu.placed" || !m.Time.Equal(seen[0].Time) {
			t.Errorf("attempt %d saw attempt %d of %q, key %q, subject %q, time %v", i+1, m.Attempt, m.ID, m.Key, m.Subject, m.Time)
		}
		if !slices.Equal(m.Header.Values("Tenant"), []string{"a", "b"}) || m.Header.Get("Holdfast-Parked") != "" {
			t.Errorf("attempt %d saw the headers %v", i+1, m.Header)
		}
	}
	l := w.graves()[0]
	if l.Attempts != attempts || l.Deliveries != attempts || l.MessageID != "order-1" || l.Subject != "orders.eu.placed" ||
		!strings.HasPrefix(l.Position, "ORDERS:1:") || !l.Time.Equal(seen[0].Time) || string(l.Body) != "body" || l.Key != "k" {
		t.Errorf("the dead letter is %+v", l)
	}
	if w.parked() != 0 {
		t.Error("a copy is left in the park stream")
	}
}

// A process that dies between the confirmed copy and the ack leaves two copies of
// one message. The second is not handled, neither early nor when it is due.
func TestJetStreamParkedMessageWhoseAckWasLostIsHandledOnce(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.WithUser("admin", "a", nil), natstest.WithUser("mute", "b", &server.Permissions{
		Publish: &server.SubjectPermission{Deny: []string{"$JS.ACK.ORDERS.>"}},
	}))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, w.events = w.connect(s.URLFor("admin", "a"), parkSoon())
	w.provision(w.source(briefly), longWant(0))
	w.publish("orders.placed", 1)
	admin := w.js

	w.js, _ = w.connect(s.URLFor("mute", "b"), parkSoon())
	rx := w.open(w.source(briefly), longWant(0))
	d := w.receive(rx)
	const delay = 2 * brief // longer than the lease, after which the original comes again
	due := time.Now().Add(delay)
	_ = d.Nack(w.ctx, delay) // the copy is stored; the ack is not
	rx.(interface{ Abandon() }).Abandon()
	w.js = admin
	if n := w.parked(); n != 1 {
		t.Fatalf("%d messages are parked", n)
	}

	rx = w.open(w.source(briefly), longWant(10))
	d = w.receive(rx)
	if early := time.Until(due); early > 0 {
		t.Errorf("the message was handed out %v early", early)
	}
	if d.Message().ID != "m1" || d.Deliveries() != 2 {
		t.Errorf("got %s, delivery %d", d.Message().ID, d.Deliveries())
	}
	w.ack(d)
	w.nothing(rx, brief+time.Second)
	eventually(t, "nothing is left", func() bool {
		return w.parked() == 0 && w.consumer("ORDERS", "billing").NumAckPending == 0
	})
}

// A park that is repeated, because nobody knew whether it was done, leaves one copy;
// one that is done again later replaces the copy before.
func TestJetStreamParkedAgainAndAgainIsCountedOnce(t *testing.T) {
	t.Parallel()
	w := parkWorld(t, 500*time.Millisecond)
	rx := w.started(w.source(), longWant(0))
	w.publish("orders.placed", 1)
	for n := 1; n <= 4; n++ {
		d := w.receive(rx)
		if d.Deliveries() != n {
			t.Fatalf("delivery %d is counted as %d", n, d.Deliveries())
		}
		if counted, err := d.(transport.Recounter).Recount(w.ctx); err != nil || counted != n {
			t.Errorf("delivery %d is recounted as %d, %v", n, counted, err)
		}
		if !strings.HasPrefix(d.Message().Position, "ORDERS:1:") {
			t.Errorf("delivery %d is from %s", n, d.Message().Position)
		}
		delay := time.Second
		if n == 2 {
			delay = time.Millisecond // stays in the consumer of the parked
		}
		if err := d.Nack(w.ctx, delay); err != nil {
			t.Fatal(err)
		}
		if got := w.parked(); got != 1 {
			t.Fatalf("%d copies are parked after delivery %d", got, n)
		}
	}
	d := w.receive(rx)
	// Uncharged: the next hand-over counts as this one.
	if err := d.(transport.Returner).Return(w.ctx); err != nil {
		t.Fatal(err)
	}
	d = w.receive(rx)
	if d.Deliveries() != 5 {
		t.Errorf("after a return delivery 5 is counted as %d", d.Deliveries())
	}
	w.ack(d)
	eventually(t, "the copy is gone", func() bool { return w.parked() == 0 })
}

// A dead letter that was redriven is parked like any other message, and stays what
// it was.
func TestJetStreamRedrivenMessageIsParked(t *testing.T) {
	t.Parallel()
	w := parkWorld(t, 500*time.Millisecond)
	wnt := longWant(0)
	wnt.DeadLetter = true
	rx := w.started(w.source(), wnt)
	m := &transport.Message{ID: "m1", Body: []byte("body"), Header: transport.Header{
		"Holdfast-Subject": {"orders.placed"}, "Holdfast-Position": {"ORDERS:1:1700000000000000000"},
	}}
	if err := w.js.DeadLetters().Redrive(w.ctx, "billing", m); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		d := w.receive(rx)
		if got := d.Message(); got.ID != "m1" || got.Subject != "orders.placed" || got.Position != "ORDERS:1:1700000000000000000" || d.Deliveries() != n {
			t.Errorf("delivery %d is delivery %d of %+v", n, d.Deliveries(), got)
		}
		if n == 3 {
			w.ack(d)
		} else if err := d.Nack(w.ctx, time.Second); err != nil {
			t.Fatal(err)
		} else if w.parked() != 1 {
			t.Error("it is not parked")
		}
	}
	w.nothing(rx, time.Second)
}

// A process that dies before it gives a copy back that is not due costs no attempt,
// and does not make it come early.
func TestJetStreamParkedCopyThatNobodyGaveBackIsNotCounted(t *testing.T) {
	t.Parallel()
	w := parkWorld(t, 500*time.Millisecond)
	rx := w.started(w.source(briefly), longWant(0))
	js := w.js.JetStream()
	// The receiver that parks the message is not the one that gets it back.
	if _, err := js.PauseConsumer(w.ctx, "HOLDFAST_PARK", "billing@ORDERS", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.publish("orders.placed", 1)
	const delay = 4 * brief
	d := w.receive(rx)
	due := time.Now().Add(delay)
	if err := d.Nack(w.ctx, delay); err != nil {
		t.Fatal(err)
	}
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := js.ResumeConsumer(w.ctx, "HOLDFAST_PARK", "billing@ORDERS"); err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(w.ctx, "HOLDFAST_PARK", "billing@ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := c.Next(natsjs.FetchMaxWait(patience)); err != nil { // and is never settled
		t.Fatal(err)
	} else if meta, err := m.Metadata(); err != nil || meta.NumDelivered != 1 {
		t.Fatalf("delivery %+v, %v", meta, err)
	}
	d = w.receive(w.open(w.source(briefly), longWant(0)))
	if early := time.Until(due); early > 0 || d.Deliveries() != 2 {
		t.Errorf("delivery %d came %v early", d.Deliveries(), early)
	}
	if n := w.consumer("HOLDFAST_PARK", "billing@ORDERS"); n.Config.Metadata["holdfast.returned"] == "" {
		t.Errorf("it is not recorded: %v", n.Config.Metadata)
	}
	w.ack(d)
}

// What was parked comes back although the policy of today parks nothing.
func TestJetStreamParkedMessagesOutliveTheirPolicy(t *testing.T) {
	t.Parallel()
	w := parkWorld(t, 500*time.Millisecond)
	rx := w.started(w.source(), longWant(0))
	w.publish("orders.placed", 1)
	if err := w.receive(rx).Nack(w.ctx, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.js, _ = w.connect(w.server.URL(), jetstream.Parking(jetstream.ParkConfig{After: -1}))
	d := w.receive(w.started(w.source(), want(0)))
	if d.Message().ID != "m1" || d.Deliveries() != 2 {
		t.Errorf("got %s, delivery %d", d.Message().ID, d.Deliveries())
	}
	w.ack(d)
}

// A park stream that is full keeps nobody from giving a message back: it waits in
// its consumer, and that is told.
func TestJetStreamFullParkStreamLeavesRetriesInTheConsumer(t *testing.T) {
	t.Parallel()
	w := &jsWorld{T: t, ctx: testContext(t), server: natstest.Start(t)}
	w.js, w.events = w.connect(w.server.URL(), jetstream.Parking(jetstream.ParkConfig{After: 500 * time.Millisecond, MaxBytes: 100}))
	rx := w.started(w.source(), longWant(0))
	w.publish("orders.placed", 1)
	d := w.receive(rx)
	began := time.Now()
	if err := d.Nack(w.ctx, time.Second); err != nil {
		t.Fatal(err)
	}
	if w.parked() != 0 || w.events.count(transport.Stalled) != 1 {
		t.Errorf("%d messages are parked, %d events", w.parked(), w.events.count(transport.Stalled))
	}
	if d = w.receive(rx); time.Since(began) < time.Second || d.Deliveries() != 2 {
		t.Errorf("delivery %d after %v", d.Deliveries(), time.Since(began))
	}
	w.ack(d)
}

// Retries that are short leave the consumer when they would fill it.
func TestJetStreamShortRetriesAreParkedWhenTheConsumerIsHalfFull(t *testing.T) {
	t.Parallel()
	w := parkWorld(t, time.Hour)
	const bound = 20
	rx := w.started(w.source(func(c *jetstream.ConsumerConfig) { c.MaxAckPending = bound }), longWant(0))
	w.publish("orders.placed", 3*bound)
	for range 3 * bound {
		if err := w.receive(rx).Nack(w.ctx, 10*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.parked(); n < 2*bound || n == 3*bound {
		t.Errorf("%d of %d messages are parked", n, 3*bound)
	}
}

// What is handled in order waits at the head of its key, and short delays need no
// park stream.
func TestJetStreamOrderedAndShortRetriesAreNotParked(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	ordered := longWant(0)
	ordered.Ordered = true
	for name, wnt := range map[string]transport.Want{"ordered": ordered, "short": want(0)} {
		if report := w.provision(w.source(), wnt); slices.Contains(report.Created, "stream HOLDFAST_PARK") {
			t.Errorf("%s: %v", name, report.Created)
		}
	}
	if report := w.provision(w.source(), longWant(0)); !slices.Contains(report.Created, "stream HOLDFAST_PARK") {
		t.Errorf("long: %v", report.Created)
	}
	if report := w.provision(w.source(), longWant(0)); len(report.Created) > 0 || len(report.Findings) > 0 {
		t.Errorf("once more: %v %s", report.Created, describe(report.Findings))
	}
}

// A server of version 2.9 parks as well.
func TestJetStreamOldServerParks(t *testing.T) {
	t.Parallel()
	w := &jsWorld{T: t, ctx: testContext(t)}
	s := oldnats.Start(t)
	w.js, w.events = w.connect(s.URL(), parkSoon())
	rx := w.started(w.source(), longWant(0))
	w.publish("orders.placed", 1)
	began := time.Now()
	if err := w.receive(rx).Nack(w.ctx, 3*time.Second); err != nil {
		t.Fatal(err)
	}
	if w.parked() != 1 {
		t.Error("it is not parked")
	}
	s.Restart()
	if d := w.receive(rx); d.Deliveries() != 2 || time.Since(began) < 3*time.Second {
		t.Errorf("delivery %d after %v", d.Deliveries(), time.Since(began))
	} else {
		w.ack(d)
	}
}

// The check finds what would lose parked messages or hand them out twice.
func TestJetStreamCheckOfTheParkStream(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source()
	found, err := w.js.Check(w.ctx, src, longWant(0))
	if err != nil || len(findings(found, transport.CodeParkCreated)) != 1 {
		t.Fatalf("before: %v %s", err, describe(found))
	}
	if _, err := w.js.JetStream().CreateStream(w.ctx, natsjs.StreamConfig{
		Name: "HOLDFAST_PARK", Subjects: []string{"holdfast.park.>"}, MaxAge: time.Hour, MaxBytes: 1 << 20, MaxMsgsPerSubject: -1,
		Storage: natsjs.MemoryStorage,
	}); err != nil {
		t.Fatal(err)
	}
	w.provision(src, want(0))
	found, err = w.js.Check(w.ctx, src, longWant(0))
	if err != nil || len(findings(found, transport.CodeParkStream)) != 4 || len(findings(found, transport.CodeParkWeaker)) != 1 {
		t.Errorf("a stream that loses: %v %s", err, describe(found))
	}
}

// A permission that parking lacks is found at start.
func TestJetStreamCheckFindsPermissionsThatParkingLacks(t *testing.T) {
	t.Parallel()
	for _, denied := range []string{
		"holdfast.park.>", "$JS.API.STREAM.MSG.GET.HOLDFAST_PARK", "$JS.API.CONSUMER.MSG.NEXT.HOLDFAST_PARK.>", "$JS.ACK.HOLDFAST_PARK.>",
	} {
		t.Run(denied, func(t *testing.T) {
			t.Parallel()
			s := natstest.Start(t, natstest.WithUser("admin", "a", nil), natstest.WithUser("app", "b", &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{denied}},
			}))
			w := &jsWorld{T: t, ctx: testContext(t), server: s}
			w.js, _ = w.connect(s.URLFor("admin", "a"))
			w.provision(w.source(), longWant(0))
			w.js, _ = w.connect(s.URLFor("app", "b"))
			found, err := w.js.Check(w.ctx, w.source(), longWant(0))
			if err != nil || len(findings(found, transport.CodePermission)) != 1 {
				t.Errorf("check: %v %s", err, describe(found))
			}
		})
	}
}
