package sender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

func TestALargeMessageIsNotPassedOverForSmallOnes(t *testing.T) {
	t.Parallel()
	world(t, Config{Messages: 64, Bytes: 100}, func(t *testing.T, _ *broker, s *Sender, r *results) {
		var sent atomic.Int64
		over := make(chan struct{})
		var all sync.WaitGroup
		for g := range 8 {
			all.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-over:
						return
					default:
					}
					it := r.item(fmt.Sprintf("%d-%d", g, i))
					it.M.Body = make([]byte, 30)
					if _, err := s.Send(t.Context(), it); err != nil {
						t.Error(err)
						return
					}
					sent.Add(1)
				}
			})
		}
		time.Sleep(100 * time.Millisecond) // virtual
		for i := range 50 {
			before := sent.Load()
			it := r.item(fmt.Sprint("large", i))
			it.M.Body = bytes.Repeat([]byte("x"), 90)
			if _, err := s.Send(t.Context(), it); err != nil {
				t.Fatal(err)
			}
			// Those who waited before it, and what they went on with meanwhile.
			if n := sent.Load() - before; n > 40 {
				t.Errorf("%d small messages went before a large one", n)
			}
		}
		close(over)
		all.Wait()
	})
}

func TestWhoGivesUpWaitingLeavesTheRoomToOthers(t *testing.T) {
	t.Parallel()
	world(t, Config{Messages: 2, Bytes: 1 << 10}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.set(func(b *broker) { b.silent = true })
		for _, id := range names(2) {
			it := r.item(id)
			it.Within = time.Second
			if _, err := s.Send(t.Context(), it); err != nil {
				t.Fatal(err)
			}
		}
		// Half of them give up in the moment in which the room is free.
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				it := r.item(fmt.Sprint("late", i))
				it.Within = time.Second + tick*time.Duration(i%4)
				_, err := s.Send(t.Context(), it)
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		b.set(func(b *broker) { b.silent = false })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := s.Send(ctx, r.item("last")); err != nil {
			t.Fatalf("room was lost: %v", err)
		}
		s.Close(ctx)
		if s.win.reserved != 0 || s.win.bytes != 0 || s.win.pending != 0 {
			t.Errorf("%d reserved, %d bytes, %d pending are left", s.win.reserved, s.win.bytes, s.win.pending)
		}
	})
}

func TestARefusalAfterALostCopyIsUnknown(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]fate{
		"by the broker":     {refuse: &transport.Error{Kind: transport.Permanent, Err: transport.ErrUnroutable}},
		"full":              {refuse: &transport.Error{Kind: transport.Temporary, Err: transport.ErrFull}},
		"before it is sent": {now: transport.Invalid("publish", "", "no")},
	} {
		world(t, Config{}, func(t *testing.T, b *broker, s *Sender, r *results) {
			n := 0
			b.decide = func(*transport.Message) fate {
				if n++; n == 1 {
					return fate{breaks: true} // stored
				}
				return refusal
			}
			if _, err := s.Send(t.Context(), r.item("a")); err != nil {
				t.Fatal(err)
			}
			s.Close(t.Context())
			err, _ := r.of("a")
			cause := errors.Join(refusal.refuse, refusal.now)
			if transport.KindOf(err) != transport.Unknown || !errors.Is(err, errors.Unwrap(cause.(interface{ Unwrap() []error }).Unwrap()[0])) {
				t.Errorf("%s: %v, want unknown: the first copy is stored", name, err)
			}
		})
	}
}

func TestTheRefusalOfOneMessageIsNotTheOutcomeOfAnother(t *testing.T) {
	t.Parallel()
	world(t, Config{Messages: 3}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.decide = func(m *transport.Message) fate {
			if m.ID == "nowhere" {
				return fate{refuse: &transport.Error{Kind: transport.Temporary, Err: transport.ErrUnroutable}}
			}
			return fate{}
		}
		if _, err := s.Send(t.Context(), r.item("nowhere")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond) // virtual: it was refused once
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		at, err := s.Send(t.Context(), r.item("waiting"))
		if err != nil {
			t.Fatal(err)
		}
		err, ours := s.GiveUp(at, context.Canceled)
		if !ours || errors.Is(err, transport.ErrUnroutable) || transport.KindOf(err) != transport.Temporary {
			t.Errorf("waiting: %v, want temporary and nothing of what concerns the other one", err)
		}
		if _, err := s.Send(ctx, r.item("first")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Send(ctx, r.item("second")); errors.Is(err, transport.ErrUnroutable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no room: %v, want nothing of what concerns the other one", err)
		}
		time.Sleep(time.Minute) // virtual
		if err, _ := r.of("nowhere"); !errors.Is(err, transport.ErrUnroutable) || transport.KindOf(err) != transport.Temporary {
			t.Errorf("nowhere: %v, want its refusal", err)
		}
	})
}

