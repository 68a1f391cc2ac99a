package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// bodies are the bodies of the distinct messages that were sent, in the order of
// their first sending.
func (r *recorder) bodies() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	var bodies []string
	for _, m := range r.sent {
		if !seen[m.ID] {
			seen[m.ID] = true
			bodies = append(bodies, string(m.Body))
		}
	}
	return bodies
}

func TestPublishAsyncKeepsOrderOverBrokenConnections(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed)
		var futures []*holdfast.Future
		var want []string
		for i := range 1000 {
			if i%90 == 0 {
				r.BreakPipelines(i % 7)
			}
			f, err := p.PublishAsync(t.Context(), fmt.Sprint(i))
			check.NoError(t, err)
			futures, want = append(futures, f), append(want, fmt.Sprint(i))
		}
		for _, f := range futures {
			check.NoError(t, f.Wait(t.Context()))
			check.NoError(t, f.Err())
		}
		check.Equal(t, r.bodies(), want)
		check.Equal(t, r.Len("orders"), 1000, "each is stored once")
		st := p.Stats()
		check.True(t, st.Resent > 0 && st.Connections > 5 && st.Confirmed == 1000 && st.Pending == 0, st)
	})
}

func TestAFutureTellsItsOutcomeOnceItIsThere(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed)
		release := r.Alarm(nil)
		f, err := p.PublishAsync(t.Context(), "a", holdfast.ID("one"))
		check.NoError(t, err)
		check.Equal(t, f.ID(), "one")
		check.ErrorIs(t, f.Err(), holdfast.ErrPending)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		check.Equal(t, holdfast.OutcomeOf(f.Wait(short)), holdfast.Uncertain)
		release()
		<-f.Done()
		check.NoError(t, f.Wait(t.Context()))

		f, err = p.PublishAsync(t.Context(), "nowhere", holdfast.To(transport.Address{Name: "nobody.takes.it"}))
		check.NoError(t, err)
		check.Equal(t, holdfast.OutcomeOf(f.Wait(t.Context())), holdfast.Unroutable)
	})
}

func TestTheContextOfAnAsyncPublishBoundsTheMessage(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed)
		r.Disconnect(nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f, err := p.PublishAsync(ctx, "late")
		check.NoError(t, err)
		err = f.Wait(t.Context())
		check.ErrorIs(t, err, context.DeadlineExceeded)
		check.Equal(t, holdfast.OutcomeOf(err), holdfast.NotSent)
		r.Reconnect()
		check.NoError(t, p.Publish(t.Context(), "next"))
		check.Equal(t, r.bodies(), []string{"next"})
	})
}

func TestABatchHasAResultForEachMessage(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed)
		results, err := p.PublishBatch(t.Context(), []holdfast.Outgoing[string]{
			{Body: "a", Options: []holdfast.PublishOption{holdfast.ID("one")}},
			{Body: "b", Options: []holdfast.PublishOption{holdfast.To(transport.Address{Name: "nobody.takes.it"})}},
			{Body: strings.Repeat("x", 2<<20)},
			{Body: "d", Options: []holdfast.PublishOption{holdfast.SetHeader("Nats-Msg-Id", "x")}},
			{Body: "e"},
		})
		check.ErrorIs(t, err, holdfast.ErrUnroutable)
		check.ErrorIs(t, err, holdfast.ErrTooLarge)
		check.ErrorIs(t, err, holdfast.ErrInvalid)
		check.Equal(t, results[0], holdfast.Result{ID: "one"})
		for i, want := range []holdfast.Outcome{holdfast.Stored, holdfast.Unroutable, holdfast.Refused, holdfast.Refused, holdfast.Stored} {
			check.Equal(t, holdfast.OutcomeOf(results[i].Err), want, i)
		}
		check.Equal(t, r.Len("orders"), 2)
		results, err = p.PublishBatch(t.Context(), nil)
		check.NoError(t, err)
		check.Equal(t, len(results), 0)
	})
}

