package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// maxBody bounds what is read from stdin or a file; no broker takes more.
const maxBody = 128 << 20

// publishFlags are the flags of publish.
type publishFlags struct {
	id, key, contentType, file string
	headers                    []string
	exchange, queue            string
	core                       bool
	timeout                    time.Duration
	later                      laterFlags
}

func (p *program) publishCommand() *cobra.Command {
	var f publishFlags
	cmd := &cobra.Command{
		Use:     "publish SUBJECT [BODY|-] | --exchange NAME KEY [BODY|-] | --queue NAME [BODY|-]",
		Aliases: []string{"pub"},
		Short:   "Publish one message and wait until it is stored",
		Long: `Publishes one message to a JetStream stream and returns once the stream has
confirmed it. A message that no stream takes is an error. With --core it is sent
over core NATS to whoever listens now, and nobody confirms anything. With --at,
--after, --every or --cron the server keeps it and sends it when it is due; the
stream must allow that: holdfast schedule enable STREAM.

On RabbitMQ it goes to an exchange under a routing key, or to one queue, and the
command returns once the broker has confirmed it. A message that no queue takes
is an error, although the broker confirms that, too.`,
		Example: `  holdfast publish orders.placed '{"id": 1}'
  holdfast publish orders.placed --id order-1 --header Tenant:acme - < order.json
  holdfast publish orders.placed --core hello
  holdfast publish orders.reminders 'pay!' --after 48h --id reminder-7
  holdfast publish --broker amqp://127.0.0.1 --exchange orders orders.placed '{"id": 1}'
  holdfast publish --broker amqp://127.0.0.1 --queue orders '{"id": 1}'`,
		Args: args(0, 2, "a subject or a routing key, and at most one body"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.later.read(cmd.Flags().Changed, f, time.Now()); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			return p.publish(ctx, args, f)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fl := cmd.Flags()
	fl.StringVar(&f.id, "id", "", "the message's ID; publishing it again under the same ID stores it once on JetStream (default: a new one)")
	fl.StringVar(&f.key, "key", "", "the ordering key")
	fl.StringArrayVarP(&f.headers, "header", "H", nil, "a header, NAME:VALUE; may be repeated")
	fl.StringVar(&f.contentType, "content-type", "", "the media type (default: application/json for JSON, text/plain for text)")
	fl.StringVarP(&f.file, "file", "f", "", "read the body from this file")
	fl.StringVar(&f.exchange, "exchange", "", "the exchange on RabbitMQ")
	fl.StringVar(&f.queue, "queue", "", "the queue on RabbitMQ, whatever is bound to it")
	fl.BoolVar(&f.core, "core", false, "send over core NATS, unconfirmed")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long to try")
	f.later.register(fl)
	p.outputFlag(cmd)
	return cmd
}

// published is what publish prints.
type published struct {
	Subject   string `json:"subject"` // the routing key on RabbitMQ
	Exchange  string `json:"exchange,omitempty"`
	Queue     string `json:"queue,omitempty"`
	ID        string `json:"id"`
	Bytes     int    `json:"bytes"`
	Stream    string `json:"stream,omitempty"`
	Confirmed bool   `json:"confirmed"`
	// At and Recurs say when it will be sent, where that is later.
	At     *time.Time `json:"at,omitempty"`
	Recurs string     `json:"recurs,omitempty"`
}

// destination is where a message goes, as it was named.
type destination struct {
	rabbit bool
	to     transport.Address
	name   string   // in one word, for errors
	rest   []string // the arguments behind it
}

// destinationOf reads the arguments of publish for the kind of the broker.
func destinationOf(args []string, f publishFlags, rabbit bool) (destination, error) {
	if !rabbit {
		switch {
		case f.exchange != "" || f.queue != "":
			return destination{}, ui.Usagef("--exchange and --queue are for RabbitMQ, and the broker is a NATS server; write holdfast publish SUBJECT BODY, or --broker amqp://...")
		case len(args) == 0:
			return destination{}, ui.Usagef("holdfast publish takes a subject and at most one body; see holdfast publish --help")
		}
		return destination{to: transport.Address{Name: args[0]}, name: args[0], rest: args[1:]}, nil
	}
	switch {
	case f.later.asked():
		return destination{}, ui.Usagef("--at, --after, --every and --cron are of JetStream: RabbitMQ keeps no message for later")
	case f.core:
		return destination{}, ui.Usagef("--core is core NATS, and the broker is RabbitMQ; remove it")
	case f.queue != "" && f.exchange != "":
		return destination{}, ui.Usagef("--exchange and --queue are two places; give one of them")
	case f.queue != "" && len(args) > 1:
		return destination{}, ui.Usagef("--queue takes at most one body; a routing key belongs to --exchange")
	case f.queue != "":
		return destination{true, rabbitmq.QueueAddress(f.queue), f.queue, args}, nil
	case f.exchange == "":
		return destination{}, ui.Usagef("publish where? On RabbitMQ write holdfast publish --exchange NAME KEY BODY, or holdfast publish --queue NAME BODY")
	case len(args) == 0:
		return destination{}, ui.Usagef(`--exchange takes a routing key before the body; "" is the empty one`)
	}
	return destination{true, rabbitmq.Exchange(f.exchange, args[0]), f.exchange, args[1:]}, nil
}

func (p *program) publish(ctx context.Context, args []string, f publishFlags) (err error) {
	url, err := p.anyBroker()
	if err != nil {
		return err
	}
	d := p.dialer(url)
	to, err := destinationOf(args, f, d.rabbit())
	if err != nil {
		return err
	}
	body, err := p.body(to.rest, f.file)
	if err != nil {
		return err
	}
	opts, err := publishOptions(f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	got := published{Subject: to.to.Name, ID: f.id, Bytes: len(body), Confirmed: !f.core}
	if f.later.recurs() {
		r := f.later.recurrence()
		got.Recurs = strings.TrimSpace(r.Spec + " " + r.TimeZone)
	} else if f.later.asked() {
		got.At = &f.later.moment
	}
	if to.rabbit {
		got.Subject, got.Exchange, got.Queue = to.to.Key, f.exchange, f.queue
	}
	codec := rawCodec{f.contentType}
	if codec.contentType == "" {
		codec.contentType = guess(body)
	}
	t, err := d.publisher(ctx, f.core)
	if err != nil {
		return err
	}
	pub := holdfast.NewPublisher[[]byte](t, to.to, holdfast.PublishCodec(codec),
		holdfast.PublishObserver(idOf{&got}))
	if d.js != nil {
		// Asked before, because somebody who listens on core NATS keeps the
		// broker from saying that no stream does.
		if got.Stream, err = streamOf(ctx, d.js.JetStream(), args[0]); err != nil {
			return publishError(err, to, f)
		}
	}
	if err := d.later(ctx, pub, to, body, codec, f, opts); err != nil {
		return publishError(scheduleError(err, got.Stream), to, f)
	}
	return p.tellPublished(got)
}

// publisher opens the transport to publish with.
func (d *dialer) publisher(ctx context.Context, core bool) (transport.Transport, error) {
	switch {
	case d.rabbit():
		rmq, err := d.rabbitMQ(ctx)
		return atOnce{rmq}, err
	case core:
		return d.natsCore(ctx)
	default:
		return d.jetStream(ctx)
	}
}

// atOnce gives up at once on what no queue takes: a person at a terminal is told
// rather than kept waiting for somebody to bind one.
type atOnce struct{ transport.Transport }

// Publish publishes once.
func (t atOnce) Publish(ctx context.Context, to transport.Address, m *transport.Message) error {
	err := t.Transport.Publish(ctx, to, m)
	if te, ok := errors.AsType[*transport.Error](err); ok && errors.Is(err, transport.ErrUnroutable) {
		te.Kind = transport.Permanent
	}
	return err
}

// publishError says what to do when nobody would keep a message, or when there is
// no such exchange.
func publishError(err error, to destination, f publishFlags) error {
	if !errors.Is(err, transport.ErrUnroutable) {
		return brokerError(err)
	}
	te, told := errors.AsType[*transport.Error](err)
	switch {
	case to.rabbit && f.exchange != "" && told && te.Hint != "":
		return fmt.Errorf("nobody would keep a message of the exchange %q and the key %q: %s", f.exchange, to.to.Key, te.Hint)
	case to.rabbit && f.exchange != "":
		return fmt.Errorf("nobody would keep a message of the exchange %q and the key %q: start the subscription that binds a queue", f.exchange, to.to.Key)
	case to.rabbit:
		return fmt.Errorf("there is no queue %q: start the subscription that declares it, or correct its name", f.queue)
	default:
		return fmt.Errorf("no stream takes %q, so nobody would keep the message: start the subscription that creates one, or send it with --core to whoever listens now", to.name)
	}
}

func (p *program) tellPublished(m published) error {
	return p.One(m, m.ID, func(w io.Writer) error {
		if m.At != nil || m.Recurs != "" {
			return tellLater(w, m)
		}
		how := "sent over core NATS; nobody confirmed it"
		if m.Confirmed {
			how = "stored"
			if m.Stream != "" {
				how += " in stream " + m.Stream
			}
		}
		to := m.Subject
		if m.Exchange != "" {
			to = m.Exchange + "/" + m.Subject
		}
		_, err := fmt.Fprintf(w, "published %s  id %s  %s  %s\n", ui.Line(to), ui.Line(m.ID), plural(m.Bytes, "byte"), ui.Line(how))
		return err
	})
}

// streamOf names the stream that takes a subject; "" when the account may not
// ask.
func streamOf(ctx context.Context, js natsjs.JetStream, subject string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	name, err := js.StreamNameBySubject(ctx, subject)
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		return "", transport.ErrUnroutable
	}
	return name, nil //nolint:nilerr // the publish itself will tell
}

// body is the argument, stdin for "-" or when something is piped in, or a file.
func (p *program) body(args []string, file string) ([]byte, error) {
	var in io.Reader
	switch {
	case file != "" && len(args) > 0:
		return nil, ui.Usagef("the body is given twice: as an argument and with --file")
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // opened for reading only
		in = f
	case len(args) == 1 && args[0] != "-":
		return []byte(args[0]), nil
	case len(args) == 0 && p.InTTY:
		return nil, ui.Usagef("no body: give one as an argument, write - to type it, or pipe it in")
	default:
		in = p.In
	}
	b, err := io.ReadAll(io.LimitReader(in, maxBody+1))
	if err == nil && len(b) > maxBody {
		err = fmt.Errorf("the body is larger than %d MiB", maxBody>>20)
	}
	return b, err
}

func publishOptions(f publishFlags) ([]holdfast.PublishOption, error) {
	var opts []holdfast.PublishOption
	if f.id != "" {
		opts = append(opts, holdfast.ID(f.id))
	}
	if f.key != "" {
		opts = append(opts, holdfast.Key(f.key))
	}
	for _, h := range f.headers {
		name, value, err := headerOf(h)
		if err != nil {
			return nil, err
		}
		opts = append(opts, holdfast.SetHeader(name, value))
	}
	return opts, nil
}

func headerOf(h string) (name, value string, err error) {
	name, value, ok := strings.Cut(h, ":")
	if !ok || name == "" {
		return "", "", ui.Usagef("--header %q: write NAME:VALUE", h)
	}
	return name, strings.TrimPrefix(value, " "), nil
}

// guess is the media type of a body nobody named.
func guess(body []byte) string {
	switch {
	case json.Valid(body):
		return "application/json"
	case utf8.Valid(body):
		return "text/plain; charset=utf-8"
	default:
		return "application/octet-stream"
	}
}

// rawCodec sends bytes as they are under any media type.
type rawCodec struct{ contentType string }

func (c rawCodec) ContentType() string { return c.contentType }

func (c rawCodec) Encode(v any) ([]byte, error) { return holdfast.Bytes().Encode(v) }

func (c rawCodec) Decode(data []byte, v any) error { return holdfast.Bytes().Decode(data, v) }

// idOf notes the ID under which a message was published.
type idOf struct{ m *published }

// Observe keeps the ID.
func (o idOf) Observe(e observe.Event) {
	if e.Kind == observe.Published {
		o.m.ID = e.MessageID
	}
}
