package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// paused is what pause and resume print.
type paused struct {
	Consumer string     `json:"consumer"` // STREAM/DURABLE
	Paused   bool       `json:"paused"`
	Until    *time.Time `json:"until,omitempty"`
}

// pauseFlags are the flags of pause.
type pauseFlags struct {
	during time.Duration
	until  string
}

func (p *program) pauseCommand() *cobra.Command {
	var f pauseFlags
	cmd := &cobra.Command{
		Use: "pause NAME", Short: "Keep a subscription from getting messages for a while",
		Long: `Pauses the durable consumer of a subscription: the server hands out nothing until
the time is over or somebody resumes it, whichever processes run. What is being
handled goes on. NAME is a subscription of the file, or STREAM/DURABLE.

The pause is the server's: it needs JetStream and nats-server 2.11.`,
		Example: `  holdfast pause orders --for 10m
  holdfast pause ORDERS/billing --until 2026-01-31T12:00:00Z
  holdfast resume orders`,
		Args: args(1, 1, "a subscription of the file, or STREAM/DURABLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			until, err := f.end(time.Now())
			if err != nil {
				return err
			}
			return p.setPause(cmd.Context(), args[0], until)
		},
		ValidArgsFunction: p.completeSubscriptions,
	}
	cmd.Flags().DurationVar(&f.during, "for", 0, "for how long")
	cmd.Flags().StringVar(&f.until, "until", "", "until when: 2026-01-31T12:00:00Z")
	p.pauseCommon(cmd)
	return cmd
}

func (p *program) resumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "resume NAME", Short: "End the pause of a subscription",
		Example: `  holdfast resume orders
  holdfast resume ORDERS/billing`,
		Args: args(1, 1, "a subscription of the file, or STREAM/DURABLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.setPause(cmd.Context(), args[0], time.Time{})
		},
		ValidArgsFunction: p.completeSubscriptions,
	}
	p.pauseCommon(cmd)
	return cmd
}

func (p *program) pauseCommon(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.file, "file", "", "the file that has the subscription (default: holdfast.yaml here)")
	p.outputFlag(cmd)
}

// end is when a pause ends.
func (f pauseFlags) end(now time.Time) (time.Time, error) {
	switch {
	case (f.during != 0) == (f.until != ""):
		return time.Time{}, ui.Usagef("how long? Write --for 10m, or --until 2026-01-31T12:00:00Z")
	case f.during < 0:
		return time.Time{}, ui.Usagef("--for %s: write a duration above zero", f.during)
	case f.during > 0:
		return now.Add(f.during), nil
	}
	until, err := time.Parse(time.RFC3339, f.until)
	switch {
	case err != nil:
		return until, ui.Usagef("--until %q: write a time with its zone, 2026-01-31T12:00:00Z, or --for 10m", f.until)
	case !until.After(now):
		return until, ui.Usagef("--until %s is over already; holdfast resume NAME ends a pause", f.until)
	}
	return until, nil
}

// setPause pauses a consumer until a time, or resumes it when that is zero.
func (p *program) setPause(ctx context.Context, name string, until time.Time) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*closeTimeout)
	defer cancel()
	from, url, err := p.consumerNamed(name)
	if err != nil {
		return err
	}
	if err := pausable(name, from); err != nil {
		return err
	}
	d := p.dialer(url)
	if d.rabbit() {
		return ui.Usagef("%s is a consumer of JetStream, and the broker is RabbitMQ; name a broker with --broker nats://HOST:PORT", ui.Line(name))
	}
	defer func() { err = errors.Join(err, d.close()) }()
	js, err := d.jetStream(ctx)
	if err != nil {
		return err
	}
	src := sourceToPause(js, from)
	said := paused{Consumer: from.StreamName() + "/" + from.Durable, Paused: !until.IsZero()}
	if said.Paused {
		said.Until = &until
		err = js.Pause(ctx, src, until)
	} else {
		err = js.Resume(ctx, src)
	}
	if err != nil {
		return brokerError(err)
	}
	return p.One(said, said.Consumer, func(w io.Writer) error {
		line := "resumed " + said.Consumer
		if said.Paused {
			line = fmt.Sprintf("paused %s until %s; holdfast resume %s ends it", said.Consumer, until.Format(time.RFC3339), name)
		}
		_, err := fmt.Fprintln(w, ui.Line(line))
		return err
	})
}

func sourceToPause(js *jetstream.Transport, from config.From) holdfast.Source {
	if src := watchOf(js, &config.Config{}, from); src != nil {
		return src
	}
	return js.Consumer(jetstream.ConsumerConfig{Stream: from.Stream, Durable: from.Durable, Ordered: from.Ordered})
}

// pausable refuses what no broker can pause, and says what to do in its place.
func pausable(name string, from config.From) error {
	refuse := func(hint string) error {
		return &transport.Error{Op: "pause", Address: name, Kind: transport.Permanent, Err: transport.ErrUnsupported, Hint: hint}
	}
	switch {
	case from.Queue != nil:
		return refuse("RabbitMQ cannot pause consumers: stop the program that consumes the queue; its messages wait there")
	case from.Subject != "":
		return refuse("core NATS keeps no messages: what is published meanwhile would be lost; take them from a stream")
	case from.Ordered:
		return refuse("an ordered consumer is its program's own: stop the program; the stream keeps the messages")
	}
	return nil
}

// consumerNamed finds the source of a subscription of the file, or of
// STREAM/DURABLE, and the broker.
func (p *program) consumerNamed(name string) (from config.From, url string, err error) {
	if stream, durable, ok := strings.Cut(name, "/"); ok {
		url, err = p.anyBroker()
		return config.From{Stream: stream, Durable: durable}, url, err
	}
	named, err := p.namedBroker()
	if err != nil {
		return from, "", err
	}
	path := p.file
	if path == "" {
		path = defaultFile
	}
	c, err := config.LoadSources(path, p.In, p.Env, named)
	if err != nil {
		return from, "", err
	}
	p.use(c.Connection)
	url = named.URL
	if url == "" {
		url = brokerOf(c)
	}
	var names []string
	for _, s := range c.Subscriptions {
		if s.Name == name {
			return s.From, url, nil
		}
		names = append(names, s.Name)
	}
	return from, "", ui.Usagef("%s has no subscription %q%s; it has %s. A consumer without a file is STREAM/DURABLE",
		path, name, meant(name, names), strings.Join(names, ", "))
}

// completeSubscriptions offers the subscriptions of the file.
func (p *program) completeSubscriptions(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	path := p.file
	if path == "" {
		path = defaultFile
	}
	c, err := config.LoadSources(path, p.In, p.Env, config.Named{})
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, s := range c.Subscriptions {
		names = append(names, s.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
