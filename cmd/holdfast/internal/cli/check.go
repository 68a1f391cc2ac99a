package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/embedded"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/outcome"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/transport"
)

// The exit codes of check are those of Nagios plugins.
const (
	checkOK       = 0
	checkWarning  = 1
	checkCritical = 2
)

// checkTimeout bounds a whole check.
const checkTimeout = 60 * time.Second

// finding is a finding as check prints it: that of a broker, or one of a file
// with its place.
type finding struct {
	transport.Finding
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

func (p *program) checkCommand() *cobra.Command {
	var offline bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Compare a file with what the broker has today, and change nothing",
		Long: `Reads the file, looks for its commands, and compares every subscription with the
broker: what is missing, what differs and how, which promise cannot be kept.
Nothing is created or changed.

Exit codes are those of Nagios: 0 when run would start without a warning, 1 with
warnings, 2 when it would refuse to start or the broker does not answer.`,
		Example: `  holdfast check
  holdfast check orders.yaml -o json
  holdfast check --offline               the file and its commands only`,
		Args: args(0, 1, "at most one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), checkTimeout)
			defer cancel()
			return p.check(ctx, fileArg(args), offline)
		},
		ValidArgsFunction: yamlFiles,
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "check the file and its commands, not the broker")
	p.outputFlag(cmd)
	return cmd
}

func (p *program) check(ctx context.Context, file string, offline bool) error {
	named, err := p.namedBroker()
	if err != nil {
		return err
	}
	c, err := config.Load(file, p.In, p.Env, named)
	if err != nil {
		return p.checkFailed(err)
	}
	var found []finding
	for _, w := range warnings(c) {
		found = append(found, fromFile(w, transport.LevelWarning))
	}
	log := p.logger("auto")
	made, err := handlers(c, log)
	if ce, ok := errors.AsType[*holdfast.ContractError](err); ok {
		for _, f := range ce.Findings {
			found = append(found, finding{Finding: f})
		}
	} else if err != nil {
		return p.checkFailed(err)
	}
	if !offline && err == nil {
		asked, err := p.askBroker(ctx, c, named, made)
		if err != nil {
			return p.checkFailed(err)
		}
		for _, f := range asked {
			found = append(found, finding{Finding: f})
		}
	}
	return p.report(c, found)
}

// checkFailed is a check that could not be made. In a machine's format errors of
// the file are data.
func (p *program) checkFailed(err error) error {
	es, ok := errors.AsType[*config.Errors](err)
	if !ok || p.Format == "" || p.Format == "table" {
		return ui.Exit(checkCritical, err)
	}
	var found []finding
	for _, d := range es.List {
		found = append(found, fromFile(d, transport.LevelError))
	}
	return errors.Join(ui.Exit(checkCritical, nil), p.listFindings(found))
}

func fromFile(d config.Diagnostic, level transport.Level) finding {
	return finding{
		Finding: transport.Finding{Code: transport.Code(d.Code), Level: level, Subscription: d.Subscription, Fact: d.Message, Fix: d.Hint},
		File:    d.File, Line: d.Line, Column: d.Column,
	}
}

// askBroker checks every contract.
func (p *program) askBroker(ctx context.Context, c *config.Config, named config.Named, made []outcome.Handler) (found []transport.Finding, err error) {
	t, err := p.brokerToCheck(ctx, c, named)
	if err != nil {
		return nil, err
	}
	if t.url == "" {
		return t.found, nil
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	p.use(c.Connection)
	d := p.dialer(t.url)
	defer func() { err = errors.Join(err, d.close()) }()
	app, err := build(ctx, c, made, d, p.logger("auto"), 0)
	if err != nil {
		return nil, err
	}
	if found, err = app.Check(ctx); err != nil {
		return nil, err
	}
	found = append(t.found, inWords(found)...)
	if named.URL == "" && c.Broker == "" {
		return found, nil // the embedded server has no accounts
	}
	return append(found, permissions(ctx, app)...), nil
}

// target is what a check asks, and what is known before it does.
type target struct {
	url   string // empty: nothing can be asked
	stop  func() error
	found []transport.Finding
}

// brokerToCheck is the broker run would use. The embedded server is the one that
// runs, or one that is started on its data for the moment, on a port of its own.
func (p *program) brokerToCheck(ctx context.Context, c *config.Config, named config.Named) (target, error) {
	t := target{stop: func() error { return nil }}
	if named.URL != "" || c.Broker != "" {
		t.url = cmp.Or(named.URL, c.Broker)
		return t, nil
	}
	if err := embedded.Check(c.Listen, true); err != nil {
		return t, err
	}
	if embedded.Check(c.Listen, false) != nil {
		t.find(config.CodeNotLoopback, transport.LevelWarning, "run refuses to listen on "+c.Listen+" unless it is given --listen-remote", "listen on 127.0.0.1, or add --listen-remote if the network is trusted")
	}
	data, remove := c.Data, func() error { return nil }
	if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
		// Nothing is created by a check: the answer of an empty server will do.
		if data, err = os.MkdirTemp("", "holdfast-check-"); err != nil {
			return t, err
		}
		remove = func() error { return os.RemoveAll(data) }
	}
	s, err := embedded.Start(ctx, embedded.Config{Listen: "127.0.0.1:0", Data: data})
	switch {
	case errors.Is(err, embedded.ErrLocked):
		return p.runningServer(ctx, c, t), nil
	case err != nil:
		return t, errors.Join(embeddedError(err, `"listen"`, `"data"`), remove())
	}
	if err := embedded.Free(c.Listen); err != nil {
		t.find(config.CodeInUse, transport.LevelError, err.Error(), `name another address in "listen", or end what listens there; if it is the broker to use, name it in "broker"`)
	}
	t.url, t.stop = s.URL(), func() error { return errors.Join(closeServer(s), remove()) }
	return t, nil
}

