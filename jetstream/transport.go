package jetstream

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// Transport is a connection to NATS JetStream. It implements
// transport.Transport, transport.DeadLetterer and transport.Observable, and is
// safe for concurrent use.
type Transport struct {
	conn    *natsconn.Conn
	set     settings
	api     string // "$JS.API." or what the domain or prefix makes of it
	inbox   *inbox
	pubs    *pubConns                        // the connection of pipelines
	expires bool                             // the server that was connected first knows a time to live
	delays  bool                             // and schedules
	later   schedules                        // the streams that keep messages for later
	handle  atomic.Pointer[natsjs.JetStream] // on the connection of the moment
	closed  atomic.Bool

	mu        sync.Mutex // guards what follows; nothing else is locked under it
	receivers map[opened]struct{}
	made      map[string]bool // the streams this transport created
}

// Interfaces of the seam that a *Transport implements.
var (
	_ transport.Transport    = (*Transport)(nil)
	_ transport.DeadLetterer = (*Transport)(nil)
	_ transport.Observable   = (*Transport)(nil)
)

// opened is a receiver that is told what happens to its connection.
type opened interface {
	transport.Receiver
	wakeSupervisor(cause uint32)
	denied(subject string, cause error)
	// dropped tells whether what came by sub and was dropped is missing now, and
	// to which subscription.
	dropped(sub *nats.Subscription) (subscription string, missing bool)
}

// newTransport makes a transport on conn, which it closes when that fails.
func newTransport(ctx context.Context, conn *natsconn.Conn, set settings) (*Transport, error) {
	t := &Transport{conn: conn, set: set, inbox: newInbox(conn.NATS()), receivers: map[opened]struct{}{}, made: map[string]bool{}}
	t.api = natsjs.DefaultAPIPrefix
	switch {
	case set.domain != "":
		t.api = "$JS." + set.domain + ".API."
	case set.apiPrefix != "":
		t.api = strings.TrimSuffix(set.apiPrefix, ".") + "."
	}
	t.pubs = newPubConns(t.nc, conn.Emit)
	t.expires = serverAtLeast(conn.NATS(), 2, 11, 0)
	t.delays = serverAtLeast(conn.NATS(), 2, 12, 0)
	conn.Observe(t.news)
	if err := conn.Hook(natsconn.Hooks{Prepare: t.prepare, Failed: t.failed}); err != nil {
		_ = conn.Close(ctx)
		return nil, seamError("connect", natsconn.Redact(conn.NATS().ConnectedUrl()), err, false)
	}
	return t, nil
}

// prepare is called with every connection before it is used.
func (t *Transport) prepare(nc *nats.Conn) error {
	js, err := t.openJetStream(nc)
	if err != nil {
		return transport.Invalid("configure jetstream", t.set.domain+t.set.apiPrefix, "%v", err)
	}
	t.handle.Store(&js)
	return t.inbox.open(nc)
}

// openJetStream makes the native handle.
func (t *Transport) openJetStream(nc *nats.Conn) (natsjs.JetStream, error) {
	switch {
	case t.set.domain != "":
		return natsjs.NewWithDomain(nc, t.set.domain)
	case t.set.apiPrefix != "":
		return natsjs.NewWithAPIPrefix(nc, strings.TrimSuffix(t.set.apiPrefix, "."))
	default:
		return natsjs.New(nc)
	}
}

// nc is the connection of the moment.
func (t *Transport) nc() *nats.Conn { return t.conn.NATS() }

// Conn returns the connection, for everything the client library can do. One
// that Connect made is replaced when the client library closed it for good: ask
// again after a ConnectionLost event, and do not keep it.
func (t *Transport) Conn() *nats.Conn { return t.nc() }

// JetStream returns the client library's own handle on JetStream, which belongs
// to the connection that Conn returns.
func (t *Transport) JetStream() natsjs.JetStream { return *t.handle.Load() }

// Capabilities implements transport.Transport.
func (t *Transport) Capabilities() transport.Capabilities {
	return transport.Capabilities{
		Name:        "jetstream",
		Redelivers:  true,
		Delays:      true,
		Rejects:     true,
		Stores:      true,
		Durable:     true,
		DeadLetters: true,
		Schedules:   t.delays,
		Expires:     t.expires,
	}
}

