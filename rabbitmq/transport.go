package rabbitmq

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// Transport is a pair of connections to RabbitMQ. It implements
// transport.Transport, transport.DeadLetterer, transport.Requester and
// transport.Observable, and is safe for concurrent use.
type Transport struct {
	set    settings
	urls   []string
	good   atomic.Int32 // index of the URL that worked last
	prefix string       // of the names of copies: no other transport has it
	copies atomic.Uint64
	events observers

	consuming  *link
	publishing *link
	publisher  *publisher
	requester  *requester
	dead       *deadStore
	routed     sync.Map // [2]string{exchange, key}: a dead-letter exchange was seen to route the key

	ctx    context.Context // ends when the transport is closed
	cancel context.CancelFunc
	wg     sync.WaitGroup // the links and the publisher

	lingering sync.WaitGroup // channels that wait for their last acks
	acked     atomic.Int64   // when the last ack was sent, in nanoseconds since 1970

	mu        sync.Mutex // guards what follows; nothing else is locked under it
	receivers map[*receiver]struct{}
	down      int // links without a connection
	closed    bool
	deadline  time.Time     // until when a Close that is under way may take
	gone      chan struct{} // closed once Close is done
}

// Interfaces of the seam that a *Transport implements.
var (
	_ transport.Transport    = (*Transport)(nil)
	_ transport.DeadLetterer = (*Transport)(nil)
	_ transport.Requester    = (*Transport)(nil)
	_ transport.Observable   = (*Transport)(nil)
)

// Connect connects to the broker or cluster at url (several may be separated by
// commas, and are tried in turn) and returns a transport. Special characters in a
// password or virtual host, commas included, are written as %XX.
//
// ctx bounds the start only. A broker that is down at start is an error, unless
// WaitForBroker is given. After the start both connections are restored for as
// long as it takes; Observe tells when they are lost and when they are back.
// Credentials in url never appear in an error.
//
// A URL amqps://host:5671/vhost?cacertfile=F&certfile=F&keyfile=F is for TLS, with
// a client certificate where the broker wants one; the files are read at every
// connection, so that what is renewed is used at the next one. auth_mechanism=external
// makes the certificate the login, and server_name_indication=NAME is the name that
// the broker's certificate must have when it is not that of the host. See also
// WithTLS. heartbeat=SECONDS, connection_timeout=MILLISECONDS (default 10 s) and
// channel_max=N are taken as well; a parameter that is not known is an error.
func Connect(ctx context.Context, url string, opts ...Option) (*Transport, error) {
	set := defaultSettings()
	for _, o := range opts {
		o(&set)
	}
	if fault := set.fault(); fault != "" {
		return nil, transport.Invalid("connect", "", "%s", fault)
	}
	urls, err := splitURLs(url, set)
	if err != nil {
		return nil, err
	}
	var id [6]byte
	_, _ = rand.Read(id[:]) // documented never to fail
	t := &Transport{
		set: set, urls: urls, prefix: hex.EncodeToString(id[:]) + "-",
		receivers: map[*receiver]struct{}{}, gone: make(chan struct{}),
	}
	if err := t.start(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

// start makes both connections and starts what keeps them.
func (t *Transport) start(ctx context.Context) error {
	// The goroutines of the transport outlive the context of its start; Close
	// ends them.
	t.ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
	consume, err := t.first(ctx, "consume")
	if err != nil {
		t.cancel()
		return err
	}
	publish, err := t.first(ctx, "publish")
	if err != nil {
		consume.end(time.Now().Add(lastWords))
		t.cancel()
		return err
	}
	t.consuming, t.publishing = newLink(t, "consume", consume), newLink(t, "publish", publish)
	t.publisher = newPublisher(t)
	t.requester = newRequester(t)
	t.dead = newDeadStore(t)
	t.wg.Go(func() { t.consuming.run(t.ctx) })
	t.wg.Go(func() { t.publishing.run(t.ctx) })
	t.wg.Go(func() { t.publisher.run(t.ctx) })
	return nil
}

// first dials once, or until ctx ends when told to wait.
func (t *Transport) first(ctx context.Context, role string) (*session, error) {
	for wait := t.set.retryFirst; ; wait = t.nextWait(wait) {
		s, err := t.dial(ctx, role)
		if err == nil || !t.set.wait || transport.KindOf(err) == transport.Permanent {
			return s, err
		}
		if !pause(ctx, jittered(min(wait, time.Second))) {
			return nil, err
		}
	}
}

// Connection returns the connection used for consuming, or nil while there is
// none, for what the client library can do beyond this package. It ends when it
// is lost; channels opened on it are the caller's own. Publish on a connection of
// your own: the broker may block one that publishes.
func (t *Transport) Connection() *amqp.Connection {
	s, _, _ := t.consuming.session()
	if s == nil {
		return nil
	}
	return s.conn
}

// ServerVersion returns the version of the connected server as "major.minor", or
// "" while there is no connection.
func (t *Transport) ServerVersion() string {
	s, _, _ := t.consuming.session()
	if s == nil {
		return ""
	}
	return s.version.String()
}

// Capabilities implements transport.Transport.
func (t *Transport) Capabilities() transport.Capabilities {
	return transport.Capabilities{
		Name:        "rabbitmq",
		Redelivers:  true,
		Delays:      true,
		Rejects:     true,
		Stores:      true,
		Durable:     true,
		DeadLetters: true,
		Requests:    true,
		Requeues:    true,
		Expires:     true,
		Priorities:  true,
	}
}

// Observe implements transport.Observable.
func (t *Transport) Observe(fn func(transport.Event)) (stop func()) { return t.events.add(fn) }

// linkDown tells that a connection was lost; the first of the two counts.
func (t *Transport) linkDown(role string, err error) {
	t.mu.Lock()
	t.down++
	tell := t.down == 1
	t.mu.Unlock()
	if tell {
		t.events.emit(transport.Event{Kind: transport.Disconnected, Err: err, Detail: "the connection for " + role})
	}
}

// linkUp tells that a connection is back; the last of the two counts.
func (t *Transport) linkUp(string) {
	t.mu.Lock()
	t.down--
	tell := t.down == 0
	t.mu.Unlock()
	if tell {
		t.events.emit(transport.Event{Kind: transport.Reconnected, Detail: "connected to " + redact(t.urls[t.good.Load()])})
	}
}

// closeBy is until when connections may take to close.
func (t *Transport) closeBy() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.deadline
}

func (t *Transport) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// refuse is the error of what is asked of a closed transport.
func (t *Transport) refuse(op, address string) error {
	if !t.isClosed() {
		return nil
	}
	return &transport.Error{Op: op, Address: address, Kind: transport.Permanent, Err: transport.ErrClosed}
}

// register adds an open receiver; it fails when the transport is closed.
func (t *Transport) register(r *receiver) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return &transport.Error{Op: "open consumer", Address: r.src.cfg.Name, Kind: transport.Permanent, Err: transport.ErrClosed}
	}
	t.receivers[r] = struct{}{}
	return nil
}

