package jetstream

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// Connect connects to the NATS server or cluster at url (several may be
// separated by commas) and returns a transport that owns the connection. An
// empty url is refused.
//
// ctx bounds the start only. A broker that is down at start is an error, unless
// WaitForBroker is given. After the start the connection is restored for as
// long as it takes; Observe tells when it is lost and when it is back. When the
// client library gives it up it is made anew: receivers then end with an error
// and are to be opened again. Credentials in url never appear in an error.
func Connect(ctx context.Context, url string, opts ...Option) (*Transport, error) {
	set, err := applyOptions(opts)
	if err != nil {
		return nil, err
	}
	conn, err := natsconn.Dial(ctx, url, natsconn.Config{Name: set.name, Wait: set.wait, Options: set.nats})
	if err != nil {
		return nil, err
	}
	return newTransport(ctx, conn, set)
}

// New returns a transport on a connection the caller made and closes.
//
// The connection should have MaxReconnects(-1), so that it is never given up,
// and ReconnectBufSize(-1), so that nothing is kept in a hidden buffer while
// the broker is away. Its handlers are kept and called as well as holdfast's;
// they must not be replaced while the transport is in use. Close of the
// transport leaves the connection open.
func New(nc *nats.Conn, opts ...Option) (*Transport, error) {
	set, err := applyOptions(opts)
	if err != nil {
		return nil, err
	}
	if nc == nil || nc.IsClosed() {
		return nil, transport.Invalid("new jetstream transport", "", "the connection is nil or closed")
	}
	// An adopted connection is not dialled: there is nothing a context could end.
	return newTransport(context.Background(), natsconn.Wrap(nc), set)
}

func applyOptions(opts []Option) (settings, error) {
	set := defaultSettings()
	for _, o := range opts {
		o(&set)
	}
	if !validToken(set.namespace) {
		return set, transport.Invalid("configure jetstream", set.namespace, "a namespace is made of letters, digits, '-' and '_'")
	}
	if set.domain != "" && set.apiPrefix != "" {
		return set, transport.Invalid("configure jetstream", set.domain, "Domain and APIPrefix exclude each other")
	}
	return set, nil
}
