package integration_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// buryMany buries n letters in their order, and returns their dead-letter IDs.
func (w *rabbitWorld) buryMany(n, size int) []string {
	w.Helper()
	ids := make([]string, n)
	body := []byte(strings.Repeat("b", size))
	ch := w.raw()
	if err := ch.Confirm(false); err != nil {
		w.Fatal(err)
	}
	var waits []*amqp.DeferredConfirmation
	for i := range n {
		m := &transport.Message{ID: fmt.Sprintf("%s-%05d", w.name, i), Body: body}
		e := wire.Complete(m, wire.Envelope{Subscription: w.name, Reason: "permanent", ErrorText: "no good"})
		key := e.DeadKey()
		ids[i] = key.ID
		buried := wire.BuryMessage(m, e)
		p := amqp.Publishing{MessageId: buried.ID, DeliveryMode: amqp.Persistent, Body: buried.Body, Headers: amqp.Table{
			wire.DeadKey: key.Subscription + "." + key.Fingerprint + "." + key.ID,
			wire.Buried:  fmt.Sprint(time.Now().UnixNano()),
		}}
		for name, values := range buried.Header {
			p.Headers[name] = values[0]
		}
		wait, err := ch.PublishWithDeferredConfirm("", w.name+".dead", true, false, p)
		if err != nil {
			w.Fatal(err)
		}
		waits = append(waits, wait)
	}
	for _, wait := range waits {
		if ok, err := wait.WaitContext(w.soon()); !ok || err != nil {
			w.Fatal(ok, err)
		}
	}
	return ids
}

// listed returns the IDs of all letters in the order in which they are listed.
func (w *rabbitWorld) listed(store transport.DeadLetterStore) []string {
	w.Helper()
	var ids []string
	for l, err := range store.Letters(w.soon(), transport.LetterFilter{Subscription: w.name}) {
		if err != nil {
			w.Fatal(err)
		}
		ids = append(ids, l.Key.ID)
	}
	return ids
}

// sameOrder fails unless both are equal.
func (w *rabbitWorld) sameOrder(what string, got, want []string) {
	w.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			w.Fatalf("%s: letter %d is %s, want %s", what, i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		w.Fatalf("%s: there are %d letters, want %d", what, len(got), len(want))
	}
}

// Twenty thousand dead letters are listed in their order however often and however
// far one looks, a part of them at a time, also while the caller changes some of
// them, and are redriven and discarded in one pass each.
func TestRabbitMQManyLettersAreReadAndRedrivenInTheirOrder(t *testing.T) {
	// Not beside the others: so many letters keep their broker busy.
	const n = 20_000
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	ids := w.buryMany(n, 1024)
	store, ch := w.rmq.DeadLetters(), w.raw()
	w.sameOrder("the first look", w.listed(store), ids)

	// A caller who stops at once has taken a window from the queue, and no more.
	at := 0
	for l, err := range store.Letters(w.soon(), transport.LetterFilter{Subscription: w.name}) {
		if err != nil || l.Key.ID != ids[at] {
			t.Fatalf("letter %d is %v: %v", at, l.Key, err)
		}
		if at++; at == 3_000 {
			break
		}
		if taken := n - w.depth(ch, w.name+".dead"); at%500 == 1 && taken > at+2_000 {
			t.Fatalf("%d letters are taken from the queue for the first %d", taken, at)
		}
	}
	w.sameOrder("a look after one that was broken off", w.listed(store), ids)

	// Whoever lists may remove what he sees, beyond what lies in memory.
	seen := 0
	for l, err := range store.Letters(w.soon(), transport.LetterFilter{Subscription: w.name}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen == 0 || seen == 5_000 {
			if err := store.Remove(w.soon(), l.Key); err != nil {
				t.Fatal(err)
			}
		}
		seen++
	}
	if seen != n {
		t.Errorf("%d of %d letters were listed while some were removed", seen, n)
	}
	ids = append(append([]string{}, ids[1:5_000]...), ids[5_001:]...)
	w.sameOrder("after two were removed", w.listed(store), ids)

	letters := deadletter.Open(store)
	start := time.Now()
	result, err := letters.Redrive(w.soon(), deadletter.Query{Subscription: w.name, IDs: ids[100:2_100]}, deadletter.RedriveOptions{})
	if err != nil || result.Done != 2_000 {
		t.Fatalf("redriven: %d, %v", result.Done, err)
	}
	t.Logf("2,000 of %d letters were redriven in %v", len(ids), time.Since(start).Round(time.Millisecond))
	if got := w.depth(ch, w.name); got != 2_000 {
		t.Errorf("%d messages are in the queue again", got)
	}
	ids = append(append([]string{}, ids[:100]...), ids[2_100:]...)
	w.sameOrder("after many were redriven", w.listed(store), ids)
	result, err = letters.Discard(w.soon(), deadletter.Query{Subscription: w.name, All: true}, deadletter.DiscardOptions{Reason: "a test"})
	if err != nil || result.Done != len(ids) {
		t.Fatalf("discarded: %d of %d, %v", result.Done, len(ids), err)
	}
	w.eventually("none is left", func() bool { return len(w.listed(store)) == 0 && w.depth(ch, w.name+".dead") == 0 })
}

