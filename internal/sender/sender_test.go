package sender

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// world runs fn in virtual time with a broker and a sender, which it closes.
func world(t *testing.T, cfg Config, fn func(t *testing.T, b *broker, s *Sender, r *results)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBroker()
		s := New(b, cfg)
		fn(t, b, s, newResults())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.Close(ctx)
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.lines) != 0 {
			t.Errorf("%d pipelines are still open after Close", len(b.lines))
		}
	})
}

func names(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%05d", i)
	}
	return ids
}

func TestEveryMessageIsStoredInOrderOverBrokenConnections(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		busy := seed%2 == 1
		world(t, Config{Messages: 64}, func(t *testing.T, b *broker, s *Sender, r *results) {
			b.decide = chaos(seed, busy)
			ids := names(2000)
			for _, id := range ids {
				if _, err := s.Send(t.Context(), r.item(id)); err != nil {
					t.Fatalf("seed %d: send %s: %v", seed, id, err)
				}
			}
			if left := s.Close(t.Context()); len(left) != 0 {
				t.Fatalf("seed %d: %d messages were given up", seed, len(left))
			}
			for _, id := range ids {
				if err, ok := r.of(id); !ok || err != nil {
					t.Fatalf("seed %d: outcome of %s: %v, told %v", seed, id, err, ok)
				}
			}
			got := b.firsts()
			if busy {
				slices.Sort(got) // what is refused for a moment may be overtaken by what is under way
			}
			if !slices.Equal(got, ids) {
				t.Fatalf("seed %d: the first copies are not in order, or not all there", seed)
			}
			if b.opened < 10 {
				t.Fatalf("seed %d: only %d pipelines: the broker broke nothing", seed, b.opened)
			}
		})
	}
}

func TestSecondCopiesSayThatTheyAre(t *testing.T) {
	t.Parallel()
	world(t, Config{}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.decide = chaos(7, false)
		for _, id := range names(500) {
			if _, err := s.Send(t.Context(), r.item(id)); err != nil {
				t.Fatal(err)
			}
		}
		s.Close(t.Context())
		seen := map[string]bool{}
		second := 0
		for _, c := range b.stored {
			if seen[c.id] {
				second++
				if !c.resent {
					t.Fatalf("a second copy of %s does not say so", c.id)
				}
			}
			seen[c.id] = true
		}
		if second == 0 {
			t.Fatal("no message was sent twice: the test shows nothing")
		}
	})
}

func TestAFullWindowMakesCallersWait(t *testing.T) {
	t.Parallel()
	world(t, Config{Messages: 4}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.set(func(b *broker) { b.down = make(chan struct{}) })
		for _, id := range names(4) {
			if _, err := s.Send(t.Context(), r.item(id)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.Send(ctx, r.item("late"))
		if !errors.Is(err, context.DeadlineExceeded) || transport.KindOf(err) != transport.Temporary {
			t.Fatalf("send into a full window: %v, want temporary and the end of the context", err)
		}
		entered := make(chan error)
		go func() { _, err := s.Send(t.Context(), r.item("patient")); entered <- err }()
		synctest.Wait()
		b.set(func(b *broker) { close(b.down); b.down = nil })
		if err := <-entered; err != nil {
			t.Fatal(err)
		}
		s.Close(t.Context())
		if err, ok := r.of("patient"); !ok || err != nil {
			t.Fatalf("outcome: %v, %v", err, ok)
		}
		if _, ok := r.of("late"); ok {
			t.Fatal("a message that was not taken has an outcome")
		}
	})
}

func TestBytesBoundTheWindowToo(t *testing.T) {
	t.Parallel()
	world(t, Config{Bytes: 100}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.set(func(b *broker) { b.silent = true })
		big := r.item("big")
		big.M.Body = make([]byte, 1000)
		if _, err := s.Send(t.Context(), big); err != nil {
			t.Fatalf("a message larger than the window goes alone: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Send(ctx, r.item("small")); err == nil {
			t.Fatal("a second one was taken beside it")
		}
	})
}

func TestOutcomesReachTheirMessage(t *testing.T) {
	t.Parallel()
	full := &transport.Error{Kind: transport.Temporary, Err: transport.ErrFull}
	lost := &transport.Error{Kind: transport.Permanent, Err: transport.ErrUnroutable}
	large := &transport.Error{Kind: transport.Permanent, Err: transport.ErrTooLarge}
	fates := map[string]fate{"00001": {refuse: full}, "00003": {refuse: lost}, "00005": {now: large}}
	world(t, Config{}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.decide = func(m *transport.Message) fate { return fates[m.ID] }
		ids := names(8)
		for _, id := range ids {
			if _, err := s.Send(t.Context(), r.item(id)); err != nil {
				t.Fatal(err)
			}
		}
		s.Close(t.Context())
		for id, want := range map[string]error{"00001": transport.ErrFull, "00003": transport.ErrUnroutable, "00005": transport.ErrTooLarge} {
			if err, _ := r.of(id); !errors.Is(err, want) {
				t.Errorf("outcome of %s: %v, want %v", id, err, want)
			}
		}
		if got := len(b.firsts()); got != 5 || b.opened != 1 {
			t.Errorf("%d stored on %d pipelines, want 5 on 1: a refusal costs no other message", got, b.opened)
		}
	})
}

