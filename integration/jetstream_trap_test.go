package integration_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// Traps 24 and 27: a slow handler, a prefetch, and leases that are kept up.
func TestJetStreamSlowHandlerSeesEachMessageOnce(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(briefly), want(19))
	w.publish("orders.a", 20)
	for range 20 {
		d := w.receive(rx)
		if d.Deliveries() != 1 {
			t.Fatalf("%s was delivered %d times", d.Message().ID, d.Deliveries())
		}
		hold(w.ctx, brief/10) // 20 of them are longer than a lease
		w.ack(d)
	}
}

func TestJetStreamLostLeaseRefusesTheAck(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(briefly), want(4))
	w.publish("orders.a", 1)
	first := w.receive(rx)
	second := w.receive(rx)
	if second.Deliveries() != 2 {
		t.Fatalf("delivery %d", second.Deliveries())
	}
	w.ack(second)
	hold(w.ctx, brief+time.Second) // since the second one
	if err := first.(transport.LeaseExtender).ExtendLease(); !errors.Is(err, transport.ErrLeaseLost) {
		t.Fatalf("the extension of a lost lease: %v", err)
	}
	if err := first.Ack(w.ctx); !errors.Is(err, transport.ErrLeaseLost) {
		t.Fatalf("the ack of a lost delivery: %v", err)
	}
}

// Traps 25 and 26: restarts hand back what was not started.
func TestJetStreamRestartsBurnNoUnseenMessages(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source()
	w.provision(src, want(9))
	w.publish("orders.a", 50)
	seen := map[string]bool{}
	for range 3 {
		rx := w.open(src, want(9))
		d := w.receive(rx)
		seen[d.Message().ID] = true
		w.ack(d)
		if err := rx.Close(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	rx := w.open(src, want(9))
	for len(seen) < 50 {
		d := w.receive(rx)
		if seen[d.Message().ID] {
			t.Fatalf("%s came again", d.Message().ID)
		}
		seen[d.Message().ID] = true
		w.ack(d)
	}
}

// Trap 28: a nack is never hot.
func TestJetStreamNackWithoutDelayIsNotHot(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(0))
	w.publish("orders.a", 1)
	start := time.Now()
	for range 20 {
		if err := w.receive(rx).Nack(w.ctx, 0); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 20*time.Millisecond {
		t.Fatalf("20 deliveries in %s", took)
	}
	w.ack(w.receive(rx))
}

// Trap 35: thousands of parked retries do not stop fresh messages.
func TestJetStreamParkedRetriesDoNotStopFreshMessages(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(func(c *jetstream.ConsumerConfig) { c.AckWait = 30 * time.Second }), want(63))
	const parked = 2000
	nc := w.server.Conn()
	for i := range parked {
		if err := nc.Publish("orders.bad", fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for range parked {
		if err := w.receive(rx).Nack(w.ctx, 10*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	w.foreign("orders.good", "", "fresh")
	if d := w.receive(rx); d.Message().Subject != "orders.good" {
		t.Fatalf("received %s", d.Message().Subject)
	}
}

// Trap 37: a consumer cannot be made without a start.
func TestJetStreamNewConsumerNeedsAStart(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	for _, durable := range []string{"", "billing"} {
		src := w.source(func(c *jetstream.ConsumerConfig) { c.Start, c.Durable = jetstream.StartPolicy{}, durable })
		found, err := w.js.Check(w.ctx, src, want(1))
		if err != nil || len(findings(found, transport.CodeNoStart)) != 1 {
			t.Fatalf("durable %q: %v, findings:%s", durable, err, describe(found))
		}
		if _, err := w.js.Provision(w.ctx, src, want(1)); !errors.Is(err, transport.ErrInvalid) {
			t.Fatalf("durable %q: provision: %v", durable, err)
		}
	}
}

// Seed 003: a durable goes on where it stood, whatever its start says.
func TestJetStreamDurableResumesAfterARestart(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source()
	rx := w.started(src, want(4))
	w.publish("orders.a", 3)
	for range 3 {
		w.ack(w.receive(rx))
	}
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	again := w.started(src, want(4))
	w.nothing(again, 300*time.Millisecond)
}

// Traps 38 and 39: an operator deletes the durable.
func TestJetStreamDeletedConsumerIsMadeAgainWithoutReplay(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(9))
	w.publish("orders.a", 10)
	var open []transport.Delivery
	for i := range 10 {
		d := w.receive(rx)
		if i == 4 {
			open = append(open, d)
			continue
		}
		if err := d.(transport.PipelinedAcker).AckLater(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the acks are in", func() bool { return w.consumer("ORDERS", "billing").NumAckPending == 1 })
	if err := w.js.JetStream().DeleteConsumer(w.ctx, "ORDERS", "billing"); err != nil {
		t.Fatal(err)
	}
	w.foreign("orders.a", "", "later")
	// Only what was never acked comes again, and what is new.
	if d := w.receive(rx); d.Message().ID != open[0].Message().ID {
		t.Fatalf("received %s, body %s", d.Message().ID, d.Message().Body)
	} else {
		w.ack(d)
	}
	if d := w.receive(rx); string(d.Message().Body) != "later" {
		t.Fatalf("received %s", d.Message().ID)
	} else {
		w.ack(d)
	}
	w.nothing(rx, 200*time.Millisecond)
	if w.events.count(transport.Recreated) != 1 {
		t.Fatalf("%d recreations were told", w.events.count(transport.Recreated))
	}
}

// Trap 38: the consumer is deleted while the connection is away.
func TestJetStreamConsumerGoneDuringAnOutageIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(9))
	w.publish("orders.a", 3)
	for range 3 {
		w.ack(w.receive(rx))
	}
	nc := w.server.Conn()
	w.server.CutClients()
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	w.retry("delete the consumer", func(ctx context.Context) error {
		err := js.DeleteConsumer(ctx, "ORDERS", "billing")
		if errors.Is(err, natsjs.ErrConsumerNotFound) {
			return nil
		}
		return err
	})
	w.foreign("orders.a", "", "later")
	d := w.receive(rx)
	if string(d.Message().Body) != "later" {
		t.Fatalf("%s was replayed", d.Message().ID)
	}
	w.ack(d)
}

func TestJetStreamDeletedConsumerFailsInVerifyMode(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.provision(w.source(), want(1))
	rx := w.open(w.source(func(c *jetstream.ConsumerConfig) { c.Mode = jetstream.ModeVerify }), want(1))
	if err := w.js.JetStream().DeleteConsumer(w.ctx, "ORDERS", "billing"); err != nil {
		t.Fatal(err)
	}
	if _, err := rx.Receive(w.ctx); !errors.Is(err, transport.ErrNotFound) {
		t.Fatalf("receive: %v", err)
	}
	if w.events.count(transport.Stalled) == 0 || w.events.count(transport.Recreated) != 0 {
		t.Fatalf("stalled %d, recreated %d", w.events.count(transport.Stalled), w.events.count(transport.Recreated))
	}
}

// The broker comes back empty: the stream and the consumer are made again and
// everything of the new stream is seen.
func TestJetStreamBrokerThatComesBackEmptyIsServedAgain(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(9))
	w.publish("orders.a", 5)
	for range 5 {
		w.ack(w.receive(rx))
	}
	w.server.RestartEmpty()
	eventually(t, "the stream is there again", func() bool {
		m := &transport.Message{ID: "fresh", Body: []byte("fresh")}
		return w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, m) == nil
	})
	d := w.receive(rx)
	if d.Message().ID != "fresh" {
		t.Fatalf("received %s", d.Message().ID)
	}
	w.ack(d)
}

func TestJetStreamReceivesOnAfterARestartOfTheServer(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source(briefly)
	rx := w.started(src, want(31))
	acked := map[string]bool{}
	handle := func() {
		d := w.receive(rx)
		eventually(t, "a delivery is settled or lost", func() bool {
			err := d.(transport.PipelinedAcker).AckLater()
			if err == nil {
				acked[d.Message().ID] = true
			}
			return err == nil || errors.Is(err, transport.ErrLeaseLost)
		})
	}
	for round := range 3 {
		for i := range 50 {
			m := &transport.Message{ID: fmt.Sprint(round, "-", i)}
			eventually(t, "a publish is confirmed", func() bool {
				return w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, m) == nil
			})
		}
		for range 25 {
			handle()
		}
		w.server.Restart()
	}
	for len(acked) < 150 {
		handle()
	}
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.nothing(w.open(src, want(31)), brief+time.Second)
}

// Pipelined acks that a lost connection swallowed are sent again.
func TestJetStreamPipelinedAcksSurviveALostConnection(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(func(c *jetstream.ConsumerConfig) { c.AckWait = 20 * time.Second }), want(199))
	w.publish("orders.a", 200)
	var all []transport.Delivery
	for range 200 {
		all = append(all, w.receive(rx))
	}
	var wg sync.WaitGroup
	for i, d := range all {
		if i == 100 {
			wg.Go(w.server.CutClients)
		}
		eventually(t, "an ack is taken", func() bool {
			err := d.(transport.PipelinedAcker).AckLater()
			return err == nil
		})
	}
	wg.Wait()
	eventually(t, "all acks are in", func() bool {
		info := w.consumer("ORDERS", "billing")
		return info.NumAckPending == 0 && info.AckFloor.Stream == 200
	})
	if n := w.events.count(transport.AckUnconfirmed); n != 0 {
		t.Fatalf("%d acks were given up", n)
	}
}

