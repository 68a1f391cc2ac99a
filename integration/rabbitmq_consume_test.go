package integration_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// A handler that finishes after a reconnect must not settle somebody else's
// message, which has the same delivery tag on the new channel. Trap 66.
func TestRabbitMQLateSettleNeverReachesAnotherMessage(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 1)
	first := w.publish("first")
	late := w.receive(rx)
	back := rabbitEvents(t, w.rmq, transport.Reconnected)
	w.proxy.Cut()
	rabbitAwait(t, back, "the connection is back")
	again := w.receive(rx)
	if again.Message().ID != first.ID || again.Deliveries() != 2 {
		t.Fatalf("got %q, delivery %d", again.Message().ID, again.Deliveries())
	}
	w.refused(late.Ack(w.soon()), transport.ErrLeaseLost, transport.Permanent)
	w.refused(late.(transport.PipelinedAcker).AckLater(), transport.ErrLeaseLost, transport.Permanent)
	w.refused(late.Nack(w.soon(), 0), transport.ErrLeaseLost, transport.Permanent)
	w.refused(late.Nack(w.soon(), time.Second), transport.ErrLeaseLost, transport.Permanent)
	if err := again.Nack(w.soon(), 0); err != nil {
		t.Fatal(err)
	}
	if third := w.receive(rx); third.Message().ID != first.ID {
		t.Errorf("the message was settled by a late ack: got %q", third.Message().ID)
	}
}

// Trap 67.
func TestRabbitMQSecondSettleLeavesTheChannelAlive(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 10)
	w.publish("one")
	w.publish("two")
	one, two := w.receive(rx), w.receive(rx)
	w.ack(one)
	for range 10 {
		w.refused(one.Ack(w.soon()), transport.ErrSettled, transport.Permanent)
	}
	w.ack(two)
	w.publish("three")
	if d := w.receive(rx); d.Deliveries() != 1 {
		t.Errorf("the channel was lost: delivery %d", d.Deliveries())
	}
}

// The retry copy goes to the queue that failed and to no other, with every
// property and every header as it was. Trap 78. Trap 79.
func TestRabbitMQRetryCopyIsTheMessageItself(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(func(c *rabbitmq.QueueConfig) {
		c.Bindings = []rabbitmq.Binding{{Exchange: w.name, Kind: "topic", Key: "#"}}
	})
	ch := w.raw()
	other := w.name + "-other"
	if _, err := ch.QueueDeclare(other, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(other, "#", w.name, false, nil); err != nil {
		t.Fatal(err)
	}
	headers := func() amqp.Table {
		return amqp.Table{
			"table": amqp.Table{"deep": []any{int64(1), "two", nil}}, "time": time.Unix(1_700_000_000, 0), "int": int32(7),
			"bytes": []byte{0, 0xff}, "text": "caf\xe9", "x-mine": true,
		}
	}
	err := ch.Publish(w.name, "orders.placed", true, false, amqp.Publishing{
		Headers: headers(), ContentType: "a/b", ContentEncoding: "gzip", Priority: 3, CorrelationId: "c", ReplyTo: "r",
		MessageId: "foreign", Timestamp: time.Unix(1_700_000_000, 0), Type: "t", AppId: "app", UserId: "guest", Expiration: "60000",
		Body: []byte("\x00body\xff"), DeliveryMode: amqp.Transient,
	})
	if err != nil {
		t.Fatal(err)
	}
	rx := w.open(src, 1)
	d := w.receive(rx)
	for round := 2; round < 5; round++ {
		if err := d.Nack(w.soon(), 150*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		d = w.receive(rx)
		if d.Deliveries() != round || d.Message().Subject != "orders.placed" || d.Message().ID != "foreign" {
			t.Errorf("round %d: delivery %d of %q from %q", round, d.Deliveries(), d.Message().ID, d.Message().Subject)
		}
		raw := d.(transport.Native).Native().(amqp.Delivery)
		if raw.ContentType != "a/b" || raw.ContentEncoding != "gzip" || raw.Priority != 3 || raw.CorrelationId != "c" || raw.ReplyTo != "r" ||
			raw.MessageId != "foreign" || raw.Timestamp.Unix() != 1_700_000_000 || raw.Type != "t" || raw.AppId != "app" ||
			string(raw.Body) != "\x00body\xff" || raw.DeliveryMode != amqp.Persistent {
			t.Errorf("round %d: %+v", round, raw)
		}
		for name, want := range headers() {
			if fmt.Sprintf("%#v", raw.Headers[name]) != fmt.Sprintf("%#v", want) {
				t.Errorf("round %d: header %q is %#v, was %#v", round, name, raw.Headers[name], want)
			}
		}
		if d.Message().Header.Get(rabbitmq.Expiration) != "60000" || d.Message().Header.Get(rabbitmq.UserID) != "guest" {
			t.Errorf("round %d: expiration %q, user %q", round, d.Message().Header.Get(rabbitmq.Expiration), d.Message().Header.Get(rabbitmq.UserID))
		}
	}
	w.ack(d)
	if n := w.depth(ch, other); n != 1 {
		t.Errorf("another queue of the exchange has %d messages, want the one that was published", n)
	}
}

// Delays keep each other up no longer than their rung is long, and nothing comes
// early. Trap 80.
func TestRabbitMQDelaysAreKeptApart(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	want := w.want()
	want.Delays, want.MaxDelay = []time.Duration{200 * time.Millisecond, 30 * time.Second}, 30*time.Second
	src := w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name})
	if _, err := w.rmq.Provision(w.soon(), src, want); err != nil {
		t.Fatal(err)
	}
	rx, err := w.rmq.Open(w.soon(), src, want)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rx.Close(w.soon()) }()
	w.publish("slow")
	if err := w.receive(rx).Nack(w.soon(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	quick := w.publish("quick")
	start := time.Now()
	if err := w.receive(rx).Nack(w.soon(), 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	d := w.receive(rx)
	if waited := time.Since(start); d.Message().ID != quick.ID || waited < 200*time.Millisecond || waited > 25*time.Second {
		t.Errorf("got %q after %v", d.Message().ID, waited)
	}
	w.ack(d)
}

// A delay longer than the last rung takes it again and again, and is handed out
// once, when it is due.
func TestRabbitMQLongDelayTakesTheLastRungRepeatedly(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	want := w.want()
	want.Delays, want.MaxDelay = []time.Duration{100 * time.Millisecond}, 100*time.Millisecond
	src := w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name})
	if _, err := w.rmq.Provision(w.soon(), src, want); err != nil {
		t.Fatal(err)
	}
	rx, err := w.rmq.Open(w.soon(), src, want)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rx.Close(w.soon()) }()
	w.publish("long")
	start := time.Now()
	if err := w.receive(rx).Nack(w.soon(), 750*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	d := w.receive(rx)
	if waited := time.Since(start); waited < 750*time.Millisecond || d.Deliveries() != 2 {
		t.Errorf("delivery %d after %v", d.Deliveries(), waited)
	}
	w.ack(d)
	w.nothing(rx, 300*time.Millisecond)
}

