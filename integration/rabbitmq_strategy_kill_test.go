package integration

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/internal/redistest"
	"github.com/holdfast-go/holdfast/rabbitmq"
)

// strategyTrial is one strategy whose process is killed once at one step.
type strategyTrial struct {
	t     *testing.T
	child strategyChild
	rmq   *rabbitmq.Transport
	p     *process
}

func newStrategyTrial(t *testing.T, strategy string) *strategyTrial {
	t.Helper()
	b := rabbittest.Shared(t)
	rmq := connectRabbit(t, b.URL())
	name := strategy + "-" + strings.ToLower(rand.Text()[:8])
	return &strategyTrial{t: t, rmq: rmq, child: strategyChild{
		Strategy: strategy, Addr: b.Addr(), Queue: name, Diary: filepath.Join(t.TempDir(), "diary"),
	}}
}

func connectRabbit(t *testing.T, url string) *rabbitmq.Transport {
	t.Helper()
	rmq, err := rabbitmq.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = rmq.Close(ctx)
	})
	return rmq
}

// provision makes the queue and what is beside it as the child would, and fills
// it.
func (s *strategyTrial) provision(bodies ...string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	cfg, opts := (&strategist{strategyChild: s.child, ctx: ctx, diary: os.Stderr}).setup()
	app := holdfast.New(holdfast.Config{})
	sub := holdfast.Handle(app, s.rmq.Queue(cfg), func(context.Context, *holdfast.Message[string]) error { return nil }, opts...)
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	eventually(s.t, time.Minute, "the queue to be made", func() bool {
		select {
		case err := <-done:
			s.t.Fatalf("the app ended: %v", err)
		default:
		}
		return sub.Health().State == "running"
	})
	cancel()
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
	p := holdfast.NewPublisher[string](s.rmq, rabbitmq.QueueAddress(s.child.Queue))
	for _, body := range bodies {
		if err := p.Publish(s.t.Context(), body, holdfast.ID(s.child.Queue+"-"+body)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// start starts a child that ends at step.
func (s *strategyTrial) start(step string) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.child.Step = step
	setting, err := json.Marshal(s.child)
	if err != nil {
		s.t.Fatal(err)
	}
	s.p = start(s.t, s.t.TempDir(), []string{strategyVar + "=" + string(setting)}, self)
}

// died waits for the child to end at its step.
func (s *strategyTrial) died() {
	s.t.Helper()
	select {
	case <-s.p.done:
		if code := s.p.cmd.ProcessState.ExitCode(); code != strategyExit {
			s.t.Fatalf("the process ended with %d", code)
		}
	case <-time.After(busy * time.Minute):
		s.t.Fatalf("the process never came to %q:\n%s", s.child.Step, s.diary())
	}
}

func (s *strategyTrial) diary() string {
	raw, err := os.ReadFile(s.child.Diary)
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return string(raw)
}

// noted is how often a line is in the diary.
func (s *strategyTrial) noted(line string) int {
	n := 0
	for _, l := range strings.Split(s.diary(), "\n") {
		if l == line {
			n++
		}
	}
	return n
}

// letters are the dead letters of the queue.
func (s *strategyTrial) letters() []deadletter.Letter {
	s.t.Helper()
	store := s.rmq.DeadLettersOf(map[string]string{s.child.Queue: s.child.Queue})
	all, err := deadletter.Open(store).ListAll(s.t.Context(), deadletter.Query{Subscription: s.child.Queue})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// empty tells whether neither the queue nor a retry queue beside it holds
// anything, in hand or not.
func (s *strategyTrial) empty() bool {
	s.t.Helper()
	ch, err := s.rmq.Connection().Channel()
	if err != nil {
		s.t.Fatal(err)
	}
	defer ch.Close()
	for _, name := range []string{s.child.Queue, s.child.Queue + ".retry.200", s.child.Queue + ".retry.2500"} {
		q, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		if err == nil && q.Messages > 0 {
			return false
		}
		if err != nil { // there is no such rung
			if ch, err = s.rmq.Connection().Channel(); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	return true
}

// ended waits until ok, lets what is still under way come to its end, and stops
// the child.
func (s *strategyTrial) ended(what string, ok func() bool) {
	s.t.Helper()
	eventually(s.t, 90*time.Second, what+"; the diary is "+s.child.Diary, func() bool {
		select {
		case <-s.p.done:
			s.t.Fatalf("the process ended: %v\n%s", s.p.err, s.diary())
		default:
		}
		return ok()
	})
	eventually(s.t, 90*time.Second, "the queues to be empty", s.empty)
	if err := s.p.terminate(s.t, 40*time.Second); err != nil {
		s.t.Errorf("the process did not end cleanly: %v", err)
	}
	if !s.empty() { // something was in hand
		s.start("")
		eventually(s.t, 90*time.Second, "the queues to be empty", s.empty)
		if err := s.p.terminate(s.t, 40*time.Second); err != nil {
			s.t.Errorf("the process did not end cleanly: %v", err)
		}
	}
}

// outcome is what a strategy's page says of a process that is killed once.
type outcome struct {
	steps   []string
	badRuns int // most runs of the message that always fails
	// badEnds tells whether that message has come to its end, once at least.
	badEnds func(*strategyTrial) bool
	reasons string // that its dead letters may have
}

func hasLetter(s *strategyTrial) bool { return len(s.letters()) > 0 }

// outcomes hold for every step. A message that is handled may be handled twice.
var outcomes = map[string]outcome{
	"header": {
		steps:   []string{"handler:start", "handler:end", "copy:before", "copy:confirmed", "ack:before", "ack:sent", "bury:before", "bury:confirmed", "ack of the buried:before"},
		badRuns: 6, badEnds: hasLetter, reasons: "attempts-exhausted",
	},
	"count": {
		steps:   []string{"count:before", "count:after", "handler:start", "handler:end", "copy:before", "copy:confirmed", "ack:before", "bury:before", "bury:confirmed", "ack of the buried:before"},
		badRuns: 3, badEnds: hasLetter, reasons: "attempts-exhausted crash-loop",
	},
	"broker": {
		steps:   []string{"handler:start", "handler:end", "reject:before", "reject:sent", "ack:before", "ack:sent"},
		badRuns: 3, badEnds: hasLetter, reasons: "crash-loop",
	},
	"reject": {
		steps:   []string{"handler:start", "handler:end", "reject:before", "reject:sent", "ack:before", "ack:sent"},
		badRuns: 2, badEnds: hasLetter, reasons: "rejected",
	},
	"compensate": {
		steps:   []string{"handler:start", "handler:end", "compensate:start", "compensate:end", "ack:before", "ack:sent"},
		badRuns: 2, badEnds: func(s *strategyTrial) bool { return s.noted("compensated bad") > 0 },
	},
	"within": {
		steps:   []string{"handler:start", "handler:end", "copy:before", "copy:confirmed", "ack:before", "bury:before", "bury:confirmed", "ack of the buried:before"},
		badRuns: 8, badEnds: hasLetter, reasons: "deadline",
	},
}

// TestStrategyKilledBetweenItsSteps: whatever step a process dies at, no message
// is lost, none is handled more often than the page of its strategy says, and
// what failed ends where the page says.
// Trap 76: killed at every step. Trap 77: between a copy and its ack.
func TestStrategyKilledBetweenItsSteps(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	for name, o := range outcomes {
		for _, step := range o.steps {
			t.Run(name+"/"+step, func(t *testing.T) {
				t.Parallel()
				s := newStrategyTrial(t, name)
				s.child.Redis = redis.Addr()
				s.killedOnce(o, step)
			})
		}
	}
}

// TestCountInStepsOnTwoStores: the steps after the last one that is durable on
// the broker, and JetStream as the store.
func TestCountInStepsOnTwoStores(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nats := natstest.Start(t)
	o := outcomes["count"]
	for _, step := range []string{"forget:before", "forget:after", "ack:sent"} {
		t.Run("Redis/"+step, func(t *testing.T) {
			t.Parallel()
			s := newStrategyTrial(t, "count")
			s.child.Redis = redis.Addr()
			s.killedOnce(o, step)
		})
	}
	for _, step := range []string{"count:before", "count:after", "handler:end", "copy:confirmed", "bury:confirmed"} {
		t.Run("JetStream/"+step, func(t *testing.T) {
			t.Parallel()
			s := newStrategyTrial(t, "count")
			s.child.NATS = nats.URL()
			s.killedOnce(o, step)
		})
	}
}

// killedOnce kills the process at a step, starts it again, and compares what
// happened with the page.
func (s *strategyTrial) killedOnce(o outcome, step string) {
	s.t.Helper()
	bodies := []string{"bad", "flaky", "a", "b", "c"}
	s.provision(bodies...)
	s.start(step)
	s.died()
	s.start("")
	fine := bodies[1:]
	if s.child.Strategy == "reject" || s.child.Strategy == "compensate" {
		fine = bodies[2:] // there are no retries: flaky ends like bad
	}
	s.ended("every message to come to its end", func() bool {
		for _, body := range fine {
			if s.noted("done "+body) == 0 {
				return false
			}
		}
		return o.badEnds(s)
	})
	for _, body := range fine {
		if n := s.noted("done " + body); n > 2 {
			s.t.Errorf("%s was handled %d times", body, n)
		}
	}
	if n := s.noted("run bad"); n > o.badRuns || n < 1 {
		s.t.Errorf("the message that always fails ran %d times, and the page says %d at most:\n%s", n, o.badRuns, s.diary())
	}
	if n := s.noted("compensated bad"); n > 2 {
		s.t.Errorf("it was compensated %d times", n)
	}
	for _, l := range s.letters() {
		body := string(l.Body)
		if body != "bad" && (body != "flaky" || s.child.Strategy != "reject") || !strings.Contains(o.reasons, l.Reason) {
			s.t.Errorf("%q is dead: %s", body, l.Reason)
		}
	}
}
