// Package cli is the command line of holdfast.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/transport"
)

// program is what all commands share.
type program struct {
	*ui.UI
	broker  string // --broker
	data    string // --data of dlq: the directory of an embedded server that does not run
	file    string // --file of dlq, pause and resume: the file that names the broker and its sources
	verbose bool
	conn    config.Connection // how to connect to NATS: the flags, and the file's where they are silent
	reached bool              // a command was found and its flags were understood

	mu       sync.Mutex // guards atForced
	atForced []func()   // what must be ended when a second signal ends the process
}

// whenForced adds something that must not outlive the process.
func (p *program) whenForced(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.atForced = append(p.atForced, fn)
}

func (p *program) force() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fn := range p.atForced {
		fn()
	}
	p.Warnf("holdfast: forced to end; messages in hand will be delivered again")
	os.Exit(ui.ExitFailed)
}

// sameStop is how long a signal still belongs to the first one.
const sameStop = 250 * time.Millisecond

// Main runs the program with these arguments and returns its exit code. The
// first SIGINT or SIGTERM ends the context of the command, which then stops
// cleanly; the next one ends the process at once, unless it comes in the same
// moment.
func Main(args []string, screen *ui.UI) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	p := &program{UI: screen}
	go func() { // ends with the process
		<-signals
		cancel()
		// A stop often comes twice in one moment: from a terminal and from the
		// parent, or from a tool that signals a process and then its group.
		for began := time.Now(); time.Since(began) < sameStop; {
			<-signals
		}
		p.force()
	}()
	root := p.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	return p.finish(cmd, err)
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Reliable message handling on NATS and RabbitMQ",
		Long: `Reliable message handling on NATS and RabbitMQ: handlers in any language, retries
that end, dead letters you can look at.`,
		Example: `  holdfast demo                         see it work: no broker, no config
  holdfast run holdfast.yaml            run the handlers of a file
  holdfast dlq list                     what failed for good, and why
  holdfast explain HF1101               what a finding means and how to fix it`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return p.begin(cmd) },
		RunE: func(cmd *cobra.Command, args []string) error {
			return cmd.Help()
		},
		Args: cobra.ArbitraryArgs,
	}
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	root.SetIn(p.In)
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetFlagErrorFunc(flagError)
	root.SetHelpTemplate(strings.ReplaceAll(helpTemplate, ".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", p.Width)))
	f := root.PersistentFlags()
	f.StringVar(&p.broker, "broker", "", "the broker, nats:// or amqp://; also HOLDFAST_BROKER (default: that of holdfast.yaml here, or "+defaultBroker+")")
	connectionFlags(f, &p.conn)
	f.StringVar(&p.Color, "color", "auto", "colours: auto, always or never")
	f.BoolVarP(&p.Quiet, "quiet", "q", false, "say nothing but data and errors")
	f.BoolVarP(&p.verbose, "verbose", "v", false, "say more")
	root.AddCommand(
		p.runCommand(), p.checkCommand(), p.publishCommand(), p.scheduleCommand(), p.pauseCommand(), p.resumeCommand(), p.kvCommand(), p.objectCommand(), p.dlqCommand(), p.spoolCommand(), p.devCommand(),
		p.demoCommand(), p.explainCommand(), p.schemaCommand(), p.versionCommand(),
	)
	must(root.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]string{"auto", "always", "never"}, cobra.ShellCompDirectiveNoFileComp)))
	return root
}

// must reports what only a mistake in this package can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (p *program) begin(cmd *cobra.Command) error {
	switch p.Color {
	case "auto", "always", "never":
	default:
		return ui.Usagef("--color %q: write auto, always or never", p.Color)
	}
	if f := cmd.Flags().Lookup("output"); f != nil && f.Changed {
		if !contains(ui.Formats(), p.Format) {
			return ui.Usagef("--output %q: write one of %s%s", p.Format, strings.Join(ui.Formats(), ", "), meant(p.Format, ui.Formats()))
		}
	}
	p.reached = true
	return nil
}