func TestAPatientSenderWaitsForRoomAtTheBroker(t *testing.T) {
	t.Parallel()
	world(t, Config{Patient: true}, func(t *testing.T, b *broker, s *Sender, r *results) {
		until := time.Now().Add(time.Minute)
		b.decide = func(*transport.Message) fate {
			if time.Now().Before(until) {
				return fate{refuse: &transport.Error{Kind: transport.Temporary, Err: transport.ErrFull}}
			}
			return fate{}
		}
		ids := names(10)
		for _, id := range ids {
			if _, err := s.Send(t.Context(), r.item(id)); err != nil {
				t.Fatal(err)
			}
		}
		s.Close(t.Context())
		if !slices.Equal(b.firsts(), ids) {
			t.Fatalf("stored %v", b.firsts())
		}
	})
}

func TestWhatNobodyTakesIsGivenUpAfterAWhile(t *testing.T) {
	t.Parallel()
	world(t, Config{}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.decide = func(m *transport.Message) fate {
			if m.ID == "nowhere" {
				return fate{refuse: &transport.Error{Kind: transport.Temporary, Err: transport.ErrUnroutable}}
			}
			return fate{}
		}
		started := time.Now()
		for _, id := range []string{"nowhere", "after"} {
			if _, err := s.Send(t.Context(), r.item(id)); err != nil {
				t.Fatal(err)
			}
		}
		s.Close(t.Context())
		if err, _ := r.of("nowhere"); !errors.Is(err, transport.ErrUnroutable) {
			t.Fatalf("outcome: %v", err)
		}
		if err, ok := r.of("after"); !ok || err != nil {
			t.Fatalf("outcome of the next one: %v", err)
		}
		if took := time.Since(started); took < routeBudget || took > 2*routeBudget {
			t.Fatalf("it took %v", took)
		}
	})
}

func TestABrokerThatDoesNotAnswerLosesItsConnection(t *testing.T) {
	t.Parallel()
	world(t, Config{Confirm: 2 * time.Second}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.set(func(b *broker) { b.silent = true })
		if _, err := s.Send(t.Context(), r.item("a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // virtual
		b.set(func(b *broker) { b.silent = false })
		s.Close(t.Context())
		if err, ok := r.of("a"); err != nil || !ok || b.opened != 2 {
			t.Fatalf("outcome %v, told %v, %d pipelines; want stored on the second", err, ok, b.opened)
		}
	})
}

func TestAnAlarmIsNoReasonToGiveTheConnectionUp(t *testing.T) {
	t.Parallel()
	world(t, Config{Confirm: time.Second}, func(t *testing.T, b *broker, s *Sender, r *results) {
		alarm := errors.New("memory is low")
		b.set(func(b *broker) { b.silent, b.alarm = true, alarm })
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		it := r.item("a")
		it.Ctx = ctx
		if _, err := s.Send(ctx, it); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second) // virtual
		err, ok := r.of("a")
		if !ok || !errors.Is(err, alarm) || transport.KindOf(err) != transport.Unknown {
			t.Fatalf("outcome %v, want unknown and the alarm", err)
		}
		if b.opened != 1 {
			t.Fatalf("%d pipelines, want 1", b.opened)
		}
	})
}

func TestGivingUpSaysWhetherItMayBeStored(t *testing.T) {
	t.Parallel()
	world(t, Config{}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.set(func(b *broker) { b.silent = true })
		at, err := s.Send(t.Context(), r.item("sent"))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err, ours := s.GiveUp(at, context.Canceled); !ours || transport.KindOf(err) != transport.Unknown {
			t.Errorf("sent: %v, %v; want unknown", err, ours)
		}
		if _, ours := s.GiveUp(at, context.Canceled); ours {
			t.Error("it was given up twice")
		}
	})
	world(t, Config{}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.set(func(b *broker) { b.down = make(chan struct{}) })
		at, err := s.Send(t.Context(), r.item("waiting"))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err, ours := s.GiveUp(at, context.Canceled); !ours || transport.KindOf(err) != transport.Temporary {
			t.Errorf("not sent: %v, %v; want temporary", err, ours)
		}
	})
}

