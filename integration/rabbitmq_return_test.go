package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// Rolling stops burn no attempt of what was prefetched and never seen, nor of
// what a stop cut short, whatever process it comes to next. A queue that counts
// nothing makes no difference.
func TestRabbitMQRollingStopsChargeNoAttempt(t *testing.T) {
	t.Parallel()
	for _, kind := range []rabbitmq.QueueType{rabbitmq.Quorum, rabbitmq.Classic} {
		rolled := func(t testing.TB) {
			w := newRabbitWorld(t, rabbittest.Shared(t))
			cfg := rabbitmq.QueueConfig{Name: w.name, Type: kind}
			w.queue(func(c *rabbitmq.QueueConfig) { *c = cfg })
			const messages = 12
			for range messages {
				w.publish("one")
			}
			policy := []holdfast.Option{
				holdfast.Prefetch(messages), holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(150 * time.Millisecond)},
			}
			for range 3 {
				running := make(chan struct{}, messages)
				w.stopped(cfg, func(ctx context.Context, _ *holdfast.Message[string]) error {
					running <- struct{}{}
					<-ctx.Done()
					return ctx.Err()
				}, func() { <-running }, policy...)
			}
			var mu sync.Mutex // guards attempts
			attempts := map[string]int{}
			w.stopped(cfg, func(_ context.Context, m *holdfast.Message[string]) error {
				mu.Lock()
				defer mu.Unlock()
				attempts[m.ID] = m.Attempt
				return nil
			}, func() {
				w.eventually("all are handled", func() bool {
					mu.Lock()
					defer mu.Unlock()
					return len(attempts) == messages
				})
			}, policy...)
			for id, n := range attempts {
				if n != 1 {
					t.Errorf("%s is in attempt %d, and no attempt at it has ended", id, n)
				}
			}
			if n := w.depth(w.raw(), w.name); n != 0 {
				t.Errorf("%d messages are left", n)
			}
		}
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			check.Punctual(t, late, rolled)
		})
	}
}

// late is what the reserve of a stop bears, see stopped.
const late = 200 * time.Millisecond

// stopped runs an app on a connection of its own, until while returns.
//
// A machine that stalls in the moment of a stop makes it end without an answer of
// the broker: those who look at what it left behind are run again, see
// check.Punctual.
func (w *rabbitWorld) stopped(cfg rabbitmq.QueueConfig, handler func(context.Context, *holdfast.Message[string]) error, while func(), opts ...holdfast.Option) {
	w.Helper()
	rmq, err := rabbitmq.Connect(w.soon(), w.proxy.URL())
	if err != nil {
		w.Fatal(err)
	}
	app := holdfast.New(holdfast.Config{Name: "rolling", Grace: 5 * time.Second})
	holdfast.Handle(app, rmq.Queue(cfg), handler, opts...)
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	while()
	cancel()
	if err := <-done; err != nil {
		w.Errorf("run: %v", err)
	}
	if err := rmq.Close(w.soon()); err != nil {
		w.Errorf("close: %v", err)
	}
}

// What deaths of the process charge to all that was in hand does not reach the
// delivery limit of the queue: the count goes on in the message, and the broker's
// starts anew.
func TestRabbitMQDeathsDoNotReachTheDeliveryLimit(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(func(c *rabbitmq.QueueConfig) { c.DeliveryLimit = 20 })
	const messages, deaths = 5, 25
	for i := range messages {
		w.publish(fmt.Sprint(i))
	}
	for death := range deaths {
		rx := w.open(src, messages)
		for range messages {
			if d := w.receive(rx); d.Deliveries() != death+1 {
				t.Fatalf("after %d deaths %q is delivery %d", death, d.Message().ID, d.Deliveries())
			}
		}
		rx.(interface{ Abandon() }).Abandon()
	}
	if n := len(w.letters()); n != 0 {
		t.Errorf("the broker has dead-lettered %d messages", n)
	}
}

