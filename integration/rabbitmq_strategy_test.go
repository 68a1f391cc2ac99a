package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/internal/redistest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/redisstore"
	"github.com/holdfast-go/holdfast/transport"
)

// TestPoisonIsBoundedByEveryStrategy: a message that ends the process each time
// it is handled comes to its end, and nothing is lost. Where attempts are counted
// in a store, and where nothing is prefetched, those beside it are handled; the
// broker's own count does not tell them from it.
func TestPoisonIsBoundedByEveryStrategy(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	for name, c := range map[string]struct {
		wide, runs int // handlers at once; most runs of the message
		reason     string
		spares     bool // those beside it
	}{
		"header":     {2, 6, "crash-loop", false},
		"count":      {2, 3, "crash-loop", true},
		"broker":     {1, 3, "crash-loop", true},
		"reject":     {1, 4, "rejected", false},
		"compensate": {1, 4, "crash-loop", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStrategyTrial(t, name)
			s.child.Redis, s.child.Wide = redis.Addr(), c.wide
			fine := []string{"a", "b", "c", "d", "e"}
			s.provision(append([]string{"poison"}, fine...)...)
			s.start("")
			deaths := 0
			eventually(t, 2*time.Minute, "the message to come to its end", func() bool {
				select {
				case <-s.p.done:
					s.died()
					if deaths++; deaths > c.runs {
						t.Fatalf("the process has died %d times:\n%s", deaths, s.diary())
					}
					s.start("")
				default:
				}
				return len(s.letters()) > 0
			})
			s.ended("the others to be handled", func() bool {
				dead := map[string]bool{}
				for _, l := range s.letters() {
					dead[string(l.Body)] = !c.spares
				}
				for _, body := range fine {
					if s.noted("done "+body) == 0 && !dead[body] {
						return false
					}
				}
				return true
			})
			for _, l := range s.letters() {
				if c.spares && string(l.Body) != "poison" || l.Reason != c.reason {
					t.Errorf("%q is dead: %s", l.Body, l.Reason)
				}
			}
			if n := s.noted("run poison"); n > c.runs || name == "count" && n != c.runs {
				t.Errorf("it ran %d times, and may %d times:\n%s", n, c.runs, s.diary())
			}
		})
	}
}

// rabbitApp runs one subscription in this process.
type rabbitApp struct {
	*testing.T
	rmq  *rabbitmq.Transport
	name string
	ch   *amqp.Channel // on a connection of the test's own
}

func newRabbitApp(t *testing.T) *rabbitApp {
	t.Helper()
	b := rabbittest.Shared(t)
	conn, err := amqp.Dial(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	return &rabbitApp{t, connectRabbit(t, b.URL()), name[max(0, len(name)-60):], ch}
}

// publish sends bodies to the queue, under IDs of their own.
func (a *rabbitApp) publish(bodies ...string) {
	a.Helper()
	p := holdfast.NewPublisher[string](a.rmq, rabbitmq.QueueAddress(a.name))
	for _, body := range bodies {
		if err := p.Publish(a.Context(), body, holdfast.ID(a.name+" "+body)); err != nil {
			a.Fatal(err)
		}
	}
}

// findings are what Check says of a subscription that is more than worth knowing.
func (a *rabbitApp) findings(cfg rabbitmq.QueueConfig, opts ...holdfast.Option) map[transport.Code]holdfast.Finding {
	a.Helper()
	app := holdfast.New(holdfast.Config{})
	holdfast.Handle(app, a.rmq.Queue(cfg), never, opts...)
	all, err := app.Check(a.Context())
	if err != nil {
		a.Fatal(err)
	}
	found := map[transport.Code]holdfast.Finding{}
	for _, f := range all {
		if f.Level != transport.LevelInfo {
			found[f.Code] = f
		}
	}
	return found
}

// refused runs an app that must not start, and returns its findings.
func (a *rabbitApp) refused(cfg rabbitmq.QueueConfig, opts ...holdfast.Option) *holdfast.ContractError {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.Context(), busy*time.Minute)
	defer cancel()
	app := holdfast.New(holdfast.Config{})
	holdfast.Handle(app, a.rmq.Queue(cfg), never, opts...)
	var refused *holdfast.ContractError
	if err := app.Run(ctx); !errors.As(err, &refused) {
		a.Fatalf("Run returned %v", err)
	}
	return refused
}

func never(context.Context, *holdfast.Message[string]) error { return errors.New("never") }