func TestAMessageThatBreaksEveryConnectionIsFoundAndEnded(t *testing.T) {
	t.Parallel()
	world(t, Config{}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.decide = func(m *transport.Message) fate { return fate{lose: m.ID == "00100"} }
		ids := names(200)
		for _, id := range ids {
			if _, err := s.Send(t.Context(), r.item(id)); err != nil {
				t.Fatal(err)
			}
		}
		s.Close(t.Context())
		if err, _ := r.of("00100"); !errors.Is(err, errKiller) || transport.KindOf(err) != transport.Unknown {
			t.Fatalf("outcome of the killer: %v", err)
		}
		if got := b.firsts(); len(got) != 199 || !slices.IsSorted(got) {
			t.Fatalf("%d others stored", len(got))
		}
	})
}

func TestDeadlinesEndWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	world(t, Config{}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.set(func(b *broker) { b.down = make(chan struct{}) })
		it := r.item("a")
		it.Within = time.Second
		if _, err := s.Send(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // virtual
		if err, ok := r.of("a"); !ok || !errors.Is(err, context.DeadlineExceeded) || transport.KindOf(err) != transport.Temporary {
			t.Fatalf("outcome %v, told %v", err, ok)
		}
	})
}

func TestCloseHandsBackWhatHasNoOutcome(t *testing.T) {
	t.Parallel()
	world(t, Config{Messages: 4}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.set(func(b *broker) { b.down = make(chan struct{}) })
		for _, id := range names(4) {
			if _, err := s.Send(t.Context(), r.item(id)); err != nil {
				t.Fatal(err)
			}
		}
		waiting := make(chan error)
		go func() { _, err := s.Send(t.Context(), r.item("late")); waiting <- err }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var left []Item
		var closing sync.WaitGroup
		closing.Go(func() { left = s.Close(ctx) })
		if err := <-waiting; !errors.Is(err, transport.ErrClosed) {
			t.Errorf("who waited for room: %v, want closed", err)
		}
		closing.Wait()
		var got []string
		for _, it := range left {
			got = append(got, it.M.ID)
			if err, ok := r.of(it.M.ID); !ok || transport.KindOf(err) != transport.Temporary {
				t.Errorf("outcome of %s: %v", it.M.ID, err)
			}
		}
		if !slices.Equal(got, names(4)) {
			t.Errorf("handed back %v", got)
		}
		if _, err := s.Send(t.Context(), r.item("after")); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("send after Close: %v", err)
		}
	})
}

func TestManyCallersShareOneSender(t *testing.T) {
	t.Parallel()
	world(t, Config{Messages: 8}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.decide = chaos(3, true)
		var callers sync.WaitGroup
		for c := range 16 {
			callers.Go(func() {
				for i := range 100 {
					if _, err := s.Send(t.Context(), r.item(fmt.Sprintf("%02d-%03d", c, i))); err != nil {
						t.Errorf("send: %v", err)
					}
				}
			})
		}
		callers.Wait()
		if left := s.Close(t.Context()); len(left) != 0 || r.n != 1600 || len(b.firsts()) != 1600 {
			t.Fatalf("left %d, told %d, stored %d", len(left), r.n, len(b.firsts()))
		}
		if st := s.Stats(); st.Pending != 0 || st.Bytes != 0 || st.Confirmed != 1600 || s.win.reserved != 0 {
			t.Fatalf("stats %+v", st)
		}
	})
}

func TestATransportWithoutPipelinesPublishesOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := &oneByOne{}
		s := New(o, Config{})
		r := newResults()
		for _, id := range names(50) {
			if _, err := s.Send(t.Context(), r.item(id)); err != nil {
				t.Fatal(err)
			}
		}
		if left := s.Close(t.Context()); len(left) != 0 {
			t.Fatalf("%d left", len(left))
		}
		if !slices.Equal(o.stored, names(50)) {
			t.Fatalf("stored %v", o.stored)
		}
	})
}

// oneByOne fails every seventh publish for a moment.
type oneByOne struct {
	transport.Transport
	calls  int
	stored []string
}

func (o *oneByOne) Publish(_ context.Context, _ transport.Address, m *transport.Message) error {
	if o.calls++; o.calls%7 == 0 {
		return &transport.Error{Kind: transport.Temporary, Err: errors.New("not now")}
	}
	if !slices.Contains(o.stored, m.ID) {
		o.stored = append(o.stored, m.ID)
	}
	return nil
}
