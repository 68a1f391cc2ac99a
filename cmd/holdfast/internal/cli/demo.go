package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/embedded"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/jetstream"
)

// demoFlags are the flags of demo.
type demoFlags struct {
	messages int
	rate     int
	seed     uint64
	data     string
	timeout  time.Duration
}

func (p *program) demoCommand() *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work: a broker, a flaky handler and poison messages",
		Long: `Starts a NATS server with JetStream in a temporary directory, publishes orders to
it, and handles them with a handler that fails now and then. Some orders can never
be handled: one cannot be decoded, one names a customer who does not exist, one
always times out, one makes the handler panic.

In the end every published order was handled or is a dead letter, or the command
fails.`,
		Example: `  holdfast demo
  holdfast demo --messages 5000 --rate 2000 --seed 7
  holdfast demo --data demo && holdfast dlq list --data demo`,
		Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.messages < 1 || f.rate < 1 {
				return ui.Usagef("--messages and --rate must be 1 or more")
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), f.timeout, fmt.Errorf("not finished within %s", f.timeout))
			defer cancel()
			return p.demo(ctx, f)
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&f.messages, "messages", 200, "how many orders to publish")
	fl.IntVar(&f.rate, "rate", 50, "how many a second")
	fl.Uint64Var(&f.seed, "seed", 1, "which orders fail, and how often")
	fl.StringVar(&f.data, "data", "", "keep the messages in this directory (default: one that is removed in the end)")
	fl.DurationVar(&f.timeout, "timeout", 5*time.Minute, "give up after this long")
	p.outputFlag(cmd)
	return cmd
}

// proof is what the demo found in the end.
type proof struct {
	Published   int  `json:"published"`
	Handled     int  `json:"handled"`
	Dead        int  `json:"dead"`
	Retried     int  `json:"retried"`
	Lost        int  `json:"lost"`         // neither handled nor dead
	HandledMore int  `json:"handled_more"` // handled more than once, or handled and dead
	Holds       bool `json:"holds"`
	// Data and DeadLetters, the command that shows them, are set where the data is
	// kept (--data).
	Data        string   `json:"data,omitempty"`
	DeadLetters string   `json:"dead_letters,omitempty"`
	Letters     []letter `json:"letters"`
}

func (p *program) demo(ctx context.Context, f demoFlags) (err error) {
	data, remove, err := demoData(f.data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	s, err := embedded.Start(ctx, embedded.Config{Listen: "127.0.0.1:0", Data: data})
	if err != nil {
		return embeddedError(err, "--listen", "--data")
	}
	defer func() { err = errors.Join(err, closeServer(s)) }()
	js, err := jetstream.Connect(ctx, s.URL())
	if err != nil {
		return unreachable(err)
	}
	defer func() {
		// The context of the command may have ended; closing has its own time.
		closing, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		err = errors.Join(err, js.Close(closing))
	}()
	w := newWorld(f.messages, f.seed)
	app, sub := w.app(js)
	began := time.Now()
	if err := p.play(ctx, w, app, sub, js, f.rate); err != nil {
		return err
	}
	result, err := w.prove(ctx, deadletter.Open(js.DeadLetters()))
	if err != nil {
		return err
	}
	result.Retried = int(sub.Health().Counts.Retried)
	if f.data != "" {
		result.Data, result.DeadLetters = data, "holdfast dlq list --data "+data
	}
	return p.tellProof(result, time.Since(began))
}

// demoData is a directory that no earlier demo has written to. One that nobody
// named is removed in the end.
func demoData(dir string) (data string, remove func() error, err error) {
	remove = func() error { return nil }
	if dir == "" {
		data, err = os.MkdirTemp("", "holdfast-demo-")
		return data, func() error { return os.RemoveAll(data) }, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", remove, err
	}
	if len(entries) > 0 {
		return "", remove, ui.Usagef("--data %s: the directory is not empty; the demo counts from nothing", dir)
	}
	data, err = filepath.Abs(dir)
	return data, remove, err
}

// play runs the app, the producer and the view until every message has ended.
// It returns after all of them.
func (p *program) play(ctx context.Context, w *world, app *holdfast.App, sub *holdfast.Subscription, js *jetstream.Transport, rate int) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	running := make(chan error, 3)
	go func() { running <- app.Run(ctx) }()                         // received below
	go func() { running <- w.produce(ctx, js, rate) }()             // received below
	go func() { running <- p.watchDemo(ctx, stop, w, sub, rate) }() // received below
	var errs []error
	for range 3 {
		err := <-running
		if err != nil {
			stop(err)
			errs = append(errs, err)
		}
	}
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errAllEnded):
		return nil
	case len(errs) > 0:
		return errors.Join(errs...)
	case cause != nil:
		return fmt.Errorf("the demo was ended before it could prove anything: %w", cause)
	default:
		return nil
	}
}

// tellDead lists the dead letters of the demo, and says how to look at them.
func (p *program) tellDead(w io.Writer, r proof) error {
	st := p.Styles(true)
	for _, l := range r.Letters {
		if _, err := fmt.Fprintf(w, "  %s %s: %s\n", st.Bad(fmt.Sprintf("%-18s", l.Reason)), ui.Line(l.ID), firstLine(l.Error)); err != nil {
			return err
		}
	}
	next := "Keep them and look: holdfast demo --data demo && holdfast dlq list --data demo"
	if r.DeadLetters != "" {
		next = "See the dead letters: " + r.DeadLetters
	}
	_, err := fmt.Fprintln(w, st.Bold(next))
	return err
}

// tellProof says what was proven, or fails.
func (p *program) tellProof(r proof, took time.Duration) error {
	st := p.Styles(true)
	if p.Live() {
		p.Sayf("")
	}
	err := p.One(r, "demo", func(w io.Writer) error {
		if !r.Holds {
			_, err := fmt.Fprintf(w, "%s %d published, %d handled, %d dead: %d lost, %d more than once\n", st.Bad("failed:"), r.Published, r.Handled, r.Dead, r.Lost, r.HandledMore)
			return err
		}
		_, err := fmt.Fprintf(w, "%s %d published = %d handled + %d dead, after %d retries in %s: nothing was lost, nothing was handled twice.\n",
			st.Good("proven:"), r.Published, r.Handled, r.Dead, r.Retried, took.Round(100*time.Millisecond))
		if err != nil {
			return err
		}
		return p.tellDead(w, r)
	})
	if err == nil && !r.Holds {
		err = ui.Exit(ui.ExitFailed, nil)
	}
	return err
}
