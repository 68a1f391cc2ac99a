package deadletter_test

import (
	"context"
	"fmt"

	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

// failedOrders returns a broker on which three messages of the subscription
// billing have failed. In a program the engine buries them.
func failedOrders(ctx context.Context) (*memory.Broker, error) {
	b := memory.New()
	src := b.Queue(memory.QueueConfig{Name: "billing", Subjects: []string{"orders.>"}})
	if _, err := b.Provision(ctx, src, transport.Want{Subscription: "billing"}); err != nil {
		return nil, err
	}
	for i, text := range []string{"qty must be positive, got -3", "card declined", "qty must be positive, got 0"} {
		m := &transport.Message{ID: fmt.Sprint("order-", i+1), Subject: "orders.placed", Body: []byte("{}")}
		e := wire.Complete(m, wire.Envelope{Subscription: "billing", Reason: "permanent", ErrorText: text, Attempts: 1})
		if err := b.DeadLetters().Bury(ctx, e.DeadKey(), wire.BuryMessage(m, e)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func ExampleStore_List() {
	ctx := context.Background()
	broker, err := failedOrders(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer broker.Close(ctx)

	dead := deadletter.Open(broker.DeadLetters())
	for letter, err := range dead.List(ctx, deadletter.Query{Subscription: "billing"}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(letter.MessageID, letter.Reason, letter.Error)
	}
	// Output:
	// order-1 permanent qty must be positive, got -3
	// order-2 permanent card declined
	// order-3 permanent qty must be positive, got 0
}

func ExampleStore_Groups() {
	ctx := context.Background()
	broker, err := failedOrders(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer broker.Close(ctx)

	groups, err := deadletter.Open(broker.DeadLetters()).Groups(ctx, deadletter.Query{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, g := range groups {
		fmt.Println(g.Count, g.Subscription, g.Error)
	}
	// Output:
	// 2 billing qty must be positive, got #
	// 1 billing card declined
}

func ExampleStore_Get() {
	ctx := context.Background()
	broker, err := failedOrders(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer broker.Close(ctx)

	dead := deadletter.Open(broker.DeadLetters())
	letters, err := dead.ListAll(ctx, deadletter.Query{Limit: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The beginning of an ID is enough where it fits one letter only.
	letter, err := dead.Get(ctx, letters[0].ID[:8])
	fmt.Println(letter.MessageID, letter.Subject, letter.Intact(), err)
	// Output: order-1 orders.placed true <nil>
}

func ExampleStore_Redrive() {
	ctx := context.Background()
	broker, err := failedOrders(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer broker.Close(ctx)

	dead := deadletter.Open(broker.DeadLetters())
	groups, err := dead.Groups(ctx, deadletter.Query{Limit: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The cause was mended: the whole group goes back.
	result, err := dead.Redrive(ctx, deadletter.Query{Fingerprint: groups[0].Fingerprint}, deadletter.RedriveOptions{})
	fmt.Println(result.Done, "redriven,", broker.Len("billing"), "waiting for billing", err)
	// Output: 2 redriven, 2 waiting for billing <nil>
}

func ExampleStore_Discard() {
	ctx := context.Background()
	broker, err := failedOrders(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer broker.Close(ctx)

	dead := deadletter.Open(broker.DeadLetters(), deadletter.WithAudit(func(_ context.Context, e deadletter.Event) {
		fmt.Println(e.Op, e.MessageID, e.State, "because:", e.Reason)
	}))
	_, err = dead.Discard(ctx, deadletter.Query{Limit: 1, All: true}, deadletter.DiscardOptions{Reason: "test data"})
	if err != nil {
		fmt.Println(err)
	}
	// Output: discard order-1 discarded because: test data
}
