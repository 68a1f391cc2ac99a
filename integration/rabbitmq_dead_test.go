package integration_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// letters returns the dead letters of the test's subscription.
func (w *rabbitWorld) letters() []transport.StoredLetter {
	w.Helper()
	var out []transport.StoredLetter
	for l, err := range w.rmq.DeadLetters().Letters(w.soon(), transport.LetterFilter{Subscription: w.name}) {
		if err != nil {
			w.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// What the broker itself dead-letters is read with a story: rejected by us, and
// handed out more often than its limit allows.
func TestRabbitMQTheBrokersOwnDeadLettersHaveAStory(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(func(c *rabbitmq.QueueConfig) {
		c.DeliveryLimit = 3
		c.Bindings = []rabbitmq.Binding{{Exchange: w.name, Kind: "topic", Key: "#"}}
	})
	rx := w.open(src, 1)
	rejected, looping := w.message("rejected\x00"), w.message("looping")
	rejected.Header = transport.Header{"Mine": {"1"}}
	for _, m := range []*transport.Message{rejected, looping} {
		if err := w.rmq.Publish(w.soon(), rabbitmq.Exchange(w.name, "orders.placed"), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.receive(rx).(transport.Rejecter).Reject(w.soon(), "no good"); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := w.receive(rx).Nack(w.soon(), 0); err != nil {
			t.Fatal(err)
		}
	}
	w.nothing(rx, 200*time.Millisecond)
	w.eventually("both are dead letters", func() bool { return len(w.letters()) == 2 })
	reasons := map[string]string{}
	for range 3 { // the same each time one looks
		for _, l := range w.letters() {
			e, ok := wire.Decode(l.Message)
			if !ok || e.Subject != "orders.placed" || e.Subscription != w.name || e.DeadKey() != l.Key || e.Failed.IsZero() {
				t.Errorf("the envelope is %+v, the key %v", e, l.Key)
			}
			reasons[l.Message.ID] = e.Reason
		}
	}
	if reasons[rejected.ID] != "rejected" || reasons[looping.ID] != "crash-loop" {
		t.Errorf("the reasons are %v", reasons)
	}
	for _, l := range w.letters() {
		if l.Message.ID == rejected.ID && (string(l.Message.Body) != "rejected\x00" || l.Message.Header.Get("Mine") != "1") {
			t.Errorf("the letter is %+v", l.Message)
		}
		if err := w.rmq.DeadLetters().Remove(w.soon(), l.Key); err != nil {
			t.Error(err)
		}
	}
	if n := len(w.letters()); n != 0 {
		t.Errorf("%d letters are left", n)
	}
}

// Two messages of others that look alike are two dead letters.
func TestRabbitMQLettersThatLookAlikeAreKeptApart(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 1)
	ch := w.raw()
	for range 2 {
		if err := ch.Publish("", w.name, true, false, amqp.Publishing{Body: []byte("tick")}); err != nil {
			t.Fatal(err)
		}
		if err := w.receive(rx).(transport.Rejecter).Reject(w.soon(), ""); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("both are dead letters", func() bool { return len(w.letters()) == 2 })
	if err := w.rmq.DeadLetters().Remove(w.soon(), w.letters()[0].Key); err != nil {
		t.Fatal(err)
	}
	if n := len(w.letters()); n != 1 {
		t.Errorf("%d letters are left of two", n)
	}
}

// A hundred looks do not wear a dead letter out, and an envelope written by the
// engine survives them with headers of every type.
func TestRabbitMQLookingWearsNothingOut(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 1)
	headers := amqp.Table{"when": time.Unix(1_700_000_000, 0), "list": []any{int64(1), "two"}, "CC": []any{}}
	err := w.raw().Publish("", w.name, true, false, amqp.Publishing{
		MessageId: "m", CorrelationId: "c", Type: "t", Expiration: "600000", Headers: headers, Body: []byte("\x00\xff"),
	})
	if err != nil {
		t.Fatal(err)
	}
	d := w.receive(rx)
	e := wire.Complete(d.Message(), wire.Envelope{Subscription: w.name, Reason: "permanent", ErrorText: "no good", Attempts: 1})
	store := w.rmq.DeadLetters()
	if err := store.Bury(w.soon(), e.DeadKey(), wire.BuryMessage(d.Message(), e)); err != nil {
		t.Fatal(err)
	}
	w.ack(d)
	for range 30 {
		if n := len(w.letters()); n != 1 {
			t.Fatalf("there are %d letters", n)
		}
	}
	l := w.letters()[0]
	got, ok := wire.Decode(l.Message)
	if !ok || got.ErrorText != "no good" || got.BodySHA256 != e.BodySHA256 {
		t.Errorf("the envelope is %+v", got)
	}
	// Back to its queue, it is what it was.
	if err := store.Redrive(w.soon(), w.name, wire.RedriveMessage(l.Message, got)); err != nil {
		t.Fatal(err)
	}
	raw := w.receive(rx).(transport.Native).Native().(amqp.Delivery)
	if raw.MessageId != "m" || raw.CorrelationId != "c" || raw.Type != "t" || raw.Expiration != "" || string(raw.Body) != "\x00\xff" {
		t.Errorf("redriven: %+v", raw)
	}
	for _, name := range []string{"when", "list"} {
		if fmt.Sprintf("%#v", raw.Headers[name]) != fmt.Sprintf("%#v", headers[name]) {
			t.Errorf("header %q is %#v, was %#v", name, raw.Headers[name], headers[name])
		}
	}
}

// A dead letter that cannot be stored is an error that says what is missing, and
// the message is still there. Trap 84: what the transport says.
func TestRabbitMQBurialWithoutAQueueIsAnError(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 1)
	m := w.publish("to be buried")
	d := w.receive(rx)
	if _, err := w.raw().QueueDelete(w.name+".dead", false, false, false); err != nil {
		t.Fatal(err)
	}
	e := wire.Complete(d.Message(), wire.Envelope{Subscription: w.name, Reason: "permanent"})
	err := w.rmq.DeadLetters().Bury(w.soon(), e.DeadKey(), wire.BuryMessage(d.Message(), e))
	w.refused(err, transport.ErrUnroutable, transport.Temporary)
	if !strings.Contains(fmt.Sprint(err), w.name+".dead") {
		t.Errorf("the error does not name the queue: %v", err)
	}
	if err := d.Nack(w.soon(), 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if again := w.receive(rx); again.Message().ID != m.ID {
		t.Errorf("got %q", again.Message().ID)
	}
}

// A retry queue that was deleted is made again, and the message that was to go
// there is not lost.
func TestRabbitMQDeletedRetryQueueIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 1)
	m := w.publish("failing")
	d := w.receive(rx)
	if _, err := w.raw().QueueDelete(w.name+".retry.1000", false, false, false); err != nil {
		t.Fatal(err)
	}
	recreated := rabbitEvents(t, w.rmq, transport.Recreated)
	if err := d.Nack(w.soon(), 150*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	rabbitAwait(t, recreated, "the retry queue is made again")
	if again := w.receive(rx); again.Message().ID != m.ID || again.Deliveries() != 2 {
		t.Errorf("got %q, delivery %d", again.Message().ID, again.Deliveries())
	}
}

// A tool that opens no subscription names the queues itself.
func TestRabbitMQToolsReadDeadLettersByName(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	e := wire.Complete(&transport.Message{ID: "m", Body: []byte("b")}, wire.Envelope{Subscription: "billing", Reason: "permanent"})
	tool := rabbitConnect(t, w.b.URL()).DeadLettersOf(map[string]string{"billing": w.name})
	if err := tool.Bury(w.soon(), e.DeadKey(), wire.BuryMessage(&transport.Message{ID: "m", Body: []byte("b")}, e)); err != nil {
		t.Fatal(err)
	}
	counts, err := tool.Summary(w.soon())
	if err != nil || len(counts) != 1 || counts[0].Subscription != "billing" || counts[0].Count != 1 {
		t.Errorf("%v, %v", counts, err)
	}
	if err := tool.Remove(w.soon(), e.DeadKey()); err != nil {
		t.Error(err)
	}
	if err := tool.Remove(w.soon(), e.DeadKey()); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("remove what is not there: %v", err)
	}
	empty := rabbitConnect(t, w.b.URL()).DeadLettersOf(nil)
	for l, err := range empty.Letters(w.soon(), transport.LetterFilter{Subscription: "nobody-knows"}) {
		t.Errorf("%v, %v", l, err)
	}
}

// Two who look at once both see everything.
func TestRabbitMQTwoWhoLookBothSee(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	store := w.rmq.DeadLetters()
	for i := range 20 {
		m := &transport.Message{ID: fmt.Sprint(i), Body: []byte(fmt.Sprint(i))}
		e := wire.Complete(m, wire.Envelope{Subscription: w.name, Reason: "permanent"})
		if err := store.Bury(w.soon(), e.DeadKey(), wire.BuryMessage(m, e)); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan int, 6)
	for range 3 {
		other := rabbitConnect(t, w.b.URL()).DeadLettersOf(map[string]string{w.name: w.name})
		for range 2 {
			go func() {
				n := 0
				for _, err := range other.Letters(w.soon(), transport.LetterFilter{}) {
					if err == nil {
						n++
					}
				}
				done <- n
			}()
		}
	}
	for range 6 {
		if n := rabbitAwait(t, done, "a look"); n != 20 {
			t.Errorf("one look saw %d of 20", n)
		}
	}
}
