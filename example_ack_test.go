package holdfast_test

import (
	"context"
	"fmt"

	"github.com/holdfast-go/holdfast"
)

func ExampleAck_rejectOnError() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error {
		return errSoldOut
	}, holdfast.Ack(holdfast.RejectOnError), holdfast.NoDeadLetter()) // the broker's own terminal
	s.handle("tea")
	for _, r := range s.broker.Rejected("words") {
		fmt.Println(r.Message.ID, r.Reason)
	}
	// Output: tea rejected
}

func ExampleAck_ackFirst() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error {
		fmt.Println("acked already:", s.broker.Idle()) // at most once
		return nil
	}, holdfast.Ack(holdfast.AckFirst))
	s.handle("tea")
	// Output: acked already: true
}

func ExampleCompensate() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error {
		return errSoldOut
	}, holdfast.Ack(holdfast.AckAlways), holdfast.Compensate(func(_ context.Context, m *holdfast.Meta, cause error) error {
		fmt.Printf("refund %s: %v\n", m.ID, cause)
		return nil // acked only now
	}))
	s.handle("tea")
	// Output: refund tea: sold out
}

func ExampleMeta_Ack() {
	s := newShop()
	taken := make(chan *holdfast.Message[string], 1)
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) error {
		taken <- m // settled later, by somebody else
		return nil
	}, holdfast.Ack(holdfast.Manual))
	done := make(chan struct{})
	go func() {
		defer close(done)
		m := <-taken
		fmt.Println(m.Body, m.Ack(context.Background()))
		fmt.Println(m.Ack(context.Background()))
	}()
	s.handle("tea")
	<-done
	// Output:
	// tea <nil>
	// delivery is already settled
}
