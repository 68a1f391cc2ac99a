package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
)

// bothWays runs a test of batches where the engine gathers them, and where each
// message waits in a worker of its own because something comes before the handler.
func bothWays(t *testing.T, f func(t *testing.T, w *world, way holdfast.Option)) {
	same := func(next holdfast.HandlerFunc) holdfast.HandlerFunc { return next }
	for name, way := range map[string]holdfast.Option{"gathered by the engine": holdfast.Use(), "behind a middleware": holdfast.Use(same)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) { f(t, w, way) })
		})
	}
}

// handleBatch behaves as the seed, the messages and the attempts say.
func (s *scenario) handleBatch(w *world, seed uint64, release <-chan struct{}) func(context.Context, *holdfast.Batch[string]) error {
	return func(ctx context.Context, b *holdfast.Batch[string]) error {
		var ids []string
		for i, m := range b.Messages {
			ids = append(ids, m.ID)
			if err := s.outcome(ctx, m, outcomeOf(seed, m.ID, w.see(&m.Meta))); err != nil {
				b.Fail(i, err)
			}
		}
		r := outcomeOf(seed, strings.Join(ids, " "), b.Messages[0].Attempt)
		if r.IntN(3) == 0 {
			wait(ctx, time.Duration(r.IntN(20))*time.Second)
		}
		switch r.IntN(12) {
		case 0:
			return errFlaky
		case 1:
			panic("random panic")
		case 2:
			runtime.Goexit()
		case 3:
			if s.hangs && b.Messages[0].Attempt%3 == 1 {
				<-release
			}
		}
		return nil
	}
}

// outcome is that of one message of a batch.
func (s *scenario) outcome(ctx context.Context, m *holdfast.Message[string], r *rand.Rand) error {
	switch r.IntN(16) {
	case 0, 1, 2:
		return errFlaky
	case 3:
		return holdfast.Permanent(errFlaky)
	case 4:
		return holdfast.Discard(errFlaky)
	case 5:
		return holdfast.RetryAfter(errFlaky, time.Duration(r.IntN(30))*time.Second)
	}
	if s.ack == holdfast.Manual && r.IntN(3) > 0 {
		return m.Ack(ctx)
	}
	return nil
}

func TestEveryMessageOfABatchEndsExactlyOnceWhateverHappens(t *testing.T) {
	t.Parallel()
	forSeeds(t, 100, everyMessageOfABatchEnds)
}

func everyMessageOfABatchEnds(t *testing.T, seed uint64) {
	s := newScenario(seed)
	limits := holdfast.BatchLimits{Messages: 1 + s.r.IntN(9), Bytes: 10 + s.r.IntN(100), Wait: time.Duration(1+s.r.IntN(4)) * time.Second}
	t.Logf("%v, attempts %d, ordered %v, faulty %v, hangs %v, %+v", s.ack, s.attempts, s.ordered, s.faulty, s.hangs, limits)
	promise(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		defer w.pass(time.Second)
		defer close(release)
		holdfast.HandleBatch(w.app, w.queue("orders"), limits, s.handleBatch(w, seed, release), append(s.opts, holdfast.MaxLease(10*time.Minute))...)
		w.run()
		for i := range messages {
			w.publishKeyed(fmt.Sprintf("k%d/%d", i%7, i))
			if s.faulty && s.r.IntN(4) == 0 {
				s.fault(w.b)
			}
			w.pass(time.Duration(s.r.IntN(3)) * time.Second)
		}
		w.pass(48 * time.Hour)
		w.idle()
		s.judge(t, w)
	})
}

func TestABatchThatHangsIsLeftBehindAndItsMessagesAreTriedAgain(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, w *world, way holdfast.Option) {
		release := make(chan struct{})
		var mu sync.Mutex
		calls, handled := 0, 0
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 5, Wait: time.Second},
			func(_ context.Context, b *holdfast.Batch[string]) error {
				mu.Lock()
				calls++
				first := calls == 1
				mu.Unlock()
				if first {
					<-release
					return nil
				}
				mu.Lock()
				defer mu.Unlock()
				handled += len(b.Messages)
				return nil
			}, way, holdfast.Timeout(10*time.Second), holdfast.Concurrency(2), holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Minute)})
		w.run()
		w.publish(names("m", 12)...)
		w.pass(10 * time.Minute)
		mu.Lock()
		check.Equal(t, handled, 12)
		mu.Unlock()
		check.True(t, w.health().Hung >= 1, "it hangs")
		close(release)
		w.pass(time.Second)
		check.Equal(t, w.health().Hung, 0)
		check.Equal(t, len(w.letters()), 0)
		w.idle()
	})
}

