package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/oldnats"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

func (w *jsWorld) ordered(change ...func(*jetstream.ConsumerConfig)) transport.Source {
	return w.source(append([]func(*jetstream.ConsumerConfig){func(c *jetstream.ConsumerConfig) { c.Ordered, c.Durable, c.AckWait = true, "", 0 }}, change...)...)
}

// What comes is in order, once each and without a gap, whatever happens to the
// connection, the server and the consumer meanwhile.
func TestJetStreamOrderedHasNeitherGapsNorReplays(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	const each = 300
	var wg sync.WaitGroup
	defer wg.Wait()
	rx := w.started(w.ordered(), want(9))
	next := 0
	take := func(n int) {
		t.Helper()
		for range n {
			d := w.receive(rx)
			if got := string(d.Message().Body); got != fmt.Sprint(next) || d.Deliveries() != 1 {
				t.Fatalf("message %d is %s, delivery %d", next, got, d.Deliveries())
			}
			next++
			w.ack(d)
		}
	}
	sent := 0
	send := func() {
		for range each {
			body := fmt.Sprint(sent)
			eventually(t, "a publish is confirmed", func() bool {
				return w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, &transport.Message{ID: body, Body: []byte(body)}) == nil
			})
			sent++
		}
	}
	for name, fault := range map[string]func(){
		"cut":     w.server.CutClients,
		"restart": w.server.Restart,
		"deleted": func() {
			w.retry("delete the consumer", func(ctx context.Context) error {
				s, err := w.js.JetStream().Stream(ctx, "ORDERS")
				if err != nil {
					return err
				}
				for consumer := range s.ConsumerNames(ctx).Name() {
					if err := s.DeleteConsumer(ctx, consumer); err != nil && !errors.Is(err, natsjs.ErrConsumerNotFound) {
						return err
					}
				}
				return nil
			})
		},
	} {
		send()
		take(each / 2)
		t.Log(name)
		fault()
		take(each - each/2)
	}
	// A new stream of the same name has been seen by nobody.
	if err := w.js.JetStream().DeleteStream(w.ctx, "ORDERS"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream is made again", func() bool { return w.events.count(transport.Recreated) > 0 })
	sent, next = 0, 0
	send()
	take(each)
	w.nothing(rx, 200*time.Millisecond)
}

// Nothing is missed from a start with new messages, also where the first
// consumer is lost before it handed out anything.
func TestJetStreamOrderedStartsWhereItIsTold(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.storeSix()
	for _, s := range w.starts() {
		src := w.ordered(func(c *jetstream.ConsumerConfig) { c.Start = s.policy })
		rx := w.started(src, want(1))
		if s.name == "new" {
			w.server.CutClients()
			w.retry("publish", func(context.Context) error {
				return w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, &transport.Message{ID: "new", Body: []byte("new")})
			})
			if got := w.take(rx, 1); got != "new" {
				t.Fatalf("new begins with %q", got)
			}
			w.purgeAfter(6)
			continue
		}
		n := len(strings.Fields(s.bodies))
		if got := w.take(rx, n); got != s.bodies {
			t.Fatalf("%s begins with %q, not %q", s.name, got, s.bodies)
		}
		w.nothing(rx, 100*time.Millisecond)
		if err := rx.Close(w.ctx); err != nil {
			t.Fatal(err)
		}
		// Whoever starts again reads again: that is what it is for.
		if got := w.take(w.started(src, want(1)), n); got != s.bodies {
			t.Fatalf("%s begins again with %q, not %q", s.name, got, s.bodies)
		}
	}
	eventually(t, "no consumer of a closed receiver is left", func() bool {
		s, err := w.js.JetStream().Stream(w.ctx, "ORDERS")
		return err == nil && s.CachedInfo().State.Consumers <= len(six)
	})
}

