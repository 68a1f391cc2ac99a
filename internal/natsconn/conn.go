// Package natsconn holds what the two NATS transports share: how a connection
// is made, what it reports, how a refused permission reaches the call that
// waits for it, and which subjects, headers and sizes are taken.
package natsconn

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// Conn is a NATS connection with what the client library reports in passing:
// its events and its permission violations. It is safe for concurrent use.
type Conn struct {
	nc    *nats.Conn
	owned bool // we made the connection, so we close it

	closing atomic.Bool
	closed  chan struct{} // closed by the closed handler of the connection
	once    sync.Once     // guards closed

	events  events
	denials denials
	flusher flusher
}

// Wrap adopts a connection somebody else made. The handlers that were set are
// kept and called after ours; a handler set later replaces ours. Close leaves
// the connection open.
func Wrap(nc *nats.Conn) *Conn {
	c := newConn()
	c.nc = nc
	lost, back, gone, failed := nc.DisconnectErrHandler(), nc.ReconnectHandler(), nc.ClosedHandler(), nc.ErrorHandler()
	nc.SetDisconnectErrHandler(c.onDisconnect(lost))
	nc.SetReconnectHandler(c.onReconnect(back))
	nc.SetClosedHandler(c.onClosed(gone))
	nc.SetErrorHandler(c.onError(failed))
	return c
}

func newConn() *Conn {
	c := &Conn{closed: make(chan struct{})}
	c.denials.note = make(chan struct{})
	c.flusher.turn = make(chan struct{}, 1)
	return c
}

// NATS returns the client library's connection.
func (c *Conn) NATS() *nats.Conn { return c.nc }

// Connected tells whether the connection is up at this moment.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// Epoch counts how often the connection was restored. What was written in one
// epoch and confirmed in another may have been lost in between.
func (c *Conn) Epoch() uint64 { return c.nc.Stats().Reconnects }

// Observe calls fn for every event from now on, until stop is called.
func (c *Conn) Observe(fn func(transport.Event)) (stop func()) { return c.events.observe(fn) }

// Emit hands an event of a receiver to every observer.
func (c *Conn) Emit(e transport.Event) { c.events.emit(e) }

// Close closes a connection that Dial made and waits until it is closed or ctx
// ends; an adopted one is left open. It is idempotent.
func (c *Conn) Close(ctx context.Context) error {
	c.closing.Store(true)
	if !c.owned {
		return nil
	}
	c.nc.Close()
	select {
	case <-c.closed:
		return nil
	case <-ctx.Done():
		return &transport.Error{Op: "close connection", Kind: transport.Unknown, Err: ctx.Err()}
	}
}

func (c *Conn) onDisconnect(next nats.ConnErrHandler) nats.ConnErrHandler {
	return func(nc *nats.Conn, err error) {
		if !c.closing.Load() {
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
		if !c.closing.Load() {
			c.events.emit(transport.Event{Kind: transport.ConnectionLost, Err: nc.LastError()})
		}
		c.once.Do(func() { close(c.closed) })
		if next != nil {
			next(nc)
		}
	}
}

func (c *Conn) onError(next nats.ErrHandler) nats.ErrHandler {
	return func(nc *nats.Conn, sub *nats.Subscription, err error) {
		c.denials.record(err, inboxPrefix(nc))
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

// settleWait bounds how long a flush waits for the client library to report an
// error that the server sent before it answered.
const settleWait = time.Second
