package jetstream

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// Transport is a connection to NATS JetStream. It implements
// transport.Transport, transport.DeadLetterer and transport.Observable, and is
// safe for concurrent use.
type Transport struct {
	nc     *nats.Conn
	js     natsjs.JetStream
	owned  bool // the connection was made by Connect
	set    settings
	api    string // "$JS.API." or what the domain or prefix makes of it
	inbox  *inbox
	events observers
	closed atomic.Bool

	mu        sync.Mutex // guards what follows; nothing else is locked under it
	receivers map[*receiver]struct{}
	release   func() // gives the connection its own handlers back
	lostOnce  sync.Once
}

// Interfaces of the seam that a *Transport implements.
var (
	_ transport.Transport    = (*Transport)(nil)
	_ transport.DeadLetterer = (*Transport)(nil)
	_ transport.Observable   = (*Transport)(nil)
)

func newTransport(nc *nats.Conn, set settings, owned bool) (*Transport, error) {
	t := &Transport{nc: nc, owned: owned, set: set, receivers: map[*receiver]struct{}{}}
	if err := t.openJetStream(); err != nil {
		return nil, transport.Invalid("configure jetstream", set.domain+set.apiPrefix, "%v", err)
	}
	box, err := newInbox(nc)
	if err != nil {
		return nil, seamError("connect", redact(nc.ConnectedUrl()), err, false)
	}
	t.inbox = box
	t.release = t.installHandlers()
	return t, nil
}

// openJetStream makes the native handle and the prefix of the management API.
func (t *Transport) openJetStream() (err error) {
	switch {
	case t.set.domain != "":
		t.api = "$JS." + t.set.domain + ".API."
		t.js, err = natsjs.NewWithDomain(t.nc, t.set.domain)
	case t.set.apiPrefix != "":
		t.api = strings.TrimSuffix(t.set.apiPrefix, ".") + "."
		t.js, err = natsjs.NewWithAPIPrefix(t.nc, strings.TrimSuffix(t.set.apiPrefix, "."))
	default:
		t.api = natsjs.DefaultAPIPrefix
		t.js, err = natsjs.New(t.nc)
	}
	return err
}

// Conn returns the connection, for everything the client library can do.
func (t *Transport) Conn() *nats.Conn { return t.nc }

// JetStream returns the client library's own handle on JetStream.
func (t *Transport) JetStream() natsjs.JetStream { return t.js }

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
	}
}

// Observe implements transport.Observable.
func (t *Transport) Observe(fn func(transport.Event)) (stop func()) { return t.events.add(fn) }

// Close implements transport.Transport. It ends the inbox, sends what is still
// in the client's buffer and, when Connect made the connection, closes it.
func (t *Transport) Close(ctx context.Context) error {
	t.mu.Lock()
	if t.closed.Swap(true) {
		t.mu.Unlock()
		return nil
	}
	open := make([]*receiver, 0, len(t.receivers))
	for r := range t.receivers {
		open = append(open, r)
	}
	t.mu.Unlock()
	// Receivers are closed before their transport; one that was forgotten must
	// not leave goroutines behind.
	for _, r := range open {
		_ = r.Close(ctx)
	}
	var err error
	if t.nc.IsConnected() {
		err = flush(ctx, t.nc)
	}
	t.release()
	t.inbox.fail(transport.ErrClosed, func(string) bool { return true })
	_ = t.inbox.sub.Unsubscribe()
	if t.owned {
		t.nc.Close()
	}
	return err
}

// flush waits until the server has read everything sent so far.
func flush(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return seamError("flush", "", nc.FlushWithContext(ctx), true)
}

func (t *Transport) isClosed() bool { return t.closed.Load() }

// register adds an open receiver; it fails when the transport is closed.
func (t *Transport) register(r *receiver) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Load() {
		return &transport.Error{Op: "open consumer", Address: r.address, Err: transport.ErrClosed}
	}
	t.receivers[r] = struct{}{}
	return nil
}

func (t *Transport) unregister(r *receiver) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.receivers, r)
}

