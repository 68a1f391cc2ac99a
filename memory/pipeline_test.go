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

var placed = transport.Address{Name: "orders.placed"}

// row is a pipeline and what it reported.
type row struct {
	transport.Pipeline
	w *world

	mu  sync.Mutex // guards what follows
	got []outcome
}

type outcome struct {
	tag uint64
	err error
}

func (w *world) pipeline() *row {
	w.t.Helper()
	r := &row{w: w}
	p, err := w.b.OpenPipeline(w.t.Context(), func(tag uint64, err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, outcome{tag, err})
	})
	check.NoError(w.t, err, "open pipeline")
	w.t.Cleanup(func() { p.End(false) })
	r.Pipeline = p
	return r
}

// send sends the messages first to last, each under its number.
func (r *row) send(first, last uint64) {
	r.w.t.Helper()
	for tag := first; tag <= last; tag++ {
		check.NoError(r.w.t, r.Send(placed, &transport.Message{ID: fmt.Sprint(tag)}, tag), "send")
	}
}

// outcomes returns what was reported once nothing moves any more.
func (r *row) outcomes() []outcome {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]outcome(nil), r.got...)
}

func (r *row) over() bool {
	select {
	case <-r.Done():
		return true
	default:
		return false
	}
}

func stored(tags ...uint64) []outcome {
	var out []outcome
	for _, tag := range tags {
		out = append(out, outcome{tag: tag})
	}
	return out
}

func TestPipelineReportsInTheOrderOfSend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		p := w.pipeline()
		p.send(1, 3)
		check.NoError(t, p.Flush())
		check.Equal(t, p.outcomes(), stored(1, 2, 3))
		for _, id := range []string{"1", "2", "3"} {
			check.Equal(t, w.receive().Message().ID, id)
		}
		check.NoError(t, p.Err())
		p.End(false)
		check.ErrorIs(t, p.Err(), transport.ErrClosed)
		check.Equal(t, transport.KindOf(p.Flush()), transport.Temporary)
	})
}

func TestFailIsTheOutcomeOfOneMessageOfAPipeline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		w.b.Fail(memory.OpPublish, errBoom, 1)
		p := w.pipeline()
		p.send(1, 2)
		got := p.outcomes()
		check.Equal(t, len(got), 2)
		check.ErrorIs(t, got[0].err, errBoom)
		check.Equal(t, transport.KindOf(got[0].err), transport.Temporary)
		check.NoError(t, got[1].err)
		check.Equal(t, w.b.Len("orders"), 1)
		check.NoError(t, p.Err(), "the pipeline goes on")
	})
}

func TestLostAnswerStoresTheMessageAndEndsThePipeline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		p, other := w.pipeline(), w.pipeline()
		p.send(1, 1)
		check.Equal(t, p.outcomes(), stored(1))
		w.b.LoseAnswer(memory.OpPublish, errBoom, 1)
		p.send(2, 2)
		check.Equal(t, p.outcomes(), stored(1))
		check.True(t, p.over())
		check.ErrorIs(t, p.Err(), errBoom)
		err := p.Send(placed, &transport.Message{}, 3)
		check.ErrorIs(t, err, errBoom)
		check.Equal(t, transport.KindOf(err), transport.Temporary)
		check.Equal(t, w.b.Len("orders"), 2)
		check.NoError(t, other.Err(), "other pipelines go on")
	})
}

func TestStallHoldsUpAPipelineForAsLongAsItLasts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		release := w.b.Stall(memory.OpPublish)
		p, impatient := w.pipeline(), w.pipeline()
		p.send(1, 2)
		impatient.send(3, 3)
		time.Sleep(time.Hour) // virtual
		check.Equal(t, len(p.outcomes()), 0)
		check.NoError(t, p.Waiting(), "the broker says nothing")
		impatient.End(true)
		release()
		check.Equal(t, p.outcomes(), stored(1, 2))
		check.Equal(t, len(impatient.outcomes()), 0)
		check.Equal(t, w.b.Len("orders"), 2)
	})
}

func TestAlarmIsSaidByPipelinesAndHoldsUpEveryPublish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		p := w.pipeline()
		release := w.b.Alarm(errBoom)
		p.send(1, 1)
		check.Equal(t, len(p.outcomes()), 0)
		check.ErrorIs(t, p.Waiting(), errBoom)
		time.AfterFunc(time.Second, release)
		start := time.Now()
		w.publish("one by one")
		check.Equal(t, time.Since(start), time.Second)
		check.Equal(t, p.outcomes(), stored(1))
		check.NoError(t, p.Waiting())
	})
}

