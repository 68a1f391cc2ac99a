package integration

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
)

// TestParkedMessagesSurviveTheirLeader: three replicas, and the leader of the park
// stream is killed while messages wait. All come back, and none before it is due.
func TestParkedMessagesSurviveTheirLeader(t *testing.T) {
	t.Parallel()
	c := newNATSCluster(t)
	js, err := jetstream.Connect(t.Context(), c.url(), jetstream.WaitForBroker(), jetstream.WithNATS(natstest.Patient(), nats.ReconnectWait(100*time.Millisecond)),
		jetstream.DeadLetters(jetstream.DeadLetterConfig{Replicas: 3}), jetstream.Parking(jetstream.ParkConfig{After: time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = js.Close(context.Background()) })
	eventually(t, time.Minute, "the stream", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := js.JetStream().CreateOrUpdateStream(ctx, natsjs.StreamConfig{Name: "WORK", Subjects: []string{"work.>"}, Replicas: 3})
		return err == nil
	})
	const messages, delay = 300, 15 * time.Second
	var mu sync.Mutex
	due, attempts := map[string]time.Time{}, map[string]int{}
	count := func() (failed, handled int) {
		mu.Lock()
		defer mu.Unlock()
		return len(due), len(attempts)
	}
	app := holdfast.New(holdfast.Config{Name: "parker", Logger: testLog(t)})
	holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{Stream: "WORK", Subjects: []string{"work.>"}, Durable: "work", Start: jetstream.StartAll()}),
		func(_ context.Context, m *holdfast.Message[string]) error {
			mu.Lock()
			defer mu.Unlock()
			at, failed := due[m.ID]
			if !failed {
				due[m.ID] = time.Now().Add(delay)
				return errors.New("not yet")
			}
			if early := time.Until(at); early > 0 {
				t.Errorf("%s came %v early", m.ID, early)
			}
			attempts[m.ID] = m.Attempt
			return nil
		}, holdfast.Concurrency(8), holdfast.Retry{Attempts: 5, Backoff: holdfast.Constant(delay)})
	stop := runApp(t, app)
	pub := holdfast.NewPublisher[string](js, jetstream.Subject("work.item"))
	for range messages {
		pub.PublishAsync(t.Context(), "body")
	}
	if err := pub.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "all have failed", func() bool { failed, _ := count(); return failed == messages })
	c.kill(c.leader(js.JetStream(), "HOLDFAST_PARK"))
	eventually(t, 2*time.Minute, "all are handled", func() bool { _, handled := count(); return handled == messages })
	stop()
	for id, n := range attempts {
		if n != 2 {
			t.Errorf("%s was handled in attempt %d", id, n)
		}
	}
}
