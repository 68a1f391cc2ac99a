package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

type rabbitOrder struct {
	Key string `json:"key"`
	N   int    `json:"n"`
}

// rabbitLog collects what handlers saw.
type rabbitLog struct {
	mu   sync.Mutex // guards seen
	seen []string
}

func (l *rabbitLog) add(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, s)
}

func (l *rabbitLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.seen)
}

// runRabbit runs an app until the test ends or stop is called.
func runRabbit(t *testing.T, app *holdfast.App) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := rabbitAwait(t, done, "the app ends"); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// The whole way: handled, retried with a backoff, dead after exactly its
// attempts, permanent and undecodable at once; each dead letter with its story,
// and nothing left behind.
func TestRabbitMQAppKeepsItsPromises(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	var log rabbitLog
	app := holdfast.New(holdfast.Config{Name: "billing"})
	holdfast.Handle(app, w.rmq.Queue(rabbitmq.QueueConfig{
		Name: w.name, Bindings: []rabbitmq.Binding{{Exchange: w.name, Kind: "topic", Key: "orders.#"}},
	}), func(_ context.Context, m *holdfast.Message[rabbitOrder]) error {
		log.add(fmt.Sprintf("%s#%d", m.Body.Key, m.Attempt))
		switch {
		case m.Body.Key == "flaky" && m.Attempt < 3, m.Body.Key == "poison":
			return errors.New("not now")
		case m.Body.Key == "broken":
			return holdfast.Permanent(errors.New("never"))
		}
		return nil
	}, holdfast.Retry{Attempts: 4, Immediate: 1, Backoff: holdfast.Constant(150 * time.Millisecond), Jitter: 0.2}, holdfast.Concurrency(4))
	stop := runRabbit(t, app)
	w.eventually("the exchange is there", func() bool {
		return w.rmq.Publish(w.soon(), rabbitmq.Exchange(w.name, "orders.placed"), &transport.Message{ID: "start", Body: []byte(`{"key":"good"}`)}) == nil
	})
	for _, key := range []string{"flaky", "poison", "broken"} {
		m := &transport.Message{ID: key, Body: []byte(`{"key":"` + key + `"}`)}
		if err := w.rmq.Publish(w.soon(), rabbitmq.Exchange(w.name, "orders.placed"), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.rmq.Publish(w.soon(), rabbitmq.Exchange(w.name, "orders.placed"), &transport.Message{ID: "bytes", Body: []byte("\xff{")}); err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	w.eventually("three dead letters", func() bool {
		for _, l := range w.letters() {
			e, _ := wire.Decode(l.Message)
			reasons[l.Message.ID] = fmt.Sprint(e.Reason, " ", e.Attempts, " ", e.Subject)
		}
		return len(reasons) == 3
	})
	for id, want := range map[string]string{
		"poison": "attempts-exhausted 4 orders.placed", "broken": "permanent 1 orders.placed", "bytes": "undecodable 1 orders.placed",
	} {
		if reasons[id] != want {
			t.Errorf("%s: %q, want %q", id, reasons[id], want)
		}
	}
	stop()
	seen := log.all()
	slices.Sort(seen)
	want := []string{"broken#1", "flaky#1", "flaky#2", "flaky#3", "good#1", "poison#1", "poison#2", "poison#3", "poison#4"}
	if !slices.Equal(seen, want) {
		t.Errorf("the handler saw %q, want %q", seen, want)
	}
	if n := w.depth(w.raw(), w.name); n != 0 {
		t.Errorf("%d messages are left in the queue", n)
	}
}

// Messages of one key keep their order through retries, while the connection is
// cut now and then.
func TestRabbitMQAppKeepsTheOrderOfAKey(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	var log rabbitLog
	failed := map[string]bool{}
	var mu sync.Mutex // guards failed
	app := holdfast.New(holdfast.Config{Name: "ordered"})
	holdfast.Handle(app, w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name, SingleActiveConsumer: true}),
		func(_ context.Context, m *holdfast.Message[rabbitOrder]) error {
			id := fmt.Sprint(m.Body.Key, m.Body.N)
			mu.Lock()
			first := !failed[id]
			failed[id] = true
			mu.Unlock()
			if first && m.Body.N%5 == 2 {
				return errors.New("the first time")
			}
			log.add(id)
			return nil
		}, holdfast.Retry{Attempts: 5, Backoff: holdfast.Constant(20 * time.Millisecond)}, holdfast.Concurrency(4), holdfast.OrderByKey())
	runRabbit(t, app)
	const n = 30
	for i := range n {
		for _, key := range []string{"a", "b"} {
			m := &transport.Message{ID: fmt.Sprint(key, i), Key: key, Body: []byte(fmt.Sprintf(`{"key":%q,"n":%d}`, key, i))}
			w.eventually("the message is published", func() bool {
				return w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), m) == nil
			})
		}
		if i == n/2 {
			w.proxy.Cut()
		}
	}
	firsts := func(key string) (out []string) {
		for _, id := range log.all() {
			if id[:1] == key && !slices.Contains(out, id) {
				out = append(out, id)
			}
		}
		return out
	}
	w.eventually("all are handled", func() bool { return len(firsts("a")) == n && len(firsts("b")) == n })
	for _, key := range []string{"a", "b"} {
		for i, id := range firsts(key) {
			if id != fmt.Sprint(key, i) {
				t.Fatalf("the order of %s is %q", key, firsts(key))
			}
		}
	}
}
