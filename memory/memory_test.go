package memory_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

var (
	_ transport.Transport    = (*memory.Broker)(nil)
	_ transport.DeadLetterer = (*memory.Broker)(nil)
	_ transport.Requester    = (*memory.Broker)(nil)
	_ transport.Observable   = (*memory.Broker)(nil)
)

// world is one broker with one provisioned queue and an open receiver.
type world struct {
	t  *testing.T
	b  *memory.Broker
	rx transport.Receiver
}

func newWorld(t *testing.T, window int, opts ...memory.Option) *world {
	b := memory.New(opts...)
	t.Cleanup(func() { check.NoError(t, b.Close(t.Context())) })
	w := &world{t: t, b: b}
	w.rx = w.open("orders", window)
	return w
}

func (w *world) open(queue string, window int) transport.Receiver {
	w.t.Helper()
	src := w.b.Queue(memory.QueueConfig{Name: queue, Subjects: []string{"orders.>"}})
	want := transport.Want{Subscription: queue, Concurrency: window}
	_, err := w.b.Provision(w.t.Context(), src, want)
	check.NoError(w.t, err, "provision")
	rx, err := w.b.Open(w.t.Context(), src, want)
	check.NoError(w.t, err, "open")
	return rx
}

func (w *world) publish(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		m := &transport.Message{ID: id, Body: []byte("body of " + id)}
		check.NoError(w.t, w.b.Publish(w.t.Context(), transport.Address{Name: "orders.placed"}, m), "publish")
	}
}

func (w *world) receive() transport.Delivery {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
	defer cancel()
	d, err := w.rx.Receive(ctx)
	check.NoError(w.t, err, "receive")
	return d
}

func TestDelayedMessageTakesItsOldPlaceWhenDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		w.publish("1", "2", "3")
		first := w.receive()
		check.NoError(t, first.Nack(t.Context(), time.Minute))
		check.Equal(t, w.receive().Message().ID, "2")
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Waiting: 1, Delayed: 1, Leased: 1, Receivers: 1})
		time.Sleep(time.Minute) // virtual: the delay of 1 and the lease of 2 have ended
		again := w.receive()
		check.Equal(t, again.Message().ID, "1")
		check.Equal(t, again.Deliveries(), 2)
	})
}

func TestReceiverWakesAtTheInstantADelayEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.publish("1")
		check.NoError(t, w.receive().Nack(t.Context(), 42*time.Minute))
		start := time.Now()
		d := w.receive()
		check.Equal(t, time.Since(start), 42*time.Minute)
		check.NoError(t, d.Ack(t.Context()))
		check.True(t, w.b.Idle())
	})
}

func TestLeaseEndsAtTheInstantItSays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, memory.WithLease(20*time.Second))
		w.publish("1")
		d := w.receive()
		time.Sleep(15 * time.Second) // virtual
		check.NoError(t, d.(transport.LeaseExtender).ExtendLease())
		start := time.Now()
		again := w.receive()
		check.Equal(t, time.Since(start), 20*time.Second)
		check.Equal(t, again.Deliveries(), 2)
		check.ErrorIs(t, d.Ack(t.Context()), transport.ErrLeaseLost)
		check.ErrorIs(t, d.(transport.LeaseExtender).ExtendLease(), transport.ErrLeaseLost)
		check.NoError(t, again.Ack(t.Context()))
		check.ErrorIs(t, again.Ack(t.Context()), transport.ErrSettled)
	})
}

func TestFaultsHitTheNextCallsOnly(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	w := newWorld(t, 1)
	w.b.Fail(memory.OpPublish, boom, 1)
	err := w.b.Publish(t.Context(), transport.Address{Name: "orders.placed"}, &transport.Message{})
	check.ErrorIs(t, err, boom)
	check.Equal(t, transport.KindOf(err), transport.Temporary)
	w.publish("1")
	d := w.receive()
	w.b.Fail(memory.OpAck, boom, 2)
	check.ErrorIs(t, d.Ack(t.Context()), boom)
	check.ErrorIs(t, d.Ack(t.Context()), boom)
	check.NoError(t, d.Ack(t.Context()), "a failed settlement can be tried again")
	w.b.Fail(memory.OpReceive, boom, 1)
	_, err = w.rx.Receive(t.Context())
	check.ErrorIs(t, err, boom)
}
