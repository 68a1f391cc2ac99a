package jetstream

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

const (
	dialTimeout = 2 * time.Second
	dialRetry   = 250 * time.Millisecond
)

// Connect connects to the NATS server or cluster at url (several may be
// separated by commas) and returns a transport that owns the connection.
//
// ctx bounds the start only. A broker that is down at start is an error, unless
// WaitForBroker is given. After the start the connection is restored for as
// long as it takes; Observe tells when it is lost and when it is back.
// Credentials in url never appear in an error.
func Connect(ctx context.Context, url string, opts ...Option) (*Transport, error) {
	set, err := applyOptions(opts)
	if err != nil {
		return nil, err
	}
	nc, err := dial(ctx, url, set)
	if err != nil {
		return nil, err
	}
	t, err := newTransport(nc, set, true)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return t, nil
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
	return newTransport(nc, set, false)
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

// dial connects once, or until ctx ends when told to wait.
func dial(ctx context.Context, url string, set settings) (*nats.Conn, error) {
	for {
		nc, err := nats.Connect(url, connectOptions(ctx, set)...)
		if err == nil {
			return nc, nil
		}
		err = connectError(url, err)
		if !set.wait || transport.KindOf(err) == transport.Permanent {
			return nil, err
		}
		timer := time.NewTimer(dialRetry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		case <-timer.C:
		}
	}
}

func connectOptions(ctx context.Context, set settings) []nats.Option {
	timeout := dialTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(deadline), time.Millisecond))
	}
	return append([]nats.Option{
		nats.Name(set.name),
		nats.Timeout(timeout),
		// The connection is restored for ever; health tells when it is away.
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		// Nothing is kept in a hidden buffer: what cannot be sent now fails now,
		// and whoever sent it decides.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.IgnoreAuthErrorAbort(),
		// In place of the client library's handler, which writes to stderr.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, set.nats...)
}

// connectError explains why a connection could not be made, without the URL's
// credentials.
func connectError(raw string, err error) error {
	e := &transport.Error{Op: "connect", Address: redact(raw), Kind: transport.Temporary, Err: err}
	var parse *url.Error
	switch {
	case errors.As(err, &parse):
		// The text of a parse error quotes what it could not parse, passwords
		// included.
		e.Kind, e.Err = transport.Permanent, errors.New("the URL cannot be parsed")
		e.Hint = "write it as nats://host:4222; escape special characters in a password"
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		e.Kind, e.Err = transport.Permanent, errors.Join(transport.ErrPermission, err)
		e.Hint = "the server refused the credentials"
	case errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrTimeout):
		e.Hint = "no server answers there: start it, correct the address, or use WaitForBroker"
	}
	return e
}

// redact removes the credentials from a URL or a list of URLs.
func redact(raw string) string {
	parts := strings.Split(raw, ",")
	for i, p := range parts {
		p = strings.TrimSpace(p)
		scheme, rest, found := strings.Cut(p, "://")
		if !found {
			scheme, rest = "", p
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = rest[at+1:]
		}
		if cut := strings.IndexAny(rest, "?#"); cut >= 0 {
			rest = rest[:cut]
		}
		if found {
			rest = scheme + "://" + rest
		}
		parts[i] = rest
	}
	return strings.Join(parts, ",")
}
