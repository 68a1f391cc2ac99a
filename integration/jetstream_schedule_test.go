package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// newScheduleWorld is a server with the stream ORDERS, which keeps messages for
// later, and a receiver of it.
func newScheduleWorld(t *testing.T) (*jsWorld, transport.Receiver) {
	t.Helper()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(10))
	if err := w.js.EnableSchedules(w.ctx, "ORDERS"); err != nil {
		t.Fatal(err)
	}
	return w, rx
}

// later publishes a message that is due after d.
func (w *jsWorld) later(subject, id string, d time.Duration) time.Time {
	w.Helper()
	m := &transport.Message{ID: id, Body: []byte(id), NotBefore: time.Now().Add(d), Key: "k", Header: transport.Header{"Tenant": {"a"}}}
	if err := w.js.Publish(w.ctx, transport.Address{Name: subject}, m); err != nil {
		w.Fatalf("publish: %v", err)
	}
	return m.NotBefore
}

func TestJetStreamScheduledMessagesComeWhenDue(t *testing.T) {
	t.Parallel()
	w, rx := newScheduleWorld(t)
	p := holdfast.NewPublisher[string](w.js, transport.Address{Name: "orders.placed"})
	t.Cleanup(func() { _, _ = p.Close(context.Background()) })
	due := map[string]time.Time{}
	for i := range 5 {
		// With a part of a second, which the client library would cut off.
		at := time.Now().Add(1500*time.Millisecond + time.Duration(i)*333*time.Millisecond)
		id := fmt.Sprintf("at-%d", i)
		if err := p.Publish(w.ctx, "body", holdfast.At(at), holdfast.ID(id), holdfast.SetHeader("Tenant", "a")); err != nil {
			t.Fatal(err)
		}
		due[id] = at
	}
	due["after"] = time.Now().Add(time.Second)
	if err := p.Publish(w.ctx, "body", holdfast.After(time.Second), holdfast.ID("after"), holdfast.SetHeader("Tenant", "a")); err != nil {
		t.Fatal(err)
	}
	w.server.Restart()
	for len(due) > 0 {
		d := w.receive(rx)
		m := d.Message()
		at, waiting := due[m.ID]
		if early := time.Until(at); !waiting || early > 0 {
			t.Errorf("%s came %v early (or twice)", m.ID, early)
		}
		if m.Subject != "orders.placed" || m.Header.Get("Tenant") != "a" {
			t.Errorf("%s is %+v", m.ID, m)
		}
		delete(due, m.ID)
		w.ack(d)
	}
	w.nothing(rx, 500*time.Millisecond)
}

