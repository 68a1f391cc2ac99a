package integration_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/rabbitmq"
)

// What a foreign client sent under an ID of its own is known again from its first
// delivery on: an early RetryAfter does not cost the immediate retries that were
// not used, neither held for a moment nor parked.
func TestRabbitMQForeignMessageWithAnIDIsChargedWhatItRan(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]time.Duration{"held": 20 * time.Millisecond, "parked": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newRabbitWorld(t, rabbittest.Shared(t))
			cfg := rabbitmq.QueueConfig{Name: w.name}
			w.queue(nil)
			foreign := amqp.Publishing{MessageId: "theirs", Body: []byte("one"), ContentType: "text/plain"}
			if err := w.raw().Publish("", w.name, true, false, foreign); err != nil {
				t.Fatal(err)
			}
			var log rabbitLog
			w.stopped(cfg, func(_ context.Context, m *holdfast.Message[string]) error {
				log.add(fmt.Sprint(m.ID, m.Attempt))
				return holdfast.RetryAfter(errors.New("busy"), pause)
			}, func() {
				w.eventually("the dead letter", func() bool { return len(w.letters()) == 1 })
			}, holdfast.Retry{Attempts: 5, Immediate: 2, Backoff: holdfast.Constant(pause)})
			if got := fmt.Sprint(log.all()); got != "[theirs1 theirs2 theirs3 theirs4 theirs5]" {
				t.Errorf("the attempts were %s", got)
			}
		})
	}
}

// A message that comes back after it was buried, because its ack was lost, is buried
// again. Under an ID of its sender both are one letter; without one they are two, for
// two messages may be alike, and show by their ID that they may be one.
func TestRabbitMQLettersOfOneForeignMessageAreSeenToBeThat(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]int{"theirs": 1, "": 2} {
		t.Run(fmt.Sprintf("%q", id), func(t *testing.T) {
			t.Parallel()
			w := newRabbitWorld(t, rabbittest.Shared(t))
			rx := w.open(w.queue(nil), 1)
			if err := w.raw().Publish("", w.name, true, false, amqp.Publishing{MessageId: id, Body: []byte("one")}); err != nil {
				t.Fatal(err)
			}
			store := w.rmq.DeadLetters()
			for round := range 2 {
				d := w.receive(rx)
				e := wire.Complete(d.Message(), wire.Envelope{Subscription: w.name, Reason: "permanent"})
				w.eventually("it is buried", func() bool {
					return store.Bury(w.soon(), e.DeadKey(), wire.BuryMessage(d.Message(), e)) == nil
				})
				if round == 0 {
					w.proxy.Cut()
				} else {
					w.ack(d)
				}
			}
			letters := w.letters()
			if len(letters) != want {
				t.Errorf("%d letters, want %d", len(letters), want)
			}
			for _, l := range letters {
				if l.Message.ID != letters[0].Message.ID || l.Message.ID == "" {
					t.Errorf("one is called %q and one %q", l.Message.ID, letters[0].Message.ID)
				}
			}
		})
	}
}
