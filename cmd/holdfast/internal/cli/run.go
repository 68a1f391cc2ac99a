package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/embedded"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/observe"
)

// runFlags are the flags of run.
type runFlags struct {
	grace       time.Duration
	wait        bool
	allowRemote bool
	logFormat   string
}

func (p *program) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [FILE]",
		Short: "Run the handlers of a file",
		Long: `Reads a YAML file (default holdfast.yaml) and hands each message to its handler:
a command, a URL, or the log. Without "broker:" it starts a NATS server with
JetStream on loopback, prints its URL, and any NATS client can publish to it.

SIGTERM or SIGINT drains: no message is taken any more, what is in hand is
finished. A second signal ends the process at once; nothing is lost, messages in
hand are delivered again.`,
		Example: `  holdfast run
  holdfast run orders.yaml --broker nats://127.0.0.1:4222
  holdfast run orders.yaml --broker amqp://guest:guest@127.0.0.1:5672/
  cat orders.yaml | holdfast run -`,
		Args: args(0, 1, "at most one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.run(cmd.Context(), fileArg(args), f)
		},
		ValidArgsFunction: yamlFiles,
	}
	cmd.Flags().DurationVar(&f.grace, "grace", 30*time.Second, "how long handlers may finish after a signal")
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait for a broker that does not answer yet")
	cmd.Flags().BoolVar(&f.allowRemote, "listen-remote", false, "let the embedded server listen beyond this machine, without a password")
	cmd.Flags().StringVar(&f.logFormat, "log", "auto", "logs: json, text, or auto: text at a terminal")
	must(cmd.RegisterFlagCompletionFunc("log", cobra.FixedCompletions([]string{"auto", "json", "text"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func fileArg(args []string) string {
	if len(args) == 0 {
		return defaultFile
	}
	return args[0]
}

func yamlFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

func (p *program) run(ctx context.Context, file string, f runFlags) (err error) {
	if f.logFormat != "auto" && f.logFormat != "json" && f.logFormat != "text" {
		return ui.Usagef("--log %q: write auto, json or text", f.logFormat)
	}
	named, err := p.namedBroker()
	if err != nil {
		return err
	}
	c, err := config.Load(file, p.In, p.Env, named)
	if err != nil {
		return err
	}
	log := p.logger(f.logFormat)
	for _, w := range warnings(c) {
		log.WarnContext(ctx, "config", "code", string(w.Code), "at", fmt.Sprintf("%s:%d:%d", w.File, w.Line, w.Column), "fact", w.Message, "fix", w.Hint)
	}
	// Commands that cannot be run are found before anything is started.
	made, err := handlers(c, log)
	if err != nil {
		return err
	}
	for _, h := range made {
		if k, ok := h.(interface{ Kill() }); ok {
			p.whenForced(k.Kill)
		}
	}
	url, stop, err := p.brokerFor(ctx, c, named, log, f.allowRemote)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	p.use(c.Connection)
	d := p.dialer(url)
	d.wait = f.wait
	defer func() { err = errors.Join(err, d.close()) }()
	ready := newReadiness(log, len(c.Subscriptions), config.Redact(url))
	observers := []observe.Observer{ready}
	if p.verbose {
		observers = append(observers, attemptLog{log})
	}
	app, err := build(ctx, c, made, d, log, f.grace, observers...)
	if err != nil {
		if ctx.Err() != nil {
			return nil // a signal came while it waited for the broker
		}
		return err
	}
	if err := app.Run(ctx); err != nil {
		return canceled(ctx, err)
	}
	log.Info("stopped", "clean", true)
	return nil
}

// canceled turns an error that only says that a signal came into none.
func canceled(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func warnings(c *config.Config) []config.Diagnostic {
	if c.Warnings == nil {
		return nil
	}
	return c.Warnings.List
}

// brokerFor returns the broker to use: the one that is named, or an embedded
// server that is started now and stopped by stop.
func (p *program) brokerFor(ctx context.Context, c *config.Config, named config.Named, log *slog.Logger, allowRemote bool) (url string, stop func() error, err error) {
	none := func() error { return nil }
	if named.URL != "" {
		return named.URL, none, nil
	}
	if c.Broker != "" {
		return c.Broker, none, nil
	}
	s, err := embedded.Start(ctx, embedded.Config{Listen: c.Listen, Data: c.Data, AllowRemote: allowRemote, Logger: log})
	if err != nil {
		return "", nil, embeddedError(err, `"listen"`, `"data"`)
	}
	log.InfoContext(ctx, "embedded server", "url", s.URL(), "version", s.Version(), "data", c.Data)
	if !p.OutTTY || !p.ErrTTY { // a person at a terminal has just read it
		if _, err := fmt.Fprintln(p.Out, s.URL()); err != nil {
			log.WarnContext(ctx, "the URL could not be printed", "err", err)
		}
	}
	return s.URL(), func() error { return closeServer(s) }, nil
}

// closeServer stops an embedded server. The context of the command may have
// ended before; stopping has time of its own.
func closeServer(s *embedded.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return s.Close(ctx)
}

// embeddedError adds what to do to an error of the embedded server. listen and data
// are how its settings are called.
func embeddedError(err error, listen, data string) error {
	switch {
	case errors.Is(err, embedded.ErrNotLoopback):
		return fmt.Errorf("%s: %w; listen on 127.0.0.1, or add --listen-remote if the network is trusted", config.CodeNotLoopback, err)
	case errors.Is(err, embedded.ErrLocked):
		return fmt.Errorf("%w; stop it, or name another directory in %s", err, data)
	case errors.Is(err, embedded.ErrListen):
		return fmt.Errorf("%s: %w; name another address in %s, or end what listens there", config.CodeInUse, err, listen)
	default:
		return fmt.Errorf("%w; name a directory that can be written in %s", err, data)
	}
}

// readiness says once that every subscription takes messages.
type readiness struct {
	log    *slog.Logger
	want   int
	broker string

	mu      sync.Mutex // guards running
	running map[string]bool
}

func newReadiness(log *slog.Logger, want int, broker string) *readiness {
	return &readiness{log: log, want: want, broker: broker, running: make(map[string]bool)}
}

// Observe counts the subscriptions that run.
func (r *readiness) Observe(e observe.Event) {
	if e.Kind != observe.StateChanged || e.State != observe.StateRunning {
		return
	}
	r.mu.Lock()
	before := len(r.running)
	r.running[e.Subscription] = true
	complete := before < r.want && len(r.running) == r.want
	r.mu.Unlock()
	if complete {
		r.log.Info("ready", "subscriptions", r.want, "broker", r.broker)
	}
}
