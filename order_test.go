package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// firsts are the IDs of a key in the order in which they were handled last:
// the order of their success.
func (w *world) lasts(key string) []string {
	var ids []string
	for _, id := range w.ids() {
		if !strings.HasPrefix(id, key+"/") {
			continue
		}
		if i := slices.Index(ids, id); i >= 0 {
			ids = slices.Delete(ids, i, i+1)
		}
		ids = append(ids, id)
	}
	return ids
}

func TestMessagesOfOneKeyStayInSequenceThroughRetries(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			n := w.see(&m.Meta)
			if m.ID == "a/1" && n <= 2 {
				return errFlaky
			}
			return nil
		}, holdfast.OrderByKey(), holdfast.Concurrency(4), holdfast.Retry{Attempts: 5, Backoff: holdfast.Constant(10 * time.Minute)})
		w.run()
		w.publishKeyed("a/1", "a/2", "b/1", "a/3", "b/2")
		w.pass(5 * time.Minute)
		check.Equal(t, w.lasts("b"), []string{"b/1", "b/2"}, "the other key goes on")
		check.Equal(t, w.lasts("a"), []string{"a/1"}, "the key waits for its head")
		check.Equal(t, w.health().Waiting, 3)
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Leased: 3, Receivers: 1}, "what waits is leased")
		w.pass(time.Hour)
		check.Equal(t, w.ids()[len(w.ids())-4:], []string{"a/1", "a/1", "a/2", "a/3"})
		for _, v := range w.seen() {
			check.Equal(t, v.Deliveries, 1, v.ID+" was never given back")
		}
		check.Equal(t, w.counts(), observe.Counts{Received: 5, Attempts: 7, Retried: 2, Handled: 5})
		check.Equal(t, w.health().Waiting, 0)
		w.idle()
	})
}

func TestOneKeyIsHandledOneAtATimeAndManyKeysInParallel(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		inside, most := map[string]int{}, 0
		lock := make(chan struct{}, 1)
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			lock <- struct{}{}
			inside[m.Key]++
			check.Equal(t, inside[m.Key], 1, "handlers of key "+m.Key)
			most = max(most, len(inside))
			<-lock
			time.Sleep(time.Second) // virtual
			lock <- struct{}{}
			delete(inside, m.Key)
			<-lock
			return nil
		}, holdfast.OrderByKey(), holdfast.Concurrency(3))
		w.run()
		for i := range 5 {
			for _, key := range []string{"a", "b", "c", "d"} {
				w.publishKeyed(fmt.Sprintf("%s/%d", key, i))
			}
		}
		w.pass(time.Minute)
		check.Equal(t, most, 3, "keys at once")
		check.Equal(t, w.counts().Handled, 20)
	})
}

func TestKeyGoesOnAfterItsHeadIsADeadLetter(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			if m.ID == "a/1" {
				return errFlaky
			}
			return nil
		}, holdfast.OrderByKey(), slow())
		w.run()
		w.publishKeyed("a/1", "a/2")
		w.pass(time.Minute)
		check.Equal(t, w.ids(), []string{"a/1", "a/1", "a/1", "a/2"})
		check.Equal(t, w.letter().MessageID, "a/1")
		check.Equal(t, w.letter().Key, "a")
		w.idle()
	})
}

func TestHeadThatCannotBeBuriedHoldsItsKeyAndNothingElse(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			if m.ID == "a/1" {
				return holdfast.Permanent(errFlaky)
			}
			return nil
		}, holdfast.OrderByKey())
		w.run()
		w.b.Fail(memory.OpBury, errors.New("store is down"), 30)
		w.publishKeyed("a/1", "a/2", "b/1")
		w.pass(15 * time.Second)
		check.Equal(t, w.ids(), []string{"a/1", "b/1"})
		check.Equal(t, w.health().State, observe.StateStuck)
		w.pass(time.Hour)
		check.Equal(t, w.ids(), []string{"a/1", "b/1", "a/2"}, "the handler of the head ran once")
		check.Equal(t, w.letter().MessageID, "a/1")
		check.Equal(t, w.health().State, observe.StateRunning)
		w.idle()
	})
}

func TestStopReturnsParkedHeadsWithWhatIsLeftOfTheirDelay(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.OrderByKey(), holdfast.Retry{Attempts: 5, Backoff: holdfast.Constant(10 * time.Minute)})
		w.run()
		w.publishKeyed("a/1", "a/2")
		w.pass(4 * time.Minute)
		check.NoError(t, w.end())
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Delayed: 2})
		w.pass(5*time.Minute + 59*time.Second)
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Delayed: 2})
		w.pass(2 * time.Second)
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Waiting: 2})
	})
}

func TestStopLeavesTheOrderOfAKeyToTheNextProcess(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			time.Sleep(time.Second) // virtual
			w.see(&m.Meta)
			return nil
		}, holdfast.OrderByKey())
		w.run()
		w.publishKeyed("a/1", "a/2", "a/3")
		synctest.Wait()
		check.NoError(t, w.end())
		check.Equal(t, w.ids(), []string{"a/1"}, "the one in hand is finished")

		next := newWorld(t, w.b)
		holdfast.Handle(next.app, next.queue("orders"), next.fails(nil), holdfast.OrderByKey())
		next.run()
		next.pass(time.Minute)
		check.Equal(t, next.ids(), []string{"a/2", "a/3"})
		check.NoError(t, next.end())
	})
}

func TestLostLeaseOfAHeadLetsNobodyOvertakeIt(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			if w.see(&m.Meta) == 1 && m.ID == "a/1" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}, holdfast.OrderByKey(), slow())
		w.run()
		w.publishKeyed("a/1", "a/2", "a/3")
		w.b.Disconnect(nil) // nobody can extend
		w.pass(31 * time.Second)
		w.b.Reconnect()
		w.pass(time.Minute)
		check.Equal(t, w.lasts("a"), []string{"a/1", "a/2", "a/3"})
		w.idle()
	})
}

func TestKeyFunctionThatPanicsMakesADeadLetterAndNothingElse(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil), holdfast.OrderBy(func(m *transport.Message) string {
			return string(m.Body[3:])
		}))
		w.run()
		w.publish("x", "long enough")
		w.pass(time.Minute)
		check.Equal(t, w.ids(), []string{"long enough"})
		check.Equal(t, w.letter().MessageID, "x")
		check.Equal(t, w.letter().Reason, "permanent")
		check.True(t, strings.Contains(w.letter().Error, "key"), "error "+w.letter().Error)
		w.idle()
	})
}

func TestWindowBoundsWhatIsHeldForItsOrder(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.OrderByKey(), holdfast.Concurrency(2), holdfast.Prefetch(3),
			holdfast.Retry{Attempts: 2, Backoff: holdfast.Constant(time.Hour)})
		w.run()
		for i := range 10 {
			w.publishKeyed(fmt.Sprintf("k%d/1", i))
		}
		w.pass(time.Minute)
		check.Equal(t, w.b.Stats("orders"), memory.Stats{Leased: 5, Waiting: 5, Receivers: 1})
		check.Equal(t, len(w.seen()), 5)
	})
}
