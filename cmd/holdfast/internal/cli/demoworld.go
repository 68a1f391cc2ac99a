package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// errAllEnded ends the demo when every message was handled or is dead.
var errAllEnded = errors.New("every message has ended")

// fate is what happens to one order of the demo.
type fate int

const (
	fine fate = iota
	failsOnce
	failsTwice
	garbled   // cannot be decoded
	stranger  // the customer does not exist: permanent
	timesOut  // fails at every attempt
	panicking // panics at every attempt
)

// world is the producer, the handler and what is known of each order.
type world struct {
	fates     []fate
	published atomic.Int64

	mu      sync.Mutex // guards what follows
	handled map[string]int
	news    []string // the last things that happened, for the view
}

// newWorld decides every fate beforehand, so that a seed always gives the same
// demo.
func newWorld(messages int, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a demo, not a secret
	w := &world{fates: make([]fate, messages), handled: make(map[string]int)}
	for i := range w.fates {
		switch r := rng.Float64(); {
		case r < 0.05:
			w.fates[i] = failsTwice
		case r < 0.20:
			w.fates[i] = failsOnce
		}
	}
	poison := []fate{garbled, stranger, timesOut, panicking}
	for i, at := range rng.Perm(messages) {
		if i >= len(poison) || i >= (messages+4)/5 {
			break
		}
		w.fates[at] = poison[i]
	}
	return w
}

// order is the body of a message.
type order struct {
	Number   int    `json:"number"`
	Customer string `json:"customer"`
	Cents    int    `json:"cents"`
}

func orderID(i int) string { return fmt.Sprintf("order-%d", i+1) }

// body is what the producer sends for one order.
func (w *world) body(i int) ([]byte, error) {
	if w.fates[i] == garbled {
		return []byte(fmt.Sprintf(`{"number": %d, "customer": `, i+1)), nil
	}
	return json.Marshal(order{Number: i + 1, Customer: fmt.Sprintf("customer-%d", i%17), Cents: 100 + 37*i})
}

// app is the program of the demo: one subscription with a policy.
func (w *world) app(js *jetstream.Transport) (*holdfast.App, *holdfast.Subscription) {
	app := holdfast.New(holdfast.Config{Name: "holdfast demo", Observers: []observe.Observer{w}})
	src := js.Consumer(jetstream.ConsumerConfig{Stream: "DEMO_ORDERS", Subjects: []string{"demo.orders.>"}, Durable: "demo", Start: jetstream.StartAll()})
	sub := holdfast.Handle(app, src, w.handle,
		holdfast.Name("demo"), holdfast.Concurrency(8), holdfast.DeadLetter(),
		holdfast.Retry{Attempts: 4, Immediate: 1, Backoff: holdfast.Delays(150*time.Millisecond, 400*time.Millisecond), Jitter: 0.2})
	return app, sub
}

// handle is a handler that fails as its order's fate says.
func (w *world) handle(_ context.Context, m *holdfast.Message[order]) error {
	if m.Body.Number < 1 || m.Body.Number > len(w.fates) {
		return holdfast.Permanent(fmt.Errorf("order %d was never published", m.Body.Number))
	}
	switch f := w.fates[m.Body.Number-1]; {
	case f == stranger:
		return holdfast.Permanent(fmt.Errorf("%s does not exist", m.Body.Customer))
	case f == timesOut:
		return errors.New("payment gateway: no answer within 2s")
	case f == panicking:
		panic("index out of range: a bug in the handler")
	case f == failsOnce && m.Attempt < 2, f == failsTwice && m.Attempt < 3:
		return errors.New("warehouse: connection reset by peer")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handled[m.ID]++
	return nil
}

// produce publishes every order, confirmed, at a steady rate.
func (w *world) produce(ctx context.Context, js *jetstream.Transport, rate int) error {
	pub := holdfast.NewPublisher[[]byte](js, transport.Address{Name: "demo.orders.placed"}, holdfast.PublishCodec(rawCodec{"application/json"}))
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range w.fates {
		timer.Reset(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		body, err := w.body(i)
		if err != nil {
			return err
		}
		if err := w.publish(ctx, pub, i, body); err != nil {
			return err
		}
		w.published.Add(1)
	}
	return nil
}

// publish waits for the stream, which the app creates when it starts.
func (w *world) publish(ctx context.Context, pub *holdfast.Publisher[[]byte], i int, body []byte) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := pub.Publish(ctx, body, holdfast.ID(orderID(i)))
		if err == nil || i > 0 || !errors.Is(err, transport.ErrUnroutable) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Observe keeps the last things that happened.
func (w *world) Observe(e observe.Event) {
	var line string
	switch {
	case e.Kind == observe.Settled && e.Verdict.Action == recovery.DeadLetter:
		line = fmt.Sprintf("dead     %s  %s after %s", e.MessageID, e.Verdict.Reason, plural(e.Attempt, "attempt"))
	case e.Kind == observe.Settled && e.Verdict.Action == recovery.RetryLater:
		line = fmt.Sprintf("retry    %s  attempt %d failed, again in %s", e.MessageID, e.Attempt, e.Verdict.Delay.Round(time.Millisecond))
	default:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.news = append(w.news, line)
	if len(w.news) > 6 {
		w.news = w.news[1:]
	}
}

func (w *world) recent() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.news...)
}

// prove compares what was published with what the handler did and with what the
// store of dead letters holds. Counters are not asked: they could be wrong.
func (w *world) prove(ctx context.Context, store *deadletter.Store) (proof, error) {
	letters, err := store.ListAll(ctx, deadletter.Query{Subscription: "demo"})
	if err != nil {
		return proof{}, err
	}
	dead, shown := map[string]int{}, []letter{}
	for _, l := range letters {
		dead[l.MessageID]++
		shown = append(shown, letterOf(l))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r := proof{Published: int(w.published.Load()), Handled: len(w.handled), Dead: len(dead), Letters: shown}
	for i := range w.fates {
		switch ends := w.handled[orderID(i)] + dead[orderID(i)]; {
		case ends == 0:
			r.Lost++
		case ends > 1:
			r.HandledMore++
		}
	}
	r.Holds = r.Lost == 0 && r.HandledMore == 0 && r.Published == len(w.fates) && r.Published == r.Handled+r.Dead
	return r, nil
}
