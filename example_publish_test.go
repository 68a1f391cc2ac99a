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

func ExamplePublisher_Publish() {
	ctx := context.Background()
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[Order]) error {
		fmt.Println(m.ID, m.Key, m.ContentType, m.Header.Get("X-Trace"), m.Body.Item)
		return nil
	})
	stop := start(s.app)
	p := holdfast.NewPublisher[Order](s.broker, transport.Address{Name: "words"})
	for range 2 { // the second is the same message, and the broker keeps one copy
		err := p.Publish(ctx, Order{Number: 7, Item: "tea"},
			holdfast.ID("order-7"), holdfast.Key("customer-1"), holdfast.SetHeader("X-Trace", "abc"))
		if err != nil {
			fmt.Println(err)
		}
	}
	_ = s.broker.WaitIdle(ctx)
	stop()
	// Output: order-7 customer-1 application/json abc tea
}

func ExampleUnknown() {
	s := newShop()
	_, _ = s.broker.Provision(context.Background(), s.words, transport.Want{})
	s.broker.LoseAnswer(memory.OpPublish, errors.New("connection reset"), 1000)

	p := holdfast.NewPublisher[string](s.broker, transport.Address{Name: "words"}, holdfast.PublishTimeout(10*time.Millisecond))
	err := p.Publish(context.Background(), "tea", holdfast.ID("m-1"))
	if holdfast.Unknown(err) {
		fmt.Println("it may have been stored: publish again under the same ID")
	}
	fmt.Println(s.broker.Len("words"), "stored")
	// Output:
	// it may have been stored: publish again under the same ID
	// 1 stored
}

func ExampleRequest() {
	ctx := context.Background()
	s := newShop()
	holdfast.Reply(s.app, s.words, func(_ context.Context, m *holdfast.Message[Order]) (string, error) {
		if m.Body.Number == 0 {
			return "", &codedError{"not-found"}
		}
		return fmt.Sprintf("order %d is on its way", m.Body.Number), nil
	})
	stop := start(s.app)
	defer stop()
	for _, number := range []int{7, 0} {
		answer, err := holdfast.Request[Order, string](ctx, s.broker, transport.Address{Name: "words"}, Order{Number: number})
		var remote *holdfast.RemoteError
		if errors.As(err, &remote) {
			fmt.Println("refused:", remote.Message, remote.Code)
			continue
		}
		fmt.Println(answer, err)
	}
	// Output:
	// order 7 is on its way <nil>
	// refused: no such order not-found
}

func ExampleReply() {
	s := newShop()
	holdfast.Reply(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) (string, error) {
		return "hello, " + m.Body, nil
	})
	stop := start(s.app)
	defer stop()
	fmt.Println(holdfast.Request[string, string](context.Background(), s.broker, transport.Address{Name: "words"}, "world"))
	// Output: hello, world <nil>
}
