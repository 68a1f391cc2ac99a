package natsconn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// The settings of every connection. A half-open connection is noticed within
// pingInterval times (maxPings + 1).
const (
	pingInterval = 20 * time.Second
	maxPings     = 2
	dialTimeout  = 2 * time.Second
	writeTimeout = 5 * time.Second
	redialPause  = 500 * time.Millisecond
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
)

// Config says how to connect. The zero value works.
type Config struct {
	// Name is shown by the server in its list of connections. Default
	// "holdfast".
	Name string
	// InboxPrefix replaces "_INBOX" in reply subjects, for accounts that may
	// not use that.
	InboxPrefix string
	// Auth is as whom to connect, beside what the URL says. Files are read anew
	// for every connection.
	Auth Auth
	// TLS names the files of certificates.
	TLS TLS
	// Context is a context of the nats command line program to take what is not
	// given from, "" for the one that is selected. Nil: none.
	Context *string
	// Wait makes Dial wait for a server that is not there yet until its context
	// ends. Default: an unreachable server is an error at once.
	Wait bool
	// Empty names the options that were given with nothing in them, which are
	// refused: see Given.
	Empty []string
	// Options are options of the client library, applied after ours: TLS,
	// credentials, a dialer. Handlers set here are called after ours.
	Options []nats.Option
}

// Given notes an option whose value is empty, as one is that comes from a variable
// of the environment that is not set. It would be ignored otherwise, and the
// connection made as nobody.
func (cfg *Config) Given(option string, values ...string) {
	if !slices.ContainsFunc(values, func(v string) bool { return v != "" }) {
		cfg.Empty = append(cfg.Empty, option)
	}
}

// Dial connects to the servers of a URL list separated by commas. It tries for
// ever to restore a connection that was lost, and keeps nothing to be sent
// later: what cannot be sent now fails now. Dial returns at the latest one dial
// timeout per server after ctx ended.
func Dial(ctx context.Context, urls string, cfg Config) (*Conn, error) {
	if cfg.Context != nil {
		found, err := ReadContext(*cfg.Context)
		if err != nil {
			return nil, err
		}
		urls, cfg = found.Fill(urls, cfg)
	}
	pause := firstPause
	for {
		c, err := dialOnce(ctx, urls, cfg)
		if err == nil {
			return c, nil
		}
		if !cfg.Wait || !reachLater(err) {
			return nil, dialError(urls, cfg, err)
		}
		if !sleep(ctx, pause) {
			return nil, dialError(urls, cfg, fmt.Errorf("%w while waiting for the server: %w", ctx.Err(), err))
		}
		pause = min(2*pause, longestPause)
	}
}

func dialOnce(ctx context.Context, urls string, cfg Config) (*Conn, error) {
	// The connection outlives the context of Dial and ends with Close.
	c := newConn(context.WithoutCancel(ctx))
	c.redial = func(ctx context.Context) (*nats.Conn, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		login, err := cfg.options()
		if err != nil {
			return nil, err
		}
		opts := append(defaults(ctx, cfg), login...)
		if cfg.Auth.NKeyFile != "" {
			opts = append(opts, c.watchKey(cfg.Auth.NKeyFile))
		}
		opts = append(opts, cfg.Options...)
		return nats.Connect(urls, append(opts, c.adopt)...)
	}
	nc, err := c.redial(ctx)
	if err != nil {
		c.end()
		return nil, err
	}
	// Not over one that was made anew already.
	c.nc.CompareAndSwap(nil, nc)
	return c, nil
}

func defaults(ctx context.Context, cfg Config) []nats.Option {
	timeout := dialTimeout
	if end, ok := ctx.Deadline(); ok {
		timeout = max(min(timeout, time.Until(end)), time.Millisecond)
	}
	name := cfg.Name
	if name == "" {
		name = "holdfast"
	}
	opts := []nats.Option{
		nats.Name(name),
		nats.Timeout(timeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(redialPause),
		nats.ReconnectJitter(redialPause, redialPause),
		nats.ReconnectBufSize(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
		nats.FlusherTimeout(writeTimeout),
	}
	if cfg.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(cfg.InboxPrefix))
	}
	return opts
}

// adopt is the last option: it puts our handlers before those of the user, and
// refuses what would break a promise.
func (c *Conn) adopt(o *nats.Options) error {
	if nowhere(o) {
		return fmt.Errorf("%w: %w", transport.ErrInvalid, errNowhere)
	}
	if o.ReconnectBufSize != -1 {
		return fmt.Errorf("%w: the option ReconnectBufSize would let a publish succeed that is lost with the process; leave it out", transport.ErrInvalid)
	}
	if o.RetryOnFailedConnect {
		return fmt.Errorf("%w: the option RetryOnFailedConnect; to wait for a server there is WaitForBroker", transport.ErrInvalid)
	}
	o.DisconnectedErrCB = c.onDisconnect(o.DisconnectedErrCB)
	o.ReconnectedCB = c.onReconnect(o.ReconnectedCB)
	o.ClosedCB = c.onClosed(o.ClosedCB)
	o.AsyncErrorCB = c.onError(o.AsyncErrorCB)
	return nil
}

// errNowhere is the refusal of an empty URL. The client library would take it
// for a server on this machine.
var errNowhere = errors.New("the URL of the server is empty")

