package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// session is one connection from its handshake to its end. Nothing of it is
// used again: a new connection is a new session.
type session struct {
	conn    *amqp.Connection
	pipe    *pipe
	version version
	closes  chan *amqp.Error
	blocks  chan amqp.Blocking
	over    chan struct{} // closed once the session has ended
	// alarm is why the broker takes no publishes on this connection, or nil.
	alarm atomic.Pointer[string]
}

// alive tells whether the session still may be used.
func (s *session) alive() bool {
	select {
	case <-s.over:
		return false
	default:
		return !s.conn.IsClosed()
	}
}

// end closes the connection, waiting for the broker's answer until the deadline.
func (s *session) end(deadline time.Time) {
	// The deadline that CloseDeadline sets may be pushed on by a heartbeat.
	timer := time.AfterFunc(time.Until(deadline), s.pipe.cut)
	defer timer.Stop()
	_ = s.conn.CloseDeadline(deadline) // it is closed whatever it says
}

// splitURLs returns the URLs of a list, checked. No error shows credentials.
func splitURLs(list string, set settings) ([]string, error) {
	var urls []string
	for _, raw := range apart(list) {
		if raw == "" {
			continue
		}
		if _, err := amqp.ParseURI(raw); err != nil {
			return nil, &transport.Error{
				Op: "connect", Address: redact(raw), Kind: transport.Permanent, Err: errors.New("the URL cannot be parsed"),
				Hint: "write it as amqp://user:password@host:5672/vhost; escape special characters in the password and the virtual host",
			}
		}
		if fault := urlFault(raw, set); fault != "" {
			return nil, &transport.Error{
				Op: "connect", Address: redact(raw), Kind: transport.Permanent, Err: fmt.Errorf("%w: %s", transport.ErrInvalid, fault),
			}
		}
		urls = append(urls, raw)
	}
	if len(urls) == 0 {
		return nil, transport.Invalid("connect", "", "no URL is given")
	}
	return urls, nil
}

// apart takes a list of URLs apart. Only a comma before another URL ends one: any
// other may be part of a password, half of which must not be taken for an address.
func apart(list string) []string {
	var urls []string
	for part := range strings.SplitSeq(list, ",") {
		bare := strings.TrimSpace(part)
		if n := len(urls); n > 0 && !strings.HasPrefix(bare, "amqp://") && !strings.HasPrefix(bare, "amqps://") && bare != "" {
			urls[n-1] += "," + part
			continue
		}
		urls = append(urls, bare)
	}
	return urls
}

// redact removes credentials and parameters from a URL.
func redact(raw string) string {
	scheme, rest, found := strings.Cut(raw, "://")
	if !found {
		scheme, rest = "", raw
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = rest[at+1:]
	}
	if cut := strings.IndexAny(rest, "?#"); cut >= 0 {
		rest = rest[:cut]
	}
	if found {
		return scheme + "://" + rest
	}
	return rest
}

// dial tries each URL once, beginning with the one that worked last.
func (t *Transport) dial(ctx context.Context, role string) (*session, error) {
	var last error
	start := t.good.Load()
	for i := range t.urls {
		at := (int(start) + i) % len(t.urls)
		s, err := t.dialOne(ctx, t.urls[at], role)
		if err == nil {
			t.good.Store(int32(at))
			return s, nil
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// dialOne tries a URL again at once, and not for ever, when the broker ended the
// connection and may have said why.
func (t *Transport) dialOne(ctx context.Context, url, role string) (*session, error) {
	const tries = 3
	for i := 1; ; i++ {
		s, err := t.dialOnce(ctx, url, role)
		if err == nil || i == tries || ctx.Err() != nil || !unexplained(url, err) {
			return s, err
		}
	}
}

func (t *Transport) dialOnce(ctx context.Context, url, role string) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, t.set.dialTimeout(url))
	defer cancel()
	s := &session{closes: make(chan *amqp.Error, 1), blocks: make(chan amqp.Blocking, 16), over: make(chan struct{})}
	stop := func() bool { return true }
	// A fresh configuration for each connection, and never Recovery: it reuses
	// channels, and a late ack then settles another message.
	cfg := amqp.Config{
		Heartbeat: t.set.heartbeat,
		Properties: amqp.Table{
			"product": "holdfast", "platform": "golang", "connection_name": t.set.name + " " + role,
		},
		Dial: func(network, addr string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			// Handshakes have no timeout of their own.
			stop = context.AfterFunc(ctx, func() { _ = c.Close() })
			s.pipe = newPipe(c)
			return s.pipe, nil
		},
	}
	var err error
	if cfg.SASL, err = t.set.mechanisms(ctx); err != nil {
		return nil, &transport.Error{
			Op: "connect", Address: redact(url), Kind: transport.Temporary, Err: fmt.Errorf("ask WithCredentials for the login: %w", err),
		}
	}
	if t.set.tls != nil {
		cfg.TLSClientConfig = t.set.tls.Clone()
		cfg.TLSClientConfig.MinVersion = max(cfg.TLSClientConfig.MinVersion, tls.VersionTLS12)
	}
	conn, err := amqp.DialConfig(url, cfg)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if s.pipe != nil {
			s.pipe.cut()
			_ = s.pipe.Close()
		}
		return nil, t.dialError(url, err, ctx.Err())
	}
	s.conn = conn
	text, _ := conn.Properties["version"].(string)
	s.version = parseVersion(text)
	conn.NotifyClose(s.closes)
	conn.NotifyBlocked(s.blocks)
	return s, nil
}
