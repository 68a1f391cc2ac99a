package holdfast_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/recovery"
)

var seedFlag = flag.Uint64("seed", 0, "the seed of the property test; 0 means a new one")

// scenario is a random policy, random handlers and random faults.
type scenario struct {
	r        *rand.Rand
	ack      holdfast.AckPolicy
	attempts int // 0: bounded by time alone
	ordered  bool
	faulty   bool
	hangs    bool
	opts     []holdfast.Option
}

func newScenario(seed uint64) *scenario {
	s := &scenario{r: rand.New(rand.NewPCG(seed, 1))}
	s.ack = holdfast.AckPolicy(s.r.IntN(5))
	s.ordered = s.ack != holdfast.Manual && s.r.IntN(3) == 0
	s.faulty = s.ack != holdfast.Manual && s.r.IntN(2) == 0
	s.hangs = s.r.IntN(3) == 0
	s.opts = append(s.opts, holdfast.Ack(s.ack), holdfast.Concurrency(1+s.r.IntN(5)))
	s.attempts = 1
	if s.ack == holdfast.RetryOnError || s.ack == holdfast.Manual {
		s.opts = append(s.opts, s.retry())
	}
	if s.ack == holdfast.AckAlways && s.r.IntN(2) == 0 {
		s.attempts = 5 // the compensation is retried, and the handler with it
		s.opts = append(s.opts, holdfast.Compensate(func(_ context.Context, m *holdfast.Meta, _ error) error {
			if outcomeOf(seed, m.ID, m.Attempt+100).IntN(2) == 0 {
				return errors.New("compensation failed")
			}
			return nil
		}))
	}
	if s.ordered {
		s.opts = append(s.opts, holdfast.OrderByKey(), holdfast.Prefetch(1+s.r.IntN(40)))
	}
	if s.hangs || s.r.IntN(2) == 0 {
		s.opts = append(s.opts, holdfast.Timeout(5*time.Second))
	}
	if s.r.IntN(3) == 0 {
		s.opts = append(s.opts, holdfast.NoDeadLetter())
	}
	return s
}

func (s *scenario) retry() holdfast.Retry {
	r := holdfast.Retry{Attempts: 1 + s.r.IntN(6), Jitter: s.r.Float64()}
	r.Immediate = s.r.IntN(r.Attempts)
	r.Backoff = []holdfast.Backoff{
		holdfast.Constant(time.Second), holdfast.Exponential(50*time.Millisecond, 10*time.Second), holdfast.Delays(time.Millisecond, time.Minute),
	}[s.r.IntN(3)]
	if r.Attempts > 1 && r.Immediate == r.Attempts-1 { // delays would have no effect, and are refused
		r.Backoff, r.Jitter = holdfast.Backoff{}, 0
	}
	if s.r.IntN(4) == 0 {
		if r.Attempts != 1 { // a single attempt has no use for it, and is refused
			r.Within = time.Duration(1+s.r.IntN(60)) * time.Second
		}
	}
	s.attempts = r.Attempts
	return r
}

// outcomeOf is the randomness of one run of a message's handler.
func outcomeOf(seed uint64, id string, n int) *rand.Rand {
	for _, c := range id {
		seed = seed*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(seed, uint64(n)))
}

// handle behaves as the seed, the message and the attempt say.
func (s *scenario) handle(w *world, seed uint64, release <-chan struct{}) func(context.Context, *holdfast.Message[string]) error {
	return func(ctx context.Context, m *holdfast.Message[string]) error {
		n := w.see(&m.Meta)
		r := outcomeOf(seed, m.ID, n)
		if r.IntN(3) == 0 {
			wait(ctx, time.Duration(r.IntN(20))*time.Second)
		}
		switch r.IntN(12) {
		case 0, 1, 2:
			return errFlaky
		case 3:
			return holdfast.Permanent(errFlaky)
		case 4:
			return holdfast.Discard(errFlaky)
		case 5:
			return holdfast.RetryAfter(errFlaky, time.Duration(r.IntN(30))*time.Second)
		case 6:
			panic("random panic")
		case 7:
			runtime.Goexit()
		case 8:
			if s.hangs && m.Attempt%3 == 1 && strings.HasSuffix(m.ID, "7") {
				<-release
			}
		}
		if s.ack == holdfast.Manual && r.IntN(3) > 0 {
			return m.Ack(ctx)
		}
		return nil
	}
}

