package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// A publisher on a broker that breaks at random, used by several goroutines in
// every way at once, keeps what it says. The bubble ends only when no goroutine
// is left.
func TestAPublisherKeepsItsWordWhateverBreaks(t *testing.T) {
	t.Parallel()
	stored, failed := 0, 0
	for seed := range uint64(300) {
		synctest.Test(t, func(t *testing.T) {
			m := newMarketDay(t, seed)
			m.run()
			m.verify()
			for _, err := range m.outcomes {
				if err == nil {
					stored++
				} else {
					failed++
				}
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if stored < 10_000 || failed < 1000 {
		t.Errorf("%d stored and %d failed: the faults were none, or too many", stored, failed)
	}
}

// marketDay is one run.
type marketDay struct {
	t       *testing.T
	seed    uint64
	b       *memory.Broker
	p       *holdfast.Publisher[string]
	ordered bool // nothing is refused for a moment, so the order holds

	mu       sync.Mutex // guards what follows
	outcomes map[string]error
	told     map[string]int
	futures  map[string]*holdfast.Future
}

func newMarketDay(t *testing.T, seed uint64) *marketDay {
	r := rand.New(rand.NewPCG(seed, 1))
	m := &marketDay{
		t: t, seed: seed, b: memory.New(), ordered: seed%2 == 0,
		outcomes: map[string]error{}, told: map[string]int{}, futures: map[string]*holdfast.Future{},
	}
	_, err := m.b.Provision(t.Context(), m.source(), transport.Want{})
	if err != nil {
		t.Fatal(err)
	}
	opts := []holdfast.PublisherOption{
		holdfast.Window(1+r.IntN(40), 20+r.IntN(400)), holdfast.ConfirmTimeout(time.Second),
		holdfast.PublishTimeout(time.Duration(2+r.IntN(20)) * time.Second),
	}
	if seed%3 == 0 {
		opts = append(opts, holdfast.PublishObserver(m))
	}
	m.p = holdfast.NewPublisher[string](m.b, placed, opts...)
	return m
}

func (m *marketDay) source() transport.Source {
	return m.b.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"orders.>"}})
}

// Observe implements observe.Observer.
func (m *marketDay) Observe(e observe.Event) {
	if e.Kind == observe.Published {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.told[e.MessageID]++
	}
}

// note notes an outcome. A message has one.
func (m *marketDay) note(id string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, twice := m.outcomes[id]; twice {
		m.t.Errorf("seed %d: %s has two outcomes: %v, and %v", m.seed, id, old, err)
	}
	m.outcomes[id] = err
}

// run lets the day pass.
func (m *marketDay) run() {
	r := rand.New(rand.NewPCG(m.seed, 2))
	stop := make(chan struct{})
	var faults, callers sync.WaitGroup
	faults.Go(func() { m.faults(stop) })
	for g := range 3 {
		callers.Go(func() { m.caller(g) })
	}
	early := r.IntN(3) == 0
	if early {
		time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond) // virtual
	} else {
		callers.Wait()
	}
	if r.IntN(2) == 0 {
		close(stop)
		faults.Wait()
		stop = nil
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Duration(r.IntN(6000))*time.Millisecond)
	defer cancel()
	began := time.Now()
	left, _ := m.p.Close(ctx)
	if took := time.Since(began); took > 7*time.Second {
		m.t.Errorf("seed %d: Close took %v", m.seed, took)
	}
	callers.Wait()
	if stop != nil {
		close(stop)
		faults.Wait()
	}
	m.settle(left)
}

// settle collects the outcomes of futures: all are there after Close.
func (m *marketDay) settle(left []holdfast.Unpublished) {
	for id, f := range m.futures {
		err := f.Err()
		if errors.Is(err, holdfast.ErrPending) {
			m.t.Errorf("seed %d: %s has no outcome after Close", m.seed, id)
		}
		m.note(id, err)
	}
	for _, u := range left {
		err, known := m.outcomes[u.ID]
		want := holdfast.NotSent
		if u.Uncertain {
			want = holdfast.Uncertain
		}
		if got := holdfast.OutcomeOf(err); !known || got != want {
			m.t.Errorf("seed %d: %s was handed back as %v, and its outcome is %v", m.seed, u.ID, want, err)
		}
	}
	for id, n := range m.told {
		if n != 1 {
			m.t.Errorf("seed %d: observers were told %d outcomes of %s", m.seed, n, id)
		}
	}
}