func TestASilentBrokerIsNotBlamedOnAMessage(t *testing.T) {
	t.Parallel()
	world(t, Config{Patient: true}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.set(func(b *broker) { b.silent = true }) // as a queue without a majority
		ids := names(20)
		for _, id := range ids {
			if _, err := s.Send(t.Context(), r.item(id)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Minute) // virtual
		synctest.Wait()
		if n := s.Stats().Refused; n != 0 {
			t.Errorf("%d messages were ended although the broker was silent for all", n)
		}
		if err := s.Stats().Err; !errors.Is(err, errUnanswered) || errors.Is(err, transport.ErrClosed) {
			t.Errorf("why nothing flows: %v", err)
		}
		b.set(func(b *broker) { b.silent = false })
		s.Close(t.Context())
		for _, id := range ids {
			if err, ok := r.of(id); err != nil || !ok {
				t.Errorf("%s: %v, told %v", id, err, ok)
			}
		}
	})
}

func TestAMessageThatAloneIsNotAnsweredIsFoundAndEnded(t *testing.T) {
	t.Parallel()
	for _, after := range []int{0, 3, 40} {
		world(t, Config{Messages: 16, Patient: true}, func(t *testing.T, b *broker, s *Sender, r *results) {
			b.decide = func(m *transport.Message) fate { return fate{mute: m.ID == "00002"} }
			ids := names(3 + after)
			for _, id := range ids {
				if _, err := s.Send(t.Context(), r.item(id)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(5 * time.Minute) // virtual
			synctest.Wait()
			for _, id := range ids {
				err, ok := r.of(id)
				switch {
				case id != "00002":
					if err != nil || !ok {
						t.Errorf("%s: %v, told %v, want stored", id, err, ok)
					}
				case after == 0:
					if ok {
						t.Errorf("it was ended with %v although nothing shows that it is to blame", err)
					}
				case transport.KindOf(err) != transport.Unknown || Unsent(err):
					t.Errorf("%s: %v, told %v, want unknown, and not that the sender was closed", id, err, ok)
				}
			}
		})
	}
}

func TestCloseLeavesTheConnectionToOthersUnlessSomebodyIsStuckOnIt(t *testing.T) {
	t.Parallel()
	for _, full := range []bool{false, true} {
		world(t, Config{Confirm: time.Minute}, func(t *testing.T, b *broker, s *Sender, r *results) {
			b.set(func(b *broker) { b.silent = true })
			if _, err := s.Send(t.Context(), r.item("a")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			b.set(func(b *broker) { b.full = full })
			var sending sync.WaitGroup
			if full {
				sending.Go(func() { _, _ = s.Send(t.Context(), r.item("b")) })
				synctest.Wait()
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			left := s.Close(ctx)
			if took := time.Since(began); took > time.Second {
				t.Errorf("Close took %v", took)
			}
			sending.Wait()
			if len(left) == 0 || (b.stuck > 0) != full {
				t.Errorf("full %v: %d left, and %d connections were broken", full, len(left), b.stuck)
			}
		})
	}
}

func TestAFullSocketIsFoundOut(t *testing.T) {
	t.Parallel()
	world(t, Config{Confirm: time.Second}, func(t *testing.T, b *broker, s *Sender, r *results) {
		b.set(func(b *broker) { b.full = true })
		// The keeper itself is the first to send.
		if _, err := s.Send(t.Context(), r.item("a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second) // virtual
		b.set(func(b *broker) { b.full = false })
		time.Sleep(10 * time.Second) // virtual
		if err, ok := r.of("a"); err != nil || !ok {
			t.Errorf("outcome %v, told %v", err, ok)
		}
	})
}
