package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
)

// killerVar makes the test binary run the app of the killer test instead: its
// value is the server's URL.
const killerVar = "HOLDFAST_TEST_KILLER"

// killerApp handles messages until one called poison ends the process.
func killerApp(ctx context.Context, url string) error {
	js, err := jetstream.Connect(ctx, url, jetstream.WithNATS(natstest.Patient()))
	if err != nil {
		return err
	}
	app := holdfast.New(holdfast.Config{Name: "killer"})
	holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{
		Stream: "WORK", Subjects: []string{"work.>"}, Durable: "work", Start: jetstream.StartAll(), AckWait: 5 * time.Second,
	}), func(_ context.Context, m *holdfast.Message[string]) error {
		if m.Body == "poison" {
			os.Exit(1) // no deferred call, no recover, no ack
		}
		fmt.Println(m.Body)
		return nil
	}, holdfast.Concurrency(2), holdfast.CrashLimit(3), holdfast.NoRetry())
	return app.Run(ctx)
}

// TestKillerMessageIsBuriedAndItsNeighboursAreHandled: a message that ends the
// process each time it is handled becomes a dead letter after a bounded number
// of starts, and no neighbour becomes one.
func TestKillerMessageIsBuriedAndItsNeighboursAreHandled(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	js := dial(t, srv.URL())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	env := []string{killerVar + "=" + srv.URL()}
	p := start(t, t.TempDir(), env, self)
	nc := srv.Conn()
	eventually(t, 30*time.Second, "the stream", func() bool { return streams(t, nc, "WORK") })
	const messages = 50
	pub := holdfast.NewPublisher[string](js, jetstream.Subject("work.item"))
	for i := 1; i <= messages; i++ {
		body := fmt.Sprint("m-", i)
		if i == 10 {
			body = "poison"
		}
		if err := pub.Publish(t.Context(), body, holdfast.ID(body)); err != nil {
			t.Fatal(err)
		}
	}
	handled := make(map[string]bool)
	lines := make(chan string)
	read := func(p *process) {
		for {
			line, err := p.stdout.ReadString('\n')
			if err != nil {
				return
			}
			lines <- line[:len(line)-1]
		}
	}
	go read(p)
	starts := 1
	deadline := time.After(busy * 2 * time.Minute)
	for len(handled) < messages-1 || len(graves(t, js)) == 0 {
		select {
		case line := <-lines:
			handled[line] = true
		case <-p.done:
			starts++
			p = start(t, t.TempDir(), env, self)
			go read(p)
		case <-time.After(200 * time.Millisecond): // look at the dead letters again
		case <-deadline:
			t.Fatalf("after %d starts %d are handled and %d dead", starts, len(handled), len(graves(t, js)))
		}
	}
	all := graves(t, js)
	if len(all) != 1 || all[0].MessageID != "poison" || all[0].Reason != "crash-loop" || string(all[0].Body) != "poison" {
		t.Errorf("dead letters are %+v", all)
	}
	// NoRetry allows one delivery, and the crash limit three more.
	if starts > 6 {
		t.Errorf("the killer was started %d times", starts)
	}
	if err := p.terminate(t, 40*time.Second); err != nil {
		t.Errorf("the last process did not end cleanly: %v", err)
	}
}

// TestOutageIsWaitedOut: with the broker gone the app neither ends nor spins,
// says so in its health, loses nothing and replays nothing when it is back.
func TestOutageIsWaitedOut(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	js := dial(t, srv.URL())
	v := newVisits()
	app := holdfast.New(holdfast.Config{Logger: testLog(t)})
	holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{
		Stream: "WORK", Subjects: []string{"work.>"}, Durable: "work", Start: jetstream.StartAll(),
	}), func(_ context.Context, m *holdfast.Message[string]) error {
		v.add(m.Body)
		return nil
	}, holdfast.Concurrency(4))
	runApp(t, app)
	pub := holdfast.NewPublisher[string](js, jetstream.Subject("work.item"), holdfast.PublishTimeout(busy*time.Minute))
	publish := func(from, to int) {
		t.Helper()
		for i := from; i <= to; i++ {
			if err := pub.Publish(t.Context(), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(1, 100)
	eventually(t, 30*time.Second, "100 messages", func() bool { return v.different() == 100 })
	eventually(t, 30*time.Second, "their acks", func() bool {
		c, err := js.JetStream().Consumer(t.Context(), "WORK", "work")
		return err == nil && c.CachedInfo().NumAckPending == 0
	})

	srv.Stop()
	eventually(t, 30*time.Second, "health to show the outage", func() bool { return !app.Health().Healthy })
	waiting := make(chan error, 1)
	go func() { waiting <- pub.Publish(t.Context(), "101") }() // survives the outage
	// Longer than the client's own first rounds of reconnects.
	outage := time.NewTimer(15 * time.Second)
	select {
	case err := <-waiting:
		t.Fatalf("a publish ended during the outage: %v", err)
	case <-outage.C:
	}
	srv.Start()
	if err := <-waiting; err != nil {
		t.Errorf("the publish that waited: %v", err)
	}
	publish(102, 200)
	eventually(t, time.Minute, "the messages after the outage", func() bool { return v.different() == 200 })
	eventually(t, 30*time.Second, "health to recover", func() bool { return app.Health().Healthy })
	if v.total() != 200 {
		t.Errorf("%d runs for 200 messages: something was replayed", v.total())
	}
}

// TestMemberThatLeavesHandsItsWorkOver: of two members of one durable one stops
// in the middle of a backlog; every message is handled once and none waits for a
// lease to end.
func TestMemberThatLeavesHandsItsWorkOver(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	v := newVisits()
	member := func() (*holdfast.App, *jetstream.Transport) {
		js := dial(t, srv.URL())
		app := holdfast.New(holdfast.Config{Logger: testLog(t)})
		holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{
			Stream: "WORK", Subjects: []string{"work.>"}, Durable: "work", Start: jetstream.StartAll(), AckWait: 5 * time.Minute,
		}), func(ctx context.Context, m *holdfast.Message[string]) error {
			v.add(m.Body)
			select {
			case <-time.After(2 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return errors.New("cut short")
			}
		}, holdfast.Concurrency(4), holdfast.Prefetch(50))
		return app, js
	}
	stays, js := member()
	leaves, _ := member()
	runApp(t, stays)
	stop := runApp(t, leaves)
	const messages = 1000
	pub := holdfast.NewPublisher[string](js, jetstream.Subject("work.item"))
	for i := 1; i <= messages; i++ {
		if err := pub.Publish(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if i == messages/2 {
			stop()
		}
	}
	// With leases of five minutes, what was not handed back would be missing.
	eventually(t, time.Minute, "every message", func() bool { return v.different() == messages })
	if v.total() != messages {
		t.Errorf("%d runs for %d messages: a clean stop duplicated work", v.total(), messages)
	}
}
