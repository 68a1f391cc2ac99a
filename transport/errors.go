package transport

import (
	"errors"
	"fmt"
)

// What callers branch on. A transport returns them wrapped in an [*Error].
var (
	// ErrClosed is returned by what was closed.
	ErrClosed = errors.New("closed")
	// ErrSettled is returned by the second settlement of one delivery.
	ErrSettled = errors.New("delivery is already settled")
	// ErrLeaseLost is returned by a settlement or extension that came too late:
	// the broker may have handed the message to somebody else.
	ErrLeaseLost = errors.New("the lease of the delivery is lost")
	// ErrUnsupported is returned when the broker cannot do what was asked.
	ErrUnsupported = errors.New("not supported by this broker")
	// ErrUnroutable is returned by a publish that no queue or stream would
	// store, and by a request nobody listens to.
	ErrUnroutable = errors.New("no queue or stream takes this address")
	// ErrTooLarge is returned by a publish the broker would refuse for its size.
	ErrTooLarge = errors.New("message is larger than the broker takes")
	// ErrFull is returned by a publish to a queue or stream that is full and
	// refuses new messages. It is Temporary, for room may be made.
	ErrFull = errors.New("the queue or stream is full")
	// ErrBusy is returned by a publish when too much is under way at the broker:
	// the same publish succeeds a moment later.
	ErrBusy = errors.New("too much is under way at the broker")
	// ErrInvalid is returned for an address, header or setting that can never
	// work.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound is returned when something looked for by name is not there.
	ErrNotFound = errors.New("not found")
	// ErrPermission is returned when the account may not do what was asked.
	ErrPermission = errors.New("permission denied")
)

// Kind says what an error means for the one who asked.
type Kind uint8

const (
	// Permanent: it did not happen, and the same call will never succeed.
	Permanent Kind = iota
	// Temporary: it did not happen; the same call may succeed later.
	Temporary
	// Unknown: nobody can say whether it happened. A publish is repeated under
	// the same DedupID.
	Unknown
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case Temporary:
		return "temporary"
	case Unknown:
		return "unknown outcome"
	default:
		return "permanent"
	}
}

// Error is every error that crosses the seam.
type Error struct {
	Op      string // what we were doing: "publish", "open consumer"
	Address string // where: a subject, a stream and consumer, a queue
	Kind    Kind
	Hint    string // what a person can do about it: a sentence; may be empty
	Err     error
}

// Error returns "op address: cause (hint)".
func (e *Error) Error() string {
	s := e.Op
	if e.Address != "" {
		s += " " + e.Address
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Kind == Unknown {
		s += " (outcome unknown: it may have happened)"
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first [*Error] in err's chain. An error that
// did not come through the seam is Unknown, the careful answer.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Unknown
}

// Unsupported returns the answer of a transport that denies an ability.
func Unsupported(op, address, hint string) error {
	return &Error{Op: op, Address: address, Kind: Permanent, Hint: hint, Err: ErrUnsupported}
}

// Invalid returns a permanent error for a setting that can never work.
func Invalid(op, address, format string, args ...any) error {
	return &Error{Op: op, Address: address, Kind: Permanent, Err: fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))}
}
