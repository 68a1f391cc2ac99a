package recovery

import (
	"errors"
	"fmt"
	"time"
)

// marked is an error with the intention of the handler that returned it.
type marked struct {
	err   error
	class Class
	after time.Duration
}

func (m *marked) Error() string { return m.err.Error() }
func (m *marked) Unwrap() error { return m.err }

// Permanent marks err as one that no retry can mend: the message becomes a dead
// letter at once. Permanent(nil) is nil.
func Permanent(err error) error { return mark(err, ClassPermanent, 0) }

// Discard marks err as one that is not worth keeping the message for: it is
// acked, counted and logged. Discard(nil) is nil.
func Discard(err error) error { return mark(err, ClassDiscard, 0) }

// RetryAfter marks err as transient and asks for the next attempt not before d
// has passed; the attempt that follows counts as any other. The policy's bounds
// still hold: the retry has to fit into Attempts and Within, and a policy that
// has only immediate retries gives one of those. A d of zero or less asks for
// nothing. RetryAfter(nil, d) is nil.
func RetryAfter(err error, d time.Duration) error { return mark(err, ClassTransient, max(d, 0)) }

func mark(err error, class Class, after time.Duration) error {
	if err == nil {
		return nil
	}
	return &marked{err: err, class: class, after: after}
}

// ErrNoHandler is returned by a handler that found nobody to handle a message
// of this kind, such as a router of message types. It is permanent.
var ErrNoHandler = errors.New("no handler for this message")

// DecodeError is a body that could not be decoded. It is permanent.
type DecodeError struct{ Err error }

// Error returns "decode body: " and the cause.
func (e *DecodeError) Error() string { return fmt.Sprintf("decode body: %v", e.Err) }

// Unwrap returns the cause.
func (e *DecodeError) Unwrap() error { return e.Err }

// InvalidError is a body that was decoded and refused by its Validate method.
// It is permanent.
type InvalidError struct{ Err error }

// Error returns "validate body: " and the cause.
func (e *InvalidError) Error() string { return fmt.Sprintf("validate body: %v", e.Err) }

// Unwrap returns the cause.
func (e *InvalidError) Unwrap() error { return e.Err }

// PanicError is a panic of a handler. It is transient unless a rule says
// otherwise: the retry budget bounds it.
type PanicError struct {
	Value any    // what panic was called with
	Stack []byte // of the goroutine that panicked, as debug.Stack gives it
}

// Error returns "handler panicked: " and the value.
func (e *PanicError) Error() string { return fmt.Sprintf("handler panicked: %v", e.Value) }

// Unwrap returns the panic's value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// TimeoutError is a handler that did not return in time. It is transient unless
// a rule says otherwise.
type TimeoutError struct {
	// After is the time the handler was given.
	After time.Duration
	// Hung: the handler did not return after its context was cancelled either,
	// and was left behind.
	Hung bool
}

// Error says how long the handler was given, and whether it hung.
func (e *TimeoutError) Error() string {
	if e.Hung {
		return fmt.Sprintf("handler did not return within %v, nor after its context was cancelled", e.After)
	}
	return fmt.Sprintf("handler did not return within %v", e.After)
}

// Timeout reports true, as net.Error does.
func (e *TimeoutError) Timeout() bool { return true }

// Class is what kind of failure an error is.
type Class string

// The classes of failure.
const (
	ClassTransient Class = "transient"
	ClassPermanent Class = "permanent"
	ClassDiscard   Class = "discard"
	ClassDecode    Class = "decode"
	ClassInvalid   Class = "invalid"
	ClassNoHandler Class = "no-handler"
	ClassPanic     Class = "panic"
	ClassTimeout   Class = "timeout"
)

// Classify returns the class of err and the delay it asks for, if any. The
// outermost mark counts; of those that errors.Join put side by side, the first.
func Classify(err error) (Class, time.Duration) {
	if m, ok := errors.AsType[*marked](err); ok {
		return m.class, m.after
	}
	if _, ok := errors.AsType[*DecodeError](err); ok {
		return ClassDecode, 0
	}
	if _, ok := errors.AsType[*InvalidError](err); ok {
		return ClassInvalid, 0
	}
	if errors.Is(err, ErrNoHandler) {
		return ClassNoHandler, 0
	}
	if _, ok := errors.AsType[*PanicError](err); ok {
		return ClassPanic, 0
	}
	if _, ok := errors.AsType[*TimeoutError](err); ok {
		return ClassTimeout, 0
	}
	return ClassTransient, 0
}
