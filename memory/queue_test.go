package memory_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

func TestQueueTakesTheSubjectsItIsBoundTo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, subject string
		takes            bool
	}{
		{"orders", "orders", true},
		{"orders", "orders.placed", false},
		{"orders.*", "orders.placed", true},
		{"orders.*", "orders", false},
		{"orders.*", "orders.placed.eu", false},
		{"orders.>", "orders.placed", true},
		{"orders.>", "orders.placed.eu", true},
		{"orders.>", "orders", false},
		{"*.placed", "orders.placed", true},
		{"*.placed", "orders.paid", false},
		{"*.*.eu", "orders.placed.eu", true},
		{">", "anything.at.all", true},
		{"orders.placed", "orders.place", false},
		{"Orders", "orders", false},
	} {
		b := memory.New()
		src := b.Queue(memory.QueueConfig{Name: "q", Subjects: []string{c.pattern}})
		_, err := b.Provision(t.Context(), src, transport.Want{})
		check.NoError(t, err)
		err = b.Publish(t.Context(), transport.Address{Name: c.subject}, &transport.Message{})
		check.Equal(t, err == nil, c.takes, "%s takes %s", c.pattern, c.subject)
		if err != nil {
			check.ErrorIs(t, err, transport.ErrUnroutable)
		}
		check.NoError(t, b.Close(t.Context()))
	}
}

func TestNamesThatCanNeverWorkAreFoundAndRefused(t *testing.T) {
	t.Parallel()
	b := memory.New()
	for _, cfg := range []memory.QueueConfig{
		{},
		{Name: "two words"},
		{Name: "q", Subjects: []string{""}},
		{Name: "q", Subjects: []string{"a..b"}},
		{Name: "q", Subjects: []string{"a.b*"}},
		{Name: "q", Subjects: []string{"a.>.b"}},
		{Name: "q", Subjects: []string{"a b"}},
		{Name: "q", Lease: -time.Second},
	} {
		src := b.Queue(cfg)
		found, err := b.Check(t.Context(), src, transport.Want{Subscription: "s"})
		check.NoError(t, err)
		check.True(t, len(found) > 0 && found[0].Code == transport.CodeInvalid && found[0].Level == transport.LevelError, "%+v: %v", cfg, found)
		_, err = b.Provision(t.Context(), src, transport.Want{})
		check.ErrorIs(t, err, transport.ErrInvalid, "%+v", cfg)
	}
}

func TestQueueThatIsDescribedOtherwiseIsDrift(t *testing.T) {
	t.Parallel()
	b := memory.New()
	first := b.Queue(memory.QueueConfig{Name: "q", Subjects: []string{"a"}})
	other := b.Queue(memory.QueueConfig{Name: "q", Subjects: []string{"b"}, Lease: time.Minute})
	want := transport.Want{Subscription: "s"}
	_, err := b.Provision(t.Context(), first, want)
	check.NoError(t, err)
	found, err := b.Check(t.Context(), other, want)
	check.NoError(t, err)
	check.Equal(t, len(found), 1)
	check.Equal(t, found[0].Code, transport.CodeConsumerDrift)
	check.Equal(t, found[0].Diff, []string{"subjects: want b, have a", "lease: want 1m0s, have 30s"})
	report, err := b.Provision(t.Context(), other, want)
	check.NoError(t, err)
	check.Equal(t, report.Findings, found)
	err = b.Publish(t.Context(), transport.Address{Name: "b"}, &transport.Message{})
	check.ErrorIs(t, err, transport.ErrUnroutable, "drift is not repaired in silence")
}

func TestPrefixGoesBeforeNameAndSubjects(t *testing.T) {
	t.Parallel()
	b := memory.New()
	src := b.Queue(memory.QueueConfig{Name: "billing", Subjects: []string{"orders.>", "refunds"}})
	p := src.(transport.Prefixer).WithPrefix("eu.")
	check.Equal(t, p.Name(), "eu.billing")
	check.Equal(t, p.String(), "memory queue eu.billing on eu.orders.>, eu.refunds")
	check.Equal(t, src.String(), "memory queue billing on orders.>, refunds")
}

func TestDuplicateIsForgottenAfterTheWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, memory.WithDedupWindow(time.Minute))
		w.publish("1")
		time.Sleep(59 * time.Second) // virtual
		w.publish("1")
		check.Equal(t, w.b.Len("orders"), 1)
		time.Sleep(time.Second) // virtual
		w.publish("1")
		check.Equal(t, w.b.Len("orders"), 2)
	})
}

func TestQueueBoundLaterHasItsOwnWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.publish("1")
	w.open("audit", 1)
	w.publish("1")
	check.Equal(t, w.b.Len("orders"), 1)
	check.Equal(t, w.b.Len("audit"), 1)
}