// Many messages that are due at one moment all come.
func TestJetStreamManyScheduledMessagesShareAMoment(t *testing.T) {
	t.Parallel()
	w, rx := newScheduleWorld(t)
	const n = 1000
	at := time.Now().Add(4 * time.Second)
	for i := range n {
		m := &transport.Message{ID: fmt.Sprintf("m%d", i), NotBefore: at}
		if err := w.js.Publish(w.ctx, transport.Address{Name: "orders.placed"}, m); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for len(seen) < n {
		d := w.receive(rx)
		if early := time.Until(at); early > 0 {
			t.Fatalf("%s came %v early", d.Message().ID, early)
		}
		seen[d.Message().ID] = true
		if err := d.(transport.PipelinedAcker).AckLater(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestJetStreamScheduledMessagesAreCancelled(t *testing.T) {
	t.Parallel()
	w, rx := newScheduleWorld(t)
	const odd = "an ID with spaces, and > * ."
	to := transport.Address{Name: "orders.placed"}
	const early = 1500 * time.Millisecond
	late := w.later("orders.placed", "one", 8*time.Second) // time to cancel them
	w.later("orders.placed", odd, 8*time.Second)
	w.later("orders.placed", "two", early)
	w.later("orders.shipped", "one", early) // one ID, two addresses
	for _, id := range []string{"one", odd} {
		if err := w.js.CancelScheduled(w.ctx, to, id); err != nil {
			t.Fatal(err)
		}
		if err := w.js.CancelScheduled(w.ctx, to, id); !errors.Is(err, transport.ErrNotFound) {
			t.Errorf("the second cancellation of %q: %v", id, err)
		}
	}
	got := []string{}
	for range 2 {
		d := w.receive(rx)
		got = append(got, d.Message().Subject+" "+d.Message().ID)
		w.ack(d)
	}
	slices.Sort(got)
	if want := []string{"orders.placed two", "orders.shipped one"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	w.nothing(rx, max(0, time.Until(late))+time.Second)
	if err := w.js.CancelScheduled(w.ctx, to, "two"); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("the cancellation of what was sent: %v", err)
	}
	// What was cancelled can be scheduled again, for the same time too.
	at := w.later("orders.placed", "again", 8*time.Second)
	if err := w.js.CancelScheduled(w.ctx, to, "again"); err != nil {
		t.Fatal(err)
	}
	if err := w.js.Publish(w.ctx, to, &transport.Message{ID: "again", NotBefore: at}); err != nil {
		t.Fatal(err)
	}
	d := w.receive(rx)
	if d.Message().ID != "again" {
		t.Errorf("got %s", d.Message().ID)
	}
	w.ack(d)
}

// A pipeline that publishes in atomic batches schedules as well.
func TestJetStreamScheduledMessagesBesideAtomicBatches(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	js, _ := w.connect(w.server.URL(), jetstream.AtomicBatches())
	rx := w.started(w.source(func(c *jetstream.ConsumerConfig) {
		c.StreamConfig = &natsjs.StreamConfig{
			Subjects: []string{"orders.>", js.ScheduleSubjects("ORDERS")}, AllowMsgSchedules: true, AllowAtomicPublish: true,
		}
	}), want(100))
	p := holdfast.NewPublisher[string](js, transport.Address{Name: "orders.placed"})
	t.Cleanup(func() { _, _ = p.Close(context.Background()) })
	at := time.Now().Add(2 * time.Second)
	left := map[string]bool{}
	for i := range 60 {
		id := fmt.Sprintf("now-%d", i)
		opts := []holdfast.PublishOption{}
		if i%3 == 0 {
			id = fmt.Sprintf("later-%d", i)
			opts = append(opts, holdfast.At(at))
		}
		left[id] = true
		p.PublishAsync(w.ctx, "body", append(opts, holdfast.ID(id))...)
	}
	if err := p.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	for len(left) > 0 {
		d := w.receive(rx)
		id := d.Message().ID
		if !left[id] || strings.HasPrefix(id, "later") && time.Now().Before(at) {
			t.Errorf("%s came early or twice", id)
		}
		delete(left, id)
		w.ack(d)
	}
}

// Publishing it again, with another time, moves a message.
func TestJetStreamScheduledMessageIsMoved(t *testing.T) {
	t.Parallel()
	w, rx := newScheduleWorld(t)
	w.later("orders.placed", "one", time.Hour)
	at := w.later("orders.placed", "one", time.Second)
	d := w.receive(rx)
	if d.Message().ID != "one" || time.Now().Before(at) {
		t.Errorf("got %s", d.Message().ID)
	}
	w.ack(d)
	if s, err := w.js.JetStream().Stream(w.ctx, "ORDERS"); err != nil || s.CachedInfo().State.Msgs != 1 {
		t.Errorf("the schedule is still there: %v", err)
	}
}

func TestJetStreamSchedulesAreRefusedWhereTheyCannotBeKept(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.provision(w.source(), want(0))
	to := transport.Address{Name: "orders.placed"}
	refused := func(what string, want error, kind transport.Kind, err error) {
		t.Helper()
		if !errors.Is(err, want) || transport.KindOf(err) != kind {
			t.Errorf("%s: %v, %v", what, transport.KindOf(err), err)
		}
		t.Log(err)
	}
	m := func() *transport.Message { return &transport.Message{ID: "m", NotBefore: time.Now().Add(time.Hour)} }
	refused("a stream that was not asked", transport.ErrUnsupported, transport.Permanent, w.js.Publish(w.ctx, to, m()))
	refused("no stream", transport.ErrUnroutable, transport.Temporary, w.js.Publish(w.ctx, transport.Address{Name: "nowhere"}, m()))
	outcomes := make(chan error, 1)
	p, err := w.js.OpenPipeline(w.ctx, func(_ uint64, err error) { outcomes <- err })
	if err != nil {
		t.Fatal(err)
	}
	defer p.End(false)
	refused("a stream that was not asked, by a pipeline", transport.ErrUnsupported, transport.Permanent, p.Send(to, m(), 1))
	if err := p.Send(transport.Address{Name: "nowhere"}, m(), 2); err != nil {
		t.Fatal(err)
	}
	_ = p.Flush()
	refused("no stream, by a pipeline", transport.ErrUnroutable, transport.Temporary, <-outcomes)

	if _, err := w.js.JetStream().CreateStream(w.ctx, natsjs.StreamConfig{Name: "BOUNDED", Subjects: []string{"bounded"}, MaxMsgs: 10}); err != nil {
		t.Fatal(err)
	}
	refused("a bounded stream", transport.ErrUnsupported, transport.Permanent, w.js.EnableSchedules(w.ctx, "BOUNDED"))
	refused("no such stream", transport.ErrNotFound, transport.Permanent, w.js.EnableSchedules(w.ctx, "MISSING"))

	// Without age limits on what waits it would be removed before it is due.
	if _, err := w.js.JetStream().CreateStream(w.ctx, natsjs.StreamConfig{Name: "AGING", Subjects: []string{"aging"}, MaxAge: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if err := w.js.EnableSchedules(w.ctx, "AGING"); err != nil {
		t.Fatal(err)
	}
	refused("a stream that forgets", transport.ErrUnsupported, transport.Permanent, w.js.Publish(w.ctx, transport.Address{Name: "aging"}, m()))
}

// A subscription that takes everything would take what waits, and cancel it.
func TestJetStreamSubscriptionThatTakesWaitingMessagesIsRefused(t *testing.T) {
	t.Parallel()
	w, _ := newScheduleWorld(t)
	all := w.source(func(c *jetstream.ConsumerConfig) { c.Subjects, c.Durable = nil, "all" })
	found, err := w.js.Check(w.ctx, all, want(0))
	if err != nil || len(findings(found, transport.CodeTakesSchedules)) != 1 {
		t.Errorf("check: %v %s", err, describe(found))
	}
	found, err = w.js.Check(w.ctx, w.source(), want(0))
	if err != nil || len(findings(found, transport.CodeTakesSchedules)) != 0 {
		t.Errorf("check of a filtered one: %v %s", err, describe(found))
	}
	if _, err := w.js.JetStream().CreateStream(w.ctx, natsjs.StreamConfig{Name: "OPEN", Subjects: []string{"open"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.JetStream().CreateConsumer(w.ctx, "OPEN", natsjs.ConsumerConfig{Durable: "all"}); err != nil {
		t.Fatal(err)
	}
	if err := w.js.EnableSchedules(w.ctx, "OPEN"); !errors.Is(err, transport.ErrUnsupported) {
		t.Errorf("enable: %v", err)
	}
}

// What waits outlives the age limit of its stream, and the message that is sent
// may have a time to live of its own.
func TestJetStreamScheduledMessageOutlivesTheAgeLimit(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source(func(c *jetstream.ConsumerConfig) {
		c.StreamConfig = &natsjs.StreamConfig{
			Subjects: []string{"orders.>", w.js.ScheduleSubjects("ORDERS")}, AllowMsgSchedules: true, AllowMsgTTL: true, MaxAge: 2 * time.Second,
		}
	})
	rx := w.started(src, transport.Want{Subscription: "billing", Concurrency: 1})
	m := &transport.Message{ID: "one", NotBefore: time.Now().Add(5 * time.Second), TTL: time.Minute}
	if err := w.js.Publish(w.ctx, transport.Address{Name: "orders.placed"}, m); err != nil {
		t.Fatal(err)
	}
	d := w.receive(rx)
	if d.Message().ID != "one" || time.Now().Before(m.NotBefore) || d.Message().Header.Get("Nats-TTL") != "60" {
		t.Errorf("got %+v", d.Message())
	}
	w.ack(d)
}

func TestJetStreamRecurringMessages(t *testing.T) {
	t.Parallel()
	w, rx := newScheduleWorld(t)
	to := transport.Address{Name: "orders.sweep"}
	tick := &transport.Message{ID: "sweep", Body: []byte("now")}
	if err := w.js.Recur(w.ctx, to, jetstream.Recurrence{Spec: "@every 1s"}, tick); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for range 3 {
		d := w.receive(rx)
		ids[d.Message().ID] = true
		if string(d.Message().Body) != "now" || d.Message().Subject != "orders.sweep" {
			t.Errorf("got %+v", d.Message())
		}
		w.ack(d)
	}
	if len(ids) != 3 || ids["sweep"] {
		t.Errorf("three messages have the IDs %v", ids)
	}
	if err := w.js.CancelScheduled(w.ctx, to, "sweep"); err != nil {
		t.Fatal(err)
	}
	// Some may have been on their way.
	for n := 0; ; n++ {
		ctx, cancel := context.WithTimeout(w.ctx, 3*time.Second)
		d, err := rx.Receive(ctx)
		cancel()
		if err != nil {
			break
		}
		if n > 20 {
			t.Fatal("what was cancelled goes on")
		}
		w.ack(d)
	}

	for _, spec := range []string{"", "never", "@at 2030-01-01T00:00:00Z", "@every 1ms"} {
		if err := w.js.Recur(w.ctx, to, jetstream.Recurrence{Spec: spec}, tick); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("%q: %v", spec, err)
		}
	}
	if err := w.js.Recur(w.ctx, to, jetstream.Recurrence{Spec: "0 30 9 * * 1-5", TimeZone: "Europe/Berlin"}, tick); err != nil {
		t.Errorf("cron: %v", err)
	}
	if err := w.js.Recur(w.ctx, to, jetstream.Recurrence{Spec: "@daily", TimeZone: "Nowhere/Else"}, tick); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a zone that is none: %v", err)
	}
}

// An old server would send at once what is to be sent later.
func TestJetStreamOldServerRefusesSchedules(t *testing.T) {
	t.Parallel()
	w := newOldWorld(t)
	rx := w.started(w.source(), want(0))
	to := transport.Address{Name: "orders.placed"}
	if w.js.Capabilities().Schedules {
		t.Error("an old server is said to schedule")
	}
	m := &transport.Message{ID: "m", NotBefore: time.Now().Add(time.Hour)}
	p := holdfast.NewPublisher[string](w.js, to)
	defer func() { _, _ = p.Close(w.ctx) }()
	for what, err := range map[string]error{
		"Publish":         w.js.Publish(w.ctx, to, m),
		"Publisher":       p.Publish(w.ctx, "body", holdfast.After(time.Hour)),
		"EnableSchedules": w.js.EnableSchedules(w.ctx, "ORDERS"),
		"Recur":           w.js.Recur(w.ctx, to, jetstream.Recurrence{Spec: "@hourly"}, &transport.Message{ID: "m"}),
	} {
		if !errors.Is(err, transport.ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.nothing(rx, 300*time.Millisecond)
}
