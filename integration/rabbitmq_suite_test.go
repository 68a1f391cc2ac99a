package integration_test

import (
	"context"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

func TestRabbitMQKeepsThePromisesOfATransport(t *testing.T) {
	t.Parallel()
	b := rabbittest.Shared(t)
	transporttest.Run(t, func(t *testing.T) transporttest.Harness { return rabbitHarness(t, b) })
}

func rabbitHarness(t testing.TB, b *rabbittest.Broker) transporttest.Harness {
	t.Helper()
	proxy := b.NewProxy(t)
	rmq := rabbitConnect(t, proxy.URL(), rabbitmq.WithMaxMessageSize(1<<20), rabbitmq.WithReconnectWait(20*time.Millisecond, time.Second))
	return transporttest.Harness{
		Transport: rmq,
		Source: func(_ testing.TB, spec transporttest.Spec) (transport.Source, transport.Address) {
			cfg := rabbitmq.QueueConfig{
				Name:     spec.Name + "-" + spec.Group,
				Bindings: []rabbitmq.Binding{{Exchange: spec.Name, Kind: "topic", Key: "test.#"}},
			}
			if spec.Priorities { // quorum queues have none before 4.0
				cfg.Type, cfg.Arguments = rabbitmq.Classic, amqp.Table{"x-max-priority": int64(9)}
			}
			return rmq.Queue(cfg), rabbitmq.Exchange(spec.Name, "test."+spec.Name)
		},
		RedeliverWithin: time.Second,
		Patience:        time.Minute,
		Restart: func(t testing.TB) {
			t.Helper()
			back := rabbitEvents(t, rmq, transport.Reconnected)
			if proxy.Cut() == 0 {
				t.Fatal("there was no connection to cut")
			}
			rabbitAwait(t, back, "the connections are back")
		},
		Abandon: func(_ testing.TB, rx transport.Receiver) { rx.(interface{ Abandon() }).Abandon() },
		Second:  func(t testing.TB) transporttest.Harness { return rabbitHarness(t, b) },
		MaxSize: 1 << 20,
		InvalidAddresses: []transport.Address{
			{},
			{Name: strings.Repeat("n", 256), Key: "k"},
			{Name: "n", Key: strings.Repeat("k", 256)},
			{Name: "a\r\nb", Key: "k"},
			{Name: "a", Key: "k\x00"},
			{Name: "\xff\xfe", Key: "k"},
		},
	}
}

// rabbitConnect connects and closes with the test.
func rabbitConnect(t testing.TB, url string, opts ...rabbitmq.Option) *rabbitmq.Transport {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rabbitPatience)
	defer cancel()
	rmq, err := rabbitmq.Connect(ctx, url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = rmq.Close(ctx)
	})
	return rmq
}

// rabbitEvents returns the events of one kind from now on.
func rabbitEvents(t testing.TB, rmq *rabbitmq.Transport, kind transport.EventKind) <-chan transport.Event {
	t.Helper()
	events := make(chan transport.Event, 100)
	t.Cleanup(rmq.Observe(func(e transport.Event) {
		if e.Kind != kind {
			return
		}
		select {
		case events <- e:
		default: // fn must not block
		}
	}))
	return events
}

// rabbitPatience is how long what should happen may take on a busy machine.
const rabbitPatience = 3 * time.Minute

// rabbitGrownUp is how long a test lets a quorum queue be before it kills its node:
// one of RabbitMQ 3.10 that was declared within the last second has no leader for
// ever after, since the node writes down where its log is too late.
const rabbitGrownUp = 5 * time.Second

// rabbitAwait returns what ch gives.
func rabbitAwait[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case got := <-ch:
		return got
	case <-time.After(rabbitPatience):
		t.Fatalf("%s: nothing within %v", what, rabbitPatience)
	}
	var none T // Fatalf has ended the goroutine
	return none
}
