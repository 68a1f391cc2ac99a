// Package exechandler hands each message to a command: the body on stdin, what
// is known about it in environment variables, the outcome in the exit code.
package exechandler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/outcome"
)

// Exit codes of a command, after sysexits.h. Any other is a retry.
const (
	ExitAck       = 0
	ExitPermanent = 65 // EX_DATAERR
	ExitRetry     = 75 // EX_TEMPFAIL
)

const (
	// DefaultGrace is how long a command has after SIGTERM. It is shorter than
	// what the engine keeps for handlers to return in when a stop runs out of
	// grace, so that no command is left behind.
	DefaultGrace = 1500 * time.Millisecond
	// stderrTail is how much of what a command wrote last becomes its error.
	stderrTail = 1 << 10
	// stdoutHead is how much of what a command wrote first is logged.
	stdoutHead = 4 << 10
	// drainDelay is how long output is still read after the command and its
	// group are gone; only a process that left the group can keep a pipe open.
	drainDelay = 250 * time.Millisecond
)

// Config describes the command.
type Config struct {
	// Args is the command and its arguments.
	Args []string
	// Dir is the working directory; relative commands start from it. Empty is
	// that of the process.
	Dir string
	// Grace is how long a command has to end after SIGTERM before it is killed.
	// Zero means DefaultGrace.
	Grace time.Duration
	// Logger gets what a command wrote to stdout, at debug level.
	Logger *slog.Logger
}

// Handler runs a command per message. It is safe for concurrent use.
type Handler struct {
	cfg  Config
	path string

	mu      sync.Mutex // guards running
	running map[*exec.Cmd]struct{}
}

var _ outcome.Handler = (*Handler)(nil)

// New finds the command. The error names it and where it was looked for.
func New(cfg Config) (*Handler, error) {
	if len(cfg.Args) == 0 || cfg.Args[0] == "" {
		return nil, errors.New("no command")
	}
	if cfg.Grace <= 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	path, err := find(cfg.Args[0], cfg.Dir)
	if err != nil {
		return nil, err
	}
	return &Handler{cfg: cfg, path: path, running: make(map[*exec.Cmd]struct{})}, nil
}

// find resolves a command as a shell in dir would.
func find(name, dir string) (string, error) {
	if !strings.ContainsRune(name, filepath.Separator) {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("command %q is not in PATH", name)
		}
		return filepath.Abs(path)
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, name)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("command %q does not exist (looked for %s)", name, path)
	case info.IsDir():
		return "", fmt.Errorf("command %q is a directory (%s)", name, path)
	case info.Mode()&0o111 == 0:
		return "", fmt.Errorf("command %q may not be executed; run chmod +x %s", name, path)
	}
	return path, nil
}

// Handle runs the command once. When ctx ends, the command and every process it
// started are told to end, and killed after the grace period.
func (h *Handler) Handle(ctx context.Context, m outcome.Message) outcome.Outcome {
	name := h.cfg.Args[0]
	cmd := exec.Command(h.path, h.cfg.Args[1:]...) //nolint:gosec // the command is the user's own setting
	cmd.Args[0] = name
	cmd.Dir = h.cfg.Dir
	cmd.Env = environment(os.Environ(), m)
	ownGroup(cmd)
	p, err := connect(cmd)
	if err != nil {
		return outcome.Outcome{Verdict: outcome.Retry, Err: fmt.Errorf("start %s: %w", name, err)}
	}
	if err = cmd.Start(); err != nil {
		p.abandon()
		return outcome.Outcome{Verdict: outcome.Retry, Err: fmt.Errorf("start %s: %w", name, err)}
	}
	h.track(cmd, true)
	defer h.track(cmd, false)
	p.begin(m.Body)
	ended, err := h.wait(ctx, cmd)
	p.end()
	if p.stdout.seen > 0 {
		h.cfg.Logger.DebugContext(ctx, "command output", "id", m.ID, "stdout", p.stdout.String())
	}
	if ended {
		// What a command says after it was told to end is no verdict.
		return outcome.Outcome{Verdict: outcome.Retry, Err: explain(fmt.Errorf("%s was ended: %w", name, context.Cause(ctx)), &p.stderr)}
	}
	return judge(name, err, &p.stderr)
}

func (h *Handler) track(cmd *exec.Cmd, runs bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if runs {
		h.running[cmd] = struct{}{}
		return
	}
	delete(h.running, cmd)
}

// Kill ends every command that runs, at once; for a process that is about to
// end without waiting.
func (h *Handler) Kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for cmd := range h.running {
		killGroup(cmd)
	}
}

// wait waits for the command and ends its process group when ctx ends, and in
// any case once the command is over: what it left running belongs to nobody.
// ended tells whether the command was told to end.
func (h *Handler) wait(ctx context.Context, cmd *exec.Cmd) (ended bool, err error) {
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // received below on every path
	defer killGroup(cmd)
	select {
	case err := <-done:
		return false, err
	case <-ctx.Done():
	}
	endGroup(cmd)
	grace := time.NewTimer(h.cfg.Grace)
	defer grace.Stop()
	select {
	case err := <-done:
		return true, err
	case <-grace.C:
	}
	killGroup(cmd)
	return true, <-done
}

// judge turns the end of a command into an outcome.
func judge(name string, err error, stderr *tail) outcome.Outcome {
	exit, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return outcome.Outcome{}
	case !failed:
		return outcome.Outcome{Verdict: outcome.Retry, Err: explain(fmt.Errorf("%s: %w", name, err), stderr)}
	case exit.ExitCode() == ExitPermanent:
		return outcome.Outcome{Verdict: outcome.Permanent, Err: explain(fmt.Errorf("%s exited with %d", name, ExitPermanent), stderr)}
	case exit.ExitCode() < 0:
		return outcome.Outcome{Verdict: outcome.Retry, Err: explain(fmt.Errorf("%s was killed: %s", name, exit.String()), stderr)}
	default:
		return outcome.Outcome{Verdict: outcome.Retry, Err: explain(fmt.Errorf("%s exited with %d", name, exit.ExitCode()), stderr)}
	}
}

// explain adds the last words of the command to an error.
func explain(err error, stderr *tail) error {
	if said := stderr.String(); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}
