package integration_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/oldnats"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// A pause is seen in the health and by a check, whoever asked for it, and ends
// with a resume: nothing is lost and nothing is handed out again.
func TestJetStreamPauseAndResume(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	var handled atomic.Int64
	app := holdfast.New(holdfast.Config{Name: "pause"})
	src := w.source()
	sub := holdfast.Handle(app, src, func(context.Context, *holdfast.Message[[]byte]) error {
		handled.Add(1)
		return nil
	}, holdfast.Name("billing"))
	ctx, stop := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	running := func() bool { return sub.Health().State == observe.StateRunning }
	eventually(t, "the subscription runs", running)
	w.publish("orders.a", 3)
	eventually(t, "three are handled", func() bool { return handled.Load() == 3 })

	if err := w.js.Pause(w.ctx, src, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the health says that it is paused", func() bool { return !running() && strings.Contains(sub.Health().Reason, "paused") })
	if found, err := w.js.Check(w.ctx, src, want(1)); err != nil || len(findings(found, transport.CodeConsumerPaused)) != 1 {
		t.Fatalf("check: %v %s", err, describe(found))
	}
	w.foreign("orders.a", "", "later")
	hold(w.ctx, 300*time.Millisecond)
	if n := handled.Load(); n != 3 {
		t.Fatalf("%d are handled in the pause", n)
	}
	if err := w.js.Resume(w.ctx, src); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the one of the pause is handled", func() bool { return handled.Load() == 4 })
	eventually(t, "the health says that it runs", running)

	// Somebody else pauses it.
	if _, err := w.js.JetStream().PauseConsumer(w.ctx, "ORDERS", "billing", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the health says that it is paused by somebody else", func() bool { return !running() })
	if _, err := w.js.JetStream().ResumeConsumer(w.ctx, "ORDERS", "billing"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the health says that it was resumed", running)
	if n := handled.Load(); n != 4 {
		t.Fatalf("%d are handled in the end", n)
	}
}

func TestJetStreamConsumerThatIsMadePaused(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	until := time.Now().Add(time.Hour)
	src := w.source(func(c *jetstream.ConsumerConfig) { c.Consumer = &natsjs.ConsumerConfig{PauseUntil: &until} })
	rx := w.started(src, want(1))
	w.publish("orders.a", 1)
	w.nothing(rx, 300*time.Millisecond)
	if err := w.js.Resume(w.ctx, src); err != nil {
		t.Fatal(err)
	}
	w.ack(w.receive(rx))
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	// It was resumed, and a restart does not pause it again.
	again := w.started(src, want(1))
	w.foreign("orders.a", "", "later")
	w.ack(w.receive(again))
}

func TestJetStreamPauseThatCannotBe(t *testing.T) {
	t.Parallel()
	w := &jsWorld{T: t, ctx: testContext(t)}
	w.js, w.events = w.connect(oldnats.Start(t).URL())
	w.provision(w.source(), want(1))
	err := w.js.Pause(w.ctx, w.source(), time.Now().Add(time.Hour))
	if !errors.Is(err, transport.ErrUnsupported) || !strings.Contains(err.Error(), "2.11") {
		t.Fatalf("an old server: %v", err)
	}
	for _, src := range []transport.Source{w.ordered(), w.source(func(c *jetstream.ConsumerConfig) { c.Durable = "" })} {
		if err := w.js.Pause(w.ctx, src, time.Now().Add(time.Hour)); !errors.Is(err, transport.ErrInvalid) {
			t.Fatalf("%s: %v", src, err)
		}
	}
	if err := w.js.Pause(w.ctx, w.source(), time.Time{}); !errors.Is(err, transport.ErrInvalid) {
		t.Fatalf("without an end: %v", err)
	}
}
