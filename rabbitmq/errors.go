package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// errLost is the cause when a connection or channel ended while waiting.
var errLost = errors.New("the connection to the broker was lost")

// errDown is the cause when there is no connection now.
var errDown = errors.New("not connected to the broker")

// errTimeout is the cause when the broker did not answer in time.
var errTimeout = errors.New("the broker did not answer in time")

// errBlocked is the cause when the broker has an alarm.
var errBlocked = errors.New("the broker has blocked the connection")

// hintFor says what can be done about a cause of our own, "" where nobody knows.
func hintFor(err error) string {
	switch {
	case errors.Is(err, errBlocked):
		return "the broker takes no publishes until its memory or disk alarm is over: give it room, see rabbitmqctl status"
	case errors.Is(err, errDown):
		return "the connection is restored in the background: start the broker or correct its address, and try again"
	case errors.Is(err, errLost):
		return "the connection is restored in the background: try again, and publish again under the same ID"
	case errors.Is(err, errTimeout):
		return "a queue whose node is down or that has lost its majority does not answer: look with rabbitmqctl cluster_status, or allow more time"
	}
	return ""
}

// exception returns what the server said when it closed a channel or connection.
func exception(err error) (*amqp.Error, bool) {
	var e *amqp.Error
	if !errors.As(err, &e) || !e.Server {
		return nil, false
	}
	return e, true
}

func isCode(err error, code int) bool {
	e, ok := exception(err)
	return ok && e.Code == code
}

func missing(err error) bool { return isCode(err, amqp.NotFound) }

// seamError turns what went wrong into an error of the seam. asked tells whether
// it may have happened all the same.
func seamError(op, address string, err error, asked bool) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*transport.Error](err); ok {
		return err
	}
	e := &transport.Error{Op: op, Address: address, Kind: transport.Temporary, Err: err}
	if said, ok := exception(err); ok {
		explain(e, said)
		return e
	}
	if asked {
		e.Kind = transport.Unknown
	}
	if errors.Is(err, transport.ErrClosed) {
		e.Kind = transport.Permanent
	}
	if errors.Is(err, amqp.ErrClosed) {
		e.Err = errLost
	}
	e.Hint = hintFor(e.Err)
	return e
}

// where is an address as errors show it.
func where(to transport.Address) string {
	if to.Name == "" && to.Key != "" {
		return "queue " + to.Key
	}
	return to.String()
}

// explain sets kind, cause and hint for what the server said.
func explain(e *transport.Error, said *amqp.Error) {
	e.Kind = transport.Permanent
	switch said.Code {
	case amqp.NotFound:
		e.Err = fmt.Errorf("%w: %w", transport.ErrNotFound, said)
		if strings.Contains(said.Reason, "down or inaccessible") {
			e.Kind, e.Hint = transport.Temporary, "the node that holds the queue is down"
		}
	case amqp.AccessRefused:
		e.Err = fmt.Errorf("%w: %w", transport.ErrPermission, said)
		e.Hint = "grant the user this permission: rabbitmqctl set_permissions"
		if strings.Contains(said.Reason, "exclusive use") {
			e.Kind, e.Err, e.Hint = transport.Temporary, said, "another consumer uses the queue exclusively"
		}
	case amqp.ResourceLocked:
		e.Kind, e.Hint = transport.Temporary, "the queue belongs to another connection; after a crash the broker needs a moment to notice"
	case amqp.PreconditionFailed:
		e.Err = fmt.Errorf("%w: %w", transport.ErrInvalid, said)
		if strings.Contains(said.Reason, "larger than") {
			e.Err = fmt.Errorf("%w: %w", transport.ErrTooLarge, said)
			e.Hint = "raise max_message_size of the broker, or send less"
		}
		if strings.Contains(said.Reason, "timed out") {
			e.Kind, e.Hint = transport.Temporary, "a delivery was unsettled for longer than the broker's consumer_timeout"
		}
	case amqp.NotAllowed:
		e.Err = fmt.Errorf("%w: %w", transport.ErrPermission, said)
		e.Hint = "the virtual host does not exist, or the user may not use it"
	case amqp.CommandInvalid, amqp.NotImplemented, amqp.SyntaxError:
		e.Err = fmt.Errorf("%w: %w", transport.ErrInvalid, said)
	default: // 320 connection forced, 504, 506, 541 and whatever comes
		e.Kind = transport.Unknown
	}
}

// unroutable is the answer to a publish that no queue takes.
func unroutable(op, address, hint string) error {
	return &transport.Error{Op: op, Address: address, Kind: transport.Temporary, Err: transport.ErrUnroutable, Hint: hint}
}

func isUnroutable(err error) bool { return errors.Is(err, transport.ErrUnroutable) }

// within calls do, which may hang for as long as the connection lives, and
// returns when it does or when ctx ends. It does not wait for do after that: do
// must clean up after itself.
func within(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }() // ends with its call, or with the connection
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