func TestRejectedMessageCanBeLookedAt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.publish("1")
	check.NoError(t, w.receive().(transport.Rejecter).Reject(t.Context(), "no such customer"))
	got := w.b.Rejected("orders")
	check.Equal(t, len(got), 1)
	check.Equal(t, got[0].Message.ID, "1")
	check.Equal(t, got[0].Reason, "no such customer")
	check.Equal(t, got[0].Deliveries, 1)
	check.True(t, w.b.Idle())
	check.Equal(t, len(w.b.Rejected("nobody")), 0)
}

func TestHandlerCannotSpoilTheStoredMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.publish("1")
	d := w.receive()
	copy(d.Message().Body, "XXXXXXX")
	check.NoError(t, d.Nack(t.Context(), 0))
	check.Equal(t, string(w.receive().Message().Body), "body of 1")
}

func TestNativeShowsTheBrokersView(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.publish("1")
	d := w.receive().(transport.Native)
	check.Equal(t, d.Native().(*memory.Stored), &memory.Stored{Queue: "orders", Sequence: 1, Deliveries: 1})
}

func TestWaitIdleReturnsWithTheLastAck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		check.NoError(t, w.b.WaitIdle(t.Context()))
		w.publish("1", "2")
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		check.ErrorIs(t, w.b.WaitIdle(ended), context.Canceled)
		var wg sync.WaitGroup
		wg.Go(func() { check.Equal(t, w.b.WaitIdle(t.Context()), nil) })
		synctest.Wait()
		start := time.Now()
		check.NoError(t, w.receive().Nack(t.Context(), time.Minute))
		check.NoError(t, w.receive().Ack(t.Context()))
		check.NoError(t, w.receive().Ack(t.Context()))
		wg.Wait()
		check.Equal(t, time.Since(start), time.Minute)
	})
}

func TestCloseEndsEverythingThatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.publish("1")
		d := w.receive()
		errs := make(chan error, 3)
		var wg sync.WaitGroup
		wg.Go(func() { _, err := w.rx.Receive(t.Context()); errs <- err })
		wg.Go(func() {
			_, err := w.b.Request(t.Context(), transport.Address{Name: "orders.asked"}, &transport.Message{})
			errs <- err
		})
		release := w.b.Stall(memory.OpPublish)
		defer release()
		wg.Go(func() {
			errs <- w.b.Publish(t.Context(), transport.Address{Name: "orders.late"}, &transport.Message{})
		})
		wg.Go(func() { check.Equal(t, w.b.WaitIdle(t.Context()), nil) })
		synctest.Wait()
		check.NoError(t, w.b.Close(t.Context()))
		wg.Wait()
		for range 3 {
			check.ErrorIs(t, <-errs, transport.ErrClosed)
		}
		check.ErrorIs(t, d.Ack(t.Context()), transport.ErrClosed)
		check.ErrorIs(t, d.(transport.PipelinedAcker).AckLater(), transport.ErrClosed)
		check.ErrorIs(t, d.(transport.LeaseExtender).ExtendLease(), transport.ErrClosed)
	})
}

func TestNothingIsLostOrDoubledUnderLoad(t *testing.T) {
	t.Parallel()
	const n, readers = 2000, 8
	b := memory.New(memory.WithLease(time.Hour))
	src := b.Queue(memory.QueueConfig{Name: "q"})
	want := transport.Want{Subscription: "s", Concurrency: 4}
	_, err := b.Provision(t.Context(), src, want)
	check.NoError(t, err)
	var mu sync.Mutex
	done := map[string]int{}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range readers {
		rx, err := b.Open(t.Context(), src, want)
		check.NoError(t, err)
		for range 4 {
			wg.Go(func() {
				for {
					d, err := rx.Receive(ctx)
					if err != nil {
						check.ErrorIs(t, err, context.Canceled)
						return
					}
					if d.Deliveries() < 3 { // fails twice, with and without a delay
						check.Equal(t, d.Nack(ctx, time.Duration(d.Deliveries()-1)*time.Millisecond), nil)
						continue
					}
					mu.Lock()
					done[d.Message().ID]++
					mu.Unlock()
					check.Equal(t, d.(transport.PipelinedAcker).AckLater(), nil)
				}
			})
		}
	}
	for i := range n {
		check.NoError(t, b.Publish(t.Context(), transport.Address{Name: "q"}, &transport.Message{ID: fmt.Sprint(i)}))
	}
	idle, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check.NoError(t, b.WaitIdle(idle))
	stop()
	wg.Wait()
	check.Equal(t, len(done), n)
	for id, times := range done {
		check.Equal(t, times, 1, "message %s", id)
	}
	check.NoError(t, b.Close(t.Context()))
}