// Trap 41: no mode removes a subject from a stream.
func TestJetStreamUpdateNeverRemovesASubject(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>", "invoices.>"}})
	src := w.source(func(c *jetstream.ConsumerConfig) {
		c.Mode = jetstream.ModeUpdate
		c.Subjects = []string{"orders.placed", "refunds.>"}
	})
	report := w.provision(src, want(1))
	s, err := w.js.JetStream().Stream(w.ctx, "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.CachedInfo().Config.Subjects); got != "[orders.> invoices.> refunds.>]" {
		t.Fatalf("the stream takes %s", got)
	}
	if len(report.Updated) != 1 {
		t.Fatalf("the report says %v", report.Updated)
	}
}

// Trap 48: notes of the server about removed messages are no messages.
func TestJetStreamDeleteMarkersAreSkipped(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(4))
	nc := w.server.Conn()
	m := &nats.Msg{Subject: "orders.a", Header: nats.Header{"Nats-Marker-Reason": {"MaxAge"}}}
	if _, err := nc.RequestMsgWithContext(w.ctx, m); err != nil {
		t.Fatal(err)
	}
	w.foreign("orders.a", "", "real")
	d := w.receive(rx)
	if string(d.Message().Body) != "real" {
		t.Fatalf("received %+v", d.Message())
	}
	w.ack(d)
	eventually(t, "the marker is acked", func() bool { return w.consumer("ORDERS", "billing").NumAckPending == 0 })
}
