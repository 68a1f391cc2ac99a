package memory_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

// A queue takes what is published to its subjects, and a message that is given
// back comes again.
func Example() {
	ctx := context.Background()
	b := memory.New()
	defer b.Close(ctx)

	src := b.Queue(memory.QueueConfig{Name: "billing", Subjects: []string{"orders.*"}})
	want := transport.Want{Subscription: "billing", Concurrency: 1}
	if _, err := b.Provision(ctx, src, want); err != nil {
		fmt.Println(err)
		return
	}
	err := b.Publish(ctx, transport.Address{Name: "orders.placed"}, &transport.Message{ID: "order-1"})
	fmt.Println("published:", err)

	rx, _ := b.Open(ctx, src, want)
	d, _ := rx.Receive(ctx)
	fmt.Println("got", d.Message().ID, "delivery", d.Deliveries())
	fmt.Println("given back:", d.Nack(ctx, 0))
	d, _ = rx.Receive(ctx)
	fmt.Println("got", d.Message().ID, "delivery", d.Deliveries())
	fmt.Println("acked:", d.Ack(ctx))
	fmt.Println("idle:", b.Idle())
	// Output:
	// published: <nil>
	// got order-1 delivery 1
	// given back: <nil>
	// got order-1 delivery 2
	// acked: <nil>
	// idle: true
}

// A test makes the broker misbehave to see what the program does.
func ExampleBroker_Fail() {
	ctx := context.Background()
	b := memory.New()
	defer b.Close(ctx)
	src := b.Queue(memory.QueueConfig{Name: "orders"})
	_, _ = b.Provision(ctx, src, transport.Want{})

	b.Fail(memory.OpPublish, errors.New("disk full"), 1)
	to, m := transport.Address{Name: "orders"}, &transport.Message{ID: "order-1"}
	err := b.Publish(ctx, to, m)
	fmt.Println(err, "is", transport.KindOf(err))
	fmt.Println("again:", b.Publish(ctx, to, m))
	// Output:
	// publish orders: disk full is temporary
	// again: <nil>
}