func contains(words []string, w string) bool {
	for _, x := range words {
		if x == w {
			return true
		}
	}
	return false
}

// meant is the end of an error about a misspelt word, or nothing.
func meant(word string, allowed []string) string {
	if near := config.Nearest(word, allowed); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// outputFlag adds -o and --json to a command that writes data.
func (p *program) outputFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&p.Format, "output", "o", "", "format: "+strings.Join(ui.Formats(), ", ")+" (default: a table, tab-separated when piped)")
	cmd.Flags().BoolFunc("json", "the same as -o json", func(string) error { p.Format = "json"; return nil })
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(ui.Formats(), cobra.ShellCompDirectiveNoFileComp)))
}

func unknownCommand(cmd *cobra.Command, word string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return ui.Usagef("unknown command %q of %s%s", word, cmd.CommandPath(), meant(word, names))
}

// flagError says which flag may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	text := err.Error()
	name, found := strings.CutPrefix(text, "unknown flag: --")
	if !found {
		return ui.Usagef("%w; see %s --help", err, cmd.CommandPath())
	}
	var flags []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			flags = append(flags, f.Name)
		}
	})
	near := config.Nearest(name, flags)
	if near == "" {
		return ui.Usagef("%s has no flag --%s; see %s --help", cmd.CommandPath(), name, cmd.CommandPath())
	}
	return ui.Usagef("%s has no flag --%s; did you mean --%s?", cmd.CommandPath(), name, near)
}

// args checks how many arguments a command got.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || (most >= 0 && len(args) > most) {
			return ui.Usagef("%s takes %s; see %s --help", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}

// group is a command that only holds others.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(c, args[0])
		}
		return nil
	}
	cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return cmd
}

// finish tells what went wrong and returns the exit code.
func (p *program) finish(cmd *cobra.Command, err error) int {
	if err == nil {
		return ui.ExitOK
	}
	exit, hasCode := errors.AsType[*ui.ExitError](err)
	if !hasCode || exit.Err != nil {
		p.tell(cmd, err)
	}
	if hasCode {
		return exit.Code
	}
	if !p.reached {
		return ui.ExitUsage
	}
	return ui.ExitFailed
}

func (p *program) tell(cmd *cobra.Command, err error) {
	st := p.Styles(false)
	if es, ok := errors.AsType[*config.Errors](err); ok {
		_, _ = fmt.Fprint(p.Err, es.Render(p.paint()))
		p.Warnf("\n%s %s; holdfast explain CODE tells more", st.Bad("error:"), ui.Count(len(es.List), "error"))
		return
	}
	if ce, ok := errors.AsType[*holdfast.ContractError](err); ok {
		p.Warnf("%s holdfast does not start: %s cannot be kept", st.Bad("error:"), ui.Count(len(ce.Findings), "contract"))
		_ = p.findings(p.Err, inWords(ce.Findings), st) // there is no other place to say it
		return
	}
	text := err.Error()
	if te, ok := errors.AsType[*transport.Error](err); ok && te.Hint != "" && strings.HasSuffix(text, "; "+te.Hint) {
		p.Warnf("%s %s\n  %s %s", st.Bad("error:"), ui.Clean(strings.TrimSuffix(text, "; "+te.Hint)), st.Faint("hint:"), ui.Clean(fileWords().Replace(te.Hint)))
		return
	}
	p.Warnf("%s %s", st.Bad("error:"), ui.Clean(text))
}

func (p *program) paint() config.Paint {
	st := p.Styles(false)
	return config.Paint{Title: st.Bold, Code: st.Code, Caret: st.Bad, Faint: st.Faint}
}

// helpTemplate puts examples first: they are what people look for.
const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if .HasExample}}Examples:
{{.Example}}

{{end}}{{if or .Runnable .HasSubCommands}}Usage:{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND{{else}}
  {{.UseLine}}{{end}}
{{end}}{{if .HasAvailableSubCommands}}
Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}}  {{.Short}}{{end}}{{end}}
{{end}}{{if .HasAvailableLocalFlags}}
Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableInheritedFlags}}
Flags of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}`
