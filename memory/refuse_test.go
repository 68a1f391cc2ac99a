package memory_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

func TestHeaderThatCannotTravelIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for _, h := range []transport.Header{
		{"": {"x"}},
		{"with:colon": {"x"}},
		{"with space": {"x"}},
		{"Name": {"fine", "a\r\nStatus: 503"}},
	} {
		err := w.b.Publish(t.Context(), transport.Address{Name: "orders.placed"}, &transport.Message{Header: h})
		check.ErrorIs(t, err, transport.ErrInvalid, "%q", h)
	}
	check.ErrorIs(t, w.b.Publish(t.Context(), transport.Address{Name: "orders.placed"}, nil), transport.ErrInvalid)
}

func TestSizeCountsHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, memory.WithMaxSize(100))
	to := transport.Address{Name: "orders.placed"}
	check.NoError(t, w.b.Publish(t.Context(), to, &transport.Message{Body: make([]byte, 100)}))
	m := &transport.Message{Body: make([]byte, 90), Header: transport.Header{"Name": {"value"}}}
	check.ErrorIs(t, w.b.Publish(t.Context(), to, m), transport.ErrTooLarge)
	_, err := w.b.Request(t.Context(), to, m)
	check.ErrorIs(t, err, transport.ErrTooLarge)
}

func TestKeyThatCannotBeFiledIsRefused(t *testing.T) {
	t.Parallel()
	b := memory.New()
	for _, key := range []transport.DeadKey{
		{},
		{Subscription: "s", Fingerprint: "f"},
		{Subscription: "s.t", Fingerprint: "f", ID: "1"},
		{Subscription: "s", Fingerprint: "*", ID: "1"},
		{Subscription: "s", Fingerprint: "f", ID: "a b"},
	} {
		check.ErrorIs(t, b.DeadLetters().Bury(t.Context(), key, &transport.Message{}), transport.ErrInvalid, "%+v", key)
	}
	key := transport.DeadKey{Subscription: "s", Fingerprint: "f", ID: "1"}
	check.ErrorIs(t, b.DeadLetters().Bury(t.Context(), key, nil), transport.ErrInvalid)
}

func TestSameDeathUnderAnotherFingerprintIsBuriedOnce(t *testing.T) {
	t.Parallel()
	b := memory.New()
	for _, fingerprint := range []string{"first", "second"} {
		key := transport.DeadKey{Subscription: "s", Fingerprint: fingerprint, ID: "1"}
		check.NoError(t, b.DeadLetters().Bury(t.Context(), key, &transport.Message{ID: "m"}))
	}
	counts, err := b.DeadLetters().Summary(t.Context())
	check.NoError(t, err)
	check.Equal(t, counts, []transport.LetterCount{{Subscription: "s", Fingerprint: "first", Count: 1}})
}

func TestOpenNeedsAProvisionedQueue(t *testing.T) {
	t.Parallel()
	b := memory.New()
	_, err := b.Open(t.Context(), b.Queue(memory.QueueConfig{Name: "q"}), transport.Want{})
	check.ErrorIs(t, err, transport.ErrNotFound)
	_, err = b.Open(t.Context(), memory.New().Queue(memory.QueueConfig{Name: "q"}), transport.Want{})
	check.ErrorIs(t, err, transport.ErrInvalid, "a source of another broker")
	_, err = b.Open(t.Context(), nil, transport.Want{})
	check.ErrorIs(t, err, transport.ErrInvalid, "no source")
}

func TestOnlyTheNewestRejectedMessagesAreKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for i := range 1002 {
		w.publish(fmt.Sprint(i))
		check.NoError(t, w.receive().(transport.Rejecter).Reject(t.Context(), ""))
	}
	got := w.b.Rejected("orders")
	check.Equal(t, len(got), 1000)
	check.Equal(t, got[0].Message.ID, "2")
	check.Equal(t, got[999].Message.ID, "1001")
}

func TestWindowIsFreeAgainWhenALeaseEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.WithLease(time.Minute))
		w.publish("1", "2")
		first := w.receive()
		again := w.receive() // a minute later
		check.Equal(t, again.Message().ID, "1")
		check.NoError(t, again.Ack(t.Context()))
		check.Equal(t, w.receive().Message().ID, "2")
		check.ErrorIs(t, first.Nack(t.Context(), 0), transport.ErrLeaseLost)
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Leased: 1, Receivers: 1})
		check.Equal(t, w.b.Stats("nobody"), memory.Stats{})
	})
}

func TestReceiverSaysItsLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	check.Equal(t, w.rx.(transport.Leased).Lease(), memory.DefaultLease)
}

func BenchmarkPublishReceiveAck(b *testing.B) {
	broker := memory.New()
	src := broker.Queue(memory.QueueConfig{Name: "q"})
	if _, err := broker.Provision(b.Context(), src, transport.Want{}); err != nil {
		b.Fatal(err)
	}
	rx, err := broker.Open(b.Context(), src, transport.Want{})
	if err != nil {
		b.Fatal(err)
	}
	m := &transport.Message{Body: make([]byte, 1024)}
	b.ReportAllocs()
	for b.Loop() {
		if err := broker.Publish(b.Context(), transport.Address{Name: "q"}, m); err != nil {
			b.Fatal(err)
		}
		d, err := rx.Receive(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Ack(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
