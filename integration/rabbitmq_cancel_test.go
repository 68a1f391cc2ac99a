package integration_test

import (
	"slices"
	"testing"

	"github.com/holdfast-go/holdfast/transport"
)

// Trap 69: what a consumer had prefetched when the broker cancelled it does not wait
// for the handlers that are still at work on that channel.
func TestRabbitMQWhatACancelledConsumerHadFetchedComesAgain(t *testing.T) {
	t.Parallel()
	w, wire := newRabbitWire(t)
	rx := w.open(w.queue(nil), 3)
	for _, body := range []string{"held", "waits 1", "waits 2"} {
		w.publish(body)
	}
	held := w.receive(rx)
	w.fetched()
	stalled, flowing := rabbitEvents(t, w.rmq, transport.Stalled), rabbitEvents(t, w.rmq, transport.Flowing)
	if err := wire.cancel(); err != nil {
		t.Fatal(err)
	}
	rabbitAwait(t, stalled, "the cancellation is told")
	rabbitAwait(t, flowing, "there is another consumer")
	var got []string
	for range 2 {
		d := w.receive(rx)
		got = append(got, string(d.Message().Body))
		w.ack(d)
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"waits 1", "waits 2"}) {
		t.Errorf("got %q", got)
	}
	w.ack(held)
}

// fetched waits until what the broker hands out has arrived: it has none left, and
// what it says after that has come the same way.
func (w *rabbitWorld) fetched() {
	w.Helper()
	ch := w.raw()
	w.eventually("the messages are handed out", func() bool { return w.depth(ch, w.name) == 0 })
	for range 5 {
		ch, err := w.rmq.Connection().Channel()
		if err != nil {
			w.Fatal(err)
		}
		if err := ch.Close(); err != nil {
			w.Fatal(err)
		}
	}
}
