package holdfast_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

// decorated is a transport behind a wrapper that passes on its methods and
// nothing else, as decorators do.
type decorated struct{ transport.Transport }

type decoratedSource struct {
	transport.Source
	t *decorated
}

func (s decoratedSource) Transport() transport.Transport { return s.t }

func (d *decorated) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	return d.Transport.Check(ctx, src.(decoratedSource).Source, want)
}

func TestAbilityThatAWrapperHidesIsRefused(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := decoratedSource{w.queue("orders"), &decorated{w.b}}
		holdfast.Handle(w.app, src, w.fails(nil), holdfast.DeadLetter())
		found, err := w.app.Check(t.Context())
		check.NoError(t, err)
		check.True(t, slices.ContainsFunc(found, func(f holdfast.Finding) bool {
			return f.Code == transport.CodeNoDeadLetters && f.Level == transport.LevelError
		}), "dead letters were asked for, and nobody could keep them")
	})
}

func TestStopBeforeTheStartCounts(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		s := holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
		check.NoError(t, s.Stop(t.Context()))
		w.run()
		check.Equal(t, len(w.app.Health().Subscriptions), 0)
		check.ErrorIs(t, s.Start(t.Context()), holdfast.ErrEnded)
	})
}

func TestRefusedStartHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
		w.run()
		twin := holdfast.Handle(w.app, w.queue("mails"), w.fails(nil), holdfast.Name("orders"))
		check.True(t, twin.Start(t.Context()) != nil, "two of one name")
		other := holdfast.Handle(w.app, w.queue("bills"), w.fails(nil))
		check.NoError(t, other.Start(t.Context()), "an unrelated subscription")
		check.NoError(t, twin.Stop(t.Context()))
		synctest.Wait()
		check.True(t, w.app.Health().Healthy, "healthy")
	})
}

func TestNameIsFreeWhenStopReturns(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("mails"), w.fails(nil))
		w.run()
		for range 100 {
			s := holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
			check.NoError(t, s.Start(t.Context()))
			check.NoError(t, s.Stop(t.Context()))
		}
	})
}

func TestRunMayFollowARefusal(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
		w.b.Fail(memory.OpCheck, errors.New("broker is down"), 1)
		check.True(t, w.app.Run(t.Context()) != nil, "the check could not be made")
		w.run()
		w.publish("a")
		w.pass(time.Second)
		check.Equal(t, w.ids(), []string{"a"})
	})
}

func TestAckAlwaysGivesBackWhatAStopCutShort(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, _ *holdfast.Message[string]) error {
			<-ctx.Done()
			return ctx.Err()
		}, holdfast.Ack(holdfast.AckAlways))
		w.run()
		w.publish("a")
		w.pass(time.Second)
		check.NoError(t, w.end())
		check.Equal(t, w.b.Len("orders"), 1, "messages left")
	}, func(c *holdfast.Config) { c.Grace = 5 * time.Second })
}

func TestTimeoutLongerThanTheDefaultLeaseIsKept(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var took time.Duration
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, _ *holdfast.Message[string]) error {
			began := time.Now()
			<-ctx.Done()
			took = time.Since(began)
			return ctx.Err()
		}, holdfast.NoRetry(), holdfast.Timeout(3*time.Hour))
		w.run()
		w.publish("a")
		w.pass(10 * time.Hour)
		check.Equal(t, took, 3*time.Hour)
	})
}

func TestMessagesWithoutAKeyWaitForNobody(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			if m.Body == "bad" {
				return holdfast.RetryAfter(errors.New("later"), time.Hour)
			}
			return nil
		}, slow(), holdfast.OrderByKey())
		w.run()
		w.publish("bad", "good")
		w.pass(10 * time.Minute)
		check.Equal(t, w.ids(), []string{"bad", "good"})
	})
}

func TestOptionsWithoutEffectAreRefused(t *testing.T) {
	t.Parallel()
	always := func(error) bool { return true }
	for name, opts := range map[string][]holdfast.Option{
		"timeout beyond the lease":        {holdfast.Timeout(time.Hour), holdfast.MaxLease(time.Minute)},
		"within on a single attempt":      {holdfast.Retry{Attempts: 1, Within: time.Minute}},
		"crash limit after an early ack":  {holdfast.Ack(holdfast.AckFirst), holdfast.CrashLimit(3)},
		"dead letters after an early ack": {holdfast.Ack(holdfast.AckFirst), holdfast.DeadLetter()},
		"rule of a policy that acks all":  {holdfast.Ack(holdfast.AckAlways), holdfast.Retry{Rules: []holdfast.Rule{{When: always, Discard: true}}}},
		"no codec":                        {holdfast.WithCodec(nil)},
		"no option":                       {nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := memory.New()
			defer b.Close(t.Context())
			app := holdfast.New(holdfast.Config{})
			src := b.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"orders.>"}})
			holdfast.Handle(app, src, func(context.Context, *holdfast.Message[string]) error { return nil }, opts...)
			found, err := app.Check(t.Context())
			check.NoError(t, err)
			check.True(t, slices.ContainsFunc(found, func(f holdfast.Finding) bool { return f.Code == transport.CodeInvalid }), "it was accepted")
		})
	}
}

func TestRequestThatTimesOutIsAnswered(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := w.b.Queue(memory.QueueConfig{Name: "ask", Subjects: []string{"ask.>"}})
		holdfast.Reply(w.app, src, func(ctx context.Context, _ *holdfast.Message[string]) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}, holdfast.Timeout(time.Second))
		w.run()
		began := time.Now()
		_, err := holdfast.Request[string, string](t.Context(), w.b, memory.Subject("ask.a"), "?")
		check.True(t, err != nil, "the handler had no answer")
		check.Equal(t, time.Since(began), time.Second)
	})
}
