package holdfast

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// Permanent marks err as one that no retry can mend: the message becomes a dead
// letter at once. Permanent(nil) is nil.
func Permanent(err error) error { return recovery.Permanent(err) }

// RetryAfter marks err as transient and asks for the next attempt not before d
// has passed, within the bounds of the policy. RetryAfter(nil, d) is nil.
func RetryAfter(err error, d time.Duration) error { return recovery.RetryAfter(err, d) }

// Discard marks err as one the message is not worth keeping for: it is acked,
// counted and logged. Discard(nil) is nil.
func Discard(err error) error { return recovery.Discard(err) }

// What callers branch on, wherever it comes from.
var (
	// ErrNoHandler is for handlers that route messages further and find nobody:
	// the message becomes a dead letter with reason no-handler.
	ErrNoHandler = recovery.ErrNoHandler
	// ErrSettled is returned by the second settlement of a message.
	ErrSettled = transport.ErrSettled
	// ErrUnsupported is returned when the broker cannot do what was asked.
	ErrUnsupported = transport.ErrUnsupported
	// ErrUnroutable is returned by a publish nobody would store, and by a
	// request nobody listens to.
	ErrUnroutable = transport.ErrUnroutable
	// ErrTooLarge is returned for a message larger than the broker takes.
	ErrTooLarge = transport.ErrTooLarge
	// ErrInvalid is returned for a setting, address or header that can never
	// work.
	ErrInvalid = transport.ErrInvalid
	// ErrNotManual is returned by the settlements of a message whose
	// subscription does not settle by hand; see Ack and Manual.
	ErrNotManual = errors.New("the subscription does not settle by hand: give it the ack policy Manual")
	// ErrRunning is returned when something runs already.
	ErrRunning = errors.New("is running already")
	// ErrEnded is returned when something ran, or was stopped, and cannot run
	// again.
	ErrEnded = errors.New("has ended")
)

// Unknown reports whether a publish that returned err may have happened all the
// same: nobody can say. Publish again under the same ID.
func Unknown(err error) bool {
	var e *transport.Error
	return errors.As(err, &e) && e.Kind == transport.Unknown
}

// Finding is one result of a contract check.
type Finding = transport.Finding

// ContractError is what App.Run and Subscription.Start return when a promise
// cannot be kept.
type ContractError struct {
	// Findings are all findings of level error, in the order of the
	// subscriptions.
	Findings []Finding
}

// Error lists the findings, one a line.
func (e *ContractError) Error() string {
	var b strings.Builder
	contracts := "contracts"
	if len(e.Findings) == 1 {
		contracts = "contract"
	}
	fmt.Fprintf(&b, "holdfast does not start: %d %s cannot be kept", len(e.Findings), contracts)
	for _, f := range e.Findings {
		b.WriteString("\n  " + f.String())
		for _, line := range f.Diff {
			b.WriteString("\n      " + line)
		}
	}
	return b.String()
}

// Has reports whether a finding has this code.
func (e *ContractError) Has(code transport.Code) bool {
	for _, f := range e.Findings {
		if f.Code == code {
			return true
		}
	}
	return false
}
