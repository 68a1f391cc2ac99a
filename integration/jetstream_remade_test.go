package integration_test

import (
	"slices"
	"testing"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// A stream that somebody else removed and made again, its consumer with it, has
// new messages under the sequences of the old ones. What a member has acked of the
// old stream is no word about them: every one is handed out.
func TestJetStreamStreamAndConsumerMadeAnewByAnotherLoseNothing(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src, wnt := w.source(), want(32)
	rx := w.started(src, wnt)
	w.publish("orders.placed", 20)
	// The first is held, so that the floor stays and the member remembers the rest.
	held := w.receive(rx)
	for range 19 {
		w.ack(w.receive(rx))
	}
	other, _ := w.connect(w.server.URL())
	if err := other.JetStream().DeleteStream(w.ctx, "ORDERS"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.JetStream().CreateStream(w.ctx, natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.JetStream().CreateConsumer(w.ctx, "ORDERS", natsjs.ConsumerConfig{
		Durable: "billing", AckPolicy: natsjs.AckExplicitPolicy, AckWait: lease, MaxAckPending: 1000,
	}); err != nil {
		t.Fatal(err)
	}
	_ = held.Nack(w.ctx, 0)
	var wanted, got []string
	for i := range 20 {
		id := "anew-" + itoa(i)
		wanted = append(wanted, id)
		if err := other.Publish(w.ctx, jetstream.Subject("orders.placed"), &transport.Message{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	for range wanted {
		d := w.receive(rx)
		got = append(got, d.Message().ID)
		w.ack(d)
	}
	slices.Sort(got)
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		t.Errorf("handed out: %q", got)
	}
}