// nowhere tells whether neither the URL nor an option says where the server is.
func nowhere(o *nats.Options) bool {
	named := func(server string) bool { return strings.TrimSpace(server) != "" }
	return !named(o.Url) && !slices.ContainsFunc(o.Servers, named) && o.InProcessServer == nil
}

// reachLater tells whether waiting may help: wrong credentials and wrong
// settings stay wrong.
func reachLater(err error) bool {
	for _, never := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
		transport.ErrInvalid, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, never) {
			return false
		}
	}
	if _, file := errors.AsType[*settingError](err); file || tlsHint(err) != "" {
		return false
	}
	return !unparsable(err)
}

func unparsable(err error) bool {
	_, broken := errors.AsType[*url.Error](err)
	return broken
}

func dialError(urls string, cfg Config, err error) error {
	e := &transport.Error{Op: "connect", Address: Redact(urls), Kind: transport.Temporary, Err: redactedError(urls, err)}
	_, file := errors.AsType[*settingError](err)
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		e.Kind, e.Err = transport.Permanent, fmt.Errorf("%w: %w", transport.ErrPermission, err)
		e.Hint = "the server refused the credentials: check the user and password, token, nkey or credentials file"
	case errors.Is(err, errNowhere):
		e.Kind, e.Hint = transport.Permanent, "say where the server is, such as nats://127.0.0.1:4222; a variable of the environment that is not set is empty too"
	case file:
		e.Kind, e.Err = transport.Permanent, fmt.Errorf("%w: %w", transport.ErrInvalid, e.Err)
		e.Hint = "correct the file of credentials or certificates, or its name"
	case errors.Is(err, transport.ErrInvalid):
		e.Kind = transport.Permanent
	case tlsHint(err) != "":
		e.Kind, e.Hint = transport.Permanent, tlsHint(err)
	case unparsable(err):
		e.Kind, e.Hint = transport.Permanent, "write it as nats://host:4222; escape special characters in a password"
	case !cfg.Wait && reachLater(err):
		e.Hint = "no server answers there: start it, correct the address, or wait for it (WaitForBroker; run --wait)"
	case !reachLater(err) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		e.Kind = transport.Permanent
	}
	return e
}

// tlsHint says how to mend what is wrong between two sides that do not trust each
// other; empty for an error that another try may pass.
func tlsHint(err error) string {
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	invalid, other := errors.AsType[x509.CertificateInvalidError](err)
	alert, alerted := errors.AsType[tls.AlertError](err)
	switch {
	case errors.Is(err, nats.ErrSecureConnRequired):
		return "the server wants TLS: write tls:// in its URL, or name the authority of its certificate (WithCA, --tls-ca)"
	case errors.Is(err, nats.ErrSecureConnWanted):
		return "the server offers no TLS: configure it there, or leave TLS out here"
	case authority:
		return "the server's certificate is of an authority that is not trusted: name its file (WithCA, --tls-ca)"
	case host:
		return "the server's certificate is for another host: use a name that is in it, or have one made for this name"
	case other && invalid.Reason == x509.Expired:
		return "the server's certificate is not valid at this time: renew it there, or correct the clock"
	case other:
		return "the server's certificate cannot be used: have another made"
	case alerted:
		return "the server refused the TLS handshake (" + alert.Error() + "): if it asks for a client certificate, name one that it trusts (WithClientCert, --tls-cert and --tls-key)"
	case remoteAlert(err):
		return "the server refused the client's certificate, or the lack of one: name one that it trusts (WithClientCert, --tls-cert and --tls-key)"
	}
	return ""
}

// remoteAlert tells an alert about certificates that came after our side of the
// handshake was done, which has no type of its own.
func remoteAlert(err error) bool {
	text := err.Error()
	return strings.Contains(text, "remote error: tls: ") && strings.Contains(text, "certificate")
}

// redactedError keeps credentials out of an error whose text quotes the URL. A
// parse error quotes parts of it as well, whichever it could not make out.
func redactedError(urls string, err error) error {
	if unparsable(err) {
		return errors.New("the URL cannot be parsed")
	}
	for _, part := range strings.Split(urls, ",") {
		if part = strings.TrimSpace(part); part != Redact(part) && strings.Contains(err.Error(), part) {
			return errors.New(strings.ReplaceAll(err.Error(), part, Redact(part)))
		}
	}
	return err
}

// Redact returns a URL, or a list of URLs separated by commas, with every user,
// password and token replaced by "xxxxx".
func Redact(urls string) string {
	parts := strings.Split(urls, ",")
	for i, part := range parts {
		parts[i] = redactOne(strings.TrimSpace(part))
	}
	return strings.Join(parts, ",")
}

// redactOne does not parse: a URL that cannot be parsed hides its credentials
// too. Everything between the scheme and the last '@' goes, and what follows a
// '?' or '#' behind that.
func redactOne(u string) string {
	at := strings.LastIndexByte(u, '@')
	if cut := strings.IndexAny(u[at+1:], "?#"); cut >= 0 {
		u = u[:at+1+cut]
	}
	if at < 0 {
		return u
	}
	scheme := ""
	if i := strings.Index(u, "://"); i >= 0 && i < at {
		scheme = u[:i+3]
	}
	return scheme + "xxxxx" + u[at:]
}

// sleep waits for d and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
