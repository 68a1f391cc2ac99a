package integration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// taker takes messages and acks each until that is confirmed.
type taker struct {
	rx    transport.Receiver
	ended chan struct{}

	mu    sync.Mutex
	acked map[string]int // how often an ack of this body was confirmed
}

// take provisions and opens a source on a transport of its own.
func (c *natsCluster) take(cfg jetstream.ConsumerConfig) *taker {
	c.Helper()
	js := c.dial()
	cfg.StreamConfig = &natsjs.StreamConfig{Name: "LOG", Subjects: []string{"log.>"}, Replicas: 3}
	src, want := js.Consumer(cfg), transport.Want{Subscription: cfg.Durable, Concurrency: 1, Prefetch: 7, Redelivery: true, Delay: true, MaxDelay: time.Second}
	k := &taker{ended: make(chan struct{}), acked: map[string]int{}}
	eventually(c.T, time.Minute, "the consumer "+cfg.Durable, func() bool {
		ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
		defer cancel()
		if _, err := js.Provision(ctx, src, want); err != nil {
			return false
		}
		var err error
		k.rx, err = js.Open(ctx, src, want)
		return err == nil
	})
	go k.run(c.Context())
	c.Cleanup(func() { k.close() })
	return k
}

func (k *taker) run(ctx context.Context) {
	defer close(k.ended)
	for {
		d, err := k.rx.Receive(ctx)
		if err != nil {
			return
		}
		for {
			err := d.Ack(ctx)
			if err == nil {
				k.mu.Lock()
				k.acked[string(d.Message().Body)]++
				k.mu.Unlock()
			}
			if err == nil || ctx.Err() != nil || errors.Is(err, transport.ErrLeaseLost) {
				break
			}
		}
	}
}

// close is a clean stop of a member.
func (k *taker) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = k.rx.Close(ctx) // in a cluster that lost its leader it may end unconfirmed
	<-k.ended
}

// count returns how many bodies were acked, and whether one was more than once.
func (k *taker) count() (bodies int, twice string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for body, n := range k.acked {
		if n > 1 {
			twice = body
		}
	}
	return len(k.acked), twice
}

func (k *taker) has(i int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.acked[fmt.Sprint(i)] > 0
}

// write stores bodies until each is confirmed.
func (c *natsCluster) write(js *jetstream.Transport, from, to int) {
	c.Helper()
	for i := from; i < to; i++ {
		body := fmt.Sprint(i)
		eventually(c.T, time.Minute, "a publish", func() bool {
			ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
			defer cancel()
			return js.Publish(ctx, jetstream.Subject(fmt.Sprint("log.", i%6)), &transport.Message{ID: body, Body: []byte(body)}) == nil
		})
	}
}

// TestStartsPausesAndPinsOutliveALeader: three replicas. A durable that began in the
// middle, one that is paused and one with a pinned member lose the leader of their
// stream, and members leave and come: none replays, none is skipped, a pause stays
// until it is ended, and another member takes the pin.
func TestStartsPausesAndPinsOutliveALeader(t *testing.T) {
	t.Parallel()
	c := newNATSCluster(t)
	js := c.dial()
	// The first durable makes the stream.
	all := c.take(jetstream.ConsumerConfig{Durable: "all", Start: jetstream.StartAll()})
	c.write(js, 0, 60)
	eventually(t, time.Minute, "all to be taken", func() bool { n, _ := all.count(); return n == 60 })

	middle := jetstream.ConsumerConfig{Durable: "middle", Start: jetstream.StartSequence(31)}
	paused := jetstream.ConsumerConfig{Durable: "paused", Start: jetstream.StartLastPerSubject(), Subjects: []string{"log.>"}}
	pinned := jetstream.ConsumerConfig{
		Durable: "pinned", Start: jetstream.StartNew(),
		Consumer: &natsjs.ConsumerConfig{PriorityPolicy: natsjs.PriorityPolicyPinned, PriorityGroups: []string{"g"}, PinnedTTL: 3 * time.Second},
	}
	first := c.take(middle)
	eventually(t, time.Minute, "the second half", func() bool { n, _ := first.count(); return n == 30 })
	sleeper := c.take(paused)
	eventually(t, time.Minute, "the last of each subject", func() bool { n, _ := sleeper.count(); return n == 6 })
	pausing := js.Consumer(jetstream.ConsumerConfig{Stream: "LOG", Durable: "paused"})
	eventually(t, time.Minute, "the pause", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return js.Pause(ctx, pausing, time.Now().Add(time.Hour)) == nil
	})
	one, two := c.take(pinned), c.take(pinned)

	first.close()
	victim := c.leader(js.JetStream(), "LOG")
	c.kill(victim)
	c.write(js, 60, 90)
	second := c.take(middle)
	eventually(t, 2*time.Minute, "all to be taken, the rest of the middle, and what is pinned", func() bool {
		n, _ := all.count()
		m, _ := second.count()
		p, _ := one.count()
		q, _ := two.count()
		return n == 90 && m == 30 && p+q >= 30
	})
	for i := range 90 {
		if i < 60 && second.has(i) || i >= 60 && !second.has(i) || i < 30 && first.has(i) {
			t.Errorf("message %d: taken before the kill: %v, and after it: %v", i, first.has(i), second.has(i))
		}
		if i >= 60 && !one.has(i) && !two.has(i) {
			t.Errorf("no pinned member has message %d", i)
		}
	}
	if n, _ := sleeper.count(); n != 6 {
		t.Errorf("the paused consumer handed out %d messages", n)
	}
	// The member that is pinned leaves, and the other goes on.
	p, _ := one.count()
	leaver, heir := one, two
	if q, _ := two.count(); q > p {
		leaver, heir = two, one
	}
	c.start(victim)
	leaver.close()
	c.write(js, 90, 100)
	eventually(t, 2*time.Minute, "the other member to take over", func() bool {
		for i := 90; i < 100; i++ {
			if !heir.has(i) && !leaver.has(i) {
				return false
			}
		}
		return true
	})
	eventually(t, time.Minute, "the pause to end", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return js.Resume(ctx, pausing) == nil
	})
	eventually(t, 2*time.Minute, "what was kept back", func() bool { n, _ := sleeper.count(); return n == 46 })
	for what, k := range map[string]*taker{"all": all, "first": first, "second": second, "paused": sleeper} {
		if _, twice := k.count(); twice != "" {
			t.Errorf("%s was handed message %s again after its ack was confirmed", what, twice)
		}
	}
}
