package holdfast_test

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
)

func ExampleApp_Check() {
	broker := memory.New()
	app := holdfast.New(holdfast.Config{})
	ignore := func(context.Context, *holdfast.Message[string]) error { return nil }
	holdfast.Handle(app, broker.Queue(memory.QueueConfig{Name: "orders"}), ignore)
	holdfast.Handle(app, broker.Queue(memory.QueueConfig{Name: "bills"}), ignore, holdfast.Retry{Attempts: 3})
	findings, err := app.Check(context.Background()) // changes nothing
	for _, f := range findings {
		fmt.Println(f.Code, f.Level, f.Subscription, f.Fact)
	}
	fmt.Println(err)
	// Output:
	// HF1112 info orders the queue orders will be created
	// HF1501 error bills attempts after the immediate ones need a backoff
	// HF1112 info bills the queue bills will be created
	// <nil>
}

func ExampleContractError() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error { return nil }, holdfast.Concurrency(-1))
	fmt.Println(s.app.Run(context.Background())) // starts nothing
	// Output:
	// holdfast does not start: 1 contract cannot be kept
	//   HF1501 error [words]: concurrency and prefetch cannot be negative; fix: correct the option
}

func ExampleApp_Health() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error { return nil })
	stop := start(s.app)
	h := s.app.Health()
	fmt.Println(h.Healthy, h.Subscriptions[0].Subscription, h.Subscriptions[0].State)
	stop()
	h = s.app.Health()
	fmt.Println(h.Healthy, h.Subscriptions[0].State)
	// Output:
	// true words running
	// false stopped
}

func ExampleConfig() {
	broker := memory.New()
	app := holdfast.New(holdfast.Config{
		Name:    "shop",
		Grace:   10 * time.Second,
		Options: []holdfast.Option{holdfast.NoRetry()}, // of every subscription
		Observers: []observe.Observer{observe.Func(func(e observe.Event) {
			switch e.Kind { // what metrics and traces are made of
			case observe.Attempted:
				fmt.Println(e.Kind, e.MessageID, e.Attempt, e.Err)
			case observe.Settled:
				fmt.Println(e.Kind, e.MessageID, e.Verdict.Action, e.Verdict.Reason)
			}
		})},
	})
	s := shop{broker, app, broker.Queue(memory.QueueConfig{Name: "words"})}
	holdfast.Handle(app, s.words, func(context.Context, *holdfast.Message[string]) error { return errSoldOut })
	s.handle("tea")
	// Output:
	// attempted tea 1 sold out
	// settled tea dead letter attempts-exhausted
}