// A message that failed comes again before anything later.
func TestJetStreamOrderedRetriesInOrder(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.storeSix()
	rx := w.started(w.ordered(), want(3))
	w.take(rx, 1)
	d := w.receive(rx)
	began := time.Now()
	if err := d.Nack(w.ctx, 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := d.Ack(w.ctx); !errors.Is(err, transport.ErrSettled) {
		t.Fatalf("a second settlement: %v", err)
	}
	d = w.receive(rx)
	if string(d.Message().Body) != "2" || d.Deliveries() != 2 || time.Since(began) < 200*time.Millisecond {
		t.Fatalf("after a nack came %s, delivery %d, after %s", d.Message().Body, d.Deliveries(), time.Since(began))
	}
	if err := d.(transport.Returner).Return(w.ctx); err != nil {
		t.Fatal(err)
	}
	if d = w.receive(rx); string(d.Message().Body) != "2" || d.Deliveries() != 2 {
		t.Fatalf("after a return came %s, delivery %d", d.Message().Body, d.Deliveries())
	}
	w.ack(d)
	if got := w.take(rx, 4); got != "3 4 5 6" {
		t.Fatalf("then came %q", got)
	}
}

func TestJetStreamOrderedRefusesWhatItCannotKeep(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	w.stream(natsjs.StreamConfig{Name: "WORK", Subjects: []string{"work"}, Retention: natsjs.WorkQueuePolicy})
	for code, c := range map[transport.Code]struct {
		src  transport.Source
		want func(*transport.Want)
	}{
		transport.CodeNoDeadLetters: {w.ordered(), func(w *transport.Want) { w.DeadLetter = true }},
		transport.CodeNoReject:      {w.ordered(), func(w *transport.Want) { w.Reject = true }},
		transport.CodeOrdered:       {w.ordered(), func(w *transport.Want) { w.Concurrency = 2 }},
		transport.CodeInvalid:       {w.ordered(func(c *jetstream.ConsumerConfig) { c.Durable = "billing" }), func(*transport.Want) {}},
		transport.CodeNoStart:       {w.ordered(func(c *jetstream.ConsumerConfig) { c.Start = jetstream.StartPolicy{} }), func(*transport.Want) {}},
		transport.CodeAckPolicy:     {w.ordered(func(c *jetstream.ConsumerConfig) { c.Stream, c.Subjects = "WORK", nil }), func(*transport.Want) {}},
	} {
		asked := want(1)
		c.want(&asked)
		found, err := w.js.Check(w.ctx, c.src, asked)
		if f := findings(found, code); err != nil || len(f) != 1 || f[0].Level != transport.LevelError || f[0].Fix == "" {
			t.Errorf("%s: %v %s", code, err, describe(found))
		}
	}
	if found, err := w.js.Check(w.ctx, w.ordered(), want(1)); err != nil || hasErrors(found) {
		t.Errorf("a right one: %v %s", err, describe(found))
	}
}

func TestJetStreamOrderedOnAnOldServer(t *testing.T) {
	t.Parallel()
	w := &jsWorld{T: t, ctx: testContext(t)}
	old := oldnats.Start(t)
	w.js, w.events = w.connect(old.URL())
	rx := w.started(w.ordered(), want(1))
	w.publish("orders.a", 5)
	w.take(rx, 5)
	old.Restart()
	eventually(t, "a publish is confirmed", func() bool {
		return w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, &transport.Message{ID: "later", Body: []byte("later")}) == nil
	})
	if got := w.take(rx, 1); got != "later" {
		t.Fatalf("after a restart came %q", got)
	}
}

// A read model is built anew by every start of its program.
func TestOrderedReadModelIsBuiltByEveryStart(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.storeSix()
	for range 2 {
		var mu sync.Mutex
		model, failed := map[string]string{}, false
		app := holdfast.New(holdfast.Config{Name: "model"})
		holdfast.Handle(app, w.ordered(), func(_ context.Context, m *holdfast.Message[[]byte]) error {
			mu.Lock()
			defer mu.Unlock()
			if m.Subject == "orders.c" && !failed {
				failed = true
				return errors.New("not yet")
			}
			model[m.Subject] = model[m.Subject] + string(m.Body)
			return nil
		}, holdfast.Name("model"), holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(20 * time.Millisecond)}, holdfast.NoDeadLetter())
		ctx, stop := context.WithCancel(w.ctx)
		done := make(chan error, 1)
		go func() { done <- app.Run(ctx) }()
		eventually(t, "the model is built", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return model["orders.a"] == "136" && model["orders.b"] == "25" && model["orders.c"] == "4"
		})
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// The permissions that an ordered source says it needs are enough, acks are not
// among them, and each that is missing is found.
func TestJetStreamOrderedNeedsFewPermissions(t *testing.T) {
	t.Parallel()
	s := permittedServer(t)
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, _ = w.connect(s.URLFor("admin", "a"))
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	need := w.ordered().(transport.Permitted).Permissions(w.ctx, want(1))
	for _, subject := range need.Publish {
		if strings.HasPrefix(subject, "$JS.ACK.") {
			t.Fatalf("it asks for %s", subject)
		}
	}
	check := func(p transport.Permissions) []transport.Finding {
		permit(s, p)
		js, _ := w.connect(s.URLFor("app", "b"))
		found, err := js.Check(w.ctx, js.Consumer(orderedConfig()), want(1))
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		return findings(found, transport.CodePermission)
	}
	for _, subject := range need.Publish {
		fewer := need
		fewer.Publish = slices.DeleteFunc(slices.Clone(need.Publish), func(p string) bool { return p == subject })
		if len(check(fewer)) == 0 {
			t.Errorf("nothing is said without %s", subject)
		}
	}
	if found := check(need); len(found) > 0 {
		t.Fatalf("check: %s", describe(found))
	}
	js, events := w.connect(s.URLFor("app", "b"))
	src := js.Consumer(orderedConfig())
	if _, err := js.Provision(w.ctx, src, want(1)); err != nil {
		t.Fatal(err)
	}
	rx, err := js.Open(w.ctx, src, want(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rx.Close(context.Background()) })
	admin := &jsWorld{T: t, ctx: w.ctx, server: s}
	admin.js, _ = w.connect(s.URLFor("admin", "a"))
	admin.publish("orders.a", 3)
	w.take(rx, 3)
	s.CutClients()
	admin.retry("publish", func(ctx context.Context) error {
		return admin.js.Publish(ctx, transport.Address{Name: "orders.a"}, &transport.Message{ID: "later", Body: []byte("later")})
	})
	if got := w.take(rx, 1); got != "later" {
		t.Fatalf("after a cut came %q", got)
	}
	if err := js.Conn().LastError(); err != nil && strings.Contains(err.Error(), "ermission") {
		t.Fatalf("the server refused something: %v (%d stalls)", err, events.count(transport.Stalled))
	}
}

func orderedConfig() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Start: jetstream.StartAll(), Ordered: true}
}