func TestABatchThatHangsKeepsNoOtherFromBeingHandled(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		handled := 0
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 5, Wait: time.Second},
			func(_ context.Context, b *holdfast.Batch[string]) error {
				if strings.HasPrefix(b.Messages[0].ID, "hangs") {
					<-release
				}
				handled += len(b.Messages)
				return nil
			}, holdfast.Timeout(10*time.Second), holdfast.NoRetry())
		w.run()
		w.publish(names("hangs", 5)...)
		w.publish(names("m", 20)...)
		w.pass(time.Hour)
		check.Equal(t, handled, 20)
		check.Equal(t, len(w.letters()), 5)
		check.Equal(t, []int{w.health().Hung, w.health().InFlight}, []int{1, 0})
		close(release)
		w.pass(time.Second)
		w.idle()
	})
}

func TestALostLeaseInABatchConcernsNoOtherMessage(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var runs []int
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 5, Wait: time.Second},
			func(ctx context.Context, b *holdfast.Batch[string]) error {
				for _, m := range b.Messages {
					w.see(&m.Meta)
				}
				runs = append(runs, len(b.Messages))
				if len(runs) == 1 {
					wait(ctx, time.Minute)
				}
				return ctx.Err()
			}, slow())
		w.run()
		w.b.Fail(memory.OpExtend, errors.New("no answer"), 6) // of one after the other: some are lost
		w.publish(names("m", 5)...)
		w.pass(time.Hour)
		lost := int(w.counts().LeasesLost)
		check.Equal(t, runs[0], 5)
		check.True(t, lost < 5, "leases lost: ", lost)
		check.Equal(t, w.counts().Handled, uint64(5))
		check.Equal(t, len(w.seen()), 5+lost, "only what was lost is handled again")
		check.Equal(t, len(w.letters()), 0)
		w.idle()
	})
}

func TestABatchOfWhichNothingIsLeftIsCancelled(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var took []time.Duration
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 5, Wait: time.Second},
			func(ctx context.Context, b *holdfast.Batch[string]) error {
				began := time.Now()
				if len(took) == 0 {
					wait(ctx, time.Hour/2)
				}
				took = append(took, time.Since(began))
				return ctx.Err()
			}, slow())
		w.run()
		w.b.Fail(memory.OpExtend, errors.New("no answer"), 15)
		w.publish(names("m", 5)...)
		w.pass(time.Hour)
		check.Equal(t, w.counts().LeasesLost, uint64(5))
		check.True(t, took[0] < 2*time.Minute, "cancelled after ", took[0])
		check.Equal(t, w.counts().Handled, uint64(5))
		w.idle()
	})
}

func TestASuspectedMessageOfABatchIsHandledAlone(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, w *world, way holdfast.Option) {
		src := w.queue("orders")
		_, err := w.b.Provision(t.Context(), src, transportWant("orders"))
		check.NoError(t, err)
		w.publish(names("suspect", 3)...)
		want := transportWant("orders")
		want.Prefetch = 10
		for range 11 { // each time all three were in hand when the process died
			rx, err := w.b.Open(t.Context(), src, want)
			check.NoError(t, err)
			for range 3 {
				_, err = rx.Receive(t.Context())
				check.NoError(t, err)
			}
			check.NoError(t, rx.Close(t.Context()))
			w.pass(memory.DefaultLease)
		}
		w.publish(names("fresh", 20)...)
		var mu sync.Mutex
		running, handled := 0, 0
		holdfast.HandleBatch(w.app, src, holdfast.BatchLimits{Messages: 4, Wait: time.Second},
			func(_ context.Context, b *holdfast.Batch[string]) error {
				mu.Lock()
				running++
				suspected := slices.ContainsFunc(b.Messages, func(m *holdfast.Message[string]) bool { return m.Deliveries > 9 })
				if suspected && (running > 1 || len(b.Messages) > 1) {
					t.Errorf("a suspected message is handled in a batch of %d, beside %d others", len(b.Messages), running-1)
				}
				mu.Unlock()
				time.Sleep(100 * time.Millisecond) // virtual
				mu.Lock()
				defer mu.Unlock()
				running--
				handled += len(b.Messages)
				return nil
			}, way, slow(), holdfast.Concurrency(2))
		w.run()
		w.pass(10 * time.Minute)
		mu.Lock()
		check.Equal(t, handled, 23)
		mu.Unlock()
		check.Equal(t, len(w.letters()), 0)
		check.Equal(t, w.counts().Handled, uint64(23))
		w.idle()
	})
}

