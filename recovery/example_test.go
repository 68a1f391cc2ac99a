package recovery_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
)

func ExamplePolicy_Decide() {
	policy := recovery.Policy{
		Attempts:    4,
		Immediate:   1,
		Backoff:     recovery.Exponential(time.Second, time.Minute),
		DeadLetters: true,
	}
	for attempt := 1; ; attempt++ {
		v := policy.Decide(recovery.Failure{Attempt: attempt, Err: errors.New("connection refused")})
		if v.Action == recovery.DeadLetter {
			fmt.Printf("%d %v: %v\n", attempt, v.Action, v.Reason)
			return
		}
		fmt.Printf("%d %v in %v\n", attempt, v.Action, v.Delay)
	}
	// Output:
	// 1 retry now in 0s
	// 2 retry later in 1s
	// 3 retry later in 2s
	// 4 dead letter: attempts-exhausted
}

func ExamplePermanent() {
	policy := recovery.Policy{Attempts: 5, Backoff: recovery.Constant(time.Second), DeadLetters: true}
	err := fmt.Errorf("order 17: %w", recovery.Permanent(errors.New("negative total")))
	v := policy.Decide(recovery.Failure{Attempt: 1, Err: err})
	fmt.Println(err)
	fmt.Println(v.Action, v.Reason)
	// Output:
	// order 17: negative total
	// dead letter permanent
}

func ExampleDiscard() {
	policy := recovery.Policy{Attempts: 5, Backoff: recovery.Constant(time.Second), DeadLetters: true}
	v := policy.Decide(recovery.Failure{Attempt: 1, Err: recovery.Discard(errors.New("price of yesterday"))})
	fmt.Println(v.Action)
	// Output: discard
}

func ExampleRetryAfter() {
	policy := recovery.Policy{
		Attempts: 5,
		Backoff:  recovery.Constant(time.Second),
		Within:   time.Hour,
	}
	busy := errors.New("429 Too Many Requests")
	v := policy.Decide(recovery.Failure{Attempt: 1, Err: recovery.RetryAfter(busy, 30*time.Second)})
	fmt.Println(v.Action, v.Delay)
	v = policy.Decide(recovery.Failure{Attempt: 1, Err: recovery.RetryAfter(busy, 2*time.Hour)})
	fmt.Println(v.Action, v.Reason)
	// Output:
	// retry later 30s
	// discard deadline
}

func ExampleRule() {
	errBadCard := errors.New("card declined")
	policy := recovery.Policy{
		Attempts: 5,
		Backoff:  recovery.Constant(time.Second),
		Rules: []recovery.Rule{
			{When: recovery.Is(errBadCard), Permanent: true},
			{When: recovery.As[*recovery.TimeoutError](), Attempts: 2},
		},
		DeadLetters: true,
	}
	v := policy.Decide(recovery.Failure{Attempt: 1, Err: fmt.Errorf("charge: %w", errBadCard)})
	fmt.Println(v.Action, v.Reason)
	v = policy.Decide(recovery.Failure{Attempt: 2, Err: &recovery.TimeoutError{After: time.Second}})
	fmt.Println(v.Action, v.Reason)
	// Output:
	// dead letter permanent
	// dead letter attempts-exhausted
}

func ExamplePolicy_Validate() {
	policy := recovery.Policy{Attempts: 3, Immediate: 3, Jitter: 20}
	fmt.Println(policy.Validate())
	// Output:
	// jitter 20 is not between 0 and 1
	// immediate 3 leaves no room in 3 attempts: the first attempt counts too
}

func ExamplePolicy_Admit() {
	policy := recovery.Policy{Attempts: 3, Backoff: recovery.Constant(time.Second), DeadLetters: true}
	v := policy.Admit(recovery.Arrival{Deliveries: 2})
	fmt.Println(v.Action)
	v = policy.Admit(recovery.Arrival{Deliveries: 14})
	fmt.Println(v.Action, v.Reason)
	// Output:
	// handle
	// dead letter crash-loop
}