// runningServer is the server that has the data directory: mostly the run that is
// asked about.
func (p *program) runningServer(ctx context.Context, c *config.Config, t target) target {
	const fix = `stop that process, or name another directory in "data"; to check against its server, name that with --broker`
	url := listensAt(c)
	if url == "" {
		t.find(config.CodeInUse, transport.LevelError, "another process uses the data directory "+c.Data, fix)
		return t
	}
	d := p.dialer(url)
	_, err := d.natsCore(ctx)
	if err = errors.Join(err, d.close()); err != nil {
		t.find(config.CodeInUse, transport.LevelError, fmt.Sprintf("another process uses the data directory %s, and no server answers at %s", c.Data, url), fix)
		return t
	}
	t.find(config.CodeInUse, transport.LevelInfo, fmt.Sprintf("a server runs on the data directory %s already: this is what the one at %s says", c.Data, url), "")
	t.url = url
	return t
}

func (t *target) find(code config.Code, level transport.Level, fact, fix string) {
	t.found = append(t.found, transport.Finding{Code: transport.Code(code), Level: level, Fact: fact, Fix: fix})
}

// report prints the findings and chooses the exit code.
func (p *program) report(c *config.Config, found []finding) error {
	code := checkOK
	for _, f := range found {
		switch f.Level {
		case transport.LevelError:
			code = checkCritical
		case transport.LevelWarning:
			code = max(code, checkWarning)
		}
	}
	if err := p.listFindings(found); err != nil {
		return ui.Exit(checkCritical, err)
	}
	st := p.Styles(false)
	say := map[int]string{
		checkOK:       st.Good("ok:") + " run would start",
		checkWarning:  st.Warn("warning:") + " run would start",
		checkCritical: st.Bad("critical:") + " run would refuse to start",
	}[code]
	p.Sayf("%s with %s of %s", say, plural(len(c.Subscriptions), "subscription"), c.Path)
	if code != checkOK {
		return ui.Exit(code, nil)
	}
	return nil
}

func (p *program) listFindings(found []finding) error {
	if p.Format == "" || p.Format == "table" {
		var plain []transport.Finding
		for _, f := range found {
			if f.File != "" {
				f.Fact = fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Fact)
			}
			plain = append(plain, f.Finding)
		}
		return p.findings(p.Out, plain, p.Styles(true))
	}
	return ui.List(p.UI, found, func(f finding) string { return string(f.Code) })
}

// findings prints findings for people, the serious ones first.
func (p *program) findings(out io.Writer, found []transport.Finding, st ui.Styles) error {
	w := &strings.Builder{}
	order := map[transport.Level]int{transport.LevelError: 0, transport.LevelWarning: 1, transport.LevelInfo: 2}
	found = slices.Clone(found)
	slices.SortStableFunc(found, func(a, b transport.Finding) int { return order[a.Level] - order[b.Level] })
	paint := map[transport.Level]func(string) string{transport.LevelError: st.Bad, transport.LevelWarning: st.Warn, transport.LevelInfo: st.Faint}
	for _, f := range found {
		where := ""
		if f.Subscription != "" {
			where = " " + st.Bold(ui.Line(f.Subscription)) + ":"
		}
		level := string(f.Level)
		if c := paint[f.Level]; c != nil {
			level = c(level)
		}
		_, _ = fmt.Fprintf(w, "%s %s%s %s\n", st.Code(string(f.Code)), level, where, ui.Line(f.Fact))
		for _, line := range f.Diff {
			_, _ = fmt.Fprintf(w, "    %s\n", ui.Line(line))
		}
		if f.Fix != "" {
			_, _ = fmt.Fprintf(w, "    %s %s\n", st.Faint("fix:"), ui.Line(f.Fix))
		}
	}
	_, err := io.WriteString(out, w.String())
	return err
}
