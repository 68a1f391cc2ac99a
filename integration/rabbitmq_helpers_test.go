package integration_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// rabbitWorld is what one test has: a connection through a proxy of its own, and
// names nobody else uses.
type rabbitWorld struct {
	testing.TB
	b     *rabbittest.Broker
	proxy *rabbittest.Proxy
	rmq   *rabbitmq.Transport
	name  string
	sent  int
}

func newRabbitWorld(t testing.TB, b *rabbittest.Broker, opts ...rabbitmq.Option) *rabbitWorld {
	t.Helper()
	proxy := b.NewProxy(t)
	opts = append([]rabbitmq.Option{rabbitmq.WithReconnectWait(20*time.Millisecond, 500*time.Millisecond)}, opts...)
	var id [5]byte
	_, _ = rand.Read(id[:]) // documented never to fail
	return &rabbitWorld{TB: t, b: b, proxy: proxy, rmq: rabbitConnect(t, proxy.URL(), opts...), name: "t" + hex.EncodeToString(id[:])}
}

// soon is a context for what should happen at once.
func (w *rabbitWorld) soon() context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), rabbitPatience)
	w.Cleanup(cancel)
	return ctx
}

func (w *rabbitWorld) want() transport.Want {
	return transport.Want{
		Subscription: w.name, Concurrency: 10, Redelivery: true, Delay: true, MaxDelay: time.Second,
		Delays: []time.Duration{time.Second}, DeadLetter: true,
	}
}

// queue provisions a quorum queue of the test's name, changed by change.
func (w *rabbitWorld) queue(change func(*rabbitmq.QueueConfig)) transport.Source {
	w.Helper()
	cfg := rabbitmq.QueueConfig{Name: w.name}
	if change != nil {
		change(&cfg)
	}
	src := w.rmq.Queue(cfg)
	report, err := w.rmq.Provision(w.soon(), src, w.want())
	if err != nil {
		w.Fatal(err)
	}
	for _, f := range report.Findings {
		if f.Level == transport.LevelError {
			w.Fatal(f, f.Diff)
		}
	}
	return src
}

func (w *rabbitWorld) open(src transport.Source, window int) transport.Receiver {
	w.Helper()
	want := w.want()
	want.Concurrency = window
	rx, err := w.rmq.Open(w.soon(), src, want)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = rx.Close(ctx) // a test that cares has closed it already
	})
	return rx
}

func (w *rabbitWorld) message(body string) *transport.Message {
	w.sent++
	return &transport.Message{ID: fmt.Sprintf("%s-%d", w.name, w.sent), Body: []byte(body)}
}

// publish publishes to the queue of the test.
func (w *rabbitWorld) publish(body string) *transport.Message {
	w.Helper()
	m := w.message(body)
	if err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), m); err != nil {
		w.Fatal(err)
	}
	return m
}

func (w *rabbitWorld) receive(rx transport.Receiver) transport.Delivery {
	w.Helper()
	d, err := rx.Receive(w.soon())
	if err != nil {
		w.Fatal(err)
	}
	return d
}

func (w *rabbitWorld) ack(d transport.Delivery) {
	w.Helper()
	if err := d.Ack(w.soon()); err != nil {
		w.Fatal(err)
	}
}

func (w *rabbitWorld) shut(rx transport.Receiver) {
	w.Helper()
	if err := rx.Close(w.soon()); err != nil {
		w.Fatal(err)
	}
}

// nothing watches that nothing comes for a while.
func (w *rabbitWorld) nothing(rx transport.Receiver, d time.Duration) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), d)
	defer cancel()
	if got, err := rx.Receive(ctx); err == nil {
		w.Fatalf("got %q, delivery %d", got.Message().ID, got.Deliveries())
	}
}

// refused fails unless err is target, of this kind.
func (w *rabbitWorld) refused(err, target error, kind transport.Kind) {
	w.Helper()
	if !errors.Is(err, target) || transport.KindOf(err) != kind {
		w.Errorf("got %v (%v), want %v (%v)", err, transport.KindOf(err), target, kind)
	}
}

// raw returns a channel of the client library, on a connection that no proxy
// cuts.
func (w *rabbitWorld) raw() *amqp.Channel {
	w.Helper()
	conn, err := amqp.Dial(w.b.URL())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		w.Fatal(err)
	}
	return ch
}

// exchange declares an exchange and binds the queue of the test to it.
func (w *rabbitWorld) exchange(name, kind, key string) {
	w.Helper()
	ch := w.raw()
	if err := ch.ExchangeDeclare(name, kind, true, false, false, false, nil); err != nil {
		w.Fatal(err)
	}
	if err := ch.QueueBind(w.name, key, name, false, nil); err != nil {
		w.Fatal(err)
	}
}

// eventually waits until ok.
func (w *rabbitWorld) eventually(what string, ok func() bool) {
	w.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(rabbitPatience); !ok(); <-tick.C {
		if time.Now().After(end) {
			w.Fatalf("not within %v: %s", rabbitPatience, what)
		}
	}
}

// depth is how many messages wait in a queue.
func (w *rabbitWorld) depth(ch *amqp.Channel, queue string) int {
	w.Helper()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		w.Fatal(err)
	}
	return q.Messages
}