// dead waits for a dead letter of the queue.
func (a *rabbitApp) dead() (found struct {
	Body, Reason         string
	Attempts, Deliveries int
},
) {
	a.Helper()
	s := strategyTrial{t: a.T, rmq: a.rmq, child: strategyChild{Queue: a.name}}
	eventually(a.T, time.Minute, "a dead letter", func() bool {
		for _, l := range s.letters() {
			found.Body, found.Reason, found.Attempts, found.Deliveries = string(l.Body), l.Reason, l.Attempts, l.Deliveries
			return true
		}
		return false
	})
	return found
}

func TestBrokerRetriesOnAQuorumQueue(t *testing.T) {
	t.Parallel()
	a := newRabbitApp(t)
	app := holdfast.New(holdfast.Config{})
	var runs atomic.Int32
	holdfast.Handle(app, a.rmq.Queue(rabbitmq.QueueConfig{Name: a.name, DeliveryLimit: 3}), func(_ context.Context, m *holdfast.Message[string]) error {
		if n := runs.Add(1); int(n) != m.Attempt {
			t.Errorf("run %d is attempt %d", n, m.Attempt)
		}
		return errors.New("it does not work")
	}, holdfast.BrokerRetries(3))
	stop := runApp(t, app)
	a.publish("bad")
	l := a.dead()
	stop()
	if runs.Load() != 4 || l.Body != "bad" || l.Reason != "crash-loop" {
		t.Errorf("after %d runs the dead letter is %+v", runs.Load(), l)
	}
}

// TestBrokerRetriesThatNothingBoundsAreRefused: a queue that would hand a message
// out for ever, or destroy it, is named with the fix.
func TestBrokerRetriesThatNothingBoundsAreRefused(t *testing.T) {
	t.Parallel()
	a := newRabbitApp(t)
	for what, c := range map[string]struct {
		cfg  rabbitmq.QueueConfig
		code transport.Code
	}{
		"a classic queue":              {rabbitmq.QueueConfig{Type: rabbitmq.Classic}, transport.CodeBrokerRetries},
		"another limit":                {rabbitmq.QueueConfig{DeliveryLimit: 7}, transport.CodeBrokerRetries},
		"the default limit":            {rabbitmq.QueueConfig{}, transport.CodeBrokerRetries},
		"another limit by an argument": {rabbitmq.QueueConfig{DeliveryLimit: 3, Arguments: amqp.Table{"x-delivery-limit": int32(9)}}, transport.CodeBrokerRetries},
		"a queue of unknown type":      {rabbitmq.QueueConfig{Declare: rabbitmq.DeclareAdopt, DeliveryLimit: 3}, transport.CodeBrokerRetries},
		"a queue of somebody else":     {rabbitmq.QueueConfig{Declare: rabbitmq.DeclareAdopt, DeliveryLimit: 3, Type: rabbitmq.Quorum}, transport.CodeRejectDestroys},
	} {
		c.cfg.Name = a.name
		f, ok := a.findings(c.cfg, holdfast.BrokerRetries(3))[c.code]
		if !ok || f.Level != transport.LevelError || f.Fix == "" {
			t.Errorf("%s: found %v", what, f)
		}
	}
	// One that exists with another limit is told apart by the broker.
	args := amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": int32(5)}
	if _, err := a.ch.QueueDeclare(a.name+"2", true, false, false, false, args); err != nil {
		t.Fatal(err)
	}
	if f, ok := a.findings(rabbitmq.QueueConfig{Name: a.name + "2", DeliveryLimit: 3}, holdfast.BrokerRetries(3))[transport.CodeQueueDrift]; !ok || f.Level != transport.LevelError {
		t.Errorf("a queue that exists with another limit: found %v", f)
	}
	if f := a.findings(rabbitmq.QueueConfig{Name: a.name, DeliveryLimit: 3}, holdfast.BrokerRetries(3)); len(f) > 0 {
		t.Errorf("a queue that bounds them: found %v", f)
	}
	js, err := jetstream.Connect(t.Context(), natstest.Start(t).URL(), jetstream.WithNATS(natstest.Patient()))
	if err != nil {
		t.Fatal(err)
	}
	defer js.Close(context.Background())
	app := holdfast.New(holdfast.Config{})
	holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{
		Stream: "WORK", Subjects: []string{"work"}, Durable: "work", Start: jetstream.StartAll(),
	}), never, holdfast.BrokerRetries(3))
	findings, err := app.Check(t.Context())
	if err != nil || !(&holdfast.ContractError{Findings: findings}).Has(transport.CodeNoRequeue) {
		t.Errorf("on JetStream: found %v, %v", findings, err)
	}
}