func (t *Transport) unregister(r *receiver) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.receivers, r)
}

// closing bounds what a Close does that its context does not bound.
const closing = 2 * time.Second

// Close implements transport.Transport. Publishes that wait for their
// confirmation get it, as long as ctx lasts; what is unsettled then goes back to
// its queue. It returns in time when the broker is down or blocks.
func (t *Transport) Close(ctx context.Context) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		select {
		case <-t.gone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	t.closed = true
	open := make([]*receiver, 0, len(t.receivers))
	for r := range t.receivers {
		open = append(open, r)
	}
	t.mu.Unlock()
	defer close(t.gone)
	// Receivers are closed before their transport; one that was forgotten must
	// not leave goroutines behind.
	for _, r := range open {
		_ = r.Close(ctx)
		r.abandonLanes()
	}
	err := t.publisher.drain(ctx)
	t.settled(ctx)
	t.mu.Lock()
	t.deadline = time.Now().Add(closing)
	if d, ok := ctx.Deadline(); ok && d.Before(t.deadline) {
		t.deadline = d
	}
	t.mu.Unlock()
	t.cancel()
	t.wg.Wait()
	t.requester.close()
	t.lingering.Wait()
	return err
}

// linger runs do in the background, unless the transport is closing: do is what
// the end of the connection does as well.
func (t *Transport) linger(do func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.lingering.Go(do)
	}
}

// settled waits until channels whose deliveries are all settled are closed, and
// until the broker has had time for the last acks of all others.
func (t *Transport) settled(ctx context.Context) {
	_ = within(ctx, func() error { t.lingering.Wait(); return nil })
	pause(ctx, time.Until(time.Unix(0, t.acked.Load()).Add(ackSettle)))
}
