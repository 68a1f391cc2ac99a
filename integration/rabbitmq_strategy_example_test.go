package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
)

// TestStrategyExamplesDoWhatTheySay runs each program of examples/strategies on a
// real broker, as a reader would.
func TestStrategyExamplesDoWhatTheySay(t *testing.T) {
	t.Parallel()
	broker := rabbittest.Shared(t)
	nats := natstest.Start(t)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir, "github.com/holdfast-go/holdfast/examples/strategies/...")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, c := range map[string]struct {
		bad    int    // lines of charge for the order that fails; 0 for several
		also   string // a line besides
		reason string // of the dead letter; empty for none
		starts int
	}{
		"header":     {3, "", "attempts-exhausted", 1},
		"count":      {3, "", "crash-loop", 4},
		"broker":     {4, "", "crash-loop", 1},
		"reject":     {1, "", "rejected", 1},
		"compensate": {1, "refund bad: there is no such order", "", 1},
		"within":     {0, "", "deadline", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := strategyTrial{t: t, rmq: connectRabbit(t, broker.URL()), child: strategyChild{Queue: "strategies-" + name, Diary: filepath.Join(t.TempDir(), "out")}}
			s.example(filepath.Join(dir, name), "AMQP_URL="+broker.URL(), "NATS_URL="+nats.URL())
			s.publish("bad", "good")
			for range c.starts - 1 { // the order ends the process
				select {
				case <-s.p.done:
				case <-time.After(busy * time.Minute):
					t.Fatalf("it did not end: %s", s.diary())
				}
				s.example(filepath.Join(dir, name), "AMQP_URL="+broker.URL(), "NATS_URL="+nats.URL())
			}
			s.ended("what the example says", func() bool {
				return s.noted("charge good, attempt 1") > 0 && (c.also == "" || s.noted(c.also) == 1) && (c.reason == "" || hasLetter(&s))
			})
			bad := slices.DeleteFunc(strings.Split(s.diary(), "\n"), func(l string) bool { return !strings.HasPrefix(l, "charge bad") })
			if len(bad) != c.bad && (c.bad > 0 || len(bad) < 3) {
				t.Errorf("it ran %d times:\n%s", len(bad), s.diary())
			}
			for _, l := range s.letters() {
				if l.Reason != c.reason || string(l.Body) != "bad" {
					t.Errorf("%q is dead: %s", l.Body, l.Reason)
				}
			}
		})
	}
}

// example starts a program whose output goes to the diary.
func (s *strategyTrial) example(path string, env ...string) {
	s.t.Helper()
	out, err := os.OpenFile(s.child.Diary, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	s.p = startTo(s.t, out, s.t.TempDir(), env, path)
}

// publish sends orders as soon as the program has made its queue.
func (s *strategyTrial) publish(bodies ...string) {
	s.t.Helper()
	p := holdfast.NewPublisher[string](s.rmq, rabbitmq.QueueAddress(s.child.Queue), holdfast.PublishTimeout(time.Second))
	for _, body := range bodies {
		eventually(s.t, time.Minute, "the queue "+s.child.Queue, func() bool {
			return p.Publish(s.t.Context(), body, holdfast.ID(body)) == nil
		})
	}
}
