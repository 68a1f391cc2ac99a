package natsconn

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// Auth is as whom a connection is made, beside what the URL says. Its zero
// value is nobody. It is never shown: it prints as one word.
type Auth struct {
	User, Password string
	Token          string
	NKeyFile       string // a file with an nkey seed
	CredsFile      string // a file with a JWT and its seed
	JWT, Seed      string // the same, from a context
}

// String implements fmt.Stringer without secrets.
func (a Auth) String() string { return "credentials(" + a.kind() + ")" }

// GoString implements fmt.GoStringer without secrets.
func (a Auth) GoString() string { return a.String() }

// kind names the way of a login; "none" for the zero value.
func (a Auth) kind() string {
	kinds := a.kinds()
	if len(kinds) == 0 {
		return "none"
	}
	return kinds[0]
}

func (a Auth) kinds() []string {
	var out []string
	for _, k := range []struct {
		name string
		set  bool
	}{
		{"user and password", a.User != "" || a.Password != ""},
		{"token", a.Token != ""},
		{"nkey file", a.NKeyFile != ""},
		{"credentials file", a.CredsFile != ""},
		{"JWT", a.JWT != "" || a.Seed != ""},
	} {
		if k.set {
			out = append(out, k.name)
		}
	}
	return out
}

// fault says what can never work, or nothing.
func (a Auth) fault() string {
	switch kinds := a.kinds(); {
	case len(kinds) > 1:
		return fmt.Sprintf("a connection has one login, and these are given: %v", kinds)
	case a.Password != "" && a.User == "":
		return "a password is given and no user"
	case (a.JWT == "") != (a.Seed == ""):
		return "a user's JWT and the seed of its key belong together"
	}
	return ""
}

// TLS says which files certificates are read from, each time a connection is
// made: a file that was replaced is in use with the next one.
type TLS struct {
	CAs       []string // files of authorities in place of those of the system
	Cert, Key string   // files of the client certificate and its key
	First     bool     // the handshake comes before the server's greeting
}

func (t TLS) empty() bool { return len(t.CAs) == 0 && t.Cert == "" && t.Key == "" && !t.First }

// options are the options of the client library for one dial. Files are read
// here, so that a missing one is an error that names it.
func (cfg Config) options() ([]nats.Option, error) {
	if len(cfg.Empty) > 0 {
		return nil, fmt.Errorf("%w: %s is given nothing: look at where its value comes from, or leave it out", transport.ErrInvalid, strings.Join(cfg.Empty, " and "))
	}
	if fault := cfg.Auth.fault(); fault != "" {
		return nil, fmt.Errorf("%w: %s", transport.ErrInvalid, fault)
	}
	if (cfg.TLS.Cert == "") != (cfg.TLS.Key == "") {
		return nil, fmt.Errorf("%w: a client certificate and its key belong together", transport.ErrInvalid)
	}
	opts := cfg.TLS.options()
	login, err := cfg.Auth.option()
	if err != nil {
		return nil, &settingError{err}
	}
	if login != nil {
		opts = append(opts, login)
	}
	// What a file holds is looked at before anything is dialled, so that a file
	// that cannot be used is told apart from a server that cannot be reached.
	var probe nats.Options
	for _, o := range opts {
		if err := o(&probe); err != nil {
			return nil, &settingError{err}
		}
	}
	return opts, nil
}

func (t TLS) options() []nats.Option {
	var opts []nats.Option
	if len(t.CAs) > 0 {
		opts = append(opts, nats.RootCAs(t.CAs...))
	}
	if t.Cert != "" {
		opts = append(opts, nats.ClientCert(t.Cert, t.Key))
	}
	if t.First {
		opts = append(opts, nats.Secure(), nats.TLSHandshakeFirst())
	}
	return opts
}

func (a Auth) option() (nats.Option, error) {
	switch {
	case a.User != "":
		return nats.UserInfo(a.User, a.Password), nil
	case a.Token != "":
		return nats.Token(a.Token), nil
	case a.CredsFile != "":
		return nats.UserCredentials(a.CredsFile), nil
	case a.JWT != "":
		return nats.UserJWTAndSeed(a.JWT, a.Seed), nil
	case a.NKeyFile != "":
		return nats.NkeyOptionFromSeed(a.NKeyFile)
	}
	return nil, nil
}

// settingError is a file of credentials or certificates that cannot be used. It
// may be mended while the program waits for its server, and is an error at once
// all the same: a connection that was made already is restored when it is.
type settingError struct{ err error }

func (e *settingError) Error() string { return e.err.Error() }
func (e *settingError) Unwrap() error { return e.err }

// errKeyChanged ends an attempt to connect under a key that is not in its file
// any more.
var errKeyChanged = errors.New("the nkey in the file is another one now")

// watchKey makes every login read the nkey from its file. The client library
// reads the seed each time and the public key once: when the file holds another
// key, the connection is made anew with it.
func (c *Conn) watchKey(file string) nats.Option {
	return func(o *nats.Options) error {
		public, sign := o.Nkey, o.SignatureCB
		o.SignatureCB = func(nonce []byte) ([]byte, error) {
			if now, err := publicKey(file); err == nil && now != public {
				c.anew()
				return nil, errKeyChanged
			}
			return sign(nonce)
		}
		return nil
	}
}

func publicKey(file string) (string, error) {
	opt, err := nats.NkeyOptionFromSeed(file)
	if err != nil {
		return "", err
	}
	var o nats.Options
	if err := opt(&o); err != nil {
		return "", err
	}
	return o.Nkey, nil
}

// anew closes the connection, and its closed handler then makes another. It is
// called from within the client library, which holds its lock, and does not
// wait; Close does.
func (c *Conn) anew() {
	nc := c.NATS()
	c.mu.Lock()
	defer c.mu.Unlock()
	if nc != nil && c.life.Err() == nil {
		c.redialing.Go(nc.Close)
	}
}
