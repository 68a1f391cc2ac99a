package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// The only consumer of a queue that takes one message at a time keeps its order
// through retries, and none comes before its delay has passed. When it is gone
// another one goes on where it stood.
func TestRabbitMQSingleActiveConsumerKeepsTheOrderThroughRetries(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	cfg := rabbitmq.QueueConfig{Name: w.name, SingleActiveConsumer: true}
	w.queue(func(c *rabbitmq.QueueConfig) { *c = cfg })
	const n, backoff = 9, 300 * time.Millisecond
	for i := range n {
		w.publish(fmt.Sprint(i))
	}
	var log rabbitLog
	var mu sync.Mutex // guards what follows
	runs := map[string]int{}
	for half := 1; half <= 2; half++ {
		last := map[string]time.Time{} // a stop gives back what is held without its delay
		w.stopped(cfg, func(_ context.Context, m *holdfast.Message[string]) error {
			mu.Lock()
			defer mu.Unlock()
			if at, again := last[m.Body]; again && time.Since(at) < backoff {
				t.Errorf("%s came again after %v", m.Body, time.Since(at))
			}
			last[m.Body] = time.Now()
			log.add(m.Body)
			if runs[m.Body]++; (m.Body == "1" || m.Body == "7") && runs[m.Body] < 3 {
				return errors.New("not yet")
			}
			return nil
		}, func() {
			w.eventually("half of them is handled", func() bool { return slices.Contains(log.all(), fmt.Sprint((half*n-1)/2)) })
		}, holdfast.Concurrency(1), holdfast.Prefetch(0), holdfast.Retry{Attempts: 5, Backoff: holdfast.Constant(backoff)})
	}
	want := []string{"0", "1", "1", "1", "2", "3", "4", "5", "6", "7", "7", "7", "8"}
	if got := log.all(); !slices.Equal(got, want) {
		t.Errorf("the order was %q, want %q", got, want)
	}
}

// Consumers with a higher priority are served first, and the others while those are
// busy.
func TestRabbitMQConsumersWithPriorityAreServedFirst(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	low := w.open(w.queue(nil), 5)
	high := w.open(w.queue(func(c *rabbitmq.QueueConfig) { c.ConsumerPriority = 10 }), 2)
	var busy []transport.Delivery
	for _, body := range []string{"one", "two"} {
		w.publish(body)
		busy = append(busy, w.receive(high))
	}
	w.publish("three")
	if d := w.receive(low); string(d.Message().Body) != "three" {
		t.Errorf("the other one got %q", d.Message().Body)
	} else {
		w.ack(d)
	}
	for _, d := range busy {
		w.ack(d)
	}
}

// An argument of a type that AMQP has not, an expiration that is no number, and a
// header that nobody could encode are refused before they end a channel. Trap 65.
func TestRabbitMQWhatWouldEndAChannelIsRefusedBefore(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	bad := rabbitmq.QueueConfig{Name: w.name + "-bad", Arguments: amqp.Table{"x-thing": map[string]string{}}}
	if _, err := w.rmq.Provision(w.soon(), w.rmq.Queue(bad), w.want()); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a queue with an argument of Go's own: %v", err)
	}
	for name, value := range map[string]string{rabbitmq.Expiration: "5s", rabbitmq.Priority: "urgent", rabbitmq.Timestamp: "noon", "x-death": "mine"} {
		m := w.message("bad")
		m.Header = transport.Header{name: {value}}
		if err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), m); !errors.Is(err, transport.ErrInvalid) || transport.KindOf(err) != transport.Permanent {
			t.Errorf("%s %q: %v", name, value, err)
		}
	}
	w.publish("good")
}
