package rabbitmq

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// sent collects what an ackLog sends.
type sent struct{ calls []string }

func (s *sent) send(tag uint64, multiple bool) error {
	s.calls = append(s.calls, fmt.Sprint(tag, multiple))
	return nil
}

func TestAcksAreGatheredOnlyOverWhatIsSettled(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		done []uint64
		gone []uint64
		want []string
	}{
		{"nothing", nil, nil, nil},
		{"one", []uint64{1}, nil, []string{"1 false"}},
		{"a run", []uint64{3, 1, 2}, nil, []string{"3 true"}},
		{"a hole in front", []uint64{2, 3}, nil, []string{"2 false", "3 false"}},
		{"a hole in the middle", []uint64{1, 2, 4}, nil, []string{"2 true", "4 false"}},
		{"one that was given back in the run", []uint64{1, 3}, []uint64{2}, []string{"3 true"}},
		{"one that was given back at its end", []uint64{1}, []uint64{2}, []string{"1 false"}},
		{"only given back", nil, []uint64{1, 2}, nil},
	} {
		var l ackLog
		var s sent
		for _, tag := range c.done {
			l.set(tag, tagDone)
		}
		for _, tag := range c.gone {
			l.set(tag, tagGone)
		}
		if err := l.flush(s.send); err != nil || !slices.Equal(s.calls, c.want) {
			t.Errorf("%s: sent %q, want %q (%v)", c.name, s.calls, c.want, err)
		}
		if err := l.flush(s.send); err != nil || len(s.calls) != len(c.want) || l.unsent != 0 {
			t.Errorf("%s: a second flush sent %q, and %d are left", c.name, s.calls[len(c.want):], l.unsent)
		}
	}
}

func TestAcksThatCannotBeSentStayUnsent(t *testing.T) {
	t.Parallel()
	var l ackLog
	l.set(1, tagDone)
	l.set(3, tagDone)
	broken := errors.New("broken")
	if err := l.flush(func(uint64, bool) error { return broken }); !errors.Is(err, broken) || l.unsent != 2 {
		t.Errorf("%v, and %d are unsent, want 2", err, l.unsent)
	}
}

// TestEveryDeliveryIsAckedOnceAndNoOther plays random settlements against a model
// of the broker.
func TestEveryDeliveryIsAckedOnceAndNoOther(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		const n = 60
		open := map[uint64]bool{} // unsettled at the broker
		done := map[uint64]bool{} // acked by the program
		for tag := uint64(1); tag <= n; tag++ {
			open[tag] = true
		}
		var l ackLog
		ack := func(tag uint64, multiple bool) error {
			if !open[tag] {
				t.Fatalf("seed %d: tag %d is acked, and was settled before", seed, tag)
			}
			for low := uint64(1); low <= tag; low++ {
				if (low == tag || multiple) && open[low] {
					if !done[low] {
						t.Fatalf("seed %d: an ack for %d covers %d, which is not done", seed, tag, low)
					}
					delete(open, low)
				}
			}
			return nil
		}
		for _, i := range rnd.Perm(n) {
			tag := uint64(i + 1)
			switch rnd.IntN(5) {
			case 0: // given back
				delete(open, tag)
				l.set(tag, tagGone)
			default:
				done[tag] = true
				l.set(tag, tagDone)
			}
			if rnd.IntN(4) == 0 {
				if err := l.flush(ack); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := l.flush(ack); err != nil || len(open) > 0 || l.unsent != 0 || len(l.states) != 0 {
			t.Fatalf("seed %d: %d are left at the broker, %d unsent, %d remembered (%v)", seed, len(open), l.unsent, len(l.states), err)
		}
	}
}

// One delivery that stays open while many others are settled costs neither memory
// nor time with each of them: a handler may take an hour.
func TestAnOpenDeliveryHoldsUpNothing(t *testing.T) {
	t.Parallel()
	const n, slow = 100_000, 7
	open := make([]bool, n+1)
	for tag := range open {
		open[tag] = tag > 0
	}
	ack := func(tag uint64, multiple bool) error {
		open[tag] = false
		for low := tag - 1; multiple && low > 0 && low+fewStates > tag; low-- {
			open[low] = false
		}
		return nil
	}
	l := ackLog{most: 1024}
	for tag := uint64(1); tag <= n; tag++ {
		if tag%1000 == slow {
			continue // as open as the first of them
		}
		l.set(tag, tagDone)
		if tag%16 == 0 {
			if err := l.flush(ack); err != nil {
				t.Fatal(err)
			}
		}
		if len(l.states) > fewStates+16 {
			t.Fatalf("after %d tags %d states are kept", tag, len(l.states))
		}
	}
	for tag := uint64(slow); tag <= n; tag += 1000 {
		if !open[tag] {
			t.Fatalf("tag %d was acked, and is not done", tag)
		}
		l.set(tag, tagDone)
	}
	if err := l.flush(ack); err != nil || l.unsent != 0 || len(l.old)+len(l.states)+len(l.late) != 0 {
		t.Fatalf("%d unsent, %d old, %d states, %d late (%v)", l.unsent, len(l.old), len(l.states), len(l.late), err)
	}
	for tag, left := range open {
		if left {
			t.Fatalf("tag %d was never acked", tag)
		}
	}
}
