package integration_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// A queue that is deleted while it is consumed is made again where it is ours.
// Trap 70.
func TestRabbitMQDeletedQueueIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(func(c *rabbitmq.QueueConfig) {
		c.Bindings = []rabbitmq.Binding{{Exchange: w.name, Kind: "fanout"}}
	}), 10)
	held := w.publish("held")
	d := w.receive(rx)
	stalled := rabbitEvents(t, w.rmq, transport.Stalled)
	recreated := rabbitEvents(t, w.rmq, transport.Recreated)
	flowing := rabbitEvents(t, w.rmq, transport.Flowing)
	if _, err := w.raw().QueueDelete(w.name, false, false, false); err != nil {
		t.Fatal(err)
	}
	if e := rabbitAwait(t, stalled, "the receiver says that it gets nothing"); e.Subscription != w.name || e.Err == nil {
		t.Errorf("the event is %+v", e)
	}
	rabbitAwait(t, recreated, "the queue is made again")
	rabbitAwait(t, flowing, "the receiver works again")
	_ = d.Ack(w.soon()) // of a message that is gone with its queue
	if err := w.rmq.Publish(w.soon(), rabbitmq.Exchange(w.name, ""), w.message("after")); err != nil {
		t.Fatal("the bindings are not restored:", err)
	}
	if got := w.receive(rx); got.Message().ID == held.ID {
		t.Errorf("got %q, which was deleted", held.ID)
	}
}

// A queue of somebody else is not declared, and the receiver waits for it.
// Trap 70: of somebody else.
func TestRabbitMQAdoptedQueueIsNeverDeclared(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	cfg := rabbitmq.QueueConfig{Name: w.name, Declare: rabbitmq.DeclareAdopt}
	src := w.rmq.Queue(cfg)
	found, err := w.rmq.Check(w.soon(), src, w.want())
	if err != nil || !hasCode(found, transport.CodeQueueMissing, transport.LevelError) {
		t.Errorf("check of a queue that is not there: %v, %v", found, err)
	}
	if _, err := w.rmq.Provision(w.soon(), src, w.want()); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("provision: %v", err)
	}
	ch := w.raw()
	// As others have made it: classic, with arguments that we would not choose.
	args := amqp.Table{"x-max-priority": int32(5), "x-message-ttl": int32(600_000)}
	declare := func() {
		if _, err := ch.QueueDeclare(w.name, true, false, false, false, args); err != nil {
			t.Fatal(err)
		}
	}
	declare()
	found, err = w.rmq.Check(w.soon(), src, w.want())
	if err != nil || !hasCode(found, transport.CodeNoNet, transport.LevelWarning) || len(errorFindings(found)) > 0 {
		t.Errorf("check of a foreign queue: %v, %v", found, err)
	}
	if _, err := w.rmq.Provision(w.soon(), src, w.want()); err != nil {
		t.Fatal(err)
	}
	rx := w.open(src, 10)
	w.publish("one")
	d := w.receive(rx)
	if err := d.Nack(w.soon(), 120*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	d = w.receive(rx)
	if d.Deliveries() != 2 {
		t.Errorf("delivery %d", d.Deliveries())
	}
	w.ack(d)
	stalled := rabbitEvents(t, w.rmq, transport.Stalled)
	if _, err := ch.QueueDelete(w.name, false, false, false); err != nil {
		t.Fatal(err)
	}
	rabbitAwait(t, stalled, "the receiver says so")
	flowing := rabbitEvents(t, w.rmq, transport.Flowing)
	declare()
	rabbitAwait(t, flowing, "the receiver is back at the queue")
	w.publish("two")
	w.ack(w.receive(rx))
}

func hasCode(found []transport.Finding, code transport.Code, level transport.Level) bool {
	for _, f := range found {
		if f.Code == code && f.Level == level && f.Fix != "" {
			return true
		}
	}
	return false
}

func errorFindings(found []transport.Finding) (out []transport.Finding) {
	for _, f := range found {
		if f.Level == transport.LevelError {
			out = append(out, f)
		}
	}
	return out
}

