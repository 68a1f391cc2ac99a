package memory_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

var errBoom = errors.New("boom")

// steps calls each step that a test can make fail, once.
func steps(w *world) map[memory.Op]func() error {
	ctx := w.t.Context()
	src := w.b.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"orders.>"}})
	want := transport.Want{Subscription: "orders"}
	to := transport.Address{Name: "orders.placed"}
	key := transport.DeadKey{Subscription: "orders", Fingerprint: "f", ID: "d"}
	letters := w.b.DeadLetters()
	held := func() transport.Delivery {
		w.publish("")
		return w.receive()
	}
	return map[memory.Op]func() error{
		memory.OpCheck:        func() error { _, err := w.b.Check(ctx, src, want); return err },
		memory.OpProvision:    func() error { _, err := w.b.Provision(ctx, src, want); return err },
		memory.OpOpen:         func() error { _, err := w.b.Open(ctx, src, want); return err },
		memory.OpPublish:      func() error { return w.b.Publish(ctx, to, &transport.Message{}) },
		memory.OpOpenPipeline: func() error { _, err := w.b.OpenPipeline(ctx, func(uint64, error) {}); return err },
		memory.OpRequest:      func() error { _, err := w.b.Request(ctx, to, &transport.Message{}); return err },
		memory.OpAck:          func() error { return held().Ack(ctx) },
		memory.OpAckLater:     func() error { return held().(transport.PipelinedAcker).AckLater() },
		memory.OpNack:         func() error { return held().Nack(ctx, time.Second) },
		memory.OpReject:       func() error { return held().(transport.Rejecter).Reject(ctx, "") },
		memory.OpExtend:       func() error { return held().(transport.LeaseExtender).ExtendLease() },
		memory.OpBury:         func() error { return letters.Bury(ctx, key, &transport.Message{}) },
		memory.OpRemove: func() error {
			check.NoError(w.t, letters.Bury(ctx, key, &transport.Message{}))
			return letters.Remove(ctx, key)
		},
		memory.OpRedrive: func() error { return letters.Redrive(ctx, "orders", &transport.Message{}) },
		memory.OpSummary: func() error { _, err := letters.Summary(ctx); return err },
		memory.OpLetters: func() error {
			for _, err := range letters.Letters(ctx, transport.LetterFilter{}) {
				return err
			}
			return nil
		},
	}
}

func TestEveryStepCanFailAndThenWorks(t *testing.T) {
	t.Parallel()
	for op := range steps(newWorld(t, 100)) {
		t.Run(string(op), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 100)
				step := steps(w)[op]
				w.b.Fail(op, errBoom, 1)
				err := step()
				check.ErrorIs(t, err, errBoom)
				check.Equal(t, transport.KindOf(err), transport.Temporary)
				if op != memory.OpRequest { // it would wait for an answer
					check.NoError(t, step())
				}
			})
		})
	}
}

func TestAnswerIsLostAndTheStepIsDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 100)
	w.b.LoseAnswer(memory.OpPublish, errBoom, 1)
	m := &transport.Message{ID: "1"}
	err := w.b.Publish(t.Context(), transport.Address{Name: "orders.placed"}, m)
	check.ErrorIs(t, err, errBoom)
	check.Equal(t, transport.KindOf(err), transport.Unknown)
	check.NoError(t, w.b.Publish(t.Context(), transport.Address{Name: "orders.placed"}, m))
	check.Equal(t, w.b.Len("orders"), 1, "the repetition is suppressed")

	d := w.receive()
	w.b.LoseAnswer(memory.OpAck, errBoom, 1)
	check.ErrorIs(t, d.Ack(t.Context()), errBoom)
	check.True(t, w.b.Idle())
	check.ErrorIs(t, d.Ack(t.Context()), transport.ErrSettled)
}

func TestErrorOfTheSeamIsReturnedAsItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	mine := &transport.Error{Op: "mine", Kind: transport.Permanent, Err: transport.ErrPermission}
	w.b.Fail(memory.OpPublish, mine, 1)
	err := w.b.Publish(t.Context(), transport.Address{Name: "orders.placed"}, &transport.Message{})
	check.Equal(t, err, error(mine))
}

func TestFaultReachesAReceiveThatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				_, err := w.rx.Receive(t.Context())
				check.ErrorIs(t, err, errBoom)
			})
		}
		synctest.Wait()
		w.b.Fail(memory.OpReceive, errBoom, 1)
		wg.Wait()
		_, err := w.rx.Receive(t.Context())
		check.ErrorIs(t, err, errBoom, "a receiver that failed is of no more use")
		w.rx = w.open("orders", 1)
		w.publish("1")
		w.receive()
	})
}