// fussy is a body whose decoding depends on what it says.
type fussy string

func (f *fussy) UnmarshalText(text []byte) error { *f = fussy(text); return nil }

func (f *fussy) Validate() error {
	switch {
	case strings.HasPrefix(string(*f), "exits"):
		runtime.Goexit()
	case strings.HasPrefix(string(*f), "panics"):
		panic("a bug")
	case strings.HasPrefix(string(*f), "bad"):
		return errors.New("bad")
	}
	return nil
}

// fussyCodec decodes into a fussy.
type fussyCodec struct{}

func (fussyCodec) ContentType() string        { return "text/plain" }
func (fussyCodec) Encode(any) ([]byte, error) { return nil, errors.New("not here") }

func (fussyCodec) Decode(data []byte, v any) error { return v.(*fussy).UnmarshalText(data) }

func TestWhatCannotBeDecodedLeavesTheOthersOfItsBatchAlone(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, w *world, way holdfast.Option) {
		var mu sync.Mutex
		seen := map[string]int{}
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 50, Wait: time.Second},
			func(_ context.Context, b *holdfast.Batch[fussy]) error {
				mu.Lock()
				defer mu.Unlock()
				for i, m := range b.Messages {
					seen[m.ID]++
					if m.ID != string(m.Body) {
						t.Errorf("message %s has the body %s", m.ID, m.Body)
					}
					if m.ID == "fails" {
						b.Fail(i, holdfast.Permanent(errFlaky))
					}
				}
				return nil
			}, way, holdfast.WithCodec(fussyCodec{}), holdfast.Retry{Attempts: 2, Backoff: holdfast.Constant(time.Second)})
		w.run()
		w.publish(names("m", 40)...)
		w.publish("bad-1", "exits-1", "panics-1", "m-last", "fails", "exits-2")
		w.pass(10 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		check.Equal(t, len(seen), 42)
		for id, n := range seen {
			check.Equal(t, n, 1, id)
		}
		var dead []string
		for _, l := range w.letters() {
			dead = append(dead, l.MessageID)
		}
		slices.Sort(dead)
		check.Equal(t, dead, []string{"bad-1", "exits-1", "exits-2", "fails", "panics-1"})
		check.Equal(t, w.counts().Handled, uint64(41))
		w.idle()
	})
}

func TestEveryMessageOfABatchIsObserved(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, w *world, way holdfast.Option) {
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 4, Wait: time.Second},
			func(_ context.Context, b *holdfast.Batch[string]) error {
				time.Sleep(time.Second) // virtual
				return nil
			}, way)
		w.run()
		w.publish(names("m", 10)...)
		w.pass(1500 * time.Millisecond)
		check.True(t, w.health().InFlight >= 4, "in flight: ", w.health().InFlight)
		w.pass(time.Minute)
		check.Equal(t, len(w.diary.of(observe.Attempted)), 10)
		check.Equal(t, len(w.diary.of(observe.Settled)), 10)
		check.Equal(t, w.counts(), observe.Counts{Received: 10, Attempts: 10, Handled: 10})
	})
}

func TestABatchThatIsNeverHandledGoesBackAtTheEndOfTheGrace(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var attempts []int
		release := make(chan struct{})
		holdfast.HandleBatch(w.app, w.queue("orders"), holdfast.BatchLimits{Messages: 5, Wait: time.Second},
			func(ctx context.Context, b *holdfast.Batch[string]) error {
				attempts = append(attempts, b.Messages[0].Attempt)
				<-ctx.Done()
				return ctx.Err()
			})
		w.run()
		w.publish(names("m", 10)...)
		w.pass(10 * time.Second)
		check.Equal(t, w.health().InFlight, 10)
		check.NoError(t, w.end())
		close(release)
		check.Equal(t, attempts, []int{1}, "the second batch waited for the first")
		check.Equal(t, w.counts().Returned, uint64(10))
		check.Equal(t, w.counts().Attempts, uint64(5))
	})
}