// installHandlers adds ours before those the connection has, and returns the
// function that puts those back.
func (t *Transport) installHandlers() (release func()) {
	onError, onLost := t.nc.ErrorHandler(), t.nc.DisconnectErrHandler()
	onBack, onClosed := t.nc.ReconnectHandler(), t.nc.ClosedHandler()
	t.nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		t.asyncError(sub, err)
		if onError != nil {
			onError(nc, sub, err)
		}
	})
	t.nc.SetDisconnectErrHandler(func(nc *nats.Conn, err error) {
		t.disconnected(err)
		if onLost != nil {
			onLost(nc, err)
		}
	})
	t.nc.SetReconnectHandler(func(nc *nats.Conn) {
		t.reconnected()
		if onBack != nil {
			onBack(nc)
		}
	})
	t.nc.SetClosedHandler(func(nc *nats.Conn) {
		t.lost()
		if onClosed != nil {
			onClosed(nc)
		}
	})
	return func() {
		t.nc.SetErrorHandler(onError)
		t.nc.SetDisconnectErrHandler(onLost)
		t.nc.SetReconnectHandler(onBack)
		t.nc.SetClosedHandler(onClosed)
	}
}

func (t *Transport) disconnected(err error) {
	if t.isClosed() {
		return
	}
	// The answers to what is under way went to a connection that is gone.
	t.inbox.fail(errDisconnected, func(string) bool { return true })
	t.events.emit(transport.Event{Kind: transport.Disconnected, Err: err})
}

func (t *Transport) reconnected() {
	t.events.emit(transport.Event{Kind: transport.Reconnected, Detail: "connected to " + redact(t.nc.ConnectedUrl())})
	t.mu.Lock()
	defer t.mu.Unlock()
	for r := range t.receivers {
		r.wakeSupervisor(troubleReconnected)
	}
}

// lost tells that the client library has given up the connection for good.
func (t *Transport) lost() {
	if t.isClosed() {
		return
	}
	t.lostOnce.Do(func() {
		err := fmt.Errorf("the connection was closed: %w", nats.ErrConnectionClosed)
		t.inbox.fail(err, func(string) bool { return true })
		t.events.emit(transport.Event{Kind: transport.ConnectionLost, Err: err})
		t.mu.Lock()
		defer t.mu.Unlock()
		for r := range t.receivers {
			r.wakeSupervisor(troubleConnectionClosed)
		}
	})
}

// violation finds what was denied in the text of the server, which is the only
// place that tells: Permissions Violation for Publish to "orders.placed".
var violation = regexp.MustCompile(`Permissions Violation for (Publish|Subscription) to "([^"]+)"`)

// asyncError handles what the server reports without being asked.
func (t *Transport) asyncError(sub *nats.Subscription, err error) {
	if found := violation.FindStringSubmatch(err.Error()); found != nil {
		t.denied(found[1], found[2])
		return
	}
	if errors.Is(err, nats.ErrSlowConsumer) {
		t.dropped(sub, err)
	}
}

// denied fails every question that waits for what the account may not do.
func (t *Transport) denied(what, subject string) {
	verb := "publish to"
	if what == "Subscription" {
		verb = "subscribe to"
	}
	err := fmt.Errorf("%w: the account may not %s %q", transport.ErrPermission, verb, subject)
	inboxDenied := what == "Subscription" && subject == t.inbox.prefix+"*"
	t.inbox.fail(err, func(asked string) bool { return inboxDenied || asked == subject })
	t.mu.Lock()
	defer t.mu.Unlock()
	for r := range t.receivers {
		r.denied(subject, err)
	}
}

// dropped counts messages the client library dropped because a receiver's
// channel was full, which the size of the channel is meant to rule out.
func (t *Transport) dropped(sub *nats.Subscription, err error) {
	if sub == nil {
		return
	}
	t.mu.Lock()
	receivers := make([]*receiver, 0, len(t.receivers))
	for r := range t.receivers {
		receivers = append(receivers, r)
	}
	t.mu.Unlock()
	for _, r := range receivers {
		if slices.ContainsFunc(r.lanes, func(l *lane) bool { return l.owns(sub) }) {
			t.events.emit(transport.Event{Kind: transport.Dropped, Subscription: r.want.Subscription, Count: 1, Err: err})
		}
	}
}
