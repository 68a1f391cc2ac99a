package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// Each message of a batch is settled for itself on a real server, and a restart of
// it in the middle loses none.
func TestEveryMessageOfABatchEndsOnJetStream(t *testing.T) {
	t.Parallel()
	const n, size = 3000, 100
	srv := natstest.Start(t)
	js := dial(t, srv.URL())
	src := js.Consumer(jetstream.ConsumerConfig{
		Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing", Start: jetstream.StartAll(),
		AckWait: 2 * time.Minute, // a machine that stalls ends no lease
	})
	if _, err := js.Provision(t.Context(), src, transport.Want{Subscription: "billing", Concurrency: 1}); err != nil {
		t.Fatal(err)
	}
	p := holdfast.NewPublisher[int](js, transport.Address{Name: "orders.placed"})
	for i := range n {
		if _, err := p.PublishAsync(t.Context(), i, holdfast.ID(fmt.Sprint("m", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := newVisits()
	half := make(chan struct{})
	app := holdfast.New(holdfast.Config{Name: "billing", Logger: testLog(t)})
	sub := holdfast.HandleBatch(app, src, holdfast.BatchLimits{Messages: size, Wait: 200 * time.Millisecond},
		func(_ context.Context, b *holdfast.Batch[int]) error {
			if len(b.Messages) > size {
				return holdfast.Permanent(fmt.Errorf("a batch of %d", len(b.Messages)))
			}
			for i, m := range b.Messages {
				runs := seen.add(m.ID)
				switch {
				case m.Body%100 == 7:
					b.Fail(i, holdfast.Permanent(errors.New("no")))
				case m.Body%10 == 3 && runs < 3:
					b.Fail(i, errors.New("not yet"))
				case m.Body == n/2 && runs == 1:
					close(half)
				}
			}
			return nil
		}, holdfast.Concurrency(2), holdfast.Retry{Attempts: 10, Immediate: 1, Backoff: holdfast.Constant(100 * time.Millisecond)})
	stop := runApp(t, app)
	<-half
	srv.Restart()
	var info *natsjs.ConsumerInfo
	eventually(t, time.Minute, "every message has come to its end", func() bool {
		cons, err := js.JetStream().Consumer(t.Context(), "ORDERS", "billing")
		if err != nil {
			return false
		}
		info = cons.CachedInfo()
		return info.NumAckPending == 0 && info.NumPending == 0 && info.Delivered.Consumer > 0
	})
	stop()
	if got := seen.different(); got != n {
		t.Errorf("%d messages of %d were handled; the consumer: %+v", got, n, info)
	}
	for i := range n {
		if runs := seen.of(fmt.Sprint("m", i)); i%10 == 3 && runs < 3 {
			t.Errorf("message %d was handled %d times", i, runs)
		}
	}
	if got := len(graves(t, js)); got != n/100 {
		t.Errorf("there are %d dead letters instead of %d", got, n/100)
	}
	if got := sub.Health().Counts.Dead; got < n/100 {
		t.Errorf("%d were counted as dead", got)
	}
}
