// Package ui is how the program talks: data on stdout in the format that was
// asked for, everything else on stderr, colours only where they are wanted, and
// one exit code per kind of ending.
package ui

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"
)

// The exit codes of every command but check, which has those of Nagios.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitNothing     = 3 // nothing matched
	ExitPartial     = 4 // some of many failed
	ExitRefused     = 5 // a confirmation was not given
	ExitUnreachable = 6 // the broker does not answer
)

// ExitError is an error with an exit code. A nil Err ends the program without
// another word.
type ExitError struct {
	Code int
	Err  error
}

// Error returns the text of the cause.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// Exit returns err with an exit code.
func Exit(code int, err error) error { return &ExitError{code, err} }

// Usagef returns an error about how a command was called.
func Usagef(format string, args ...any) error {
	return Exit(ExitUsage, fmt.Errorf(format, args...))
}

// UI is the terminal, or what stands in for it.
type UI struct {
	In  io.Reader
	Out io.Writer // data
	Err io.Writer // talk
	// InTTY, OutTTY and ErrTTY tell which of them a person is at.
	InTTY, OutTTY, ErrTTY bool
	// Width is that of the terminal; 0 when there is none or it does not say.
	Width int
	// Env looks up an environment variable.
	Env func(string) (string, bool)

	// Set by flags.
	Color  string // "auto", "always" or "never"
	Format string // "", "table", "json", "jsonl", "yaml" or "name"
	Quiet  bool
	Yes    bool // confirm everything
}

// System returns the terminal of this process.
func System() *UI {
	tty := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) } //nolint:gosec // descriptors are small
	width := 0
	for _, f := range []*os.File{os.Stdout, os.Stderr} {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && width == 0 { //nolint:gosec // descriptors are small
			width = w
		}
	}
	return &UI{
		Width: width,
		In:    os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InTTY: tty(os.Stdin), OutTTY: tty(os.Stdout), ErrTTY: tty(os.Stderr),
		Env: os.LookupEnv,
	}
}

// Colors tells whether colours are wanted on a stream that is a terminal or not:
// the flag first, then NO_COLOR, CLICOLOR_FORCE and TERM.
func (u *UI) Colors(tty bool) bool {
	switch u.Color {
	case "always":
		return true
	case "never":
		return false
	}
	if v, _ := u.Env("NO_COLOR"); v != "" {
		return false
	}
	if v, _ := u.Env("CLICOLOR_FORCE"); v != "" && v != "0" {
		return true
	}
	if v, _ := u.Env("TERM"); v == "dumb" {
		return false
	}
	return tty
}

// Live tells whether something may move on stderr.
func (u *UI) Live() bool {
	v, _ := u.Env("TERM")
	return u.ErrTTY && u.Width > 0 && v != "dumb" && !u.Quiet
}

// Styles colour text, or leave it as it is.
type Styles struct {
	Bold, Faint, Good, Warn, Bad, Code func(string) string
}

// Styles returns the styles for stderr, or for stdout.
func (u *UI) Styles(stdout bool) Styles {
	tty := u.ErrTTY
	if stdout {
		tty = u.OutTTY
	}
	if !u.Colors(tty) {
		plain := func(s string) string { return s }
		return Styles{plain, plain, plain, plain, plain, plain}
	}
	paint := func(s lipgloss.Style) func(string) string {
		return func(text string) string { return s.Render(text) }
	}
	color := func(c string) func(string) string { return paint(lipgloss.NewStyle().Foreground(lipgloss.Color(c))) }
	return Styles{
		Bold:  paint(lipgloss.NewStyle().Bold(true)),
		Faint: paint(lipgloss.NewStyle().Faint(true)),
		Good:  color("2"), Warn: color("3"), Bad: color("1"), Code: color("6"),
	}
}

// Sayf writes a line to stderr unless --quiet.
func (u *UI) Sayf(format string, args ...any) {
	if !u.Quiet {
		_, _ = fmt.Fprintf(u.Err, format+"\n", args...)
	}
}

// Warnf writes a line to stderr, --quiet or not.
func (u *UI) Warnf(format string, args ...any) { _, _ = fmt.Fprintf(u.Err, format+"\n", args...) }

// Confirm asks before something is changed. It returns nil when the answer is
// yes. Where nobody can be asked, only --yes is a yes.
func (u *UI) Confirm(question string) error {
	if u.Yes {
		return nil
	}
	if !u.InTTY {
		return Exit(ExitRefused, errors.New("not confirmed: add --yes, or --dry-run to see what would be done"))
	}
	_, _ = fmt.Fprintf(u.Err, "%s [y/N] ", question)
	line, err := bufio.NewReader(u.In).ReadString('\n')
	if err != nil && line == "" {
		return Exit(ExitRefused, errors.New("not confirmed"))
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	default:
		return Exit(ExitRefused, errors.New("not confirmed; nothing was changed"))
	}
}
