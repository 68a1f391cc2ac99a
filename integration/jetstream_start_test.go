package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// six are the messages that lie in the stream before a consumer is made: bodies
// 1 to 6 at the sequences 1 to 6.
var six = []string{"orders.a", "orders.b", "orders.a", "orders.c", "orders.b", "orders.a"}

func (w *jsWorld) storeSix() {
	w.Helper()
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	for i, subject := range six {
		w.foreign(subject, "", fmt.Sprint(i+1))
	}
}

// start is a start position, and what of the six comes then.
type start struct {
	name   string
	policy jetstream.StartPolicy
	bodies string
}

func (w *jsWorld) starts() []start {
	w.Helper()
	s, err := w.js.JetStream().Stream(w.ctx, "ORDERS")
	if err != nil {
		w.Fatal(err)
	}
	fourth, err := s.GetMsg(w.ctx, 4)
	if err != nil {
		w.Fatal(err)
	}
	return []start{
		{"all", jetstream.StartAll(), "1 2 3 4 5 6"},
		{"new", jetstream.StartNew(), ""},
		{"last", jetstream.StartLast(), "6"},
		{"last-per-subject", jetstream.StartLastPerSubject(), "4 5 6"},
		{"sequence", jetstream.StartSequence(3), "3 4 5 6"},
		{"time", jetstream.StartTime(fourth.Time), "4 5 6"},
	}
}

// take acks n messages and returns their bodies, in the order they came.
func (w *jsWorld) take(rx transport.Receiver, n int) string {
	w.Helper()
	var bodies []string
	for range n {
		d := w.receive(rx)
		bodies = append(bodies, string(d.Message().Body))
		w.ack(d)
	}
	return strings.Join(bodies, " ")
}

// P7: a durable begins where it was told, once. Whatever happens then, nothing
// that was handled is handed out again, and nothing that comes is missed.
func TestJetStreamNothingReplays(t *testing.T) {
	t.Parallel()
	for name, happens := range map[string]func(w *jsWorld, src transport.Source, rx transport.Receiver) transport.Receiver{
		"Restart": func(w *jsWorld, src transport.Source, rx transport.Receiver) transport.Receiver {
			if err := rx.Close(w.ctx); err != nil {
				w.Fatal(err)
			}
			return w.started(src, want(3))
		},
		"Crash": func(w *jsWorld, src transport.Source, rx transport.Receiver) transport.Receiver {
			rx.(interface{ Abandon() }).Abandon()
			return w.started(src, want(3))
		},
		"Reconnect": func(w *jsWorld, _ transport.Source, rx transport.Receiver) transport.Receiver {
			before := w.events.count(transport.Reconnected)
			w.server.CutClients()
			eventually(w.T, "the connection is back", func() bool { return w.events.count(transport.Reconnected) > before })
			return rx
		},
		"ServerRestart": func(w *jsWorld, _ transport.Source, rx transport.Receiver) transport.Receiver {
			w.server.Restart()
			w.retry("the server is back", func(ctx context.Context) error {
				_, err := w.js.JetStream().Stream(ctx, "ORDERS")
				return err
			})
			return rx
		},
		"DeletedConsumer": func(w *jsWorld, src transport.Source, rx transport.Receiver) transport.Receiver {
			before := w.events.count(transport.Recreated)
			if err := w.js.JetStream().DeleteConsumer(w.ctx, "ORDERS", src.Name()); err != nil {
				w.Fatal(err)
			}
			eventually(w.T, "the consumer is made again", func() bool { return w.events.count(transport.Recreated) > before })
			return rx
		},
		"SecondMember": func(w *jsWorld, src transport.Source, rx transport.Receiver) transport.Receiver {
			second := w.started(src, want(3))
			w.nothing(second, 200*time.Millisecond)
			// It stays, and the first one leaves: what comes is the second one's.
			if err := rx.Close(w.ctx); err != nil {
				w.Fatal(err)
			}
			return second
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newJSWorld(t)
			w.storeSix()
			for i, s := range w.starts() {
				src := w.source(func(c *jetstream.ConsumerConfig) {
					// Without filters as well, where the server asks last-per-subject for one.
					c.Durable, c.Start, c.AckWait, c.Subjects = s.name, s.policy, 20*time.Second, nil
					if i%2 == 0 {
						c.Subjects = []string{"orders.>"}
					}
				})
				rx := w.started(src, want(3))
				if got := w.take(rx, len(strings.Fields(s.bodies))); got != s.bodies {
					t.Fatalf("%s begins with %q, not %q", s.name, got, s.bodies)
				}
				rx = happens(w, src, rx)
				w.foreign("orders.a", "", "after "+s.name)
				if got := w.take(rx, 1); got != "after "+s.name {
					t.Fatalf("%s: %q was handed out again", s.name, got)
				}
				w.nothing(rx, 200*time.Millisecond)
				if err := rx.Close(w.ctx); err != nil {
					t.Fatal(err)
				}
				w.purgeAfter(6)
			}
		})
	}
}