// fault injects a random failure of the broker.
func (s *scenario) fault(b *memory.Broker) {
	op := []memory.Op{memory.OpAck, memory.OpAckLater, memory.OpNack, memory.OpBury, memory.OpReceive, memory.OpExtend, memory.OpOpen, memory.OpReject}[s.r.IntN(8)]
	n := 1 + s.r.IntN(20)
	if s.r.IntN(2) == 0 {
		b.LoseAnswer(op, errors.New("answer lost"), n)
		return
	}
	b.Fail(op, errors.New("broker fault"), n)
}

const messages = 30

func TestEveryMessageEndsExactlyOnceWhateverHappens(t *testing.T) {
	t.Parallel()
	forSeeds(t, 150, everyMessageEnds)
}

// forSeeds runs a property for so many new seeds, or for the one that was given.
func forSeeds(t *testing.T, n uint64, property func(t *testing.T, seed uint64)) {
	t.Helper()
	base := *seedFlag
	if base == 0 {
		base = rand.Uint64() >> 16
	}
	t.Logf("go test -run %s -seed %d", t.Name(), base)
	for i := range n {
		seed := base + i
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			property(t, seed)
		})
		if *seedFlag != 0 {
			break
		}
	}
}

func everyMessageEnds(t *testing.T, seed uint64) {
	s := newScenario(seed)
	t.Logf("%v, attempts %d, ordered %v, faulty %v, hangs %v", s.ack, s.attempts, s.ordered, s.faulty, s.hangs)
	promise(t, func(t *testing.T, w *world) {
		release := make(chan struct{})
		defer w.pass(time.Second)
		defer close(release)
		holdfast.Handle(w.app, w.queue("orders"), s.handle(w, seed, release), append(s.opts, holdfast.MaxLease(10*time.Minute))...)
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

// judge checks that every message ended once, and within its bounds.
func (s *scenario) judge(t *testing.T, w *world) {
	t.Helper()
	c := w.counts()
	// A settlement that was given up, and of which nobody can say whether it
	// happened, is the one thing that cannot be counted.
	unsure := map[string]bool{}
	for _, e := range w.diary.of(observe.SettleFailed) {
		if holdfast.Unknown(e.Err) {
			unsure[e.MessageID] = true
		}
	}
	ended := int(c.Handled + c.Dead + c.Discarded + c.Rejected)
	check.True(t, ended <= messages && ended+len(unsure) >= messages, fmt.Sprintf("messages that ended: %+v, unsure of %d", c, len(unsure)))
	ends, order := map[string]int{}, map[string][]string{}
	for _, e := range w.diary.of(observe.Settled) {
		switch e.Verdict.Action {
		case recovery.Ack, recovery.DeadLetter, recovery.Drop, recovery.Reject:
			ends[e.MessageID]++
			key, _, _ := strings.Cut(e.MessageID, "/")
			order[key] = append(order[key], e.MessageID)
		}
	}
	runs := map[string]int{}
	for _, id := range w.ids() {
		runs[id]++
	}
	// A message whose settlement failed was or became somebody else's, who may
	// have been another worker: it may run again, and end otherwise than its
	// dead letter says.
	buried := 0
	for _, e := range w.diary.of(observe.SettleFailed) {
		runs[e.MessageID] -= s.attempts
		if e.Verdict.Action == recovery.DeadLetter {
			buried++
		}
	}
	for i := range messages {
		id := fmt.Sprintf("k%d/%d", i%7, i)
		if ends[id] != 1 && (ends[id] != 0 || !unsure[id]) {
			t.Errorf("message %s ended %d times", id, ends[id])
		}
		if runs[id] > s.attempts && s.ack != holdfast.Manual {
			t.Errorf("message %s was handled %d times, more than %d", id, runs[id], s.attempts)
		}
	}
	letters := len(w.letters())
	check.True(t, letters >= int(c.Dead) && letters <= int(c.Dead)+len(unsure)+buried, fmt.Sprintf("dead letters: %d", letters))
	if s.ordered && !s.faulty {
		for key, ids := range order {
			for i, id := range ids {
				if want := fmt.Sprintf("%s/%d", key, int(key[1]-'0')+7*i); id != want {
					t.Errorf("key %s ended in the order %v", key, ids)
					break
				}
			}
		}
	}
	if w.health().State != observe.StateRunning {
		t.Errorf("the subscription is %s: %s", w.health().State, w.health().Reason)
	}
}
