package holdfast_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

func TestReceiverThatFailsIsReopenedWithBackoffAndOneLine(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
		w.run()
		before := len(w.logs.with("subscription retrying"))
		w.b.Fail(memory.OpOpen, errors.New("no leader"), 8)
		w.b.Fail(memory.OpReceive, errors.New("connection reset"), 1)
		w.pass(5 * time.Second)
		check.Equal(t, w.health().State, observe.StateRetrying)
		check.True(t, strings.Contains(w.health().Reason, "no leader"), "reason "+w.health().Reason)
		check.True(t, !w.app.Health().Healthy, "healthy")
		check.Equal(t, len(w.logs.with("WARN subscription retrying", "subscription=orders"))-before, 1, "lines while it fails")
		w.publish("m1")
		w.pass(2 * time.Minute)
		check.Equal(t, w.health().State, observe.StateRunning)
		check.Equal(t, w.health().Reason, "")
		check.Equal(t, w.ids(), []string{"m1"})
		check.Equal(t, len(w.logs.with("INFO subscription running")), 2, "lines about running")
		var states []observe.State
		for _, e := range w.diary.of(observe.StateChanged) {
			states = append(states, e.State)
		}
		check.Equal(t, states, []observe.State{observe.StateStarting, observe.StateRunning, observe.StateRetrying, observe.StateRunning})
	})
}

func TestReopeningIsNoHotLoop(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
		w.run()
		w.b.Fail(memory.OpReceive, errors.New("connection reset"), 1000)
		w.pass(10 * time.Minute)
		tries := len(w.diary.of(observe.StateChanged)) / 2
		check.True(t, tries > 10 && tries < 40, fmt.Sprint("tries: ", tries))
	})
}

func TestLongHandlerOutlivesAReopening(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.takes(10*time.Minute), holdfast.Concurrency(2))
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		w.b.Fail(memory.OpReceive, errors.New("connection reset"), 1)
		w.publish("m2")
		w.pass(time.Hour)
		check.Equal(t, w.counts(), observe.Counts{Received: 2, Attempts: 2, Handled: 2})
		w.idle()
	})
}

func TestBrokerThatIsGoneForAWhileIsVisibleAndNothingIsLost(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.takes(5*time.Second))
		w.run()
		w.publish("m1", "m2")
		w.pass(time.Second)
		w.b.Disconnect(errors.New("cable cut"))
		w.pass(10 * time.Second)
		check.Equal(t, w.health().State, observe.StateRetrying)
		check.True(t, strings.Contains(w.health().Reason, "cable cut"), "reason "+w.health().Reason)
		w.b.Reconnect()
		w.pass(2 * time.Minute)
		check.Equal(t, w.health().State, observe.StateRunning)
		check.Equal(t, w.counts().Handled, 2)
		check.Equal(t, len(w.logs.with("subscription retrying")), 1)
		w.idle()
	})
}

func TestDeadLetterThatCannotBeStoredIsNeverAckedNorHandledAgain(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			if m.Body == "bad" {
				return holdfast.Permanent(errFlaky)
			}
			return nil
		})
		w.run()
		w.b.Fail(memory.OpBury, errors.New("store is full"), 40)
		w.publish("bad")
		w.pass(time.Minute)
		w.publish("good")
		w.pass(2 * time.Minute)
		check.Equal(t, w.ids(), []string{"bad", "good"}, "the handler of the dead one ran once, others go on")
		check.Equal(t, w.b.Len("orders"), 1, "it is still there")
		check.Equal(t, w.health().State, observe.StateStuck)
		check.True(t, strings.Contains(w.health().Reason, "store is full"), "reason "+w.health().Reason)
		tries := len(w.diary.of(observe.BurialFailed))
		check.True(t, tries >= 2 && tries <= 20, fmt.Sprint("burials tried: ", tries))
		check.Equal(t, len(w.logs.with("subscription stuck")), 1)
		w.pass(time.Hour)
		check.Equal(t, w.letter().MessageID, "bad")
		check.Equal(t, w.letter().Attempts, 1)
		check.Equal(t, w.letter().Error, "flaky dependency")
		check.Equal(t, w.health().State, observe.StateRunning)
		check.Equal(t, w.ids(), []string{"bad", "good"})
		check.Equal(t, w.counts().Dead, 1)
		w.idle()
	})
}

