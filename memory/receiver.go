package memory

import (
	"context"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// receiver takes messages from one queue. It buffers nothing: a message is
// leased at the moment it is handed out. Broker.mu guards it.
type receiver struct {
	q            *queue
	subscription string
	window       int
	retries      int         // how often a message is handed out again at most; 0 is no bound
	held         int         // deliveries handed out and not settled
	unconfirmed  []*delivery // pipelined acks that wait for the connection
	confirmed    []chan struct{}
	closed       bool
	broken       error // the fault that ended it
}

// Lease implements transport.Leased.
func (r *receiver) Lease() time.Duration { return r.q.lease }

// Receive implements transport.Receiver.
func (r *receiver) Receive(ctx context.Context) (transport.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return nil, r.ended(err)
	}
	b := r.q.b
	b.mu.Lock()
	events := r.q.expire(time.Now())
	w, d, err := r.take()
	b.mu.Unlock()
	b.observers.emit(events...)
	if err != nil {
		return nil, err
	}
	if d != nil {
		return d, nil
	}
	select {
	case got := <-w.ch:
		return got.delivery()
	case <-ctx.Done():
	}
	b.mu.Lock()
	waiting := r.q.dropWaiter(w)
	b.mu.Unlock()
	if waiting {
		return nil, r.ended(ctx.Err())
	}
	// It was served in the moment ctx ended: what was handed out is not lost.
	return (<-w.ch).delivery()
}

// take returns a delivery, or the waiter that will get one. Broker.mu is held.
func (r *receiver) take() (*waiter, *delivery, error) {
	if err := r.usable(); err != nil {
		return nil, nil, err
	}
	// Those that waited before are served before.
	r.q.dispatch()
	if f := r.q.b.fault(OpReceive); f != nil {
		r.broken = f.err("receive", r.q.name)
		return nil, nil, r.broken
	}
	if len(r.q.ready.list) > 0 && r.held < r.window && !r.q.halted() {
		return nil, r.q.handOut(r), nil
	}
	w := &waiter{r: r, ch: make(chan received, 1)}
	r.q.waiters = append(r.q.waiters, w)
	return w, nil, nil
}

// usable returns why r hands out nothing any more, or nil.
func (r *receiver) usable() error {
	if r.closed || r.q.b.closed {
		return closedError("receive", r.q.name)
	}
	return r.broken
}

func (r *receiver) ended(err error) error {
	return &transport.Error{Op: "receive", Address: r.q.name, Kind: transport.Temporary, Err: err}
}

// delivery keeps a nil *delivery from becoming an interface that is not nil.
func (g received) delivery() (transport.Delivery, error) {
	if g.err != nil {
		return nil, g.err
	}
	return g.d, nil
}

// Close implements transport.Receiver. There is nothing to hand back, and it
// waits only for pipelined acks while the connection is cut.
func (r *receiver) Close(ctx context.Context) error {
	b := r.q.b
	b.mu.Lock()
	if !r.closed {
		r.closed = true
		delete(r.q.receivers, r)
		r.q.fail(closedError("receive", r.q.name), r)
	}
	if len(r.unconfirmed) == 0 || b.closed {
		b.mu.Unlock()
		return nil
	}
	ch := make(chan struct{})
	r.confirmed = append(r.confirmed, ch)
	b.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-b.done:
		return nil
	case <-ctx.Done():
		return &transport.Error{
			Op: "close receiver", Address: r.q.name, Kind: transport.Unknown, Err: ctx.Err(),
			Hint: "some acks are not confirmed yet; those messages may be delivered again",
		}
	}
}

// confirm settles the acks that waited for the connection.
func (r *receiver) confirm() {
	for _, d := range r.unconfirmed {
		d.state = settled
		r.q.release(d.e)
		r.q.b.forget(1)
	}
	r.unconfirmed = nil
	r.wakeClosers()
}

// abandon removes d from the acks that wait for the connection.
func (r *receiver) abandon(d *delivery) {
	for i, other := range r.unconfirmed {
		if other == d {
			r.unconfirmed = append(r.unconfirmed[:i], r.unconfirmed[i+1:]...)
			break
		}
	}
	if len(r.unconfirmed) == 0 {
		r.wakeClosers()
	}
}

func (r *receiver) wakeClosers() {
	for _, ch := range r.confirmed {
		close(ch)
	}
	r.confirmed = nil
}