// A message that ends the process each time is counted, on a classic queue too,
// where the broker counts nothing.
func TestRabbitMQClassicQueueCountsCrashes(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(func(c *rabbitmq.QueueConfig) { c.Type = rabbitmq.Classic })
	m := w.publish("poison")
	for crash := 1; crash <= 6; crash++ {
		rx := w.open(src, 1)
		d := w.receive(rx)
		if d.Message().ID != m.ID || d.Deliveries() < crash {
			t.Fatalf("after %d crashes: %q is delivery %d", crash-1, d.Message().ID, d.Deliveries())
		}
		rx.(interface{ Abandon() }).Abandon()
	}
}

// With a delivery limit a message that is given back keeps its place. Trap 85.
func TestRabbitMQGivenBackAtTheHead(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(func(c *rabbitmq.QueueConfig) { c.SingleActiveConsumer = true })
	for i := range 5 {
		w.publish(fmt.Sprint(i))
	}
	want := w.want()
	want.Concurrency, want.Ordered = 1, true
	rx, err := w.rmq.Open(w.soon(), src, want)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rx.Close(w.soon()) }()
	var got strings.Builder
	failures := 3
	for got.Len() < 8 {
		d := w.receive(rx)
		got.Write(d.Message().Body)
		if string(d.Message().Body) == "1" && failures > 0 {
			failures--
			if err := d.Nack(w.soon(), 0); err != nil {
				t.Fatal(err)
			}
			continue
		}
		w.ack(d)
	}
	if got.String() != "01111234" {
		t.Errorf("the order was %s", got.String())
	}
}

