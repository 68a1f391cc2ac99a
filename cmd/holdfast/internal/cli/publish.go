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
	"github.com/holdfast-go/holdfast/transport"
)

// maxBody bounds what is read from stdin or a file; no NATS server takes more.
const maxBody = 64 << 20

// publishFlags are the flags of publish.
type publishFlags struct {
	id, key, contentType, file string
	headers                    []string
	core                       bool
	timeout                    time.Duration
}

func (p *program) publishCommand() *cobra.Command {
	var f publishFlags
	cmd := &cobra.Command{
		Use:     "publish SUBJECT [BODY|-]",
		Aliases: []string{"pub"},
		Short:   "Publish one message and wait until it is stored",
		Long: `Publishes one message to a JetStream stream and returns once the stream has
confirmed it. A message that no stream takes is an error. With --core it is sent
over core NATS to whoever listens now, and nobody confirms anything.`,
		Example: `  holdfast publish orders.placed '{"id": 1}'
  holdfast publish orders.placed --id order-1 --header Tenant:acme - < order.json
  holdfast publish orders.placed --core hello`,
		Args: args(1, 2, "a subject and at most one body"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			return p.publish(ctx, args, f)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fl := cmd.Flags()
	fl.StringVar(&f.id, "id", "", "the message's ID; publishing it again under the same ID stores it once (default: a new one)")
	fl.StringVar(&f.key, "key", "", "the ordering key")
	fl.StringArrayVarP(&f.headers, "header", "H", nil, "a header, NAME:VALUE; may be repeated")
	fl.StringVar(&f.contentType, "content-type", "", "the media type (default: application/json for JSON, text/plain for text)")
	fl.StringVarP(&f.file, "file", "f", "", "read the body from this file")
	fl.BoolVar(&f.core, "core", false, "send over core NATS, unconfirmed")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long to try")
	p.outputFlag(cmd)
	return cmd
}

// published is what publish prints.
type published struct {
	Subject   string `json:"subject"`
	ID        string `json:"id"`
	Bytes     int    `json:"bytes"`
	Stream    string `json:"stream,omitempty"`
	Confirmed bool   `json:"confirmed"`
}

func (p *program) publish(ctx context.Context, args []string, f publishFlags) (err error) {
	body, err := p.body(args[1:], f.file)
	if err != nil {
		return err
	}
	opts, err := publishOptions(f)
	if err != nil {
		return err
	}
	url, err := p.anyBroker()
	if err != nil {
		return err
	}
	d := &dialer{url: url}
	defer func() { err = errors.Join(err, d.close()) }()
	got := published{Subject: args[0], ID: f.id, Bytes: len(body), Confirmed: !f.core}
	codec := rawCodec{f.contentType}
	if codec.contentType == "" {
		codec.contentType = guess(body)
	}
	var t transport.Transport
	if f.core {
		t, err = d.natsCore(ctx)
	} else {
		t, err = d.jetStream(ctx)
	}
	if err != nil {
		return err
	}
	pub := holdfast.NewPublisher[[]byte](t, transport.Address{Name: args[0]}, holdfast.PublishCodec(codec),
		holdfast.PublishObserver(idOf{&got}))
	if !f.core {
		// Asked before, because somebody who listens on core NATS keeps the
		// broker from saying that no stream does.
		if got.Stream, err = streamOf(ctx, d.js.JetStream(), args[0]); err != nil {
			return publishError(err, args[0])
		}
	}
	if err := pub.Publish(ctx, body, opts...); err != nil {
		return publishError(err, args[0])
	}
	return p.tellPublished(got)
}

// publishError says what to do when no stream takes a subject.
func publishError(err error, subject string) error {
	if errors.Is(err, transport.ErrUnroutable) {
		return fmt.Errorf("no stream takes %q, so nobody would keep the message: start the subscription that creates one, or send it with --core to whoever listens now", subject)
	}
	return brokerError(err)
}

func (p *program) tellPublished(m published) error {
	return p.One(m, m.ID, func(w io.Writer) error {
		how := "sent over core NATS; nobody confirmed it"
		if m.Confirmed {
			how = "stored"
			if m.Stream != "" {
				how += " in stream " + m.Stream
			}
		}
		_, err := fmt.Fprintf(w, "published %s  id %s  %s  %s\n", m.Subject, m.ID, plural(m.Bytes, "byte"), how)
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
		name, value, ok := strings.Cut(h, ":")
		if !ok || name == "" {
			return nil, ui.Usagef("--header %q: write NAME:VALUE", h)
		}
		opts = append(opts, holdfast.SetHeader(name, strings.TrimPrefix(value, " ")))
	}
	return opts, nil
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
