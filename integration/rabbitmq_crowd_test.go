package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"
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
	for end := time.Now().Add(time.Minute); !done(); {
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
