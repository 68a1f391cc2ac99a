package memory

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// Op is a step that a test can make fail.
type Op string

// The steps of a broker.
const (
	OpCheck     Op = "check"
	OpProvision Op = "provision"
	OpOpen      Op = "open"
	OpPublish   Op = "publish"
	// OpOpenPipeline is the opening of a pipeline; its messages meet OpPublish.
	OpOpenPipeline Op = "open pipeline"
	OpRequest      Op = "request"
	OpRespond      Op = "respond"
	// OpReceive fails calls of Receive, those that wait included. The receiver
	// is then of no more use, as the seam says.
	OpReceive Op = "receive"
	OpAck     Op = "ack"
	// OpAckLater fails the call of AckLater itself.
	OpAckLater Op = "ack later"
	// OpConfirm lets AckLater return nil and loses the ack: an AckUnconfirmed
	// event tells so, and the message comes back when its lease ends.
	OpConfirm Op = "confirm ack"
	OpNack    Op = "nack"
	OpReject  Op = "reject"
	OpExtend  Op = "extend lease"
	OpBury    Op = "bury"
	OpLetters Op = "list dead letters"
	OpRemove  Op = "remove dead letter"
	OpRedrive Op = "redrive"
	OpSummary Op = "count dead letters"
)

// fault makes one step fail a number of times.
type fault struct {
	cause error
	left  int
	after bool // the step is done and its answer is lost
}

// err is what a call that meets the fault returns.
func (f *fault) err(op, address string) error {
	if own, ok := errors.AsType[*transport.Error](f.cause); ok {
		return own
	}
	kind := transport.Temporary
	if f.after {
		kind = transport.Unknown
	}
	return &transport.Error{Op: op, Address: address, Kind: kind, Err: f.cause}
}

// Fail makes the next calls of op do nothing and return err. It is for tests.
//
// An err that is a *transport.Error is returned as it is; any other is wrapped
// in a Temporary one. Faults of one op are used up one after the other, in the
// order they were set.
func (b *Broker) Fail(op Op, err error, times int) {
	b.addFault(op, &fault{cause: err, left: times})
}

// LoseAnswer makes the next calls of op do what they do and return err all the
// same, as when a connection breaks between a request and its answer. It is for
// tests. An err that is not a *transport.Error is wrapped in an Unknown one.
//
// For OpReceive, OpAckLater, OpConfirm and OpExtend, which have no answer to
// lose, it is the same as Fail.
func (b *Broker) LoseAnswer(op Op, err error, times int) {
	b.addFault(op, &fault{cause: err, left: times, after: true})
}

func (b *Broker) addFault(op Op, f *fault) {
	if f.left <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults[op] = append(b.faults[op], f)
	if op == OpReceive {
		b.failWaiting()
	}
}

// failWaiting lets calls of Receive that wait meet their fault at once.
func (b *Broker) failWaiting() {
	for _, q := range b.order {
		for len(q.waiters) > 0 {
			f := b.fault(OpReceive)
			if f == nil {
				return
			}
			w := q.waiters[0]
			q.waiters = q.waiters[1:]
			w.r.broken = f.err(string(OpReceive), q.name)
			w.ch <- received{err: w.r.broken}
			q.fail(w.r.broken, w.r)
		}
	}
}

// fault uses up one fault of op, if there is one.
func (b *Broker) fault(op Op) *fault {
	list := b.faults[op]
	if len(list) == 0 {
		return nil
	}
	f := list[0]
	f.left--
	if f.left == 0 {
		b.faults[op] = list[1:]
	}
	return f
}

// Stall makes calls of op wait until release is called, until their context
// ends or until ten seconds have passed, and then go on or fail. It is for
// tests. OpReceive, OpAckLater, OpConfirm and OpExtend, which do not wait for
// the broker, cannot be stalled; see Pause. What was sent through a pipeline
// meets a stall of OpPublish without the ten seconds: its sender decides when it
// has waited enough.
func (b *Broker) Stall(op Op) (release func()) {
	ch := make(chan struct{})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stalls[op] = ch
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.stalls[op] == ch {
			delete(b.stalls, op)
			close(ch)
		}
	}
}

