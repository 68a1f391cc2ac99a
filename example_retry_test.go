package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast"
)

func ExampleRetry() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) error {
		fmt.Println("attempt", m.Attempt)
		if m.Attempt < 4 {
			return errors.New("the card service does not answer")
		}
		return nil
	}, holdfast.Retry{
		Attempts:  5, // the handler runs so often at most
		Immediate: 1, // one retry follows at once
		Backoff:   holdfast.Delays(time.Millisecond, 2*time.Millisecond),
	})
	s.handle("tea")
	// Output:
	// attempt 1
	// attempt 2
	// attempt 3
	// attempt 4
}

func ExampleRetry_rules() {
	errGone := errors.New("no such customer")
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) error {
		fmt.Println(m.Body, m.Attempt)
		if m.Body == "gone" {
			return errGone
		}
		return &busyError{}
	}, holdfast.Retry{
		Attempts: 5, Backoff: holdfast.Exponential(time.Second, time.Minute),
		Rules: []holdfast.Rule{
			{When: holdfast.ErrorIs(errGone), Permanent: true},
			{When: holdfast.ErrorAs[*busyError](), Attempts: 2, Backoff: holdfast.Constant(time.Millisecond)},
		},
	})
	s.handle("gone", "busy")
	s.printDead()
	// Output:
	// gone 1
	// busy 1
	// busy 2
	// dead: gone permanent after attempt 1 <nil>
	// dead: busy attempts-exhausted after attempt 2 <nil>
}

func ExampleNoRetry() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error {
		return errSoldOut
	}, holdfast.NoRetry())
	s.handle("tea")
	s.printDead()
	// Output: dead: tea attempts-exhausted after attempt 1 <nil>
}

func ExamplePermanent() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error {
		return holdfast.Permanent(errSoldOut) // no retry can mend it
	})
	s.handle("tea")
	s.printDead()
	// Output: dead: tea permanent after attempt 1 <nil>
}

func ExampleRetryAfter() {
	s := newShop()
	var first time.Time
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[string]) error {
		if m.Attempt == 1 {
			first = time.Now()
			return holdfast.RetryAfter(errors.New("too many requests"), 5*time.Millisecond)
		}
		fmt.Println("attempt", m.Attempt, "in time:", time.Since(first) >= 5*time.Millisecond)
		return nil
	}, holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Hour)})
	s.handle("tea")
	// Output: attempt 2 in time: true
}

func ExampleDiscard() {
	s := newShop()
	sub := holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error {
		return holdfast.Discard(errors.New("a test message")) // acked, counted and logged
	})
	s.handle("tea")
	s.printDead()
	fmt.Println(sub.Health().Counts.Discarded, "discarded")
	// Output: 1 discarded
}

func ExampleDeadLetterTo() {
	elsewhere := newShop().broker // such as a JetStream transport, for messages from core NATS
	s := newShop()
	holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error {
		return holdfast.Permanent(errSoldOut)
	}, holdfast.DeadLetterTo(elsewhere.DeadLetters()))
	s.handle("tea")
	s.printDead()
	shop{broker: elsewhere}.printDead()
	// Output: dead: tea permanent after attempt 1 <nil>
}

func ExampleNoDeadLetter() {
	s := newShop()
	sub := holdfast.Handle(s.app, s.words, func(context.Context, *holdfast.Message[string]) error {
		return errSoldOut
	}, holdfast.NoRetry(), holdfast.NoDeadLetter())
	s.handle("tea")
	s.printDead()
	fmt.Println(sub.Health().Counts.Discarded, "discarded")
	// Output: 1 discarded
}