func TestStalledStepWaitsForItsReleaseOrItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.publish("1")
		d := w.receive()
		release := w.b.Stall(memory.OpAck)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		check.ErrorIs(t, d.Ack(ctx), context.DeadlineExceeded)
		start := time.Now()
		check.ErrorIs(t, d.Ack(t.Context()), context.DeadlineExceeded, "no call is without a bound")
		check.Equal(t, time.Since(start), 10*time.Second)
		time.AfterFunc(time.Second, release)
		check.NoError(t, d.Ack(t.Context()))
		release() // idempotent
	})
}

func TestPausedBrokerHandsOutNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.b.Pause()
		w.publish("1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := w.rx.Receive(ctx)
		check.ErrorIs(t, err, context.DeadlineExceeded)
		time.AfterFunc(time.Minute, w.b.Resume)
		start := time.Now()
		w.receive()
		check.Equal(t, time.Since(start), time.Minute)
	})
}

// watch returns the kinds of events so far.
func watch(t *testing.T, b *memory.Broker) func() []transport.EventKind {
	var mu sync.Mutex
	var kinds []transport.EventKind
	t.Cleanup(b.Observe(func(e transport.Event) {
		mu.Lock()
		defer mu.Unlock()
		kinds = append(kinds, e.Kind)
	}))
	return func() []transport.EventKind {
		mu.Lock()
		defer mu.Unlock()
		return append([]transport.EventKind(nil), kinds...)
	}
}

func TestCutConnectionFailsCallsAndKeepsReceiversWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		events := watch(t, w.b)
		w.publish("1", "2")
		d := w.receive()
		w.b.Disconnect(errBoom)
		err := w.b.Publish(t.Context(), transport.Address{Name: "orders.placed"}, &transport.Message{})
		check.ErrorIs(t, err, errBoom)
		check.Equal(t, transport.KindOf(err), transport.Temporary)
		check.ErrorIs(t, d.Ack(t.Context()), errBoom)
		check.ErrorIs(t, d.(transport.LeaseExtender).ExtendLease(), errBoom)
		time.AfterFunc(time.Second, w.b.Reconnect)
		check.Equal(t, w.receive().Message().ID, "2", "a receiver survives")
		check.NoError(t, d.Ack(t.Context()))
		check.Equal(t, events(), []transport.EventKind{transport.Disconnected, transport.Reconnected})
	})
}

func TestPipelinedAckIsConfirmedAfterAReconnect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		events := watch(t, w.b)
		w.publish("1", "2")
		one, two := w.receive(), w.receive()
		w.b.Disconnect(nil)
		check.NoError(t, one.(transport.PipelinedAcker).AckLater())
		check.NoError(t, two.(transport.PipelinedAcker).AckLater())
		check.ErrorIs(t, one.(transport.PipelinedAcker).AckLater(), transport.ErrSettled)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		check.ErrorIs(t, w.rx.Close(ctx), context.DeadlineExceeded, "Close waits for them")
		time.AfterFunc(time.Second, w.b.Reconnect)
		check.NoError(t, w.rx.Close(t.Context()))
		check.True(t, w.b.Idle())
		check.Equal(t, events(), []transport.EventKind{transport.Disconnected, transport.Reconnected})
	})
}

func TestPipelinedAckThatComesTooLateIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, memory.WithLease(time.Minute))
		events := watch(t, w.b)
		w.publish("1")
		d := w.receive()
		w.b.Disconnect(nil)
		check.NoError(t, d.(transport.PipelinedAcker).AckLater())
		time.Sleep(time.Hour) // virtual
		w.b.Reconnect()
		again := w.receive()
		check.Equal(t, again.Deliveries(), 2)
		check.Equal(t, events(), []transport.EventKind{transport.Disconnected, transport.AckUnconfirmed, transport.Reconnected})
		check.NoError(t, w.rx.Close(t.Context()), "nothing is left to wait for")
	})
}

func TestPipelinedAckThatIsLostIsToldOnceAndTheMessageComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, memory.WithLease(time.Minute))
		events := watch(t, w.b)
		w.publish("1")
		d := w.receive()
		w.b.Fail(memory.OpConfirm, errBoom, 1)
		check.NoError(t, d.(transport.PipelinedAcker).AckLater())
		check.ErrorIs(t, d.Ack(t.Context()), transport.ErrSettled)
		start := time.Now()
		check.Equal(t, w.receive().Deliveries(), 2)
		check.Equal(t, time.Since(start), time.Minute)
		check.Equal(t, events(), []transport.EventKind{transport.AckUnconfirmed})
	})
}
