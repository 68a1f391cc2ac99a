// Package natsconn holds what the two NATS transports share: how a connection
// is made, what it reports, how a refused permission reaches the call that
// waits for it, and which subjects, headers and sizes are taken.
package natsconn

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// Conn is a NATS connection with what the client library reports in passing:
// its events and its permission violations. It is safe for concurrent use.
//
// The client library restores a connection that was lost. It gives up for good
// when the server reports an error it does not know: a protocol line that is
// too long, a message above a limit that was lowered. A connection that Dial
// made is then made anew, and what was subscribed on it must be subscribed
// again; an adopted one is closed.
type Conn struct {
	nc     atomic.Pointer[nats.Conn]
	redial func(context.Context) (*nats.Conn, error) // nil for an adopted connection
	born   atomic.Uint64                             // how often the connection was made anew

	life context.Context // ends when Close begins
	end  context.CancelFunc

	mu        sync.Mutex     // keeps redialing from growing after life has ended
	redialing sync.WaitGroup // counts running redials
	closed    chan struct{}  // closed by the closed handler once life has ended
	once      sync.Once      // guards closed

	hooks   atomic.Pointer[Hooks]
	release func() // gives an adopted connection its own handlers back

	events  events
	denials denials
	flusher flusher
}

// Hooks is what a transport does with every connection. A nil function does
// nothing.
type Hooks struct {
	// Prepare is called with a connection before it is used. It must not wait
	// for the server. When it fails the connection is of no use.
	Prepare func(*nats.Conn) error
	// Failed is called for every error that the client library reports apart
	// from a call: a refused permission, messages it dropped. It must not block.
	Failed func(*nats.Subscription, error)
}

// Hook sets the hooks, once, and prepares the connection there is.
func (c *Conn) Hook(h Hooks) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hooks.Store(&h)
	return c.prepareLocked(c.NATS())
}

func (c *Conn) prepareLocked(nc *nats.Conn) error {
	if h := c.hooks.Load(); h != nil && h.Prepare != nil {
		return h.Prepare(nc)
	}
	return nil
}

// Wrap adopts a connection somebody else made. The handlers that were set are
// kept and called after ours; a handler set later replaces ours. Close leaves
// the connection open, with the handlers it had.
func Wrap(nc *nats.Conn) *Conn {
	// An adopted connection starts nothing that a context of a caller could
	// end; life only marks that Close was called.
	c := newConn(context.Background())
	c.nc.Store(nc)
	c.denials.last = nc.LastError() // what was refused before concerns nobody here
	lost, back, gone, failed := nc.DisconnectErrHandler(), nc.ReconnectHandler(), nc.ClosedHandler(), nc.ErrorHandler()
	nc.SetDisconnectErrHandler(c.onDisconnect(lost))
	nc.SetReconnectHandler(c.onReconnect(back))
	nc.SetClosedHandler(c.onClosed(gone))
	nc.SetErrorHandler(c.onError(failed))
	c.release = func() {
		nc.SetDisconnectErrHandler(lost)
		nc.SetReconnectHandler(back)
		nc.SetClosedHandler(gone)
		nc.SetErrorHandler(failed)
	}
	return c
}

func newConn(ctx context.Context) *Conn {
	c := &Conn{closed: make(chan struct{})}
	c.life, c.end = context.WithCancel(ctx)
	c.denials.note = make(chan struct{})
	c.flusher.turn = make(chan struct{}, 1)
	return c
}

// NATS returns the client library's connection. It is another one after the
// connection was made anew.
func (c *Conn) NATS() *nats.Conn { return c.nc.Load() }

// Connected tells whether the connection is up at this moment.
func (c *Conn) Connected() bool { return c.NATS().IsConnected() }

// Lost tells whether the connection is closed and nobody makes it anew.
func (c *Conn) Lost() bool { return c.redial == nil && c.NATS().IsClosed() }

