package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

// sizes notes the batches that a handler saw.
type sizes struct {
	mu  sync.Mutex
	all [][]string
}

func (s *sizes) add(b *holdfast.Batch[string]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var bodies []string
	for _, m := range b.Messages {
		bodies = append(bodies, m.Body)
	}
	s.all = append(s.all, bodies)
}

// soFar returns the batches seen until now.
func (s *sizes) soFar() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]string(nil), s.all...)
}

func names(prefix string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s%03d", prefix, i)
	}
	return ids
}

func TestABatchIsCompleteByCountBytesOrTime(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		seen := &sizes{}
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 10, Bytes: 1000, Wait: time.Second},
			func(_ context.Context, b *holdfast.Batch[string]) error {
				seen.add(b)
				return nil
			})
		w.run()
		w.publish(names("m", 25)...)
		w.pass(500 * time.Millisecond)
		check.Equal(t, len(seen.soFar()), 2, "two are full")
		w.pass(time.Second)
		all := seen.soFar()
		check.Equal(t, len(all), 3, "the third is complete by time")
		check.Equal(t, []int{len(all[0]), len(all[1]), len(all[2])}, []int{10, 10, 5})
		for range 4 {
			w.send("orders.placed", &transport.Message{Body: []byte(strings.Repeat("x", 400))})
		}
		w.send("orders.placed", &transport.Message{Body: []byte(strings.Repeat("x", 4000))})
		w.pass(3 * time.Second)
		for _, b := range seen.soFar()[3:] {
			check.True(t, len(b) <= 2 && (len(b) == 1 || len(b[0]) == 400 && len(b[1]) == 400), len(b))
		}
		w.idle()
		check.Equal(t, w.counts().Handled, uint64(30))
	})
}

func TestOnlyWhatFailedInABatchIsRetried(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		runs := map[string]int{}
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 10},
			func(_ context.Context, b *holdfast.Batch[string]) error {
				mu.Lock()
				defer mu.Unlock()
				for i, m := range b.Messages {
					runs[m.Body]++
					switch m.Body {
					case "flaky":
						if m.Attempt < 3 {
							b.Fail(i, errors.New("not yet"))
						}
					case "poison":
						b.Fail(i, holdfast.Permanent(errors.New("never")))
					}
				}
				return nil
			}, holdfast.Retry{Attempts: 5, Backoff: holdfast.Exponential(time.Second, time.Minute)})
		w.run()
		w.publish("a", "flaky", "b", "poison", "c")
		w.pass(time.Minute)
		check.Equal(t, runs, map[string]int{"a": 1, "b": 1, "c": 1, "flaky": 3, "poison": 1})
		check.Equal(t, w.letter().MessageID, "poison")
		w.idle()
	})
}

func TestAnErrorOrPanicOfABatchHandlerFailsAllOfIt(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		calls := 0
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 3},
			func(_ context.Context, b *holdfast.Batch[string]) error {
				calls++
				switch calls {
				case 1:
					return errors.New("the database is away")
				case 2:
					panic("a bug")
				}
				b.Fail(1, holdfast.Discard(errors.New("not wanted")))
				return nil
			}, holdfast.Retry{Attempts: 5, Backoff: holdfast.Exponential(time.Second, time.Minute)})
		w.run()
		w.publish("a", "b", "c")
		w.pass(time.Minute)
		check.Equal(t, calls, 3)
		check.Equal(t, []uint64{w.counts().Handled, w.counts().Discarded}, []uint64{2, 1})
		w.idle()
	})
}

func TestBatchesSideBySideAreAsManyAsConcurrencySays(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		now, most := 0, 0
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 5},
			func(context.Context, *holdfast.Batch[string]) error {
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				time.Sleep(time.Second) // virtual
				mu.Lock()
				now--
				mu.Unlock()
				return nil
			}, holdfast.Concurrency(2))
		w.run()
		w.publish(names("m", 40)...)
		w.pass(time.Minute)
		check.Equal(t, most, 2)
		w.idle()
	})
}

func TestWhatABatchPublishesIsStoredBeforeAnyAck(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		p := holdfast.NewPublisher[string](w.b, transport.Address{Name: "nobody.takes.it"})
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 3},
			func(ctx context.Context, _ *holdfast.Batch[string]) error {
				_, err := p.PublishAsync(ctx, "report")
				return err
			}, holdfast.NoRetry())
		w.run()
		w.publish("a", "b", "c")
		w.pass(time.Minute)
		check.Equal(t, len(w.letters()), 3, "none of them was acked")
	})
}

func TestAStopFinishesTheBatchInHand(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		done := 0
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 100, Wait: 10 * time.Second},
			func(_ context.Context, b *holdfast.Batch[string]) error {
				done += len(b.Messages)
				return nil
			})
		w.run()
		w.publish(names("m", 30)...)
		w.pass(time.Second)
		check.NoError(t, w.end())
		check.Equal(t, done, 30)
		w.idle()
	})
}