// Several programs that list, change and count at once each see all that is there,
// also when it is more than one window.
func TestRabbitMQManyLookersAllSeeEverything(t *testing.T) {
	t.Parallel()
	const n = 3_000
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	ids := w.buryMany(n, 100)
	var wg sync.WaitGroup
	for i := range 4 {
		store := rabbitConnect(t, w.b.URL()).DeadLettersOf(map[string]string{w.name: w.name})
		wg.Go(func() {
			for range 2 {
				if i == 0 {
					counts, err := store.Summary(w.soon())
					if err != nil || len(counts) != 1 || counts[0].Count != n {
						t.Errorf("the summary is %v: %v", counts, err)
					}
					continue
				}
				got := 0
				for _, err := range store.Letters(w.soon(), transport.LetterFilter{}) {
					if err != nil {
						t.Error(err)
					}
					got++
				}
				if got != n {
					t.Errorf("one look saw %d of %d", got, n)
				}
			}
		})
	}
	wg.Wait()
	w.sameOrder("after all of them", w.listed(w.rmq.DeadLetters()), ids)
}

// A subscription on another broker may keep its dead letters here: the queue is
// checked and made before the first letter.
func TestRabbitMQStoreIsPreparedForOthers(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	store := w.rmq.DeadLetters().(transport.PreparedStore)
	found, err := store.CheckStore(w.soon(), w.name)
	if err != nil || len(found) != 1 || found[0].Code != transport.CodeDeadCreated || found[0].Subscription != w.name {
		t.Fatalf("before: %v, %v", found, err)
	}
	report, err := store.ProvisionStore(w.soon(), w.name)
	if err != nil || len(report.Created) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	if found, err = store.CheckStore(w.soon(), w.name); err != nil || len(found) != 0 {
		t.Errorf("after: %v, %v", found, err)
	}
	if report, err = store.ProvisionStore(w.soon(), w.name); err != nil || len(report.Created) != 0 {
		t.Errorf("again: %+v, %v", report, err)
	}
	m := &transport.Message{ID: "m", Body: []byte("b")}
	e := wire.Complete(m, wire.Envelope{Subscription: w.name, Reason: "permanent"})
	if err := store.Bury(w.soon(), e.DeadKey(), wire.BuryMessage(m, e)); err != nil {
		t.Fatal(err)
	}
	if len(w.listed(store)) != 1 {
		t.Error("the letter is not there")
	}
	// A queue of this name with other arguments is told.
	other := w.name + "-drift"
	if _, err := w.raw().QueueDeclare(other+".dead", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if found, err = store.CheckStore(w.soon(), other); err != nil || !hasCode(found, transport.CodeQueueDrift, transport.LevelError) {
		t.Errorf("another queue: %v, %v", found, err)
	}
}
