package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/embedded"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
)

func (p *program) devCommand() *cobra.Command {
	var listen, data string
	var allowRemote bool
	cmd := &cobra.Command{
		Use:   "dev [-- COMMAND [ARG...]]",
		Short: "Run a NATS server for development, and a command with it",
		Long: `Starts a NATS server with JetStream inside this process and prints its URL. With a
command it runs it with NATS_URL and HOLDFAST_BROKER set, passes signals on, and
ends with it and its exit code.`,
		Example: `  holdfast dev
  holdfast dev -- go run .
  holdfast dev --listen 127.0.0.1:0 -- go test ./...`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return ui.Usagef("write -- before the command: holdfast dev -- %s", args[0])
			}
			return p.dev(cmd.Context(), embedded.Config{Listen: listen, Data: data, AllowRemote: allowRemote}, args)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:4222", "the address of the server; port 0 takes a free one")
	cmd.Flags().StringVar(&data, "data", "./.holdfast", "the directory of its file store")
	cmd.Flags().BoolVar(&allowRemote, "listen-remote", false, "let the server listen beyond this machine, without a password")
	return cmd
}

func (p *program) dev(ctx context.Context, cfg embedded.Config, command []string) (err error) {
	cfg.Logger = p.logger("auto")
	began := time.Now()
	s, err := embedded.Start(ctx, cfg)
	if err != nil {
		return embeddedError(err, "--listen", "--data")
	}
	defer func() { err = errors.Join(err, closeServer(s)) }()
	st := p.Styles(false)
	p.Sayf("%s NATS %s with JetStream  %s  data in %s, ready in %s", st.Good("●"), s.Version(), st.Bold(s.URL()), cfg.Data, time.Since(began).Round(time.Millisecond))
	if len(command) == 0 {
		if _, err := fmt.Fprintln(p.Out, s.URL()); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	return p.child(ctx, s.URL(), command)
}

// child runs the command of dev and returns its exit code as ours. Its terminal
// is ours, so it gets a Ctrl-C by itself; every other signal is passed on.
func (p *program) child(ctx context.Context, url string, command []string) error {
	cmd := exec.Command(command[0], command[1:]...) //nolint:gosec // the command is the user's own
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.In, p.Out, p.Err
	cmd.Env = append(os.Environ(), "NATS_URL="+url, envBroker+"="+url)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the command: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // received below
	for {
		select {
		case err := <-done:
			return childEnd(err)
		case s := <-signals:
			if s != syscall.SIGINT || !p.InTTY {
				_ = cmd.Process.Signal(s)
			}
		}
	}
}

// childEnd makes the exit code of the command ours; one that was killed by a
// signal is 128 and its number, as in a shell.
func childEnd(err error) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	code := exit.ExitCode()
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	return ui.Exit(code, nil)
}