// caller publishes messages g-0, g-1 and so on, in every way.
func (m *marketDay) caller(g int) {
	r := rand.New(rand.NewPCG(m.seed, uint64(10+g)))
	for n := 0; n < 60; {
		ctx, cancel := m.context(r)
		// A body that fits into the window, or not.
		body := strings.Repeat("x", r.IntN(60))
		next := func() (string, holdfast.PublishOption) {
			id := fmt.Sprintf("%d-%d", g, n)
			n++
			return id, holdfast.ID(id)
		}
		switch r.IntN(4) {
		case 0:
			id, opt := next()
			m.note(id, m.p.Publish(ctx, body, opt))
			cancel()
		case 1, 2:
			id, opt := next()
			f, err := m.p.PublishAsync(ctx, body, opt)
			if err != nil {
				m.note(id, err)
				cancel()
				break
			}
			m.mu.Lock()
			m.futures[id] = f
			m.mu.Unlock()
			m.t.Cleanup(cancel) // it bounds the message
		default:
			var batch []holdfast.Outgoing[string]
			for range r.IntN(8) {
				_, opt := next()
				batch = append(batch, holdfast.Outgoing[string]{Body: body, Options: []holdfast.PublishOption{opt}})
			}
			results, _ := m.p.PublishBatch(ctx, batch)
			for _, one := range results {
				m.note(one.ID, one.Err)
			}
			cancel()
		}
		time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond) // virtual
	}
}

// context is one that ends soon, later, or never.
func (m *marketDay) context(r *rand.Rand) (context.Context, context.CancelFunc) {
	switch r.IntN(6) {
	case 0:
		return context.WithTimeout(m.t.Context(), time.Duration(r.IntN(2000))*time.Millisecond)
	case 1:
		ctx, cancel := context.WithCancel(m.t.Context())
		stop := time.AfterFunc(time.Duration(r.IntN(500))*time.Millisecond, cancel)
		return ctx, func() { stop.Stop(); cancel() }
	}
	return m.t.Context(), func() {}
}

// faults breaks things, and mends them at the end.
func (m *marketDay) faults(stop <-chan struct{}) {
	r := rand.New(rand.NewPCG(m.seed, 3))
	pause := func(most int) bool {
		select {
		case <-time.After(time.Duration(r.IntN(most)) * time.Millisecond):
			return true
		case <-stop:
			return false
		}
	}
	kinds := []transport.Kind{transport.Temporary, transport.Unknown, transport.Permanent}
	for pause(300) {
		switch r.IntN(8) {
		case 0:
			m.b.BreakPipelines(r.IntN(5))
		case 1:
			m.b.LoseAnswer(memory.OpPublish, errors.New("lost"), 1+r.IntN(3))
		case 2:
			m.b.Fail(memory.OpOpenPipeline, errors.New("not now"), 1+r.IntN(3))
		case 3:
			m.b.Disconnect(nil)
			pause(3000)
			m.b.Reconnect()
		case 4:
			release := m.b.Stall(memory.OpPublish)
			pause(3000)
			release()
		case 5:
			release := m.b.Alarm(nil)
			pause(3000)
			release()
		case 6:
			m.b.Fail(memory.OpPublish, &transport.Error{Kind: transport.Permanent, Err: transport.ErrTooLarge}, 1)
		default:
			if !m.ordered {
				causes := []error{transport.ErrBusy, transport.ErrFull, transport.ErrUnroutable}
				m.b.Fail(memory.OpPublish, &transport.Error{Kind: kinds[r.IntN(3)], Err: causes[r.IntN(3)]}, 1+r.IntN(4))
			}
		}
	}
}

// verify compares what was said with what the broker has.
func (m *marketDay) verify() {
	has := map[string]bool{}
	last := map[string]int{}
	for _, id := range m.drain() {
		g, n, _ := strings.Cut(id, "-")
		at, _ := strconv.Atoi(n)
		if !has[id] && m.ordered && at < last[g] {
			m.t.Errorf("seed %d: %s is stored behind %d", m.seed, id, last[g])
		}
		has[id], last[g] = true, max(last[g], at)
	}
	for id, err := range m.outcomes {
		switch outcome := holdfast.OutcomeOf(err); {
		case outcome == holdfast.Stored && !has[id]:
			m.t.Errorf("seed %d: %s was told to be stored and is not", m.seed, id)
		case outcome != holdfast.Stored && outcome != holdfast.Uncertain && has[id]:
			m.t.Errorf("seed %d: %s is stored, and its outcome says %s: %v", m.seed, id, outcome, err)
		}
	}
	if err := m.b.Close(m.t.Context()); err != nil {
		m.t.Error(err)
	}
}

// drain takes everything out of the queue, in its order.
func (m *marketDay) drain() (ids []string) {
	rx, err := m.b.Open(m.t.Context(), m.source(), transport.Want{Concurrency: 1})
	if err != nil {
		m.t.Fatalf("seed %d: %v", m.seed, err)
	}
	for {
		ctx, cancel := context.WithTimeout(m.t.Context(), time.Second)
		d, err := rx.Receive(ctx)
		cancel()
		if err != nil {
			break
		}
		ids = append(ids, d.Message().ID)
		if err := d.Ack(m.t.Context()); err != nil {
			m.t.Errorf("seed %d: %v", m.seed, err)
		}
	}
	if err := rx.Close(m.t.Context()); err != nil {
		m.t.Errorf("seed %d: %v", m.seed, err)
	}
	return ids
}
