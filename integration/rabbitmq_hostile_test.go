package integration_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// suspend makes the process of a classic queue stand still: what is published
// there is neither confirmed nor refused, as in a quorum queue without its
// majority.
func suspend(t *testing.T, b *rabbittest.Broker, queue string) {
	t.Helper()
	const tell = `{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"%s">>)), sys:%s(amqqueue:get_pid(Q)).`
	b.Ctl(t, "eval", fmt.Sprintf(tell, queue, "suspend"))
	t.Cleanup(func() { b.Ctl(t, "eval", fmt.Sprintf(tell, queue, "resume")) })
}

// A queue that does not answer holds up neither publishes to other queues nor
// their connection, and what was published there has its own end.
func TestRabbitMQAQueueThatDoesNotAnswerHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	b := rabbittest.Shared(t)
	w := newRabbitWorld(t, b, rabbitmq.WithConfirmTimeout(8*time.Second))
	w.queue(nil)
	stuck := w.name + "-stuck"
	if _, err := w.raw().QueueDeclare(stuck, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	suspend(t, b, stuck)
	lost := rabbitEvents(t, w.rmq, transport.Disconnected)

	patient := rabbitConnect(t, w.proxy.URL(), rabbitmq.WithConfirmTimeout(10*time.Minute))
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	outcome, waits := make(chan error, 2), make(chan error, 1)
	first := w.message("stuck for long")
	go func() { waits <- patient.Publish(ctx, rabbitmq.QueueAddress(stuck), first) }()
	for range 2 {
		m := w.message("stuck")
		go func() { outcome <- w.rmq.Publish(t.Context(), rabbitmq.QueueAddress(stuck), m) }()
	}
	neighbours := 0
	for left := 2; left > 0; neighbours++ {
		w.publish("next door")
		if err := patient.Publish(w.soon(), rabbitmq.QueueAddress(w.name), w.message("next door")); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-outcome:
			left--
			if transport.KindOf(err) != transport.Unknown || !strings.Contains(fmt.Sprint(err), "majority") {
				t.Errorf("the outcome is %v (%v)", err, transport.KindOf(err))
			}
		default: // once more
		}
	}
	// The publisher looks for what is stuck in its own time, too.
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); neighbours++ {
		w.publish("next door")
	}
	if len(lost) > 0 {
		t.Errorf("the connection was given up: %+v", <-lost)
	}
	giveUp()
	if err := <-waits; transport.KindOf(err) != transport.Unknown {
		t.Error(err)
	}
	t.Logf("%d publishes to another queue meanwhile", neighbours)
}

// Who gives up on a publish that goes alone leaves no channel behind: a connection
// has not many.
func TestRabbitMQGivenUpPublishesLeaveNoChannel(t *testing.T) {
	t.Parallel()
	b := rabbittest.Shared(t)
	name := fmt.Sprint("leak-", time.Now().UnixNano())
	w := newRabbitWorld(t, b, rabbitmq.WithName(name))
	stuck, exchange := w.name+"-stuck", w.name+"-x"
	ch := w.raw()
	if _, err := ch.QueueDeclare(stuck, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare(exchange, "fanout", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(stuck, "", exchange, false, nil); err != nil {
		t.Fatal(err)
	}
	suspend(t, b, stuck)
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := w.rmq.Publish(ctx, rabbitmq.Exchange(exchange, "k"), w.message("x")); err == nil {
			t.Error("a queue that does not answer confirmed a publish")
		}
		cancel()
	}
	w.eventually("the channels are closed", func() bool {
		for line := range strings.Lines(b.Ctl(t, "list_connections", "client_properties", "channels")) {
			if strings.Contains(line, name+" publish") {
				fields := strings.Fields(line)
				var n int
				_, _ = fmt.Sscan(fields[len(fields)-1], &n)
				return n <= 3
			}
		}
		return false
	})
}

// A message that no copy can be made of, for its headers fill a frame, is handed
// out as it is: it does not go round in the queue for ever.
func TestRabbitMQAMessageThatCannotBeCopiedIsHandledAllTheSame(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(func(c *rabbitmq.QueueConfig) { c.Type = rabbitmq.Classic })
	ch := w.raw()
	full := amqp.Publishing{MessageId: "full", Headers: amqp.Table{"h": strings.Repeat("x", 130_000)}, Body: []byte("full")}
	if err := ch.Publish("", w.name, true, false, full); err != nil {
		t.Fatal(err)
	}
	w.eventually("it is handed out once", func() bool {
		_, ok, err := ch.Get(w.name, false)
		return ok && err == nil
	})
	if err := ch.Close(); err != nil { // it comes back, and nobody knows how often it was handed out
		t.Fatal(err)
	}
	rx := w.open(src, 1)
	d := w.receive(rx)
	if d.Message().ID != "full" || len(d.Message().Header.Get("h")) != 130_000 {
		t.Errorf("got %q with %d bytes", d.Message().ID, len(d.Message().Header.Get("h")))
	}
	w.ack(d)
	w.nothing(rx, 200*time.Millisecond)
}

// An exchange that a restart of the broker forgets is there again with its
// bindings, without a restart of the program.
func TestRabbitMQATransientExchangeIsDeclaredAgain(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	w := newRabbitWorld(t, b)
	exchange := w.name + "-x"
	src := w.queue(func(c *rabbitmq.QueueConfig) {
		c.Exchanges = []rabbitmq.ExchangeConfig{{Name: exchange, Kind: "topic", Transient: true}}
		c.Bindings = []rabbitmq.Binding{{Exchange: exchange, Key: "orders.#"}}
	})
	rx := w.open(src, 1)
	publish := func(body string) error {
		return w.rmq.Publish(w.soon(), rabbitmq.Exchange(exchange, "orders.placed"), w.message(body))
	}
	if err := publish("before"); err != nil {
		t.Fatal(err)
	}
	w.ack(w.receive(rx))
	b.Kill()
	b.Restart(t)
	w.eventually("the exchange routes again", func() bool { return publish("after") == nil })
	d := w.receive(rx)
	for string(d.Message().Body) == "before" { // its ack may have died with the broker
		w.ack(d)
		d = w.receive(rx)
	}
	if string(d.Message().Body) != "after" {
		t.Errorf("got %q", d.Message().Body)
	}
}