// Closing right after the last ack of a quorum queue brings nothing back.
// Trap 88: the acks that are under way.
func TestRabbitMQStopAfterTheLastAckBringsNothingBack(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(nil)
	const n, rounds = 400, 10
	for round := range rounds {
		var wg sync.WaitGroup
		for range n {
			m := w.message("x")
			wg.Go(func() {
				if err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), m); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		consumer := rabbitConnect(t, w.b.URL())
		rx, err := consumer.Open(w.soon(), consumer.Queue(rabbitmq.QueueConfig{Name: w.name}), transport.Want{Subscription: w.name, Concurrency: 200})
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			if err := w.receive(rx).(transport.PipelinedAcker).AckLater(); err != nil {
				t.Fatal(err)
			}
		}
		if err := rx.Close(w.soon()); err != nil {
			t.Fatal(err)
		}
		if err := consumer.Close(w.soon()); err != nil {
			t.Fatal(err)
		}
		if back := w.depth(w.raw(), w.name); back != 0 {
			t.Fatalf("round %d: %d acked messages came back", round, back)
		}
	}
	_ = src
}

// What was handed out before a Close is settled after it, on a connection under
// load: nothing of it comes back. Trap 88.
func TestRabbitMQHandlersFinishAfterCloseAndNothingComesTwice(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(nil)
	const n = 100
	for range n {
		w.publish("slow")
	}
	rx := w.open(src, 40)
	var held []transport.Delivery
	for range 20 {
		held = append(held, w.receive(rx))
	}
	w.shut(rx)
	for _, d := range held {
		w.ack(d)
	}
	next := w.open(src, 40)
	seen := map[string]int{}
	for range n - len(held) {
		d := w.receive(next)
		seen[d.Message().ID]++
		w.ack(d)
	}
	for _, d := range held {
		if seen[d.Message().ID] > 0 {
			t.Errorf("%q was acked, and came again", d.Message().ID)
		}
	}
	w.nothing(next, 200*time.Millisecond)
}

// An exclusive consumer whose connection was cut waits until the broker has let
// go of the old one. Trap 87.
func TestRabbitMQExclusiveConsumerComesBack(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(func(c *rabbitmq.QueueConfig) { c.Type, c.Exclusive = rabbitmq.Classic, true })
	rx := w.open(src, 10)
	if other, err := w.rmq.Open(w.soon(), src, w.want()); err == nil {
		_ = other.Close(w.soon())
		t.Fatal("a second consumer was let in")
	} else if transport.KindOf(err) != transport.Temporary {
		t.Errorf("the second consumer: %v", err)
	}
	for range 3 {
		back := rabbitEvents(t, w.rmq, transport.Reconnected)
		w.proxy.Cut()
		rabbitAwait(t, back, "the connection is back")
		m := w.publish("after")
		for { // an ack that was under way when the connection was cut may be lost
			d := w.receive(rx)
			w.ack(d)
			if d.Message().ID == m.ID {
				break
			}
		}
	}
}

func TestRabbitMQStreamIsReadFromAnOffset(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name, Type: rabbitmq.Stream, Offset: "first"})
	if found, err := w.rmq.Check(w.soon(), src, w.want()); err != nil || !hasCode(found, transport.CodeNoRedelivery, transport.LevelError) {
		t.Errorf("a stream with retries: %v, %v", found, err)
	}
	want := transport.Want{Subscription: w.name, Concurrency: 10}
	if _, err := w.rmq.Provision(w.soon(), src, want); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		w.publish(fmt.Sprint(i))
	}
	for range 2 { // each reader begins where it says
		rx, err := w.rmq.Open(w.soon(), src, want)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			d := w.receive(rx)
			if string(d.Message().Body) != fmt.Sprint(i) {
				t.Errorf("got %q", d.Message().Body)
			}
			w.refused(d.Nack(w.soon(), 0), transport.ErrUnsupported, transport.Permanent)
			w.ack(d)
		}
		w.shut(rx)
	}
}

// Requests of many goroutines share one connection, and each gets its own answer.
func TestRabbitMQRequestsInFlightKeepApart(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 20)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for range 4 {
		wg.Go(func() {
			for {
				d, err := rx.Receive(ctx)
				if err != nil {
					return
				}
				// The one who asked may have its answer before it is confirmed.
				if err := d.(transport.Responder).Respond(w.soon(), &transport.Message{Body: append([]byte("re:"), d.Message().Body...)}); err != nil {
					t.Error(err)
				}
				_ = d.Ack(ctx)
			}
		})
	}
	var asking sync.WaitGroup
	for i := range 100 {
		asking.Go(func() {
			got, err := w.rmq.Request(w.soon(), rabbitmq.QueueAddress(w.name), &transport.Message{Body: []byte(fmt.Sprint(i))})
			if err != nil || string(got.Body) != fmt.Sprintf("re:%d", i) {
				t.Errorf("request %d: %v, %v", i, got, err)
			}
		})
	}
	asking.Wait()
}
