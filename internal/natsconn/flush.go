package natsconn

import (
	"context"
	"sync"
)

// flusher lets many callers share round trips: one flush is on its way at a
// time, and everybody who comes meanwhile waits for the next. It has no
// goroutine of its own: the flush is made by one of those who wait.
type flusher struct {
	turn chan struct{} // holds a token while a flush is on its way
	mu   sync.Mutex    // guards next; a leaf
	next *flight       // what the next flush will cover
}

type flight struct {
	done chan struct{} // closed by the caller who made the flush, after err
	err  error
}

// Flush returns nil once the server has parsed everything that was written to
// the connection before. Permission violations it caused are then known to
// DeniedSince. It says nothing about who listens. It returns the error of ctx
// when that ends first, and that of the client library when the connection was
// lost; the outcome of what was written is then unknown. So it is when the
// server refused something and it cannot be known what. ctx must have a deadline.
func (c *Conn) Flush(ctx context.Context) error { return c.flusher.flush(ctx, c.roundTrip) }

func (f *flusher) flush(ctx context.Context, roundTrip func(context.Context) error) error {
	mine := f.join()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	case f.turn <- struct{}{}:
		err := f.fly(ctx, mine, roundTrip)
		<-f.turn
		return err
	}
}

// join returns the flight that takes off after everything written so far.
func (f *flusher) join() *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == nil {
		f.next = &flight{done: make(chan struct{})}
	}
	return f.next
}

// fly makes the round trip for a flight, unless somebody did before. When the
// caller's context ends first the flight is left to another of its passengers,
// whose context may be longer.
func (f *flusher) fly(ctx context.Context, mine *flight, roundTrip func(context.Context) error) error {
	select {
	case <-mine.done:
		return mine.err
	default:
	}
	f.mu.Lock()
	if f.next == mine {
		f.next = nil
	}
	f.mu.Unlock()
	err := roundTrip(ctx)
	if err != nil && ctx.Err() != nil {
		return err
	}
	mine.err = err
	close(mine.done)
	return err
}

func (c *Conn) roundTrip(ctx context.Context) error {
	if err := c.NATS().FlushWithContext(ctx); err != nil {
		return err
	}
	return c.settle(ctx)
}