// A stop whose copies cannot be published is as clean as before: what was
// prefetched comes back at once, and is counted.
func TestRabbitMQStopDuringAnAlarmGivesBackAtOnce(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	w := newRabbitWorld(t, b)
	src := w.queue(nil)
	const messages = 10
	for i := range messages {
		w.publish(fmt.Sprint(i))
	}
	rx := w.open(src, messages)
	d := w.receive(rx)
	stalled := rabbitEvents(t, w.rmq, transport.Stalled)
	b.Ctl(t, "set_vm_memory_high_watermark", "absolute", "1MB")
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	during := w.rmq.Publish(short, rabbitmq.QueueAddress(w.name), w.message("during"))
	rabbitAwait(t, stalled, "the alarm is told")
	start := time.Now()
	if err := d.(transport.Returner).Return(w.soon()); err != nil {
		t.Errorf("return: %v", err)
	}
	w.shut(rx)
	if took := time.Since(start); took > rabbitPatience/3 {
		t.Errorf("the stop took %v", took)
	}
	seen := map[string]bool{}
	next := w.open(src, messages)
	for len(seen) < messages { // what was published during the alarm may have been stored
		d := w.receive(next)
		seen[string(d.Message().Body)] = true
		delete(seen, "during")
		w.ack(d)
	}
	b.Ctl(t, "set_vm_memory_high_watermark", "absolute", "4GB")
	t.Log("the publish during the alarm:", during)
}

// A stop that cuts first attempts short takes nothing off the queue's delivery
// limit: whatever the number of stops, every retry is still there.
func TestRabbitMQStopsSpendNoRetryOfTheBroker(t *testing.T) {
	t.Parallel()
	check.Punctual(t, late, stopsSpendNoRetry)
}

func stopsSpendNoRetry(t testing.TB) {
	w := newRabbitWorld(t, rabbittest.Shared(t))
	cfg := rabbitmq.QueueConfig{Name: w.name, DeliveryLimit: 2}
	w.queue(func(c *rabbitmq.QueueConfig) { *c = cfg })
	w.publish("one")
	for range 4 {
		running := make(chan struct{}, 1)
		w.stopped(cfg, func(ctx context.Context, _ *holdfast.Message[string]) error {
			running <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}, func() { <-running }, holdfast.BrokerRetries(2))
	}
	var log rabbitLog
	w.stopped(cfg, func(_ context.Context, m *holdfast.Message[string]) error {
		log.add(m.ID)
		return errors.New("it does not work")
	}, func() {
		w.eventually("the broker dead-letters it", func() bool { return len(w.letters()) == 1 })
	}, holdfast.BrokerRetries(2))
	if n := len(log.all()); n != 3 {
		t.Errorf("after the stops it ran %d times, want 3", n)
	}
}

// What a foreign client sent without an ID is known again when it comes back: an
// early RetryAfter does not cost the immediate retries that were not used.
func TestRabbitMQForeignMessageIsChargedWhatItRan(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	cfg := rabbitmq.QueueConfig{Name: w.name}
	w.queue(nil)
	if err := w.raw().Publish("", w.name, true, false, amqp.Publishing{Body: []byte("one"), ContentType: "text/plain"}); err != nil {
		t.Fatal(err)
	}
	var log rabbitLog
	w.stopped(cfg, func(_ context.Context, m *holdfast.Message[string]) error {
		log.add(fmt.Sprint(m.Attempt))
		return holdfast.RetryAfter(errors.New("busy"), 20*time.Millisecond)
	}, func() {
		w.eventually("the dead letter", func() bool { return len(w.letters()) == 1 })
	}, holdfast.Retry{Attempts: 5, Immediate: 2, Backoff: holdfast.Constant(20 * time.Millisecond)})
	if got := fmt.Sprint(log.all()); got != "[1 2 3 4 5]" {
		t.Errorf("the attempts were %s", got)
	}
}

// A classic queue whose order is kept cannot count what ends the process, and the
// check says so.
func TestRabbitMQCheckTellsThatAnOrderedClassicQueueBoundsNoCrash(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(func(c *rabbitmq.QueueConfig) { c.Type = rabbitmq.Classic })
	for _, ordered := range []bool{false, true} {
		want := w.want()
		want.Ordered = ordered
		found, err := w.rmq.Check(w.soon(), src, want)
		if err != nil || !hasCode(found, transport.CodeNoCount, transport.LevelWarning) {
			t.Errorf("ordered %v: %v, %v", ordered, found, err)
		}
		told := false
		for _, f := range found {
			told = told || strings.Contains(f.Fact, "for ever") && strings.Contains(f.Fix, "CountIn")
		}
		if told != ordered {
			t.Errorf("ordered %v: it is told: %v", ordered, told)
		}
	}
}
