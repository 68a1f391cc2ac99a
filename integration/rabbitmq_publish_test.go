package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// Trap 50. Trap 51: with many in flight.
func TestRabbitMQPublishThatIsReturnedIsNeverASuccess(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	w.exchange(w.name, "topic", "good.#")
	var good, returned atomic.Int64
	var wg sync.WaitGroup
	for i := range 300 {
		key := "good.x"
		if i%2 == 1 {
			key = "wrong.x"
		}
		wg.Go(func() {
			err := w.rmq.Publish(w.soon(), rabbitmq.Exchange(w.name, key), &transport.Message{ID: fmt.Sprint(i)})
			switch {
			case err == nil && key == "good.x":
				good.Add(1)
			case errors.Is(err, transport.ErrUnroutable) && key != "good.x":
				returned.Add(1)
			default:
				t.Errorf("publish to %s: %v", key, err)
			}
		})
	}
	wg.Wait()
	if n := w.depth(w.raw(), w.name); n != 150 || good.Load() != 150 || returned.Load() != 150 {
		t.Errorf("%d succeeded, %d were returned, %d are there", good.Load(), returned.Load(), n)
	}
}

// One publish to a missing exchange, among good ones on the same connection,
// fails alone; also when the exchange was there before. Trap 52.
func TestRabbitMQPublishToAMissingExchangeFailsAlone(t *testing.T) {
	t.Parallel()
	for _, deleted := range []bool{false, true} {
		t.Run(fmt.Sprintf("deleted=%v", deleted), func(t *testing.T) {
			t.Parallel()
			w := newRabbitWorld(t, rabbittest.Shared(t))
			w.queue(nil)
			missing := w.name + "-missing"
			if deleted {
				w.exchange(missing, "fanout", "")
				if err := w.rmq.Publish(w.soon(), rabbitmq.Exchange(missing, ""), w.message("while it is there")); err != nil {
					t.Fatal(err)
				}
				if err := w.raw().ExchangeDelete(missing, false, false); err != nil {
					t.Fatal(err)
				}
			}
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					to := rabbitmq.QueueAddress(w.name)
					if i == 50 {
						to = rabbitmq.Exchange(missing, "")
					}
					m := &transport.Message{ID: fmt.Sprint(i)}
					err := w.rmq.Publish(w.soon(), to, m)
					for err != nil && transport.KindOf(err) == transport.Unknown { // as the engine does
						err = w.rmq.Publish(w.soon(), to, m)
					}
					if i == 50 {
						w.refused(err, transport.ErrUnroutable, transport.Temporary)
					} else if err != nil {
						t.Errorf("a good publish: %v", err)
					}
				})
			}
			wg.Wait()
			seen := map[string]bool{}
			rx := w.open(w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name}), 10)
			for len(seen) < 99 {
				d := w.receive(rx)
				if len(d.Message().ID) < 3 {
					seen[d.Message().ID] = true
				}
				w.ack(d)
			}
		})
	}
}

// Trap 59.
func TestRabbitMQFullQueueIsTemporary(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(func(c *rabbitmq.QueueConfig) {
		c.Type = rabbitmq.Classic
		c.Arguments = amqp.Table{"x-max-length": int64(2), "x-overflow": "reject-publish"}
	})
	w.publish("one")
	w.publish("two")
	err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), w.message("three"))
	if err == nil || transport.KindOf(err) != transport.Temporary || !strings.Contains(err.Error(), "full") {
		t.Errorf("publish to a full queue: %v", err)
	}
}

// Trap 65.
func TestRabbitMQLargeMessagesAndHeadersArriveWhole(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(nil)
	rx := w.open(src, 1)
	for _, size := range []int{0, 131_064, 131_072, 131_073, 16 << 20} {
		for _, header := range []int{0, 60_000} {
			m := w.message("")
			m.Body = bytes.Repeat([]byte{7}, size)
			m.Header = transport.Header{"Large": {strings.Repeat("h", header)}}
			if err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), m); err != nil {
				t.Fatalf("%d bytes and a header of %d: %v", size, header, err)
			}
			d := w.receive(rx)
			if !bytes.Equal(d.Message().Body, m.Body) || d.Message().Header.Get("Large") != m.Header.Get("Large") {
				t.Errorf("%d bytes and a header of %d arrived as %d and %d", size, header, len(d.Message().Body), len(d.Message().Header.Get("Large")))
			}
			w.ack(d)
		}
	}
	for _, bad := range []*transport.Message{
		{ID: "expiration", Header: transport.Header{rabbitmq.Expiration: {"5s"}}},
		{ID: "headers", Header: transport.Header{"Large": {strings.Repeat("h", 200_000)}}},
		{ID: "header name", Header: transport.Header{strings.Repeat("h", 300): {"v"}}},
		{ID: "broker", Header: transport.Header{"x-death": {"forged"}}},
	} {
		if err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), bad); transport.KindOf(err) != transport.Permanent || err == nil {
			t.Errorf("%s: %v", bad.ID, err)
		}
	}
	m := w.publish("the channel is alive")
	if d := w.receive(rx); d.Message().ID != m.ID {
		t.Errorf("got %q", d.Message().ID)
	}
}

// A message the server refuses for what it is ends the channel it comes by. The
// next one to this exchange goes alone, and so the culprit fails and no other.
func TestRabbitMQPoisonPublishFailsAlone(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			m := &transport.Message{ID: fmt.Sprint(i)}
			if i == 30 {
				m.Header = transport.Header{rabbitmq.UserID: {"somebody-else"}}
			}
			var err error
			// Tried again after a pause, as the engine does: without one all of
			// them, the culprit among them, would be in flight again at once.
			for deadline := time.Now().Add(rabbitPatience); time.Now().Before(deadline); {
				if err = w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), m); err == nil || transport.KindOf(err) == transport.Permanent {
					break
				}
				<-time.After(rand.N(100 * time.Millisecond))
			}
			if i == 30 {
				w.refused(err, transport.ErrInvalid, transport.Permanent)
			} else if err != nil {
				t.Errorf("a good publish: %v", err)
			}
		})
	}
	wg.Wait()
}

// A network that swallows everything: no publish is reported as stored, and once
// the heartbeat has found out, publishing goes on. Trap 62.
func TestRabbitMQHalfOpenConnectionIsFoundOut(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t), rabbitmq.WithHeartbeat(5*time.Second), rabbitmq.WithConfirmTimeout(10*time.Second))
	w.queue(nil)
	lost := rabbitEvents(t, w.rmq, transport.Disconnected)
	thaw := w.proxy.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	err := w.rmq.Publish(ctx, rabbitmq.QueueAddress(w.name), w.message("swallowed"))
	if err == nil || transport.KindOf(err) != transport.Unknown {
		t.Errorf("publish into the void: %v", err)
	}
	rabbitAwait(t, lost, "the silence is found out")
	thaw()
	w.eventually("publishing works again", func() bool {
		return w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), w.message("after")) == nil
	})
}

// Trap 58.
func TestRabbitMQDeclaringUnderLoadDisturbsNoPublish(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 200 {
				if err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), &transport.Message{ID: fmt.Sprint(i), Body: make([]byte, 4096)}); err != nil {
					t.Errorf("publish: %v", err)
					return
				}
			}
		})
	}
	for range 5 {
		if _, err := w.rmq.Provision(w.soon(), src, w.want()); err != nil {
			t.Errorf("provision: %v", err)
		}
	}
	wg.Wait()
}