// TestRejectOnErrorNeedsSomewhereToGo: without an exchange, or with one that
// routes nowhere, the app does not start; with one that does, what is rejected
// arrives there as it was. Trap 82.
func TestRejectOnErrorNeedsSomewhereToGo(t *testing.T) {
	t.Parallel()
	a := newRabbitApp(t)
	dlx := a.name + ".dlx"
	cfg := rabbitmq.QueueConfig{Name: a.name, DeadLetterExchange: dlx, DeadLetterKey: "rejected"}
	opts := []holdfast.Option{holdfast.Ack(holdfast.RejectOnError), holdfast.NoDeadLetter()}
	if f, ok := a.findings(cfg, opts...)[transport.CodeDLXMissing]; !ok || f.Level != transport.LevelError {
		t.Errorf("without the exchange: found %v", f)
	}
	if f, ok := a.findings(rabbitmq.QueueConfig{Name: a.name, Declare: rabbitmq.DeclareAdopt}, opts...)[transport.CodeRejectDestroys]; !ok {
		t.Errorf("a queue that is adopted without an exchange: found %v", f)
	}
	if err := a.ch.ExchangeDeclare(dlx, "direct", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if refused := a.refused(cfg, opts...); !refused.Has(transport.CodeDLXNowhere) {
		t.Errorf("with an exchange that routes nowhere: %v", refused)
	}
	for _, bind := range []string{"other", "rejected"} {
		if _, err := a.ch.QueueDeclare(a.name+"."+bind, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		if err := a.ch.QueueBind(a.name+"."+bind, bind, dlx, false, nil); err != nil {
			t.Fatal(err)
		}
		if bind == "other" {
			if refused := a.refused(cfg, opts...); !refused.Has(transport.CodeDLXNowhere) {
				t.Errorf("with a queue bound for another key: %v", refused)
			}
		}
	}
	app := holdfast.New(holdfast.Config{})
	holdfast.Handle(app, a.rmq.Queue(cfg), never, opts...)
	runApp(t, app)
	a.publish("bad")
	var got amqp.Delivery
	eventually(t, time.Minute, "what was rejected", func() (ok bool) {
		var err error
		if got, ok, err = a.ch.Get(a.name+".rejected", true); err != nil {
			t.Fatal(err)
		}
		return ok
	})
	// The message that looked for the way is not there.
	if string(got.Body) != "bad" || got.MessageId != a.name+" bad" {
		t.Errorf("what was rejected is %q, ID %q", got.Body, got.MessageId)
	}
}

// TestCompensationComesBeforeTheAck: while it fails the message comes back, and
// it is acked after it worked.
func TestCompensationComesBeforeTheAck(t *testing.T) {
	t.Parallel()
	a := newRabbitApp(t)
	app := holdfast.New(holdfast.Config{})
	var runs, compensations atomic.Int32
	holdfast.Handle(app, a.rmq.Queue(rabbitmq.QueueConfig{Name: a.name}), func(context.Context, *holdfast.Message[string]) error {
		runs.Add(1)
		return errors.New("it does not work")
	}, holdfast.Ack(holdfast.AckAlways), holdfast.Compensate(func(_ context.Context, m *holdfast.Meta, cause error) error {
		if string(m.Data()) != "bad" || cause == nil {
			t.Errorf("compensate for %q after %v", m.Data(), cause)
		}
		if compensations.Add(1) == 1 {
			return errors.New("the compensation does not work either")
		}
		return nil
	}))
	stop := runApp(t, app)
	a.publish("bad")
	s := strategyTrial{t: t, rmq: a.rmq, child: strategyChild{Queue: a.name}}
	eventually(t, time.Minute, "the compensation", func() bool { return compensations.Load() == 2 })
	stop()
	if runs.Load() != 2 || len(s.letters()) != 0 || !s.empty() {
		t.Errorf("%d runs, dead letters %v", runs.Load(), s.letters())
	}
}

// TestTimeBoundsRetries: Within ends the retries of one message, and the queue's
// time to live what nobody comes for; neither spins.
// Trap 81: one of our own is warned of.
func TestTimeBoundsRetries(t *testing.T) {
	t.Parallel()
	a := newRabbitApp(t)
	cfg := rabbitmq.QueueConfig{Name: a.name, Arguments: amqp.Table{"x-message-ttl": int64(8000)}}
	if f, ok := a.findings(cfg)[transport.CodeQueueLoses]; !ok || f.Level != transport.LevelWarning {
		t.Errorf("a time to live is not mentioned: %v", f)
	}
	app := holdfast.New(holdfast.Config{})
	var runs atomic.Int32
	holdfast.Handle(app, a.rmq.Queue(cfg), func(context.Context, *holdfast.Message[string]) error {
		runs.Add(1)
		return errors.New("it does not work")
	}, holdfast.Retry{Within: 8 * time.Second, Backoff: holdfast.Constant(2 * time.Second)})
	stop := runApp(t, app)
	a.publish("bad")
	l := a.dead()
	stop()
	if n := runs.Load(); n < 2 || n > 5 || l.Body != "bad" || l.Reason != "deadline" {
		t.Errorf("after %d runs the dead letter is %+v", n, l)
	}
	store := a.rmq.DeadLetters()
	for letter, err := range store.Letters(t.Context(), transport.LetterFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Remove(t.Context(), letter.Key); err != nil {
			t.Fatal(err)
		}
	}
	a.publish("late")
	if l := a.dead(); l.Body != "late" || l.Reason != "expired" {
		t.Errorf("what nobody came for is %+v", l)
	}
}

// TestCounterOutageOnRabbitMQ: with Redis gone nothing runs, nothing is charged
// and nothing is lost; when it is back everything is handled in its first
// attempt.
func TestCounterOutageOnRabbitMQ(t *testing.T) {
	t.Parallel()
	a := newRabbitApp(t)
	srv := redistest.Start(t)
	client := redis.NewClient(&redis.Options{Addr: srv.Addr(), DialTimeout: 5 * time.Second, MaxRetries: -1})
	defer client.Close()
	app := holdfast.New(holdfast.Config{Logger: testLog(t)})
	v := newVisits()
	holdfast.Handle(app, a.rmq.Queue(rabbitmq.QueueConfig{Name: a.name}), func(_ context.Context, m *holdfast.Message[string]) error {
		if m.Attempt != 1 {
			t.Errorf("%s is at attempt %d", m.Body, m.Attempt)
		}
		v.add(m.Body)
		return nil
	}, threeAttempts(), holdfast.CountIn(redisstore.New(client)), holdfast.Concurrency(4))
	stop := runApp(t, app)
	srv.Stop()
	const messages = 20
	for i := range messages {
		a.publish(fmt.Sprint(i))
	}
	eventually(t, time.Minute, "health to say so", func() bool {
		h := app.Health().Subscriptions[0]
		return h.State == "stuck" && strings.Contains(h.Reason, "attempt counter unavailable")
	})
	eventually(t, time.Minute, "some to go back", func() bool { return app.Health().Subscriptions[0].Counts.Returned > 8 })
	if v.total() != 0 {
		t.Errorf("%d ran without being counted", v.total())
	}
	srv.Start(t)
	eventually(t, 2*time.Minute, "all to be handled", func() bool { return v.different() == messages })
	eventually(t, time.Minute, "health to recover", func() bool { return app.Health().Healthy })
	stop()
	if v.total() != messages {
		t.Errorf("%d runs for %d messages", v.total(), messages)
	}
}

// TestMessageWithoutAnIDIsCountedByItsContent: the check says so, and its
// attempts are bounded as those of any other.
func TestMessageWithoutAnIDIsCountedByItsContent(t *testing.T) {
	t.Parallel()
	a := newRabbitApp(t)
	cfg := rabbitmq.QueueConfig{Name: a.name}
	store := memory.NewCountStore()
	if f, ok := a.findings(cfg, holdfast.CountIn(store))[transport.CodeDerivedID]; !ok || f.Level != transport.LevelWarning {
		t.Errorf("found %v", f)
	}
	app := holdfast.New(holdfast.Config{})
	v := newVisits()
	holdfast.Handle(app, a.rmq.Queue(cfg), func(_ context.Context, m *holdfast.Message[string]) error {
		if v.add(m.ID) != m.Attempt {
			t.Errorf("%q is at attempt %d", m.ID, m.Attempt)
		}
		return errors.New("it does not work")
	}, threeAttempts(), holdfast.CountIn(store))
	runApp(t, app)
	for _, body := range []string{"one", "two"} {
		if err := a.ch.PublishWithContext(t.Context(), "", a.name, true, false, amqp.Publishing{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	s := strategyTrial{t: t, rmq: a.rmq, child: strategyChild{Queue: a.name}}
	eventually(t, time.Minute, "two dead letters", func() bool { return len(s.letters()) == 2 })
	if v.different() != 2 || v.total() != 6 {
		t.Errorf("%d IDs, %d runs", v.different(), v.total())
	}
}
