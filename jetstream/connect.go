package jetstream

import (
	"context"
	"fmt"
	"strings"

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
	if url, err = set.fromContext(url); err != nil {
		return nil, err
	}
	conn, err := natsconn.Dial(ctx, url, set.conn)
	if err != nil {
		return nil, err
	}
	set.conn = natsconn.Config{} // a transport that is printed shows no secrets
	return newTransport(ctx, conn, set)
}

// New returns a transport on a connection the caller made and closes.
//
// The connection should have MaxReconnects(-1), so that it is never given up,
// and ReconnectBufSize(-1), so that nothing is kept in a hidden buffer while
// the broker is away. Its handlers are kept and called as well as holdfast's;
// they must not be replaced while the transport is in use. Close of the
// transport leaves the connection open. Options of the connection are refused.
func New(nc *nats.Conn, opts ...Option) (*Transport, error) {
	set, err := applyOptions(opts)
	if err != nil {
		return nil, err
	}
	if set.dials {
		return nil, transport.Invalid("new jetstream transport", "", "an option says how to connect, and the connection is made already; give it to Connect")
	}
	if nc == nil || nc.IsClosed() {
		return nil, transport.Invalid("new jetstream transport", "", "the connection is nil or closed")
	}
	// An adopted connection is not dialled: there is nothing a context could end.
	return newTransport(context.Background(), natsconn.Wrap(nc), set)
}

// fromContext fills in what a context of the nats program says, and returns the
// URL to connect to.
func (s *settings) fromContext(url string) (string, error) {
	if s.conn.Context == nil {
		return url, nil
	}
	found, err := natsconn.ReadContext(*s.conn.Context)
	if err != nil {
		return "", err
	}
	s.conn.Context = nil
	url, s.conn = found.Fill(url, s.conn)
	if s.domain == "" && s.apiPrefix == "" {
		s.domain, s.apiPrefix = found.Domain, found.APIPrefix
	}
	if s.domain != "" && s.apiPrefix != "" {
		return "", transport.Invalid("configure jetstream", s.domain, "the context %s has a JetStream domain and an API prefix, which exclude each other", found.Name)
	}
	return url, nil
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
	if fault := set.fault(); fault != "" {
		return set, transport.Invalid("configure jetstream", "", "%s", fault)
	}
	return set, nil
}

// fault says what can never work among numbers and names, or nothing.
func (s settings) fault() string {
	switch {
	case s.pubTimeout <= 0:
		return fmt.Sprintf("PublishTimeout is %s, within which nothing can be confirmed", s.pubTimeout)
	case s.dead.Replicas < 0 || s.park.Replicas < 0:
		return "the Replicas of DeadLetters and Parking cannot be negative"
	case s.dead.Duplicates < 0:
		return fmt.Sprintf("the Duplicates of DeadLetters are %s; they cannot be negative", s.dead.Duplicates)
	case s.domain != "" && !validName(s.domain):
		return "the Domain " + quote(s.domain) + " has a space, '.', '*', '>', '/' or '\\'"
	case s.apiPrefix != "" && natsconn.CheckSubject("", strings.TrimSuffix(s.apiPrefix, ".")) != nil:
		return "the APIPrefix " + quote(s.apiPrefix) + " is no subject"
	}
	return ""
}
