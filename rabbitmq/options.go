package rabbitmq

import (
	"context"
	"crypto/tls"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Option changes how a transport connects and publishes.
type Option func(*settings)

// mostMessageSize is the largest max_message_size that any broker can have.
const mostMessageSize = 512 << 20

type settings struct {
	name       string
	tls        *tls.Config
	external   bool
	heartbeat  time.Duration
	dial       time.Duration
	confirm    time.Duration
	rpc        time.Duration
	maxSize    int
	window     int
	windowSize int
	wait       bool
	retryFirst time.Duration
	retryLimit time.Duration
	consumer   time.Duration // the broker's consumer_timeout
	// credentials returns the login for one connection; nil is that of the URL.
	credentials func(context.Context) (user, password string, err error)
}

func defaultSettings() settings {
	return settings{
		name:       "holdfast",
		heartbeat:  10 * time.Second,
		dial:       10 * time.Second,
		confirm:    30 * time.Second,
		rpc:        10 * time.Second,
		window:     1024,
		windowSize: 16 << 20,
		retryFirst: 100 * time.Millisecond,
		retryLimit: 1500 * time.Millisecond,
		consumer:   30 * time.Minute,
	}
}

// WithName sets the name under which the broker lists the connections. Default:
// "holdfast".
func WithName(name string) Option { return func(s *settings) { s.name = name } }

// WithTLS sets the TLS configuration, with TLS 1.2 at least; every URL must then be
// amqps. It is
// cloned for every connection; GetClientCertificate and VerifyConnection are asked
// each time, which is how certificates are renewed without a restart. URLs that name
// certificates of their own are then refused. Default: that of the URL.
func WithTLS(cfg *tls.Config) Option { return func(s *settings) { s.tls = cfg } }

// WithExternalAuth makes the client certificate the login (SASL EXTERNAL), as
// auth_mechanism=external in the URL does. The broker needs the plugin
// rabbitmq_auth_mechanism_ssl. Default: user and password.
func WithExternalAuth() Option { return func(s *settings) { s.external = true } }

// WithCredentials sets what is asked for the user and the password of every
// connection, for those that change while the program runs. It is called from the
// goroutines of the transport, several at once, with a context that ends when the
// attempt to connect does; after an error the attempt is made again later. Default:
// those of the URL.
func WithCredentials(ask func(ctx context.Context) (user, password string, err error)) Option {
	return func(s *settings) { s.credentials = ask }
}

// WithHeartbeat sets how often an idle connection is probed. A connection that
// is silent for one and a half of it is given up and restored. That of the URL
// goes before it. Default: 10 s; at least a second.
func WithHeartbeat(d time.Duration) Option { return func(s *settings) { s.heartbeat = d } }

// WithConfirmTimeout sets how long a publish waits for its confirmation when its
// context gives it more. Default: 30 s.
func WithConfirmTimeout(d time.Duration) Option { return func(s *settings) { s.confirm = d } }

// WithMaxMessageSize sets the largest body in bytes that a publish takes, for
// brokers whose max_message_size is not their default; 512 MiB at most. Default:
// what the connected server takes by default, which is 128 MiB before version 4.0
// and 16 MiB since.
func WithMaxMessageSize(n int) Option { return func(s *settings) { s.maxSize = n } }

// WithPublishWindow bounds what is published and not yet confirmed, in messages
// and in bytes of bodies. A publish beyond it waits. Default: 1024 messages and
// 16 MiB.
func WithPublishWindow(messages, bytes int) Option {
	return func(s *settings) { s.window, s.windowSize = messages, bytes }
}

// WaitForBroker makes Connect wait for a broker that does not answer yet, until
// its context ends.
func WaitForBroker() Option { return func(s *settings) { s.wait = true } }

// WithReconnectWait sets the pauses between attempts to restore a connection:
// the first attempt is made at once, the second after first, and later ones
// after twice as long each, limit at most, with jitter. Default: 100 ms and 1.5 s,
// so that messages flow within two seconds of the broker being back.
func WithReconnectWait(first, limit time.Duration) Option {
	return func(s *settings) { s.retryFirst, s.retryLimit = first, limit }
}

// WithConsumerTimeout says what consumer_timeout the broker is configured with, for
// AMQP does not tell; 0 means that it has none. A delivery that is not settled for so
// long ends its consumer or its channel, and comes again. Handlers are cancelled
// before that, and a check refuses a Timeout, a MaxLease or retries in order that
// need longer. The argument x-consumer-timeout of a queue goes before it, where the
// server knows that. Default: 30 minutes, as the broker's.
func WithConsumerTimeout(d time.Duration) Option { return func(s *settings) { s.consumer = d } }

// fault tells what is wrong with the settings, "" for nothing.
func (s *settings) fault() string {
	switch {
	case s.window < 1 || s.windowSize < 1 || s.maxSize < 0 || s.confirm <= 0 || s.retryFirst <= 0 || s.retryLimit < s.retryFirst:
		return "windows, timeouts and pauses must be positive"
	case s.consumer < 0:
		return "a consumer timeout cannot be negative"
	case s.heartbeat < time.Second:
		return "a heartbeat takes a second at least"
	case s.maxSize > mostMessageSize:
		return "no broker takes a message larger than 512 MiB"
	}
	return ""
}

// dialTimeout is how long one attempt to connect may take.
func (s *settings) dialTimeout(url string) time.Duration {
	if at, err := amqp.ParseURI(url); err == nil && at.ConnectionTimeout > 0 {
		return time.Duration(at.ConnectionTimeout) * time.Millisecond
	}
	return s.dial
}