func TestCloseHandsBackWhatHasNoOutcome(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed, holdfast.Window(3, 0))
		r.Alarm(errors.New("memory is low"))
		var futures []*holdfast.Future
		for i := range 3 {
			f, err := p.PublishAsync(t.Context(), fmt.Sprint(i), holdfast.ID(fmt.Sprint(i)), holdfast.Key("k"), holdfast.SetHeader("X-A", "1"))
			check.NoError(t, err)
			futures = append(futures, f)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := p.PublishAsync(ctx, "no room")
		check.Equal(t, holdfast.OutcomeOf(err), holdfast.NotSent)
		check.True(t, strings.Contains(err.Error(), "memory is low"), err)

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		left, err := p.Close(ctx)
		check.True(t, err != nil && strings.Contains(err.Error(), "3 messages"), err)
		check.Equal(t, len(left), 3)
		check.Equal(t, left[1], holdfast.Unpublished{
			ID: "1", To: placed, Key: "k", ContentType: "text/plain; charset=utf-8",
			Header: map[string][]string{"X-A": {"1"}}, Body: []byte("1"), Uncertain: true,
		})
		for _, f := range futures {
			check.Equal(t, holdfast.OutcomeOf(f.Err()), holdfast.Uncertain)
		}
		check.ErrorIs(t, p.Publish(t.Context(), "after"), transport.ErrClosed)
		left, err = p.Close(t.Context())
		check.NoError(t, err)
		check.Equal(t, len(left), 0)
	})
}

func TestFlushWaitsForWhatWasPublishedBefore(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed)
		release := r.Alarm(nil)
		f, err := p.PublishAsync(t.Context(), "a")
		check.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		check.ErrorIs(t, p.Flush(ctx), context.DeadlineExceeded)
		release()
		check.NoError(t, p.Flush(t.Context()))
		check.NoError(t, f.Err())
	})
}

func TestObserversAreToldWhatAPublisherHasUnderWay(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		diary := &diary{}
		p := holdfast.NewPublisher[string](r, placed, holdfast.PublishObserver(diary))
		release := r.Alarm(errors.New("disk is full"))
		_, err := p.PublishAsync(t.Context(), "hello")
		check.NoError(t, err)
		time.Sleep(3500 * time.Millisecond) // virtual
		release()
		time.Sleep(time.Second) // virtual
		synctest.Wait()
		news := diary.of(observe.PublisherNews)
		check.True(t, len(news) >= 3, len(news))
		first, last := news[0].Publisher, news[len(news)-1].Publisher
		check.Equal(t, []any{first.Pending, first.Bytes, first.Address}, []any{1, 5, "orders.placed"})
		check.True(t, first.Err != nil && strings.Contains(first.Err.Error(), "disk is full"), first.Err)
		check.Equal(t, []any{last.Pending, last.Confirmed, last.Err}, []any{0, uint64(1), nil})
		check.Equal(t, len(diary.of(observe.Published)), 1)
	})
}

func TestWhatTheBrokerCannotDoIsRefused(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](plain{r}, placed)
		for _, o := range []holdfast.PublishOption{
			holdfast.At(time.Now().Add(time.Hour)), holdfast.After(time.Hour), holdfast.Expiry(time.Hour), holdfast.Priority(1),
		} {
			check.ErrorIs(t, p.Publish(t.Context(), "a", o), holdfast.ErrUnsupported)
		}
		check.ErrorIs(t, holdfast.NewPublisher[string](r, placed).Publish(t.Context(), "a", holdfast.Expiry(-1)), holdfast.ErrInvalid)
		check.Equal(t, len(r.sent), 0)
	})
}

// plain is a transport that can do nothing beyond publishing.
type plain struct{ *recorder }

func (plain) Capabilities() transport.Capabilities { return transport.Capabilities{Name: "plain"} }