func TestBrokenPipelinesKeepNoOutcomeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		p, idle := w.pipeline(), w.pipeline()
		release := w.b.Stall(memory.OpPublish)
		p.send(1, 5)
		w.b.BreakPipelines(2)
		release()
		check.Equal(t, len(p.outcomes()), 0)
		check.True(t, p.over() && idle.over(), "all of them are over")
		check.Equal(t, transport.KindOf(p.Err()), transport.Temporary)
		check.Equal(t, w.b.Len("orders"), 2, "the first two were stored")
		again := w.pipeline()
		again.send(1, 5)
		check.Equal(t, again.outcomes(), stored(1, 2, 3, 4, 5))
		check.Equal(t, w.b.Len("orders"), 5)
		w.b.BreakPipelines(0)
		synctest.Wait()
		check.True(t, again.over(), "at once")
	})
}

func TestCutConnectionEndsPipelinesAndKeepsTheNextWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		p := w.pipeline()
		w.b.Disconnect(errBoom)
		synctest.Wait()
		check.True(t, p.over())
		check.ErrorIs(t, p.Err(), errBoom)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.b.OpenPipeline(ctx, func(uint64, error) {})
		check.ErrorIs(t, err, context.DeadlineExceeded)
		time.AfterFunc(time.Minute, w.b.Reconnect)
		start := time.Now()
		w.pipeline().send(1, 1)
		check.Equal(t, time.Since(start), time.Minute)
	})
}

func TestClosedBrokerEndsPipelinesAndOpensNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		p := w.pipeline()
		defer w.b.Stall(memory.OpPublish)()
		p.send(1, 1)
		check.NoError(t, w.b.Close(t.Context()))
		check.True(t, p.over(), "Close has waited for it")
		check.ErrorIs(t, p.Err(), transport.ErrClosed)
		_, err := w.b.OpenPipeline(t.Context(), func(uint64, error) {})
		check.ErrorIs(t, err, transport.ErrClosed)
	})
}

func TestPipelineWithNobodyToReportToIsRefused(t *testing.T) {
	t.Parallel()
	_, err := newWorld(t, 1).b.OpenPipeline(t.Context(), nil)
	check.ErrorIs(t, err, transport.ErrInvalid)
}

func TestScheduledMessageIsHandedOutAtTheInstantItIsDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, memory.WithLease(time.Hour))
		start := time.Now()
		m := &transport.Message{ID: "later", NotBefore: start.Add(time.Minute), TTL: time.Second}
		check.NoError(t, w.b.Publish(t.Context(), placed, m))
		w.publish("now")
		check.Equal(t, w.receive().Message().ID, "now")
		check.Equal(t, w.b.Stats("orders").Delayed, 1)
		d := w.receive()
		check.Equal(t, d.Message().ID, "later", "its time to live starts when it is due")
		check.Equal(t, time.Since(start), time.Minute)
		check.True(t, d.Message().NotBefore.IsZero(), "what a publish asks does not travel")
	})
}

func TestExpiredMessageIsGoneAtTheInstantItsTimeEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, memory.WithLease(time.Hour))
		for _, ttl := range []time.Duration{2 * time.Minute, time.Minute, 0, 2 * time.Minute} {
			check.NoError(t, w.b.Publish(t.Context(), placed, &transport.Message{TTL: ttl}))
		}
		taken := w.receive()
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Waiting: 2, Leased: 1, Receivers: 1})
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		check.NoError(t, taken.Nack(t.Context(), 0), "what was handed out stays")
		check.Equal(t, w.b.Len("orders"), 2)
		for range 2 {
			check.NoError(t, w.receive().Ack(t.Context()))
		}
		check.True(t, w.b.Idle())
	})
}

func TestReturnedMessageExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10)
		check.NoError(t, w.b.Publish(t.Context(), placed, &transport.Message{TTL: time.Minute}))
		check.NoError(t, w.receive().(transport.Returner).Return(t.Context()))
		check.NoError(t, w.b.WaitIdle(t.Context()), "nobody took it")
	})
}

func TestNegativeTimeToLiveIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	check.ErrorIs(t, w.b.Publish(t.Context(), placed, &transport.Message{TTL: -1}), transport.ErrInvalid)
}

func TestHigherPriorityIsHandedOutFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10)
	for _, m := range []transport.Message{{ID: "1"}, {ID: "2", Priority: 5}, {ID: "3", Priority: 9}, {ID: "4", Priority: 5}} {
		check.NoError(t, w.b.Publish(t.Context(), placed, &m))
	}
	for _, id := range []string{"3", "2", "4", "1"} {
		check.Equal(t, w.receive().Message().ID, id)
	}
}