// What differs is told as a difference, and costs no consumer its channel. Trap 86.
func TestRabbitMQDriftIsADiffAndHurtsNobody(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 10)
	w.publish("held")
	d := w.receive(rx)
	for _, change := range []func(*rabbitmq.QueueConfig){
		func(c *rabbitmq.QueueConfig) { c.DeliveryLimit = 50 },
		func(c *rabbitmq.QueueConfig) { c.Type = rabbitmq.Classic },
		func(c *rabbitmq.QueueConfig) { c.Declare, c.DeliveryLimit = rabbitmq.DeclareVerify, 50 },
	} {
		cfg := rabbitmq.QueueConfig{Name: w.name}
		change(&cfg)
		src := w.rmq.Queue(cfg)
		found, err := w.rmq.Check(w.soon(), src, w.want())
		if err != nil || !hasCode(found, transport.CodeQueueDrift, transport.LevelError) {
			t.Errorf("%+v: %v, %v", cfg, found, err)
		}
		for _, f := range found {
			if f.Code == transport.CodeQueueDrift && (len(f.Diff) != 1 || !strings.Contains(f.Diff[0], "want") || !strings.Contains(f.Diff[0], "have")) {
				t.Errorf("the diff is %q", f.Diff)
			}
		}
		report, err := w.rmq.Provision(w.soon(), src, w.want())
		if err != nil || !hasCode(report.Findings, transport.CodeQueueDrift, transport.LevelError) {
			t.Errorf("%+v: provision found %v, %v", cfg, report.Findings, err)
		}
	}
	w.ack(d)
	w.publish("after")
	if d := w.receive(rx); d.Deliveries() != 1 {
		t.Errorf("the consumer was disturbed: delivery %d", d.Deliveries())
	}
}

func TestRabbitMQVerifyModeDeclaresNothing(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.rmq.Queue(rabbitmq.QueueConfig{
		Name: w.name, Declare: rabbitmq.DeclareVerify, Bindings: []rabbitmq.Binding{{Exchange: w.name, Kind: "topic", Key: "#"}},
	})
	found, err := w.rmq.Check(w.soon(), src, w.want())
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []transport.Code{transport.CodeExchangeMissing, transport.CodeQueueMissing, transport.CodeRetryMissing, transport.CodeDeadMissing} {
		if !hasCode(found, code, transport.LevelError) {
			t.Errorf("%s was not found in %v", code, found)
		}
	}
	if _, err := w.rmq.Provision(w.soon(), src, w.want()); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("provision: %v", err)
	}
}

// A broker of a known plugin type that is not there: the 503 that it answers ends
// a connection, and not one that others use.
func TestRabbitMQUnknownExchangeTypeHurtsNobody(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 10)
	lost := rabbitEvents(t, w.rmq, transport.Disconnected)
	src := w.rmq.Queue(rabbitmq.QueueConfig{
		Name: w.name + "-x", Bindings: []rabbitmq.Binding{{Exchange: w.name, Kind: "x-no-such-plugin", Key: "#"}},
	})
	_, err := w.rmq.Provision(w.soon(), src, w.want())
	if err == nil || transport.KindOf(err) != transport.Permanent {
		t.Errorf("provision: %v", err)
	}
	w.publish("after")
	w.ack(w.receive(rx))
	select {
	case e := <-lost:
		t.Errorf("the connection was lost: %+v", e)
	default:
	}
}

func TestRabbitMQExchangeTopologyIsDeclared(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	in, mid, alt := w.name+"-in", w.name+"-mid", w.name+"-alt"
	w.queue(func(c *rabbitmq.QueueConfig) {
		c.Exchanges = []rabbitmq.ExchangeConfig{
			{Name: alt, Kind: "fanout"},
			{Name: mid, Kind: "headers", Bindings: []rabbitmq.Binding{{Exchange: in, Kind: "direct", Key: "k"}}},
			{Name: in, Kind: "direct", Alternate: alt},
		}
		c.Bindings = []rabbitmq.Binding{{Exchange: mid, Args: amqp.Table{"x-match": "all", "color": "red"}}, {Exchange: alt}}
	})
	ch := w.raw()
	publish := func(key, color string) int {
		m := w.message("")
		m.Header = transport.Header{"color": {color}}
		if err := w.rmq.Publish(w.soon(), rabbitmq.Exchange(in, key), m); err != nil && !errors.Is(err, transport.ErrUnroutable) {
			t.Fatal(err)
		}
		return w.depth(ch, w.name)
	}
	if n := publish("k", "red"); n != 1 {
		t.Errorf("through both exchanges: %d", n)
	}
	if n := publish("k", "blue"); n != 1 {
		t.Errorf("with another header: %d", n)
	}
	if n := publish("other", "blue"); n != 2 {
		t.Errorf("by the alternate exchange: %d", n)
	}
}