func TestScheduledMessagesComeWhenTheyAreDue(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := w.queue("orders")
		var came []string
		began := time.Now()
		holdfast.Handle(w.app, src, func(_ context.Context, m *holdfast.Message[string]) error {
			came = append(came, fmt.Sprint(m.Body, " ", time.Since(began).Round(time.Second)))
			return nil
		})
		w.run()
		p := holdfast.NewPublisher[string](w.b, placed)
		check.NoError(t, p.Publish(t.Context(), "later", holdfast.After(time.Minute)))
		check.NoError(t, p.Publish(t.Context(), "now"))
		w.pass(2 * time.Minute)
		check.Equal(t, came, []string{"now 0s", "later 1m0s"})
	})
}

func TestAHandlerPublishesTheSameIDsAgain(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		in := w.queue("orders")
		_, err := w.b.Provision(t.Context(), w.queue("bills"), transport.Want{})
		check.NoError(t, err)
		p := holdfast.NewPublisher[string](w.b, transport.Address{Name: "bills.made"})
		var mu sync.Mutex
		ids := map[int][]string{}
		holdfast.Handle(w.app, in, func(ctx context.Context, m *holdfast.Message[string]) error {
			var futures []*holdfast.Future
			for _, body := range []string{"a", "b", "b"} {
				f, err := p.PublishAsync(ctx, body)
				if err != nil {
					return err
				}
				futures = append(futures, f)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, f := range futures {
				ids[m.Attempt] = append(ids[m.Attempt], f.ID())
			}
			if m.Attempt == 1 {
				return errors.New("once more")
			}
			return nil
		}, holdfast.Retry{Attempts: 3, Backoff: holdfast.Exponential(time.Second, time.Minute)})
		w.run()
		check.NoError(t, holdfast.NewPublisher[string](w.b, placed).Publish(t.Context(), "order"))
		w.pass(time.Minute)
		check.Equal(t, len(ids), 2)
		check.Equal(t, ids[1], ids[2])
		check.Equal(t, len(slices.Compact(slices.Sorted(slices.Values(ids[1])))), 3, "distinct IDs, also for two alike")
		check.Equal(t, w.b.Len("bills"), 3, "the broker has each once")
	})
}

func TestAFailedPublishIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		in := w.queue("orders")
		p := holdfast.NewPublisher[string](w.b, transport.Address{Name: "nobody.takes.it"})
		attempts := 0
		holdfast.Handle(w.app, in, func(ctx context.Context, _ *holdfast.Message[string]) error {
			attempts++
			_, err := p.PublishAsync(ctx, "bill")
			return err
		}, holdfast.Retry{Attempts: 2, Backoff: holdfast.Exponential(time.Second, time.Minute)})
		w.run()
		check.NoError(t, holdfast.NewPublisher[string](w.b, placed).Publish(t.Context(), "order"))
		w.pass(time.Minute)
		check.Equal(t, attempts, 2)
		letters := w.letters()
		check.Equal(t, len(letters), 1)
	})
}

func TestTheAckWaitsForWhatTheHandlerPublished(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		in, other := w.queue("orders"), memory.New()
		_, err := other.Provision(t.Context(), other.Queue(memory.QueueConfig{Name: "bills", Subjects: []string{"bills.>"}}), transport.Want{})
		check.NoError(t, err)
		p := holdfast.NewPublisher[string](other, transport.Address{Name: "bills.made"})
		holdfast.Handle(w.app, in, func(ctx context.Context, _ *holdfast.Message[string]) error {
			_, err := p.PublishAsync(ctx, "bill")
			return err
		})
		w.run()
		release := other.Alarm(nil)
		check.NoError(t, holdfast.NewPublisher[string](w.b, placed).Publish(t.Context(), "order"))
		w.pass(10 * time.Second)
		check.Equal(t, w.b.Len("orders"), 1, "it is not acked before the bill is stored")
		release()
		w.pass(time.Second)
		check.Equal(t, w.b.Len("orders"), 0)
		check.Equal(t, other.Len("bills"), 1)
		check.NoError(t, other.Close(t.Context()))
	})
}