func TestBuriedMessageThatComesBackIsNotBuriedTwice(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(holdfast.Permanent(errFlaky)))
		w.run()
		w.b.Fail(memory.OpAck, errors.New("no answer"), 100) // longer than a settlement tries
		w.publish("m1")
		w.pass(20 * time.Second)
		check.Equal(t, len(w.letters()), 1)
		check.NoError(t, w.b.DeadLetters().Remove(t.Context(), first(t, w.b).Key), "somebody looks after it meanwhile")
		w.pass(time.Hour)
		check.Equal(t, len(w.letters()), 0, "it stays removed")
		check.Equal(t, len(w.seen()), 1, "runs of the handler")
		check.Equal(t, w.counts().Dead, 1)
		check.Equal(t, w.counts().Handled, 0)
		check.Equal(t, len(w.logs.with("ERROR message dead-lettered")), 1)
		w.idle()
	})
}

// first returns the first dead letter as it is stored.
func first(t *testing.T, b *memory.Broker) transport.StoredLetter {
	t.Helper()
	for l, err := range b.DeadLetters().Letters(t.Context(), transport.LetterFilter{}) {
		check.NoError(t, err)
		return l
	}
	t.Fatal("there is no dead letter")
	return transport.StoredLetter{}
}

func TestBurialWhoseAnswerIsLostIsBuriedOnce(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(holdfast.Permanent(errFlaky)))
		w.run()
		w.b.LoseAnswer(memory.OpBury, errors.New("connection reset"), 3)
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, len(w.letters()), 1)
		check.Equal(t, w.counts().Dead, 1)
		w.idle()
	})
}

func TestSuccessWhoseAckFailsIsNotHandledAgainInThisProcess(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error
		counts observe.Counts
	}{
		"success": {nil, observe.Counts{Received: 2, Attempts: 1, Handled: 1}},
		"discard": {holdfast.Discard(errFlaky), observe.Counts{Received: 2, Attempts: 1, Discarded: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				holdfast.Handle(w.app, w.queue("orders"), w.fails(c.err))
				w.run()
				w.b.Fail(memory.OpAckLater, errors.New("no answer"), 1)
				w.b.Fail(memory.OpAck, errors.New("no answer"), 14) // as often as one settlement tries
				w.publish("m1")
				w.pass(time.Hour)
				check.Equal(t, len(w.seen()), 1, "runs of the handler")
				check.Equal(t, w.counts(), c.counts)
				check.Equal(t, len(w.diary.of(observe.SettleFailed)), 1)
				w.idle()
			})
		})
	}
}

func TestSettlementIsTriedAgainBeforeItIsGivenUp(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.failsTimes(1, errFlaky), slow())
		w.run()
		w.b.Fail(memory.OpNack, errors.New("no answer"), 5)
		w.b.Fail(memory.OpAckLater, errors.New("no answer"), 1)
		w.b.Fail(memory.OpAck, errors.New("no answer"), 5)
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, w.counts(), observe.Counts{Received: 2, Attempts: 2, Retried: 1, Handled: 1})
		check.Equal(t, len(w.diary.of(observe.SettleFailed)), 0)
		w.idle()
	})
}

func TestStateOfTheTransportReachesHealth(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := newsSource{w.queue("orders"), &newsTransport{Broker: w.b}}
		holdfast.Handle(w.app, src, w.fails(nil))
		w.run()
		src.t.tell(transport.Event{Kind: transport.Dropped, Count: 7, Subscription: "orders"})
		check.Equal(t, w.counts().Dropped, 7)
		src.t.tell(transport.Event{Kind: transport.Dropped, Count: 7, Subscription: "somebody else"})
		check.Equal(t, w.counts().Dropped, 7)
		src.t.tell(transport.Event{Kind: transport.Stalled, Detail: "no messages for a minute"})
		check.Equal(t, w.health().State, observe.StateStuck)
		check.Equal(t, w.health().Reason, "stalled: no messages for a minute")
		src.t.tell(transport.Event{Kind: transport.Flowing})
		check.Equal(t, w.health().State, observe.StateRunning)
		src.t.tell(transport.Event{Kind: transport.Recreated, Detail: "consumer orders"})
		check.Equal(t, len(w.logs.with("recreated")), 1)
		check.Equal(t, len(w.diary.of(observe.TransportNews)), 4)
		check.NoError(t, w.end())
		check.True(t, src.t.stopped, "nobody listens after Run")
	})
}