// begin starts a step. When it returns a nil err, the step may be done and the
// caller holds b.mu; lost is then what it answers although it was done.
func (b *Broker) begin(ctx context.Context, op Op, address string) (lost, err error) {
	if err := b.unstalled(ctx, op, address); err != nil {
		return nil, err
	}
	if err := b.refusal(op, address); err != nil {
		b.mu.Unlock()
		return nil, err
	}
	f := b.fault(op)
	switch {
	case f == nil:
		return nil, nil
	case f.after:
		return f.err(string(op), address), nil
	default:
		b.mu.Unlock()
		return nil, f.err(string(op), address)
	}
}

// unstalled returns with b.mu held once op is not stalled, or with an error and
// without the lock.
func (b *Broker) unstalled(ctx context.Context, op Op, address string) error {
	for {
		if err := ctx.Err(); err != nil {
			return &transport.Error{Op: string(op), Address: address, Kind: transport.Temporary, Err: err}
		}
		b.mu.Lock()
		ch := b.stalls[op]
		if ch == nil || b.closed {
			return nil
		}
		b.mu.Unlock()
		if err := b.wait(ctx, ch); err != nil {
			return &transport.Error{Op: string(op), Address: address, Kind: transport.Temporary, Err: err}
		}
	}
}

// wait returns nil when ch or the broker is closed.
func (b *Broker) wait(ctx context.Context, ch <-chan struct{}) error {
	timeout := time.NewTimer(operationTimeout)
	defer timeout.Stop()
	select {
	case <-ch:
		return nil
	case <-b.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout.C:
		return context.DeadlineExceeded
	}
}

// refusal says why no step can be done now, or nil. b.mu is held.
func (b *Broker) refusal(op Op, address string) error {
	if b.closed {
		return closedError(string(op), address)
	}
	if b.down != nil {
		return b.downError(op, address)
	}
	return nil
}

func (b *Broker) downError(op Op, address string) error {
	return &transport.Error{
		Op: string(op), Address: address, Kind: transport.Temporary, Err: b.down,
		Hint: "the connection is cut; try again when it is back",
	}
}

func closedError(op, address string) error {
	return &transport.Error{Op: op, Address: address, Kind: transport.Permanent, Err: transport.ErrClosed}
}

// Pause makes the broker hand out nothing until Resume. It is for tests.
// Receivers wait; everything else goes on, leases and delays included.
func (b *Broker) Pause() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = true
}

// Resume ends Pause.
func (b *Broker) Resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = false
	b.dispatchAll()
}

// What is said where a test gave no reason of its own.
var (
	errCut   = errors.New("connection is cut")
	errAlarm = errors.New("the broker is short of room")
	errStuck = errors.New("the broker did not answer in time")
)

// Disconnect cuts the connection until Reconnect. It is for tests. Receivers
// wait, acks made by AckLater and OpenPipeline wait too, pipelines end, and every
// other call fails with a Temporary error around cause. Inside the broker time goes on: leases and
// delays end. A nil cause stands for a plain one.
func (b *Broker) Disconnect(cause error) {
	if cause == nil {
		cause = errCut
	}
	b.mu.Lock()
	was := b.down
	b.down = cause
	if was == nil {
		b.up = make(chan struct{})
		b.endPipelines(b.brokenError(cause))
	}
	b.mu.Unlock()
	if was == nil {
		b.observers.emit(transport.Event{Kind: transport.Disconnected, Err: cause})
	}
}

// Reconnect ends Disconnect.
func (b *Broker) Reconnect() {
	b.mu.Lock()
	was := b.down
	b.down = nil
	if was != nil {
		close(b.up)
		b.confirmAll()
		b.dispatchAll()
	}
	b.mu.Unlock()
	if was != nil {
		b.observers.emit(transport.Event{Kind: transport.Reconnected})
	}
}

// confirmAll settles the acks that waited for the connection.
func (b *Broker) confirmAll() {
	for _, q := range b.order {
		for _, e := range append([]*entry(nil), q.timed.list...) {
			if e.held != nil && e.held.state == acking {
				e.held.r.confirm()
			}
		}
	}
}

func (b *Broker) dispatchAll() {
	for _, q := range b.order {
		q.dispatch()
	}
}
