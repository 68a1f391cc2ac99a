// Package outcome is what an external handler, a command or an HTTP endpoint,
// is given and what it says about a message. It knows nothing of brokers or
// policies.
package outcome

import (
	"context"
	"time"
)

// Message is one attempt at a message. It is read only.
type Message struct {
	ID           string
	Subject      string
	Subscription string
	Attempt      int // from 1
	ContentType  string
	Header       map[string][]string
	Body         []byte
}

// Verdict is what a handler says.
type Verdict int

const (
	// Ack: the message is done.
	Ack Verdict = iota
	// Retry: try again, as the policy says.
	Retry
	// Permanent: trying again is of no use; it becomes a dead letter.
	Permanent
	// Drop: the message is not wanted and is not kept.
	Drop
)

// String returns the verdict's name.
func (v Verdict) String() string {
	return [...]string{"ack", "retry", "permanent", "drop"}[v]
}

// Outcome is how one attempt ended.
type Outcome struct {
	Verdict Verdict
	// After is how long a retry waits at least; zero leaves it to the policy.
	After time.Duration
	// Err says why, for every verdict but Ack. It holds no secrets.
	Err error
}

// Handler runs one attempt. It returns when the attempt is over, and soon after
// ctx ends; it is safe for concurrent use.
type Handler interface {
	Handle(ctx context.Context, m Message) Outcome
}
