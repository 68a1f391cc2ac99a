package sender

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// routeBudget is how long a publish nobody takes is tried again: long enough for
// a leader to be elected, short enough for a misspelt subject.
const routeBudget = 3 * time.Second

// patientRouteBudget is the same for a sender that nobody waits for: a stream
// without a leader has one again within ten seconds.
const patientRouteBudget = 15 * time.Second

// again decides whether a message is sent once more after the broker said err,
// and notes the refusal. It is called with the lock held.
func (s *Sender) again(e *entry, err error) bool {
	if transport.KindOf(err) == transport.Permanent {
		return false
	}
	if errors.Is(err, transport.ErrFull) && !s.cfg.Patient {
		return false
	}
	if e.refused == 0 {
		e.refused = s.clock.ticks + 1
	}
	if !errors.Is(err, transport.ErrUnroutable) {
		return true
	}
	budget := routeBudget
	if s.cfg.Patient {
		budget = patientRouteBudget
	}
	return time.Duration(s.clock.ticks+1-e.refused)*tick < budget
}

// refusal is the outcome of a message whose last copy met err: unknown if an
// earlier one may be at the broker.
func (e *entry) refusal(err error) error {
	if err == nil || e.copies <= 1 || transport.KindOf(err) == transport.Unknown {
		return err
	}
	return &transport.Error{
		Op: "publish", Address: e.item.To.String(), Kind: transport.Unknown,
		Err:  fmt.Errorf("an earlier copy was sent and not confirmed, and the last one was refused: %w", err),
		Hint: hintAgain,
	}
}

const hintAgain = "publish again under the same ID: a broker that deduplicates stores one copy within its window"

// givenUp is the outcome of a message that is given up for cause: unknown if a
// copy of it may be at the broker.
func (s *Sender) givenUp(e *entry, cause error) error {
	switch {
	case e.err != nil:
		cause = errors.Join(cause, e.err)
	case s.why != nil && !errors.Is(cause, s.why):
		cause = errors.Join(cause, s.why)
	case s.alarm != nil:
		cause = errors.Join(cause, s.alarm)
	}
	err := &transport.Error{Op: "publish", Address: e.item.To.String(), Kind: transport.Temporary, Err: cause}
	if transport.KindOf(cause) == transport.Permanent {
		err.Kind = transport.Permanent
	}
	if e.copies > 0 {
		err.Kind = transport.Unknown
		err.Err = fmt.Errorf("no confirmation for %d tries: %w", e.tries, cause)
		err.Hint = hintAgain
	}
	return err
}

// notSent is the outcome of a message that never came into the window.
func (s *Sender) notSent(to transport.Address, cause error) error {
	s.mu.Lock()
	why, p := s.why, s.pipe
	s.mu.Unlock()
	if why == nil && p != nil {
		why = p.Waiting()
	}
	return &transport.Error{
		Op: "publish", Address: to.String(), Kind: transport.Temporary,
		Err:  errors.Join(fmt.Errorf("no room among the unconfirmed messages: %w", cause), why),
		Hint: "the broker is away or confirms less than is published: wait longer, publish less, or give the publisher a larger Window or a Spool",
	}
}

func closedError(to transport.Address) error {
	return &transport.Error{Op: "publish", Address: to.String(), Kind: transport.Permanent, Err: transport.ErrClosed, Hint: "publish before the publisher is closed"}
}

// errClosing is the cause when Close could not wait any longer.
var errClosing = errors.New("the publisher was closed before the broker confirmed")

func closeCause(ctx context.Context) error {
	return errors.Join(errClosing, context.Cause(ctx))
}

// errKiller is the cause when connections ended, again and again, for want of the
// outcome of one message.
var errKiller = errors.New("one connection after the other ended without an outcome of this message, which alone had none")

// Unsent tells whether err says that the sender or its transport was closed, and
// nothing about the message.
func Unsent(err error) bool {
	return errors.Is(err, errClosing) || errors.Is(err, transport.ErrClosed)
}

// errConnecting is why nothing flows before there is a connection.
var errConnecting = errors.New("there is no connection to the broker yet")