// Several filters: each start means what they select.
func TestJetStreamStartsWithSeveralFilters(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.storeSix()
	for name, bodies := range map[string]string{"all": "1 3 4 6", "last": "6", "last-per-subject": "4 6", "sequence": "3 4 6", "time": "4 6"} {
		for _, s := range w.starts() {
			if s.name != name {
				continue
			}
			several := func(c *jetstream.ConsumerConfig) {
				c.Durable, c.Start, c.Subjects = name, s.policy, []string{"orders.a", "orders.c"}
			}
			for _, src := range []transport.Source{w.source(several), w.ordered(several, func(c *jetstream.ConsumerConfig) { c.Durable = "" })} {
				rx := w.started(src, want(1))
				if got := w.take(rx, len(strings.Fields(bodies))); got != bodies {
					t.Errorf("%s begins with %q, not %q", src, got, bodies)
				}
				w.nothing(rx, 50*time.Millisecond)
			}
		}
	}
}

// purgeAfter removes what came after the first messages.
func (w *jsWorld) purgeAfter(seq uint64) {
	w.Helper()
	s, err := w.js.JetStream().Stream(w.ctx, "ORDERS")
	if err != nil {
		w.Fatal(err)
	}
	info, err := s.Info(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	for ; seq < info.State.LastSeq; seq++ {
		if err := s.DeleteMsg(w.ctx, seq+1); err != nil && !errors.Is(err, natsjs.ErrMsgNotFound) && seq+1 == info.State.LastSeq {
			w.Fatal(err)
		}
	}
}

// P7: members of one durable share what comes; each message goes to one of them
// and none begins anew when it joins.
func TestJetStreamMembersThatJoinReplayNothing(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.storeSix()
	src := w.source(func(c *jetstream.ConsumerConfig) { c.AckWait = 20 * time.Second })
	first := w.started(src, want(0))
	if got := w.take(first, 6); got != "1 2 3 4 5 6" {
		t.Fatalf("the first member got %q", got)
	}
	js, _ := w.connect(w.server.URL())
	joining := js.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing", Start: jetstream.StartAll(), AckWait: 20 * time.Second})
	if _, err := js.Provision(w.ctx, joining, want(0)); err != nil {
		t.Fatal(err)
	}
	second, err := js.Open(w.ctx, joining, want(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = second.Close(context.Background()) })
	for i := range 20 {
		w.foreign("orders.a", "", fmt.Sprint(100+i))
	}
	seen := make(chan string)
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	for _, rx := range []transport.Receiver{first, second} {
		go func() { // ends with ctx; seen is read until all have come
			for {
				d, err := rx.Receive(ctx)
				if err != nil || d.Ack(ctx) != nil {
					return
				}
				select {
				case seen <- string(d.Message().Body):
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	var bodies []string
	for range 20 {
		select {
		case body := <-seen:
			bodies = append(bodies, body)
		case <-time.After(patience):
			t.Fatalf("only %v came", bodies)
		}
	}
	slices.Sort(bodies)
	if len(slices.Compact(bodies)) != 20 || bodies[0] != "100" {
		t.Fatalf("the members got %v", bodies)
	}
}

// Replay speed: with the original one the pauses between messages are kept, and
// a pause is not taken for a consumer that is gone.
func TestJetStreamReplayKeepsThePausesItIsAskedFor(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	const pause = 13 * time.Second // longer than the watchdog of a silent consumer
	w.foreign("orders.a", "", "1")
	hold(w.ctx, pause)
	w.foreign("orders.a", "", "2")
	rx := w.started(w.source(func(c *jetstream.ConsumerConfig) {
		c.Consumer, c.AckWait = &natsjs.ConsumerConfig{ReplayPolicy: natsjs.ReplayOriginalPolicy}, time.Minute
	}), want(3))
	began := time.Now()
	w.take(rx, 1)
	d := w.receive(rx)
	if took := time.Since(began); took < pause-time.Second || d.Deliveries() != 1 {
		t.Fatalf("the second message came after %s, delivery %d", took, d.Deliveries())
	}
	w.ack(d)
	instant := w.started(w.source(func(c *jetstream.ConsumerConfig) { c.Durable = "instant" }), want(3))
	began = time.Now()
	if w.take(instant, 2); time.Since(began) > pause {
		t.Fatalf("an instant replay took %s, as long as the pause", time.Since(began))
	}
}
