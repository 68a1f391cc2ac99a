package cli

import (
	"cmp"
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

const (
	defaultBroker = "nats://127.0.0.1:4222"
	defaultFile   = "holdfast.yaml"
	envBroker     = "HOLDFAST_BROKER"
	// connectTimeout bounds the first connection of a command.
	connectTimeout = 5 * time.Second
	// closeTimeout bounds what is left to do when a command ends.
	closeTimeout = 10 * time.Second
)

// namedBroker returns the broker that the flag or the environment names, if any.
func (p *program) namedBroker() (config.Named, error) {
	n := config.Named{URL: p.broker, By: "--broker"}
	if n.URL == "" {
		n.URL, _ = p.Env(envBroker)
		n.By = envBroker
	}
	if n.URL == "" {
		return p.contextBroker()
	}
	const form = "write nats://HOST:PORT or amqp://USER:PASSWORD@HOST:5672/VHOST"
	switch config.FamilyOf(n.URL) {
	case config.FamilyNone:
		return config.Named{}, ui.Usagef("%s %q: %s", n.By, config.Redact(n.URL), form)
	case config.FamilyMixed:
		return config.Named{}, ui.Usagef("%s %q names NATS servers and RabbitMQ at once; name one broker", n.By, config.Redact(n.URL))
	case config.FamilyRabbitMQ:
		if !config.InFull(n.URL) {
			return config.Named{}, ui.Usagef("%s %q: %s; every server of a cluster is written in full, and a comma in a password is %%2C", n.By, config.Redact(n.URL), form)
		}
	}
	return n, nil
}

// anyBroker returns the broker for a command that has no file of its own: the
// one that is named, that of holdfast.yaml in this directory, or the default.
func (p *program) anyBroker() (string, error) {
	named, err := p.namedBroker()
	if named.URL != "" || err != nil {
		return named.URL, err
	}
	c, err := config.LoadSources(defaultFile, p.In, p.Env, named)
	if err != nil {
		return defaultBroker, nil // a file that is missing or wrong is the business of run and check
	}
	p.use(c.Connection)
	return brokerOf(c), nil
}

// brokerOf is where the broker of a file can be reached.
func brokerOf(c *config.Config) string {
	if c.Broker != "" {
		return c.Broker
	}
	return cmp.Or(listensAt(c), defaultBroker)
}

// listensAt is where the embedded server of a file listens; "" where it takes any
// free port.
func listensAt(c *config.Config) string {
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "0" || port == "-1" {
		return ""
	}
	return "nats://" + c.Listen
}

// unreachable gives an error of a connection its exit code.
func unreachable(err error) error {
	if err == nil || errors.Is(err, transport.ErrInvalid) {
		return err
	}
	return ui.Exit(ui.ExitUnreachable, err)
}

// dialer opens the transports a command needs, each once.
type dialer struct {
	url  string
	conn config.Connection
	wait bool         // for a broker that is down
	stop func() error // ends the embedded server that url belongs to; may be nil
	js   *jetstream.Transport
	core *natscore.Transport
	rmq  *rabbitmq.Transport
}

// rabbit tells whether the broker is RabbitMQ.
func (d *dialer) rabbit() bool { return config.FamilyOf(d.url) == config.FamilyRabbitMQ }

func (d *dialer) rabbitMQ(ctx context.Context) (*rabbitmq.Transport, error) {
	if d.rmq != nil {
		return d.rmq, nil
	}
	if err := onlyNATS(d.conn); err != nil {
		return nil, err
	}
	var opts []rabbitmq.Option
	if d.wait {
		opts = append(opts, rabbitmq.WaitForBroker())
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	rmq, err := rabbitmq.Connect(ctx, d.url, opts...)
	if err != nil {
		return nil, unreachable(err)
	}
	d.rmq = rmq
	return rmq, nil
}

func (d *dialer) jetStream(ctx context.Context) (*jetstream.Transport, error) {
	if d.js != nil {
		return d.js, nil
	}
	opts := append(streamOptions(d.conn), jetstream.WithNATS(patient()))
	if d.wait {
		opts = append(opts, jetstream.WaitForBroker())
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	js, err := jetstream.Connect(ctx, d.url, opts...)
	if err != nil {
		return nil, unreachable(err)
	}
	d.js = js
	return js, nil
}

func (d *dialer) natsCore(ctx context.Context) (*natscore.Transport, error) {
	if d.core != nil {
		return d.core, nil
	}
	opts := append(coreOptions(d.conn), natscore.WithNATS(patient()))
	if d.wait {
		opts = append(opts, natscore.WaitForBroker())
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	core, err := natscore.Connect(ctx, d.url, opts...)
	if err != nil {
		return nil, unreachable(err)
	}
	d.core = core
	return core, nil
}

// patient gives a handshake all the time that a connection attempt has: a machine
// that is busy for two seconds, the default, is no server that is down.
func patient() nats.Option { return nats.Timeout(connectTimeout) }

// bound limits a connection attempt unless it was told to wait.
func (d *dialer) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.wait {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, connectTimeout)
}

// close ends what was opened. The context of the command may have ended before;
// closing has time of its own.
func (d *dialer) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	if d.js != nil {
		errs = append(errs, d.js.Close(ctx))
	}
	if d.core != nil {
		errs = append(errs, d.core.Close(ctx))
	}
	if d.rmq != nil {
		errs = append(errs, d.rmq.Close(ctx))
	}
	if d.stop != nil {
		errs = append(errs, d.stop())
	}
	return errors.Join(errs...)
}

// brokerError gives errors of a broker that went away their exit code.
func brokerError(err error) error {
	if errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionClosed) {
		return unreachable(err)
	}
	if te, ok := errors.AsType[*transport.Error](err); ok && te.Op == "connect" {
		return unreachable(err)
	}
	if errors.Is(err, transport.ErrNotFound) {
		return ui.Exit(ui.ExitNothing, err)
	}
	return err
}

// firstLine is what fits on one line of a title.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return ui.Line(s)
}

func plural(n int, word string) string { return ui.Count(n, word) }
