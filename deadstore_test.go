package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// condemnsBad fails for good whatever starts with "bad", and handles the rest.
func (w *world) condemnsBad() func(context.Context, *holdfast.Message[string]) error {
	return func(_ context.Context, m *holdfast.Message[string]) error {
		w.see(&m.Meta)
		if strings.HasPrefix(m.Body, "bad") {
			return holdfast.Permanent(errFlaky)
		}
		return nil
	}
}

// publishMany sends messages kind0, kind1 and so on.
func (w *world) publishMany(kind string, n int) {
	w.t.Helper()
	for i := range n {
		w.publish(fmt.Sprint(kind, i))
	}
}

// handled is how many messages of a kind were seen within d of began.
func (w *world) handled(kind string, began, d time.Duration) int {
	n := 0
	for _, v := range w.seen() {
		if strings.HasPrefix(v.ID, kind) && v.At >= began && v.At <= began+d {
			n++
		}
	}
	return n
}

// slowStore is a dead-letter store that answers nothing until its caller gives
// up.
type slowStore struct{ transport.DeadLetterStore }

func (slowStore) Bury(ctx context.Context, _ transport.DeadKey, _ *transport.Message) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestNeighboursDoNotPayForADeadLetterStoreThatIsDown(t *testing.T) {
	t.Parallel()
	for name, hangs := range map[string]bool{"refuses": false, "hangs": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				var opts []holdfast.Option
				if hangs {
					opts = append(opts, holdfast.DeadLetterTo(slowStore{w.b.DeadLetters()}))
				}
				holdfast.Handle(w.app, w.queue("orders"), w.condemnsBad(), opts...)
				w.run()
				w.b.Fail(memory.OpBury, errors.New("store is down"), 1<<30)
				w.publishMany("bad", 50)
				w.pass(15 * time.Minute)
				check.Equal(t, len(w.seen()), 50, "each of the bad ones was handled once")
				began := time.Since(w.start)
				w.publishMany("good", 50)
				w.pass(time.Minute)
				check.Equal(t, w.handled("good", began, time.Minute), 50, "handled within a minute")
				check.Equal(t, w.health().State, observe.StateStuck)
				check.Equal(t, w.b.Len("orders"), 50, "the bad ones are kept")
			})
		})
	}
}

func TestLettersAreBuriedOnceTheStoreIsBack(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.condemnsBad())
		w.run()
		w.b.Fail(memory.OpBury, errors.New("store is down"), 200)
		w.publishMany("bad", 20)
		w.pass(time.Hour)
		check.Equal(t, len(w.letters()), 20)
		check.Equal(t, len(w.seen()), 20, "runs of the handler")
		check.Equal(t, w.health().State, observe.StateRunning)
		w.idle()
	})
}

func TestBurialThatIsRefusedForGoodIsNotTriedAgainAtOnce(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.condemnsBad())
		w.run()
		w.b.Fail(memory.OpBury, &transport.Error{Op: "bury", Kind: transport.Permanent, Err: transport.ErrPermission}, 2)
		w.publish("bad", "good")
		synctest.Wait()
		check.Equal(t, w.ids(), []string{"bad", "good"}, "seen at once")
		w.pass(time.Hour)
		check.Equal(t, len(w.diary.of(observe.BurialFailed)), 2)
		check.Equal(t, w.letter().MessageID, "bad")
		w.idle()
	})
}

func TestDelayOfABurialThatFailsGrowsFromItsOwnFirstFailure(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.condemnsBad())
		w.run()
		w.b.Fail(memory.OpBury, &transport.Error{Op: "bury", Kind: transport.Permanent, Err: transport.ErrPermission}, 5)
		w.publish("bad")
		w.pass(time.Hour)
		var at []time.Duration
		for _, e := range w.diary.of(observe.BurialFailed) {
			at = append(at, e.Time.Sub(w.start))
		}
		check.Equal(t, at, []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second})
		w.idle()
	})
}

func TestHealthForgetsALetterThatSomebodyElseTookCareOf(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.condemnsBad())
		w.run()
		w.b.Fail(memory.OpBury, errors.New("store is down"), 15)
		w.publish("bad")
		w.pass(11 * time.Second)
		check.Equal(t, w.health().State, observe.StateStuck)
		rx, err := w.b.Open(t.Context(), w.queue("orders"), transport.Want{Subscription: "other", Concurrency: 1})
		check.NoError(t, err)
		for w.b.Len("orders") > 0 { // another process takes it when its delay is over
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			d, err := rx.Receive(ctx)
			cancel()
			if err != nil {
				break
			}
			check.NoError(t, d.Ack(t.Context()))
		}
		check.NoError(t, rx.Close(t.Context()))
		w.pass(time.Hour)
		check.Equal(t, w.health().State, observe.StateRunning)
		check.True(t, w.app.Health().Healthy, "healthy")
	})
}