// Observe implements transport.Observable.
func (t *Transport) Observe(fn func(transport.Event)) (stop func()) { return t.conn.Observe(fn) }

// Close implements transport.Transport. It ends the inbox, sends what is still
// in the client's buffer and, when Connect made the connection, closes it.
func (t *Transport) Close(ctx context.Context) error {
	t.mu.Lock()
	if t.closed.Swap(true) {
		t.mu.Unlock()
		return nil
	}
	open := make([]opened, 0, len(t.receivers))
	for r := range t.receivers {
		open = append(open, r)
	}
	t.mu.Unlock()
	// Receivers are closed before their transport; one that was forgotten must
	// not leave goroutines behind.
	for _, r := range open {
		_ = r.Close(ctx)
	}
	t.pubs.close(ctx)
	var err error
	if t.conn.Connected() {
		err = t.flush(ctx)
	}
	t.inbox.fail(transport.ErrClosed, func(string) bool { return true })
	t.inbox.close()
	return errors.Join(err, t.conn.Close(ctx))
}

// flush waits until the server has read everything sent so far.
func (t *Transport) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return seamError("flush", "", t.sendError(t.conn.Flush(ctx)), true)
}

func (t *Transport) isClosed() bool { return t.closed.Load() }

// register adds an open receiver; it fails when the transport is closed.
func (t *Transport) register(r opened) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Load() {
		return &transport.Error{Op: "open consumer", Err: transport.ErrClosed}
	}
	t.receivers[r] = struct{}{}
	return nil
}

func (t *Transport) unregister(r opened) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.receivers, r)
}

// news passes on what the connection reports to those who wait for something.
func (t *Transport) news(e transport.Event) {
	if strings.HasPrefix(e.Detail, forPublishing) {
		return // it concerns another connection
	}
	switch e.Kind {
	case transport.Disconnected:
		// The answers to what is under way went to a connection that is gone.
		t.inbox.fail(errDisconnected, func(string) bool { return true })
	case transport.Reconnected:
		t.inbox.mute.Store(nil)
		t.wakeSupervisors(troubleReconnected)
	case transport.ConnectionLost:
		if t.conn.Lost() {
			t.pubs.abort() // the caller closed the connection that was adopted
		}
		// Consumers are looked up and subscribed to again on another connection:
		// whoever opened the receivers opens them again.
		t.inbox.fail(errDisconnected, func(string) bool { return true })
		t.wakeSupervisors(troubleConnectionClosed)
	}
}

func (t *Transport) wakeSupervisors(cause uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for r := range t.receivers {
		r.wakeSupervisor(cause)
	}
}

// failed handles what the client library reports apart from a call.
func (t *Transport) failed(sub *nats.Subscription, err error) {
	if d, ok := natsconn.ParseDenial(err); ok {
		t.denied(d)
		return
	}
	if errors.Is(err, nats.ErrSlowConsumer) {
		t.dropped(sub, err)
	}
}

// denied fails every question that waits for what the account may not do.
func (t *Transport) denied(d natsconn.Denial) {
	err := d.Cause()
	mute := d.Verb != natsconn.Publish && strings.HasPrefix(d.Subject, t.inbox.prefix)
	if mute && d.Verb == natsconn.Subscribe {
		t.inbox.mute.Store(&err)
	}
	t.inbox.fail(err, func(asked string) bool { return mute || asked == d.Subject })
	t.mu.Lock()
	defer t.mu.Unlock()
	for r := range t.receivers {
		r.denied(d.Subject, err)
	}
}

// dropped counts messages the client library dropped because a receiver's
// channel was full, which the size of the channel is meant to rule out.
func (t *Transport) dropped(sub *nats.Subscription, err error) {
	if sub == nil {
		return
	}
	t.mu.Lock()
	receivers := make([]opened, 0, len(t.receivers))
	for r := range t.receivers {
		receivers = append(receivers, r)
	}
	t.mu.Unlock()
	for _, r := range receivers {
		if subscription, ok := r.dropped(sub); ok {
			t.conn.Emit(transport.Event{Kind: transport.Dropped, Subscription: subscription, Count: 1, Err: err})
		}
	}
}
