package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/transport"
)

func ExamplePull() {
	s := newShop()
	p := holdfast.Pull[string](s.app, s.words, holdfast.Retry{Attempts: 2, Immediate: 1})
	stop := start(s.app)
	defer stop()
	_ = holdfast.NewPublisher[string](s.broker, transport.Address{Name: "words"}).Publish(context.Background(), "tea")

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for m, err := range p.All(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("attempt", m.Attempt, m.Body)
		if m.Attempt == 1 {
			_ = m.Done(errors.New("not yet")) // the policy decides
			continue
		}
		_ = m.Done(nil) // acked
		break
	}
	// Output:
	// attempt 1 tea
	// attempt 2 tea
}

func ExampleHandleBatch() {
	s := newShop()
	limits := holdfast.BatchLimits{Messages: 3, Bytes: 1 << 20, Wait: time.Second}
	holdfast.HandleBatch(s.app, s.words, limits, func(_ context.Context, b *holdfast.Batch[string]) error {
		for i, m := range b.Messages {
			if m.Body == "stone" {
				b.Fail(i, holdfast.Discard(errors.New("not a drink")))
			}
		}
		fmt.Println(len(b.Messages), "at once")
		return nil // acks all that did not fail
	})
	stop := start(s.app)
	defer stop()
	p := holdfast.NewPublisher[string](s.broker, transport.Address{Name: "words"})
	for _, w := range []string{"tea", "stone", "milk"} {
		_, _ = p.PublishAsync(context.Background(), w)
	}
	_ = p.Flush(context.Background())
	_ = s.broker.WaitIdle(context.Background())
	// Output: 3 at once
}
