package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
)

// TestRabbitMQKillerIsBuriedAndItsNeighboursAreHandled: a message that ends the
// process each time it is handled becomes a dead letter after a bounded number of
// starts, and nothing that waited, was prefetched or was handled beside it does,
// neither by our hand nor by the broker's.
func TestRabbitMQKillerIsBuriedAndItsNeighboursAreHandled(t *testing.T) {
	t.Parallel()
	for name := range crowds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStrategyTrial(t, name)
			s.child.Crowd, s.child.Wide = true, 4
			s.killedByOneOfMany()
		})
	}
}

func (s *strategyTrial) killedByOneOfMany() {
	s.t.Helper()
	bodies := []string{"poison"}
	for i := range 40 {
		bodies = append(bodies, fmt.Sprint("slow-", i))
	}
	s.provision(bodies...)
	s.start("")
	starts := 1
	done := func() bool {
		for _, body := range bodies[1:] {
			if s.noted("done "+body) == 0 {
				return false
			}
		}
		return hasLetter(s)
	}
	for end := time.Now().Add(busy * time.Minute); !done(); {
		select {
		case <-s.p.done:
			if code := s.p.cmd.ProcessState.ExitCode(); code != strategyExit {
				s.t.Fatalf("the process ended with %d", code)
			}
			starts++
			s.start("")
		case <-time.After(200 * time.Millisecond): // look again
		}
		if time.Now().After(end) {
			s.t.Fatalf("after %d starts there are %s:\n%s", starts, s.stories(), s.diary())
		}
	}
	reason := "crash-loop"
	if s.child.Strategy == "reject" {
		reason = "rejected" // the broker has no other word
	}
	for _, l := range s.letters() {
		if string(l.Body) != "poison" || l.Reason != reason {
			s.t.Errorf("the dead are %s", s.stories())
		}
	}
	// The policy has three attempts, and the crash limit three more.
	if runs := s.noted("run poison"); runs > 6 {
		s.t.Errorf("the killer ran %d times", runs)
	}
	s.ended("the end", func() bool { return true })
}

// stories are the dead letters in short.
func (s *strategyTrial) stories() string {
	var b strings.Builder
	for _, l := range s.letters() {
		fmt.Fprintf(&b, "%q (%s after %d deliveries, %s) ", l.Body, l.Reason, l.Deliveries, l.Error)
	}
	return b.String()
}

// TestRabbitMQDeathBetweenCopyAndAckLeavesTwoMarkedCopies: Trap 77. Where a
// process dies after its retry copy was confirmed and before the original was
// acked, there are two messages: under one ID, each with the number of its
// attempt, and the copy says what it is a copy of.
func TestRabbitMQDeathBetweenCopyAndAckLeavesTwoMarkedCopies(t *testing.T) {
	t.Parallel()
	s := newStrategyTrial(t, "header")
	s.provision("bad")
	s.start("copy:confirmed")
	s.died()
	ch, err := s.rmq.Connection().Channel()
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	eventually(t, time.Minute, "the original and its copy are back", func() bool {
		q, err := ch.QueueDeclarePassive(s.child.Queue, true, false, false, false, nil)
		return err == nil && q.Messages == 2
	})
	var original, copied int
	for range 2 {
		d, ok, err := ch.Get(s.child.Queue, false)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if d.MessageId != s.child.Queue+"-bad" || string(d.Body) != "bad" {
			t.Errorf("%q is %q", d.MessageId, d.Body)
		}
		if d.Headers[wire.CopyOf] == nil {
			original++
			if d.Headers["x-delivery-count"] != int64(1) {
				t.Errorf("the original is counted %v", d.Headers["x-delivery-count"])
			}
			continue
		}
		copied++
		if d.Headers[wire.Deliveries] != int64(1) {
			t.Errorf("the copy says that it was handed out %v times before", d.Headers[wire.Deliveries])
		}
	}
	if original != 1 || copied != 1 {
		t.Errorf("%d originals and %d copies", original, copied)
	}
	if _, ok, err := ch.Get(s.child.Queue, false); ok || err != nil {
		t.Error("there is a third one", err)
	}
	if err := ch.Close(); err != nil { // both go back
		t.Fatal(err)
	}
	s.start("")
	s.ended("the dead letter", func() bool { return hasLetter(s) })
	if n := s.noted("run bad"); n > 6 || len(s.letters()) != 1 {
		t.Errorf("it ran %d times, and %d letters are listed", n, len(s.letters()))
	}
}