// newsTransport is a broker whose news a test makes up.
type newsTransport struct {
	*memory.Broker
	fn      func(transport.Event)
	stopped bool
}

func (n *newsTransport) Observe(fn func(transport.Event)) func() {
	n.fn = fn
	return func() { n.stopped = true }
}

func (n *newsTransport) tell(e transport.Event) { n.fn(e) }

func (n *newsTransport) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	return n.Broker.Check(ctx, src.(newsSource).Source, want)
}

func (n *newsTransport) Provision(ctx context.Context, src transport.Source, want transport.Want) (transport.Report, error) {
	return n.Broker.Provision(ctx, src.(newsSource).Source, want)
}

func (n *newsTransport) Open(ctx context.Context, src transport.Source, want transport.Want) (transport.Receiver, error) {
	return n.Broker.Open(ctx, src.(newsSource).Source, want)
}

type newsSource struct {
	transport.Source
	t *newsTransport
}

func (s newsSource) Transport() transport.Transport { return s.t }

func TestEventsOfAMessageComeInTheirOrderAndHoldNoBody(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errors.New("flaky")), holdfast.Retry{Attempts: 3, Immediate: 1, Backoff: holdfast.Constant(time.Second)})
		w.run()
		w.send("orders.placed", &transport.Message{ID: "m1", Body: []byte("the secret"), Header: transport.Header{"X-Token": {"hidden"}}})
		w.pass(time.Minute)
		check.NoError(t, w.end())
		var story []string
		for _, e := range w.diary.all() {
			line := fmt.Sprintf("%s %s #%d/%d", e.Kind, e.MessageID, e.Attempt, e.Deliveries)
			switch e.Kind {
			case observe.StateChanged:
				line = "state " + string(e.State)
			case observe.Settled:
				line += " " + e.Verdict.Action.String()
			}
			story = append(story, line)
			if text := fmt.Sprintf("%+v", e); strings.Contains(text, "secret") || strings.Contains(text, "hidden") {
				t.Errorf("the event tells too much: %s", text)
			}
			check.Equal(t, e.Subscription, "orders")
			check.True(t, !e.Time.IsZero(), "the event has a time")
		}
		check.Equal(t, story, []string{
			"state starting", "state running",
			"attempted m1 #1/1", "attempted m1 #2/1", "settled m1 #2/1 retry later",
			"attempted m1 #3/2", "settled m1 #3/2 dead letter",
			"state stopping", "state stopped",
		})
		check.Equal(t, len(w.logs.with("secret"))+len(w.logs.with("hidden")), 0, "log lines with a body or a header")
	})
}

func TestRetriesWriteNoLogLines(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.failsTimes(50, errFlaky), holdfast.Retry{Attempts: 100, Immediate: 10, Backoff: holdfast.Constant(time.Second)})
		w.run()
		before := len(w.logs.with(""))
		w.publish("m1")
		w.pass(time.Hour)
		check.Equal(t, len(w.logs.with("")), before)
	})
}

func TestConcurrencyIsBoundedExactly(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3, 16} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				holdfast.Handle(w.app, w.queue("orders"), w.takes(time.Minute), holdfast.Concurrency(n))
				w.run()
				for i := range 40 {
					w.publish(fmt.Sprint("m", i))
				}
				synctest.Wait()
				check.Equal(t, w.health().InFlight, n)
				check.True(t, w.b.Stats("orders").Leased <= 2*n, "no more is held than there is room for")
				w.pass(time.Minute)
				check.Equal(t, w.health().InFlight, n)
				w.pass(time.Hour)
				check.Equal(t, w.counts().Handled, 40)
			})
		})
	}
}

func TestHealthAsJSON(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), holdfast.NoRetry())
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		text, err := json.MarshalIndent(w.app.Health(), "", " ")
		check.NoError(t, err)
		check.Equal(t, string(text), `{
 "healthy": true,
 "subscriptions": [
  {
   "subscription": "orders",
   "source": "memory queue orders on orders.\u003e",
   "state": "running",
   "since": "2000-01-01T00:00:00Z",
   "counts": {
    "received": 1,
    "attempts": 1,
    "handled": 0,
    "retried": 0,
    "dead": 1,
    "discarded": 0,
    "rejected": 0,
    "returned": 0,
    "dropped": 0,
    "leases_lost": 0
   },
   "in_flight": 0,
   "hung": 0,
   "waiting": 0
  }
 ]
}`)
	})
}
