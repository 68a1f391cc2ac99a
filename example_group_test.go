package holdfast_test

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

func ExampleApp_Group() {
	ctx := context.Background()
	broker := memory.New()
	app := holdfast.New(holdfast.Config{})
	eu := app.Group("eu.", holdfast.NoRetry()) // the default of its subscriptions
	sub := holdfast.Handle(eu, broker.Queue(memory.QueueConfig{Name: "orders"}), func(_ context.Context, m *holdfast.Message[string]) error {
		fmt.Println(m.Subscription, m.Subject, m.Body)
		return nil
	})
	stop := start(app)
	_ = holdfast.NewPublisher[string](broker, transport.Address{Name: "eu.orders"}).Publish(ctx, "tea")
	_ = broker.WaitIdle(ctx)
	stop()
	fmt.Println(sub.Name())
	// Output:
	// eu-orders eu.orders tea
	// eu-orders
}

// logged is middleware that prints how an attempt went.
func logged(who string) holdfast.Middleware {
	return func(next holdfast.HandlerFunc) holdfast.HandlerFunc {
		return func(ctx context.Context, m *holdfast.Meta) error {
			err := next(ctx, m)
			fmt.Println(who, m.ID, err)
			return err
		}
	}
}

func ExampleUse() {
	s := newShop(holdfast.Use(logged("app")))
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[int]) error {
		return nil
	}, holdfast.Use(logged("subscription")))
	s.handle("12", "no number")
	// Output:
	// subscription 12 <nil>
	// app 12 <nil>
	// subscription no number decode body: invalid character 'o' in literal null (expecting 'u')
	// app no number decode body: invalid character 'o' in literal null (expecting 'u')
}

func ExampleOrderByKey() {
	ctx := context.Background()
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) error {
		if m.Body == "first" && m.Attempt == 1 {
			return errSoldOut // "second" waits for its retry
		}
		fmt.Println(m.Key, m.Body, "attempt", m.Attempt)
		return nil
	}, holdfast.OrderByKey(), holdfast.Concurrency(4), holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Millisecond)})
	stop := start(s.app)
	p := holdfast.NewPublisher[string](s.broker, transport.Address{Name: "words"})
	for _, word := range []string{"first", "second"} {
		_ = p.Publish(ctx, word, holdfast.Key("customer-7"))
	}
	_ = s.broker.WaitIdle(ctx)
	stop()
	// Output:
	// customer-7 first attempt 2
	// customer-7 second attempt 1
}

func ExampleOrderBy() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) error {
		fmt.Println(m.Body)
		return nil
	}, holdfast.OrderBy(func(m *transport.Message) string { return m.Header.Get("X-Tenant") }))
	s.handle("tea", "milk")
	// Output:
	// tea
	// milk
}
