package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
)

func TestPullTakesAMessageWhenItIsAskedFor(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		p := holdfast.Pull[string](w.app, w.queue("orders"))
		w.run()
		w.publish("a", "b")
		w.pass(time.Minute)
		check.Equal(t, w.b.Stats("orders").Leased, 0, "nobody asked")
		for _, want := range []string{"a", "b"} {
			m, err := p.Next(t.Context())
			check.NoError(t, err)
			check.Equal(t, m.Body, want)
			w.pass(time.Minute) // longer than a lease
			check.Equal(t, w.b.Stats("orders").Leased, 1)
			check.NoError(t, m.Done(nil))
			check.ErrorIs(t, m.Done(nil), holdfast.ErrSettled)
			w.pass(time.Second)
		}
		w.idle()
	})
}

func TestPullKeepsThePolicyInForce(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		p := holdfast.Pull[string](w.app, w.queue("orders"), holdfast.Retry{Attempts: 3, Immediate: 1, Backoff: holdfast.Exponential(time.Second, time.Minute)})
		w.run()
		w.publish("a")
		for attempt := 1; attempt <= 3; attempt++ {
			m, err := p.Next(t.Context())
			check.NoError(t, err)
			check.Equal(t, m.Attempt, attempt)
			check.NoError(t, m.Done(errors.New("no")))
		}
		w.pass(time.Minute)
		check.Equal(t, string(w.letter().Reason), "attempts-exhausted")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Next(ctx)
		check.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestAMessageThatComesTooLateForItsCallerWaitsForTheNextOne(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		p := holdfast.Pull[string](w.app, w.queue("orders"), holdfast.Timeout(10*time.Second))
		w.run()
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := p.Next(ctx)
			check.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		w.publish("a", "b")
		w.pass(time.Minute)
		check.True(t, w.b.Stats("orders").Leased <= 1, "one call is open and not three")
		m, err := p.Next(t.Context())
		check.NoError(t, err)
		check.Equal(t, []any{m.Body, m.Attempt}, []any{"a", 1})
		check.NoError(t, m.Done(nil))
		w.pass(time.Second)
		check.Equal(t, w.b.Stats("orders").Leased, 0)
		check.Equal(t, w.b.Len("orders"), 1)
	})
}

func TestAMessageThatNobodyTookInTimeIsAskedForAgain(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		p := holdfast.Pull[string](w.app, w.queue("orders"), holdfast.Timeout(10*time.Second), holdfast.MaxLease(20*time.Second))
		w.run()
		for _, id := range []string{"a", "b", "c"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := p.Next(ctx)
			check.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
			w.publish(id)
			w.pass(time.Minute) // it was fetched, held until its time was over, and given back
			check.Equal(t, w.b.Stats("orders").Leased, 0)
			m, err := p.Next(t.Context())
			check.NoError(t, err)
			check.Equal(t, []any{m.Body, m.Attempt}, []any{id, 1})
			check.NoError(t, m.Done(nil))
			w.pass(time.Second)
			w.idle()
		}
	})
}

func TestAPulledMessageTimesOut(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		p := holdfast.Pull[string](w.app, w.queue("orders"), holdfast.Timeout(10*time.Second),
			holdfast.Retry{Attempts: 2, Backoff: holdfast.Exponential(time.Second, time.Minute)})
		w.run()
		w.publish("a")
		m, err := p.Next(t.Context())
		check.NoError(t, err)
		<-m.Context().Done()
		w.pass(time.Second)
		check.ErrorIs(t, m.Done(nil), holdfast.ErrSettled)
		m, err = p.Next(t.Context())
		check.NoError(t, err)
		check.Equal(t, m.Attempt, 2)
		check.NoError(t, m.Done(nil))
		w.pass(time.Second)
		w.idle()
	})
}

func TestAStopGivesBackWhatWasPulledAndNotTaken(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		p := holdfast.Pull[string](w.app, w.queue("orders"))
		w.run()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Next(ctx)
		check.ErrorIs(t, err, context.DeadlineExceeded)
		w.publish("a")
		w.pass(time.Second)
		began := time.Now()
		check.NoError(t, w.end())
		check.True(t, time.Since(began) < time.Second, "a stop does not wait for somebody to ask")
		check.Equal(t, w.b.Len("orders"), 1)
		check.Equal(t, w.b.Stats("orders").Leased, 0)
		_, err = p.Next(t.Context())
		check.ErrorIs(t, err, holdfast.ErrEnded)
	})
}

func TestPullIterates(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		p := holdfast.Pull[string](w.app, w.queue("orders"), holdfast.Concurrency(4))
		w.run()
		w.publish("a", "b", "c", "d")
		var got []string
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for m, err := range p.All(ctx) {
			check.NoError(t, err)
			got = append(got, m.Body)
			check.NoError(t, m.Done(nil))
		}
		check.Equal(t, fmt.Sprint(got), "[a b c d]")
		w.pass(time.Second)
		w.idle()
	})
}

func TestPullRefusesAckPoliciesThatSettleOtherwise(t *testing.T) {
	t.Parallel()
	for _, ack := range []holdfast.AckPolicy{holdfast.AckFirst, holdfast.Manual} {
		promise(t, func(t *testing.T, w *world) {
			holdfast.Pull[string](w.app, w.queue("orders"), holdfast.Ack(ack))
			check.True(t, w.app.Run(t.Context()) != nil, "it is refused")
		})
	}
}
