package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// on is a source on a stream that starts with what is there.
func on(js *jetstream.Transport, stream, durable string, subjects ...string) transport.Source {
	return js.Consumer(jetstream.ConsumerConfig{Stream: stream, Durable: durable, Subjects: subjects, Start: jetstream.StartAll()})
}

// note is a handler that counts what it gets by subject.
func (v *visits) note(_ context.Context, m *holdfast.Message[[]byte]) error {
	v.add(m.Subject)
	return nil
}

// twoOnOne is an app with two subscriptions on one stream, for other subjects.
func twoOnOne(t *testing.T, js *jetstream.Transport, seen *visits) *holdfast.App {
	app := holdfast.New(holdfast.Config{Logger: testLog(t)})
	holdfast.Handle(app, on(js, "ORDERS", "placed", "orders.placed"), seen.note)
	holdfast.Handle(app, on(js, "ORDERS", "paid", "orders.paid"), seen.note)
	return app
}

func publishAll(t *testing.T, js *jetstream.Transport, subjects ...string) {
	t.Helper()
	for _, s := range subjects {
		if err := js.Publish(t.Context(), transport.Address{Name: s}, &transport.Message{Body: []byte("1")}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestJetStreamAStreamMadeForTwoSubscriptionsTakesTheSubjectsOfBoth(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	js, seen := dial(t, s.URL()), newVisits()
	app := twoOnOne(t, js, seen)
	stop := runApp(t, app)
	publishAll(t, js, "orders.placed", "orders.paid")
	eventually(t, 30*time.Second, "both to receive", func() bool {
		return seen.of("orders.placed") == 1 && seen.of("orders.paid") == 1
	})

	// A third one, started later, widens it.
	late := holdfast.Handle(app, on(js, "ORDERS", "late", "orders.late.>"), seen.note)
	if err := late.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	publishAll(t, js, "orders.late.x")
	eventually(t, 30*time.Second, "the late one to receive", func() bool { return seen.of("orders.late.x") == 1 })
	stop()

	again := dial(t, s.URL())
	app = twoOnOne(t, again, seen)
	if found, err := app.Check(t.Context()); err != nil || len(found) != 0 {
		t.Fatalf("the second start finds %v, %v", found, err)
	}
	runApp(t, app)
	info, err := again.JetStream().Stream(t.Context(), "ORDERS")
	if err != nil || fmt.Sprint(info.CachedInfo().Config.Subjects) != "[orders.placed orders.paid orders.late.>]" {
		t.Fatalf("the stream is %+v, %v", info, err)
	}
}

// A stream that somebody else made is not widened behind his back.
func TestJetStreamAStreamOfSomebodyElseStaysAsItIs(t *testing.T) {
	t.Parallel()
	js := dial(t, natstest.Start(t).URL())
	if _, err := js.JetStream().CreateStream(t.Context(), natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.placed"}}); err != nil {
		t.Fatal(err)
	}
	refused, ok := errors.AsType[*holdfast.ContractError](twoOnOne(t, js, newVisits()).Run(t.Context()))
	if !ok || !refused.Has(transport.CodeFilterOutside) {
		t.Fatalf("the app said %v", refused)
	}
}

// madeStreams lists the streams of a server.
func madeStreams(t *testing.T, js *jetstream.Transport) []string {
	t.Helper()
	var names []string
	l := js.JetStream().StreamNames(t.Context())
	for name := range l.Name() {
		names = append(names, name)
	}
	if l.Err() != nil {
		t.Fatal(l.Err())
	}
	return names
}

func TestSubscriptionsThatCannotLiveTogetherAreRefusedBeforeAnythingIsMade(t *testing.T) {
	t.Parallel()
	core := func(change func(*natscore.SubjectConfig)) func(*jetstream.Transport, *natscore.Transport) transport.Source {
		return func(_ *jetstream.Transport, nc *natscore.Transport) transport.Source {
			cfg := natscore.SubjectConfig{Subject: "orders.*"}
			if change != nil {
				change(&cfg)
			}
			return nc.Subject(cfg)
		}
	}
	stream := func(name, durable, subject string) func(*jetstream.Transport, *natscore.Transport) transport.Source {
		return func(js *jetstream.Transport, _ *natscore.Transport) transport.Source {
			return on(js, name, durable, subject)
		}
	}
	for name, c := range map[string]struct {
		a, b  func(*jetstream.Transport, *natscore.Transport) transport.Source
		code  transport.Code
		level transport.Level
		says  []string
	}{
		"two streams with one subject": {stream("A", "a", "orders.>"), stream("B", "b", "orders.paid"), transport.CodeSubjectsOverlap, transport.LevelError, []string{"A", "B", "orders.>", "orders.paid"}},
		"a core subject captured":      {stream("A", "a", "orders.placed"), core(nil), transport.CodeCaptured, transport.LevelError, []string{"orders.*", "orders.placed", "stream A"}},
		"the other way round":          {core(nil), stream("A", "a", "orders.placed"), transport.CodeCaptured, transport.LevelError, []string{"orders.*", "orders.placed", "stream A"}},
		"captured and allowed": {
			core(func(s *natscore.SubjectConfig) { s.AllowCaptured = true }), stream("A", "a", "orders.placed"),
			transport.CodeCaptured, transport.LevelWarning,
			[]string{"orders.*"},
		},
		"nothing in common": {core(func(s *natscore.SubjectConfig) { s.Subject = "tick" }), stream("A", "a", "orders.placed"), "", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Start(t)
			js, nc := dial(t, s.URL()), dialCore(t, s.URL())
			app := holdfast.New(holdfast.Config{})
			holdfast.Handle(app, c.a(js, nc), newVisits().note, holdfast.Name("one"), holdfast.NoDeadLetter())
			holdfast.Handle(app, c.b(js, nc), newVisits().note, holdfast.Name("two"), holdfast.NoDeadLetter())
			found, err := app.Check(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			said := having(found, c.code, c.level)
			if c.code == "" {
				if len(having(found, transport.CodeCaptured, transport.LevelError)) != 0 {
					t.Fatalf("found %v", found)
				}
				return
			}
			if len(said) != 1 || said[0].Fix == "" || said[0].Subscription == "" {
				t.Fatalf("found %v", found)
			}
			for _, part := range c.says {
				if !strings.Contains(said[0].Fact, part) {
					t.Errorf("%q does not name %q", said[0].Fact, part)
				}
			}
			if c.level != transport.LevelError {
				return
			}
			refused, ok := errors.AsType[*holdfast.ContractError](app.Run(t.Context()))
			if !ok || !refused.Has(c.code) {
				t.Fatalf("the app said %v", refused)
			}
			if names := madeStreams(t, js); len(names) != 0 {
				t.Errorf("the streams %v were made", names)
			}
		})
	}
}

// Subjects of one server are no subjects of another.
func TestSubscriptionsOnTwoServersDoNotCollide(t *testing.T) {
	t.Parallel()
	js, nc := dial(t, natstest.Start(t).URL()), dialCore(t, natstest.Start(t).URL())
	app := holdfast.New(holdfast.Config{Logger: testLog(t)})
	holdfast.Handle(app, on(js, "ORDERS", "a", "orders.>"), newVisits().note)
	holdfast.Handle(app, nc.Subject(natscore.SubjectConfig{Subject: "orders.>"}), newVisits().note, holdfast.Name("core"))
	runApp(t, app)
}

// A stream that took a subject between the check and the making is named.
func TestJetStreamAStreamThatCannotBeMadeNamesTheOneInTheWay(t *testing.T) {
	t.Parallel()
	js := dial(t, natstest.Start(t).URL())
	if _, err := js.JetStream().CreateStream(t.Context(), natsjs.StreamConfig{Name: "OLD", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	_, err := js.Provision(t.Context(), on(js, "ORDERS", "a", "orders.paid"), transport.Want{Subscription: "a"})
	if err == nil || transport.KindOf(err) != transport.Permanent {
		t.Fatalf("provision: %v", err)
	}
	for _, part := range []string{"orders.paid", "OLD", string(transport.CodeSubjectsOverlap), "choose another subject"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}
