package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

// start runs an app until stop is called. A program calls App.Run with a context
// that ends on SIGTERM instead.
func start(app *holdfast.App) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	for !app.Health().Healthy {
		select {
		case err := <-done:
			fmt.Println(err)
			return cancel
		case <-time.After(time.Millisecond):
		}
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			fmt.Println(err)
		}
	}
}

type Order struct {
	Number int    `json:"number"`
	Item   string `json:"item"`
}

func ExampleHandle() {
	ctx := context.Background()
	broker := memory.New()
	app := holdfast.New(holdfast.Config{Name: "billing"})

	orders := broker.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"orders.*"}})
	holdfast.Handle(app, orders, func(_ context.Context, m *holdfast.Message[Order]) error {
		fmt.Printf("order %d: %s (%s, attempt %d)\n", m.Body.Number, m.Body.Item, m.Subject, m.Attempt)
		return nil // nil: ack. An error: the policy decides.
	})

	stop := start(app)
	p := holdfast.NewPublisher[Order](broker, transport.Address{Name: "orders.placed"})
	if err := p.Publish(ctx, Order{Number: 7, Item: "tea"}); err != nil {
		fmt.Println(err)
	}
	_ = broker.WaitIdle(ctx)
	stop()
	// Output: order 7: tea (orders.placed, attempt 1)
}

// shop is what most examples below need: a broker, an app, and a queue of words.
type shop struct {
	broker *memory.Broker
	app    *holdfast.App
	words  holdfast.Source
}

func newShop(opts ...holdfast.Option) shop {
	b := memory.New()
	return shop{b, holdfast.New(holdfast.Config{Name: "shop", Options: opts}), b.Queue(memory.QueueConfig{Name: "words"})}
}

// handle runs the app until every word is dealt with.
func (s shop) handle(words ...string) {
	ctx := context.Background()
	stop := start(s.app)
	defer stop()
	p := holdfast.NewPublisher[string](s.broker, transport.Address{Name: "words"})
	for _, word := range words {
		if err := p.Publish(ctx, word, holdfast.ID(word)); err != nil {
			fmt.Println(err)
		}
		_ = s.broker.WaitIdle(ctx)
	}
}

// printDead prints the dead letters.
func (s shop) printDead() {
	for letter, err := range s.broker.DeadLetters().Letters(context.Background(), transport.LetterFilter{}) {
		h := letter.Message.Header
		fmt.Println("dead:", letter.Message.ID, h.Get("Holdfast-Dead-Reason"), "after attempt", h.Get("Holdfast-Dead-Attempts"), err)
	}
}

func ExampleTimeout() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(ctx context.Context, m *holdfast.Message[string]) error {
		<-ctx.Done() // the dependency does not answer
		fmt.Println(ctx.Err())
		return ctx.Err()
	}, holdfast.Timeout(time.Millisecond), holdfast.NoRetry())
	s.handle("tea")
	s.printDead()
	// Output:
	// context deadline exceeded
	// dead: tea attempts-exhausted after attempt 1 <nil>
}

func ExampleConcurrency() {
	s := newShop()
	together := make(chan bool)
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error {
		select { // each of the two waits for the other
		case together <- true:
		case <-together:
		}
		return nil
	}, holdfast.Name("pairs"), holdfast.Concurrency(2))
	stop := start(s.app)
	p := holdfast.NewPublisher[string](s.broker, transport.Address{Name: "words"})
	for _, word := range []string{"tea", "milk"} {
		_ = p.Publish(context.Background(), word)
	}
	_ = s.broker.WaitIdle(context.Background())
	stop()
	fmt.Println(s.app.Health().Subscriptions[0].Counts.Handled, "handled")
	// Output: 2 handled
}

func ExampleSubscription_Start() {
	ctx := context.Background()
	s := newShop()
	holdfast.Handle(s.app, s.broker.Queue(memory.QueueConfig{Name: "numbers"}), func(context.Context, *holdfast.Message[int]) error { return nil })
	stop := start(s.app)
	defer stop()
	sub := holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) error {
		fmt.Println(m.Body)
		return nil
	})
	if err := sub.Start(ctx); err != nil {
		fmt.Println(err)
	}
	p := holdfast.NewPublisher[string](s.broker, transport.Address{Name: "words"})
	_ = p.Publish(ctx, "tea")
	_ = s.broker.WaitIdle(ctx)
	if err := sub.Stop(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(sub.Health().State)
	// Output:
	// tea
	// stopped
}

func ExampleMaxAge() {
	s := newShop(holdfast.MaxAge(time.Nanosecond))
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error {
		fmt.Println("never called")
		return nil
	})
	s.handle("stale")
	s.printDead()
	// Output: dead: stale expired after attempt 0 <nil>
}

var errSoldOut = errors.New("sold out")
