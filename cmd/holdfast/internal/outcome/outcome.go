// Package outcome is what an external handler, a command or an HTTP endpoint,
// is given and what it says about a message. It knows nothing of brokers or
// policies.
package outcome

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Message is one attempt at a message. It is read only.
type Message struct {
	ID           string
	Subject      string
	Subscription string
	Attempt      int // from 1
	ContentType  string
	Header       map[string][]string
	Params       map[string]string // what stands for {name} in the subject
	Body         []byte
}

// ParamsJSON returns the parameters as a JSON object in ASCII, empty when there
// are none or when they take more than limit bytes.
func (m Message) ParamsJSON(limit int) string {
	b, err := json.Marshal(m.Params)
	if err != nil || m.Params == nil || len(b) > limit {
		return "{}"
	}
	var ascii strings.Builder
	for _, r := range string(b) {
		if r < utf8.RuneSelf {
			ascii.WriteRune(r)
			continue
		}
		for _, u := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&ascii, "\\u%04x", u)
		}
	}
	return ascii.String()
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
