package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// member is one of several programs on one durable with a priority policy.
type member struct {
	rx  transport.Receiver
	got chan string
}

// join opens a member on a connection of its own, which acks all that it gets.
func (w *jsWorld) join(policy natsjs.PriorityPolicy, p jetstream.PriorityConfig) *member {
	w.Helper()
	js, _ := w.connect(w.server.URL())
	native := natsjs.ConsumerConfig{PriorityPolicy: policy, PriorityGroups: []string{"g"}}
	if policy == natsjs.PriorityPolicyPinned {
		native.PinnedTTL = brief
	}
	src := js.Consumer(jetstream.ConsumerConfig{
		Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing", Start: jetstream.StartAll(),
		AckWait: lease, Consumer: &native, Priority: p,
	})
	if found, err := js.Check(w.ctx, src, want(3)); err != nil || hasErrors(found) {
		w.Fatalf("check: %v %s", err, describe(found))
	}
	if _, err := js.Provision(w.ctx, src, want(3)); err != nil {
		w.Fatal(err)
	}
	rx, err := js.Open(w.ctx, src, want(3))
	if err != nil {
		w.Fatal(err)
	}
	m := &member{rx: rx, got: make(chan string, 1000)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			d, err := rx.Receive(w.ctx)
			if err != nil {
				return
			}
			if d.Ack(w.ctx) == nil {
				m.got <- string(d.Message().Body)
			}
		}
	}()
	w.Cleanup(func() {
		_ = rx.Close(context.Background())
		<-ended
	})
	return m
}

func (w *jsWorld) leave(m *member) {
	w.Helper()
	if err := m.rx.Close(w.ctx); err != nil {
		w.Fatal(err)
	}
}

// send stores n messages.
func (w *jsWorld) send(n int) {
	w.Helper()
	for i := range n {
		w.foreign("orders.a", "", fmt.Sprint(i))
	}
}

// handled waits until the members have handled n messages together since they
// were last asked, and returns how many each has.
func (w *jsWorld) handled(n int, members ...*member) []int {
	w.Helper()
	eventually(w.T, fmt.Sprintf("%d messages are handled", n), func() bool {
		sum := 0
		for _, m := range members {
			sum += len(m.got)
		}
		return sum >= n
	})
	hold(w.ctx, 100*time.Millisecond)
	var counts []int
	for _, m := range members {
		counts = append(counts, len(m.got))
		for range counts[len(counts)-1] {
			<-m.got
		}
	}
	return counts
}

// One member of a pinned consumer gets all; another takes over when it is gone,
// or when somebody unpins it.
func TestJetStreamPinnedConsumerServesOneMember(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	first := w.join(natsjs.PriorityPolicyPinned, jetstream.PriorityConfig{})
	w.send(1)
	w.handled(1, first)
	second := w.join(natsjs.PriorityPolicyPinned, jetstream.PriorityConfig{Group: "g"})
	w.send(40)
	if n := w.handled(40, first, second); n[0] != 40 || n[1] != 0 {
		t.Fatalf("the members got %v", n)
	}
	s, err := w.js.JetStream().Stream(w.ctx, "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := s.UnpinConsumer(w.ctx, "billing", "g"); err != nil {
			t.Fatal(err)
		}
		w.send(20)
		if n := w.handled(20, first, second); n[0]+n[1] != 20 {
			t.Fatalf("after the unpinning the members got %v", n)
		}
	}
	w.leave(first)
	w.send(10)
	if n := w.handled(10, second); n[0] != 10 {
		t.Fatalf("the second member got %v", n)
	}
	third := w.join(natsjs.PriorityPolicyPinned, jetstream.PriorityConfig{})
	w.send(10)
	if n := w.handled(10, second, third); n[0] != 10 || n[1] != 0 {
		t.Fatalf("with a third member they got %v", n)
	}
	if info := w.consumer("ORDERS", "billing"); info.NumAckPending != 0 || info.NumRedelivered != 0 {
		t.Fatalf("pending %d, redelivered %d", info.NumAckPending, info.NumRedelivered)
	}
}

func TestJetStreamOverflowAndPrioritizedMembers(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	spare := w.join(natsjs.PriorityPolicyOverflow, jetstream.PriorityConfig{MinPending: 10})
	w.send(5)
	hold(w.ctx, 300*time.Millisecond)
	if n := len(spare.got); n != 0 {
		t.Fatalf("%d went over although only 5 waited", n)
	}
	w.send(6)
	eventually(t, "some go over", func() bool { return len(spare.got) > 0 })
	w.leave(spare)

	v := newJSWorld(t)
	near := v.join(natsjs.PriorityPolicyPrioritized, jetstream.PriorityConfig{})
	far := v.join(natsjs.PriorityPolicyPrioritized, jetstream.PriorityConfig{Priority: 5})
	for range 10 {
		v.send(1)
		if n := v.handled(1, near, far); n[0] != 1 {
			t.Fatalf("the members got %v", n)
		}
	}
	v.leave(near)
	v.send(10)
	if n := v.handled(10, far); n[0] != 10 {
		t.Fatalf("the far member got %v", n)
	}
}

// A consumer that somebody made with a priority policy is adopted as it is; what
// does not fit it is refused.
func TestJetStreamPriorityGroupThatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	if _, err := w.js.JetStream().CreateConsumer(w.ctx, "ORDERS", natsjs.ConsumerConfig{
		Durable: "billing", FilterSubject: "orders.>", MaxDeliver: -1, AckWait: lease, MaxAckPending: 50_000,
		PriorityPolicy: natsjs.PriorityPolicyOverflow, PriorityGroups: []string{"g"},
	}); err != nil {
		t.Fatal(err)
	}
	verify := func(p jetstream.PriorityConfig) transport.Source {
		return w.source(func(c *jetstream.ConsumerConfig) { c.Mode, c.Priority = jetstream.ModeVerify, p })
	}
	rx := w.started(verify(jetstream.PriorityConfig{}), want(1))
	w.publish("orders.a", 3)
	for range 3 {
		w.ack(w.receive(rx))
	}
	for _, p := range []jetstream.PriorityConfig{{Group: "h"}, {Priority: 3}, {MinPending: -1}} {
		found, err := w.js.Check(w.ctx, verify(p), want(1))
		if err != nil || len(findings(found, transport.CodeInvalid)) != 1 {
			t.Errorf("%+v: %v %s", p, err, describe(found))
		}
		if _, err := w.js.Open(w.ctx, verify(p), want(1)); err == nil {
			t.Errorf("%+v was opened", p)
		}
	}
	if found, err := w.js.Check(w.ctx, w.source(func(c *jetstream.ConsumerConfig) { c.Durable, c.Priority.Group = "plain", "g" }), want(1)); err != nil || len(findings(found, transport.CodeInvalid)) != 1 {
		t.Errorf("a group without a policy: %v %s", err, describe(found))
	}
}
