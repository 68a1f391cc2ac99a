package cli

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// connectionFlags adds what says how to connect to NATS. A password or a token
// is no flag: others would see it in the list of processes.
func connectionFlags(f *pflag.FlagSet, c *config.Connection) {
	f.StringVar(&c.Context, "context", "", "a context of the nats program: its server, login and certificates")
	f.StringVar(&c.Creds, "creds", "", "a credentials `FILE` for NATS")
	f.StringVar(&c.NKey, "nkey", "", "a `FILE` with an nkey seed for NATS")
	f.StringVar(&c.CA, "tls-ca", "", "a `FILE` of authorities to check the NATS server with")
	f.StringVar(&c.Cert, "tls-cert", "", "a `FILE` with the client certificate for NATS")
	f.StringVar(&c.Key, "tls-key", "", "a `FILE` with the key of the client certificate")
	f.BoolVar(&c.TLSFirst, "tls-first", false, "make the TLS handshake before the NATS server greets")
	f.StringVar(&c.InboxPrefix, "inbox-prefix", "", "what replies of NATS come to, in place of _INBOX")
}

// use takes over what the file says and no flag does. A login of the flags
// replaces that of the file as a whole.
func (p *program) use(file config.Connection) {
	c := &p.conn
	if c.Context == "" && c.Creds == "" && c.NKey == "" {
		c.Context, c.Creds, c.NKey = file.Context, file.Creds, file.NKey
	}
	if c.Cert == "" && c.Key == "" {
		c.Cert, c.Key = file.Cert, file.Key
	}
	c.CA, c.InboxPrefix = cmp.Or(c.CA, file.CA), cmp.Or(c.InboxPrefix, file.InboxPrefix)
	c.TLSFirst = c.TLSFirst || file.TLSFirst
}

// contextBroker is the broker of the context that a flag names.
func (p *program) contextBroker() (config.Named, error) {
	if p.conn.Context == "" {
		return config.Named{}, nil
	}
	found, err := natsconn.ReadContext(p.conn.Context)
	if err != nil {
		return config.Named{}, err
	}
	return config.Named{URL: found.URL, By: "--context " + strconv.Quote(p.conn.Context)}, nil
}

// dialer returns what connects to the broker at url.
func (p *program) dialer(url string) *dialer { return &dialer{url: url, conn: p.conn} }

// onlyNATS refuses what RabbitMQ would have to ignore.
func onlyNATS(c config.Connection) error {
	if c == (config.Connection{}) {
		return nil
	}
	return ui.Usagef("the flags and settings of a NATS connection are of no use for RabbitMQ: write its login and certificates in the URL")
}

func coreOptions(c config.Connection) []natscore.Option {
	var opts []natscore.Option
	add := func(set bool, o natscore.Option) {
		if set {
			opts = append(opts, o)
		}
	}
	add(c.Context != "", natscore.WithContext(c.Context))
	add(c.Creds != "", natscore.WithCredsFile(c.Creds))
	add(c.NKey != "", natscore.WithNKeyFile(c.NKey))
	add(c.CA != "", natscore.WithCA(c.CA))
	add(c.Cert != "" || c.Key != "", natscore.WithClientCert(c.Cert, c.Key))
	add(c.TLSFirst, natscore.WithTLSFirst())
	add(c.InboxPrefix != "", natscore.WithInboxPrefix(c.InboxPrefix))
	return opts
}

func streamOptions(c config.Connection) []jetstream.Option {
	var opts []jetstream.Option
	add := func(set bool, o jetstream.Option) {
		if set {
			opts = append(opts, o)
		}
	}
	add(c.Context != "", jetstream.WithContext(c.Context))
	add(c.Creds != "", jetstream.WithCredsFile(c.Creds))
	add(c.NKey != "", jetstream.WithNKeyFile(c.NKey))
	add(c.CA != "", jetstream.WithCA(c.CA))
	add(c.Cert != "" || c.Key != "", jetstream.WithClientCert(c.Cert, c.Key))
	add(c.TLSFirst, jetstream.WithTLSFirst())
	add(c.InboxPrefix != "", jetstream.WithInboxPrefix(c.InboxPrefix))
	return opts
}

// permissions tells what the account of each subscription needs at least, in the
// words of a server's configuration.
func permissions(ctx context.Context, app *holdfast.App) []transport.Finding {
	var out []transport.Finding
	for _, n := range app.Permissions(ctx) {
		lines := slices.Concat([]string{"permissions: {"}, allowed("publish", n.Publish), allowed("subscribe", n.Subscribe))
		if n.Respond {
			lines = append(lines, "  allow_responses: true")
		}
		out = append(out, transport.Finding{
			Code: transport.CodePermissions, Level: transport.LevelInfo, Subscription: n.Subscription,
			Fact: "the least that its NATS account must be allowed, beside what its handler publishes", Diff: append(lines, "}"),
		})
	}
	return out
}

func allowed(verb string, subjects []string) []string {
	lines := []string{"  " + verb + ": ["}
	for _, s := range subjects {
		lines = append(lines, "    "+strconv.Quote(s))
	}
	return append(lines, "  ]")
}
