package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// words is a broker with one queue, and a publisher to it.
func words(opts ...holdfast.PublisherOption) (*memory.Broker, *holdfast.Publisher[string]) {
	b := memory.New()
	_, _ = b.Provision(context.Background(), b.Queue(memory.QueueConfig{Name: "words", Subjects: []string{"words"}}), transport.Want{})
	return b, holdfast.NewPublisher[string](b, transport.Address{Name: "words"}, opts...)
}

func ExamplePublisher_PublishAsync() {
	ctx := context.Background()
	broker, p := words()
	var futures []*holdfast.Future
	for _, w := range []string{"tea", "coffee", "milk"} {
		f, err := p.PublishAsync(ctx, w, holdfast.ID(w)) // waits only while the window is full
		if err != nil {
			fmt.Println("not sent:", err)
			continue
		}
		futures = append(futures, f)
	}
	for _, f := range futures {
		fmt.Println(f.ID(), holdfast.OutcomeOf(f.Wait(ctx)))
	}
	fmt.Println(broker.Len("words"), "stored")
	// Output:
	// tea stored
	// coffee stored
	// milk stored
	// 3 stored
}

func ExamplePublisher_PublishBatch() {
	_, p := words()
	results, err := p.PublishBatch(context.Background(), []holdfast.Outgoing[string]{
		{Body: "tea", Options: []holdfast.PublishOption{holdfast.ID("1")}},
		{Body: "lost", Options: []holdfast.PublishOption{holdfast.ID("2"), holdfast.To(transport.Address{Name: "nobody.listens"})}},
	})
	for _, r := range results {
		fmt.Println(r.ID, holdfast.OutcomeOf(r.Err))
	}
	fmt.Println(errors.Is(err, holdfast.ErrUnroutable))
	// Output:
	// 1 stored
	// 2 unroutable
	// true
}

func ExamplePublisher_Close() {
	broker, p := words()
	broker.Disconnect(nil) // the broker is away
	_, _ = p.PublishAsync(context.Background(), "tea", holdfast.ID("m-1"))

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	left, _ := p.Close(ctx)
	for _, m := range left {
		fmt.Println(m.ID, m.To, string(m.Body), "may be stored:", m.Uncertain)
	}
	// Output: m-1 words tea may be stored: false
}

func ExampleSpool() {
	dir, _ := os.MkdirTemp("", "spool")
	defer os.RemoveAll(dir)
	ctx := context.Background()
	broker, p := words(holdfast.Spool(dir), holdfast.SpoolLimit(64<<20))
	broker.Disconnect(nil)
	fmt.Println(p.Publish(ctx, "tea"), p.Stats().Spool.Pending, "on disk")
	broker.Reconnect()
	fmt.Println(p.Flush(ctx), p.Stats().Spool.Pending, "on disk,", broker.Len("words"), "stored")
	_, _ = p.Close(ctx)
	// Output:
	// <nil> 1 on disk
	// <nil> 0 on disk, 1 stored
}

func ExampleOutcomeOf() {
	_, p := words(holdfast.Window(64, 1<<20), holdfast.ConfirmTimeout(2*time.Second))
	err := p.Publish(context.Background(), "tea", holdfast.To(transport.Address{Name: "nobody.listens"}))
	switch holdfast.OutcomeOf(err) {
	case holdfast.Unroutable:
		fmt.Println("no queue takes this address: it is stored nowhere")
	case holdfast.Uncertain:
		fmt.Println("publish it again under the same ID")
	}
	// Output: no queue takes this address: it is stored nowhere
}

func ExampleAfter() {
	broker, p := words()
	ctx := context.Background()
	fmt.Println(p.Publish(ctx, "remind me", holdfast.After(time.Hour), holdfast.Expiry(24*time.Hour), holdfast.Priority(3)))
	fmt.Println(broker.Stats("words").Delayed, "kept back")
	// Output:
	// <nil>
	// 1 kept back
}

func ExamplePublisher_Stats() {
	news := observe.Func(func(e observe.Event) {
		if e.Kind == observe.PublisherNews { // once a second while anything is pending
			_ = e.Publisher.Oldest // a gauge, say
		}
	})
	_, p := words(holdfast.PublishObserver(news))
	_ = p.Publish(context.Background(), "tea")
	st := p.Stats()
	fmt.Println(st.Address, st.Confirmed, "confirmed", st.Pending, "pending")
	// Output: words 1 confirmed 0 pending
}

// What a handler publishes is stored before its message is acked, and has the
// same ID when a second attempt publishes it again.
func ExamplePublisher_PublishAsync_handler() {
	s := newShop()
	bills := s.broker.Queue(memory.QueueConfig{Name: "bills", Subjects: []string{"bills"}})
	_, _ = s.broker.Provision(context.Background(), bills, transport.Want{})
	p := holdfast.NewPublisher[string](s.broker, transport.Address{Name: "bills"})
	handled := make(chan struct{})
	holdfast.Handle(s.app, s.words, func(ctx context.Context, m *holdfast.Message[string]) error {
		if _, err := p.PublishAsync(ctx, "bill for "+m.Body); err != nil {
			return err
		}
		if m.Attempt == 1 {
			return errors.New("something else failed")
		}
		close(handled)
		return nil
	}, holdfast.Retry{Attempts: 2, Immediate: 1})
	stop := start(s.app)
	_ = holdfast.NewPublisher[string](s.broker, transport.Address{Name: "words"}).Publish(context.Background(), "tea")
	<-handled
	stop()
	fmt.Println(s.broker.Len("bills"), "bill")
	// Output: 1 bill
}

func ExampleParam() {
	broker := memory.New()
	app := holdfast.New(holdfast.Config{Name: "example"})
	orders := broker.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"orders.{region}.{id}"}})
	holdfast.Handle(app, orders, func(_ context.Context, m *holdfast.Message[string]) error {
		fmt.Println(m.Param("region"), m.Param("id"), m.Body)
		return nil
	})
	stop := start(app)
	p := holdfast.NewPublisher[string](broker, transport.Address{Name: "orders.{region}.{id}"})
	_ = p.Publish(context.Background(), "tea", holdfast.Param("region", "eu"), holdfast.Param("id", "7"))
	err := p.Publish(context.Background(), "tea", holdfast.Param("region", "eu.*"), holdfast.Param("id", "7"))
	_ = broker.WaitIdle(context.Background())
	stop()
	fmt.Println(holdfast.OutcomeOf(err))
	// Output:
	// eu 7 tea
	// refused
}

func ExampleTransform() {
	s := newShop()
	bills := s.broker.Queue(memory.QueueConfig{Name: "bills", Subjects: []string{"bills"}})
	_, _ = s.broker.Provision(context.Background(), bills, transport.Want{})
	p := holdfast.NewPublisher[string](s.broker, transport.Address{Name: "bills"})
	handled := make(chan struct{})
	holdfast.Transform(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) ([]holdfast.Output, error) {
		close(handled)
		return []holdfast.Output{p.Output("bill for " + m.Body)}, nil // stored before the ack
	})
	stop := start(s.app)
	_ = holdfast.NewPublisher[string](s.broker, transport.Address{Name: "words"}).Publish(context.Background(), "tea")
	<-handled
	stop()
	fmt.Println(s.broker.Len("bills"), "bill")
	// Output: 1 bill
}
