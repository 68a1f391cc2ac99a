package integration_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

func TestJetStreamMessageArrivesWhole(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(4))
	m := &transport.Message{
		ID: "order-1", DedupID: "order-1:a", Key: "customer-7", ContentType: "application/json", Body: []byte(`{"n":1}`),
		Header: transport.Header{"Trace": {"a", "b"}, "Name": {"M\xfcller"}},
	}
	if err := w.js.Publish(w.ctx, transport.Address{Name: "orders.placed"}, m); err != nil {
		t.Fatal(err)
	}
	d := w.receive(rx)
	got := d.Message()
	if got.ID != m.ID || got.Key != m.Key || got.ContentType != m.ContentType || got.Subject != "orders.placed" || string(got.Body) != string(m.Body) {
		t.Fatalf("received %+v", got)
	}
	if !slices.Equal(got.Header["Trace"], []string{"a", "b"}) || got.Header.Get("Name") != "M\xfcller" {
		t.Fatalf("received the headers %v", got.Header)
	}
	if got.Position == "" || got.Time.IsZero() || d.Deliveries() != 1 {
		t.Fatalf("position %q, time %s, deliveries %d", got.Position, got.Time, d.Deliveries())
	}
	w.ack(d)
	if err := d.Ack(w.ctx); !errors.Is(err, transport.ErrSettled) {
		t.Fatalf("a second ack returned %v", err)
	}
	if info := w.consumer("ORDERS", "billing"); info.NumAckPending != 0 {
		t.Fatalf("%d deliveries are unacked after a confirmed ack", info.NumAckPending)
	}
}

func TestJetStreamNackComesBackAfterItsDelay(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(4))
	w.publish("orders.placed", 1)
	d := w.receive(rx)
	start := time.Now()
	if err := d.Nack(w.ctx, 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	again := w.receive(rx)
	if waited := time.Since(start); waited < 300*time.Millisecond {
		t.Fatalf("it came back after %s", waited)
	}
	if again.Deliveries() != 2 || again.Message().ID != "m1" {
		t.Fatalf("came back as %s, delivery %d", again.Message().ID, again.Deliveries())
	}
	w.ack(again)
}

func TestJetStreamPipelinedAcksAreConfirmedByClose(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source()
	rx := w.started(src, want(255))
	const n = 1000
	w.publish("orders.placed", n)
	for i := range n {
		d := w.receive(rx)
		if want := i + 1; d.Message().ID != idOf(want) {
			t.Fatalf("message %d arrived as %s", want, d.Message().ID)
		}
		if err := d.(transport.PipelinedAcker).AckLater(); err != nil {
			t.Fatal(err)
		}
	}
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	info := w.consumer("ORDERS", "billing")
	if info.NumAckPending != 0 || info.AckFloor.Stream != n {
		t.Fatalf("after close %d are pending, the floor is %d", info.NumAckPending, info.AckFloor.Stream)
	}
}

func TestJetStreamCloseHandsBackWhatWasBuffered(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	src := w.source()
	rx := w.started(src, want(9))
	w.publish("orders.placed", 10)
	first := w.receive(rx)
	eventually(t, "ten messages are out", func() bool { return w.consumer("ORDERS", "billing").NumAckPending == 10 })
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	// What was handed out stays settleable after the close.
	if err := first.(transport.PipelinedAcker).AckLater(); err != nil {
		t.Fatal(err)
	}
	if _, err := rx.Receive(w.ctx); !errors.Is(err, transport.ErrClosed) {
		t.Fatalf("receive after close returned %v", err)
	}
	other := w.open(src, want(9))
	start := time.Now()
	for range 9 {
		w.ack(w.receive(other))
	}
	if took := time.Since(start); took > lease/2 {
		t.Errorf("it took %s, as if it had waited for its lease to end", took)
	}
	if info := w.consumer("ORDERS", "billing"); info.NumAckPending != 0 {
		t.Fatalf("%d are still pending", info.NumAckPending)
	}
}

func TestJetStreamFetchesNoMoreThanItsWindow(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(7))
	w.publish("orders.placed", 50)
	d := w.receive(rx)
	eventually(t, "the window is used", func() bool { return w.consumer("ORDERS", "billing").NumAckPending == 8 })
	for range 40 {
		w.ack(d)
		if n := w.consumer("ORDERS", "billing").NumAckPending; n > 8 {
			t.Fatalf("%d are out, the window is 8", n)
		}
		d = w.receive(rx)
	}
}

func TestJetStreamBufferedMessagesKeepTheirLease(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(briefly), want(9))
	w.publish("orders.placed", 10)
	// Slower than the lease in all, each message within it.
	for range 10 {
		d := w.receive(rx)
		if d.Deliveries() != 1 {
			t.Fatalf("%s was delivered %d times", d.Message().ID, d.Deliveries())
		}
		hold(w.ctx, brief/5)
		w.ack(d)
	}
}

// hold stands for a handler that works for d.
func hold(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

func idOf(n int) string {
	return "m" + itoa(n)
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}
