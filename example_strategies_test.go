package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/memory"
)

func ExampleCountIn() {
	store := memory.NewCountStore() // redisstore.New(...) or js.CountStore(...) in a program
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) error {
		fmt.Println("attempt", m.Attempt, "is counted already:", store.Len() == 1)
		return errors.New("the card service does not answer")
	}, holdfast.Retry{Attempts: 2, Backoff: holdfast.Constant(time.Millisecond)}, holdfast.CountIn(store))
	s.handle("tea")
	s.printDead()
	// Output:
	// attempt 1 is counted already: true
	// attempt 2 is counted already: true
	// dead: tea attempts-exhausted after attempt 2 <nil>
}

func ExampleBrokerRetries() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) error {
		fmt.Println("delivery", m.Deliveries)
		return errors.New("the card service does not answer")
	}, holdfast.BrokerRetries(2))
	s.handle("tea")
	for _, r := range s.broker.Rejected("words") {
		fmt.Println("taken away:", r.Message.ID, "by the", r.Reason)
	}
	// Output:
	// delivery 1
	// delivery 2
	// delivery 3
	// taken away: tea by the delivery limit
}
