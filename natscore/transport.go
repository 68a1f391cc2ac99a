package natscore

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// Bounds of calls whose context has no earlier end.
const (
	publishTimeout = 5 * time.Second
	openTimeout    = 5 * time.Second
	closeTimeout   = 30 * time.Second
	lookupTimeout  = 5 * time.Second
)

// Option changes how Connect connects. The options of this package are all
// there are.
type Option interface{ apply(*natsconn.Config) }

type option func(*natsconn.Config)

func (o option) apply(c *natsconn.Config) { o(c) }

// WaitForBroker makes Connect wait for a server that does not answer yet, until
// its context ends. Refused credentials are an error at once all the same.
func WaitForBroker() Option {
	return option(func(c *natsconn.Config) { c.Wait = true })
}

// Transport is a connection to NATS core. It implements transport.Transport,
// Requester and Observable; its deliveries implement Responder and Native. It
// is safe for concurrent use.
type Transport struct {
	conn *natsconn.Conn
	once sync.Once     // guards done
	done chan struct{} // closed by Close
}

func newTransport(conn *natsconn.Conn) *Transport {
	return &Transport{conn: conn, done: make(chan struct{})}
}

// Connect connects to a server, or to the first that answers of a list of URLs
// separated by commas; an empty URL is refused. A server that does not answer is
// a Temporary error, unless WaitForBroker is given. A connection that is lost
// later is restored, however long that takes; until then calls fail at once.
// When the client library gives it up it is made anew: receivers then end with
// an error and are to be opened again. Connect returns at the latest two seconds
// per server after ctx ended.
func Connect(ctx context.Context, url string, opts ...Option) (*Transport, error) {
	var cfg natsconn.Config
	for _, o := range opts {
		o.apply(&cfg)
	}
	conn, err := natsconn.Dial(ctx, url, cfg)
	if err != nil {
		return nil, err
	}
	return newTransport(conn), nil
}

// New uses a connection that was made elsewhere. Its handlers are kept and
// called after ours; one that is set later replaces ours, and with it the
// events and the reports of refused permissions. Close leaves the connection
// open. Connect it with nats.MaxReconnects(-1), or it gives up after a minute or
// two without a server.
func New(nc *nats.Conn) *Transport { return newTransport(natsconn.Wrap(nc)) }

// Conn returns the client library's own connection. One that Connect made is
// replaced when the client library closed it for good: ask again after a
// ConnectionLost event, and do not keep it.
func (t *Transport) Conn() *nats.Conn { return t.conn.NATS() }

// Capabilities implements transport.Transport: requests, and nothing that needs
// storage.
func (t *Transport) Capabilities() transport.Capabilities {
	return transport.Capabilities{Name: "natscore", Requests: true}
}

// Observe implements transport.Observable.
func (t *Transport) Observe(fn func(transport.Event)) (stop func()) { return t.conn.Observe(fn) }

// Close implements transport.Transport. A connection that Connect made is
// closed; one given to New stays open.
func (t *Transport) Close(ctx context.Context) error {
	t.once.Do(func() { close(t.done) })
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	return t.conn.Close(ctx)
}

// ready returns why op cannot be done at this moment, or nil.
func (t *Transport) ready(ctx context.Context, op, address string) error {
	select {
	case <-t.done:
		return closedError(op, address)
	default:
	}
	switch {
	case ctx.Err() != nil:
		return &transport.Error{Op: op, Address: address, Kind: transport.Temporary, Err: ctx.Err()}
	case !t.conn.Connected():
		return t.downError(op, address)
	}
	return nil
}

func closedError(op, address string) error {
	return &transport.Error{Op: op, Address: address, Kind: transport.Permanent, Err: transport.ErrClosed}
}

// downError tells a connection that is being restored from one that is not.
func (t *Transport) downError(op, address string) error {
	if t.conn.Lost() {
		return &transport.Error{
			Op: op, Address: address, Kind: transport.Permanent, Err: nats.ErrConnectionClosed,
			Hint: "the connection is closed for good; connect again",
		}
	}
	return &transport.Error{
		Op: op, Address: address, Kind: transport.Temporary, Err: nats.ErrDisconnected,
		Hint: "the connection is being restored; nothing was sent",
	}
}