// Epoch grows whenever the connection was restored or made anew. What was
// written in one epoch and confirmed in another may have been lost in between.
func (c *Conn) Epoch() uint64 { return c.born.Load()<<32 + c.NATS().Stats().Reconnects }

// Observe calls fn for every event from now on, until stop is called.
func (c *Conn) Observe(fn func(transport.Event)) (stop func()) { return c.events.observe(fn) }

// Emit hands an event of a receiver to every observer.
func (c *Conn) Emit(e transport.Event) { c.events.emit(e) }

// Close closes a connection that Dial made and waits until it is closed or ctx
// ends; an adopted one is left open. It is idempotent.
func (c *Conn) Close(ctx context.Context) error {
	c.mu.Lock()
	over := c.life.Err() != nil
	c.end()
	c.mu.Unlock()
	if c.redial == nil {
		if !over {
			c.release()
		}
		return nil
	}
	// A redial ends with life, at the latest one dial timeout later.
	c.redialing.Wait()
	if c.NATS().IsClosed() {
		return nil
	}
	c.NATS().Close()
	select {
	case <-c.closed:
		return nil
	case <-ctx.Done():
		return &transport.Error{Op: "close connection", Kind: transport.Unknown, Err: ctx.Err()}
	}
}

func (c *Conn) onDisconnect(next nats.ConnErrHandler) nats.ConnErrHandler {
	return func(nc *nats.Conn, err error) {
		if c.life.Err() == nil {
			c.events.emit(transport.Event{Kind: transport.Disconnected, Err: err})
		}
		if next != nil {
			next(nc, err)
		}
	}
}

func (c *Conn) onReconnect(next nats.ConnHandler) nats.ConnHandler {
	return func(nc *nats.Conn) {
		c.denials.forgetInbox()
		c.events.emit(transport.Event{Kind: transport.Reconnected, Detail: Redact(nc.ConnectedUrl())})
		if next != nil {
			next(nc)
		}
	}
}

func (c *Conn) onClosed(next nats.ConnHandler) nats.ConnHandler {
	return func(nc *nats.Conn) {
		if c.life.Err() != nil {
			c.once.Do(func() { close(c.closed) })
		} else {
			c.events.emit(transport.Event{Kind: transport.ConnectionLost, Err: nc.LastError()})
			c.revive()
		}
		if next != nil {
			next(nc)
		}
	}
}

// revive makes a connection anew that was closed for good, for as long as that
// takes. Close waits for it.
func (c *Conn) revive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.redial == nil || c.life.Err() != nil {
		return
	}
	c.redialing.Go(func() {
		for pause := firstPause; sleep(c.life, pause); pause = min(2*pause, longestPause) {
			nc, err := c.redial(c.life)
			if err != nil {
				continue // reported as ConnectionLost, and until it is mended
			}
			c.replace(nc)
			return
		}
	})
}

// replace puts a connection that was made anew in the place of the one before.
func (c *Conn) replace(nc *nats.Conn) {
	c.mu.Lock()
	err := c.prepareLocked(nc)
	c.nc.Store(nc)
	c.born.Add(1)
	c.mu.Unlock()
	if err != nil {
		nc.Close() // and its closed handler begins again
		return
	}
	c.denials.forgetInbox()
	c.events.emit(transport.Event{Kind: transport.Reconnected, Detail: Redact(nc.ConnectedUrl())})
}

func (c *Conn) onError(next nats.ErrHandler) nats.ErrHandler {
	return func(nc *nats.Conn, sub *nats.Subscription, err error) {
		c.denials.record(err, inboxPrefix(nc))
		if h := c.hooks.Load(); h != nil && h.Failed != nil {
			h.Failed(sub, err)
		}
		if next != nil {
			next(nc, sub, err)
		}
	}
}

// inboxPrefix returns what every reply subject of this connection starts with.
func inboxPrefix(nc *nats.Conn) string {
	if p := nc.Opts.InboxPrefix; p != "" {
		return p + "."
	}
	return nats.InboxPrefix
}
