package natscore

import (
	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/natsconn"
)

// The options of a connection are the same, word for word, in packages natscore
// and jetstream. One that is given nothing, such as the value of a variable of the
// environment that is not set, is refused.

// WithName sets the name the server shows in its list of connections. Default
// "holdfast".
func WithName(name string) Option { return option(func(c *natsconn.Config) { c.Name = name }) }

// WithInboxPrefix replaces "_INBOX" in the subjects that replies come to, for
// accounts that may not subscribe to those.
func WithInboxPrefix(prefix string) Option {
	return option(func(c *natsconn.Config) { c.Given("WithInboxPrefix", prefix); c.InboxPrefix = prefix })
}

// WithUser logs in with a user and a password, in place of those in the URL.
func WithUser(user, password string) Option {
	return option(func(c *natsconn.Config) {
		c.Given("WithUser", user, password)
		c.Auth.User, c.Auth.Password = user, password
	})
}

// WithToken logs in with a token.
func WithToken(token string) Option {
	return option(func(c *natsconn.Config) { c.Given("WithToken", token); c.Auth.Token = token })
}

// WithNKeyFile logs in with the nkey whose seed is in a file. The file is read
// for every connection: a seed that was replaced is in use after the next
// reconnect.
func WithNKeyFile(file string) Option {
	return option(func(c *natsconn.Config) { c.Given("WithNKeyFile", file); c.Auth.NKeyFile = file })
}

// WithCredsFile logs in with the JWT and the seed in a credentials file, as nsc
// writes it. The file is read for every connection.
func WithCredsFile(file string) Option {
	return option(func(c *natsconn.Config) { c.Given("WithCredsFile", file); c.Auth.CredsFile = file })
}

// WithContext takes what is not given otherwise from a context of the nats
// command line program: URL, login, certificates, inbox prefix. Connect is then
// given an empty URL. An empty name means the context in $NATS_CONTEXT, or else
// the one that was selected with nats context select.
// What a context can say and is not supported here is an error: nsc, a SOCKS
// proxy, secrets behind op://, nsc://, env:// or data:.
func WithContext(name string) Option { return option(func(c *natsconn.Config) { c.Context = &name }) }

// WithCA names files of authorities, in PEM, that certificates of the server are
// checked with, in place of those of the system; it asks for TLS. Files are read
// for every connection. TLS is of version 1.2 at least, and the name of the
// host is always checked.
func WithCA(files ...string) Option {
	return option(func(c *natsconn.Config) { c.Given("WithCA", files...); c.TLS.CAs = files })
}

// WithClientCert names the files, in PEM, of the certificate that the program
// shows to the server and of its key; it asks for TLS. They are read for every
// connection: files that were replaced are in use after the next reconnect.
func WithClientCert(certFile, keyFile string) Option {
	return option(func(c *natsconn.Config) {
		c.Given("WithClientCert", certFile, keyFile)
		c.TLS.Cert, c.TLS.Key = certFile, keyFile
	})
}

// WithTLSFirst makes the TLS handshake before the server has said anything, for
// servers with handshake_first.
func WithTLSFirst() Option { return option(func(c *natsconn.Config) { c.TLS.First = true }) }

// WithNATS adds options of the client library: a tls.Config (nats.Secure), a
// dialer, handlers (which are called after ours). They are applied last.
// ReconnectBufSize and RetryOnFailedConnect are refused: they would let a
// publish succeed that is lost with the process.
func WithNATS(opts ...nats.Option) Option {
	return option(func(c *natsconn.Config) { c.Options = append(c.Options, opts...) })
}
