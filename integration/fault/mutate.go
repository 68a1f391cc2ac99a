//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// mutant is holdfast without one of its guards, and the row that must notice.
type mutant struct {
	name   string
	file   string // below the root of the repository
	guard  string // its text, which is there once
	broken string // what stands there instead
	row    string
	broker string
}

// mutants returns all of them.
func mutants() []mutant {
	return []mutant{
		{
			name: "no wait for the confirm", file: "internal/sender/sender.go", row: "broker-kill", broker: "quorum",
			guard:  "\tif flow != nil {\n\t\ts.deliver(flow, tag, it.To, it.M)\n\t}\n",
			broken: "\tif flow != nil {\n\t\ts.deliver(flow, tag, it.To, it.M)\n\t\ts.settle(tag, nil)\n\t}\n",
		},
		{
			name: "no re-send after reconnect", file: "internal/sender/keep.go", row: "broker-kill", broker: "jetstream",
			guard:  "\t\tif e.state != queued {\n\t\t\tcontinue\n",
			broken: "\t\tif e.state != queued || e.tries > 0 {\n\t\t\tcontinue\n",
		},
		{
			name: "returns ignored", file: "rabbitmq/publisher.go", row: "unroutable", broker: "classic",
			guard: "\tcase e.returned:\n", broken: "\tcase e.returned && e == nil:\n",
		},
		{
			name: "no sync before accept", file: "spool/writer.go", row: "power-loss", broker: "jetstream",
			guard: "\terr := w.file.Sync()\n", broken: "\tvar err error\n",
		},
		{
			name: "pending set per session", file: "internal/sender/keep.go", row: "cut", broker: "jetstream",
			guard:  "\t\ts.win.requeue(e, true)\n\t\treturn true\n",
			broken: "\t\ts.win.remove(e)\n\t\treturn true\n",
		},
		{
			name: "no deduplication key", file: "jetstream/header.go", row: "half-open", broker: "jetstream",
			guard: "\te.put(natsjs.MsgIDHeader, dedup)\n", broken: "\te.put(natsjs.MsgIDHeader, \"\")\n",
		},
		{
			name: "pending ones newest first", file: "internal/sender/keep.go", row: "half-open", broker: "quorum",
			guard:  "\tfor tag = max(tag, s.win.head); tag < s.win.tail; tag++ {\n",
			broken: "\tfor tag = s.win.tail - 1; tag >= s.win.head && tag < s.win.tail; tag-- {\n",
		},
	}
}

// mutate builds each mutant, runs its row and tells whether it was caught.
func mutate(ctx context.Context, stdout, stderr io.Writer) int {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/holdfast-go/holdfast").Output()
	if err != nil {
		fmt.Fprintf(stderr, "find the library: %v\n", err)
		return exitError
	}
	root := strings.TrimSpace(string(out))
	dir, err := os.MkdirTemp("", "faultmutants")
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitError
	}
	defer os.RemoveAll(dir)
	code := exitKept
	fmt.Fprint(stdout, "| guard that is removed | in | row | broker | | what was noticed |\n|---|---|---|---|---|---|\n")
	caught := 0
	for _, m := range mutants() {
		noticed, err := m.try(ctx, root, dir)
		verdict := "caught"
		switch {
		case err != nil:
			fmt.Fprintf(stderr, "%s: %v\n", m.name, err)
			verdict, code = "ERROR", exitError
		case noticed == "":
			verdict, code = "SURVIVED", max(code, exitBroken)
		default:
			caught++
		}
		fmt.Fprintf(stdout, "| %s | %s | %s | %s | %s | %s |\n", m.name, m.file, m.row, m.broker, verdict, noticed)
	}
	fmt.Fprintf(stdout, "mutants=%d caught=%d\n", len(mutants()), caught)
	return code
}

// try returns what the row of a mutant said, or nothing when it said nothing.
func (m mutant) try(ctx context.Context, root, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	overlay, err := m.overlay(root, dir)
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "mutant")
	build := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", program, "github.com/holdfast-go/holdfast/integration/fault")
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w: %s", err, text)
	}
	run := exec.CommandContext(ctx, program, "-rows", "^"+m.row+"$", "-brokers", "^"+m.broker+"$")
	text, err := run.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil && strings.Contains(string(text), noMount):
		return "", errors.New("this row needs the right to mount")
	case err == nil:
		return "", nil
	case !errors.As(err, &exit) || exit.ExitCode() != exitBroken:
		return "", fmt.Errorf("run: %w: %s", err, text)
	}
	var noticed []string
	for line := range strings.Lines(string(text)) {
		if _, said, ok := strings.Cut(line, "broken: "); ok {
			noticed = append(noticed, strings.TrimSpace(said))
		}
	}
	if len(noticed) == 0 {
		return "", fmt.Errorf("it ended with %d and said nothing: %s", exitBroken, text)
	}
	return strings.Join(noticed[:min(len(noticed), 4)], "; "), nil
}

// overlay writes the file without its guard, and what go build needs to read it in
// place of the real one.
func (m mutant) overlay(root, dir string) (string, error) {
	file := filepath.Join(root, m.file)
	source, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), m.guard); n != 1 {
		return "", fmt.Errorf("%s has the guard %d times and should have it once: it has changed, so change the mutant:\n%s", m.file, n, m.guard)
	}
	patched := filepath.Join(dir, "patched.go")
	if err := os.WriteFile(patched, []byte(strings.Replace(string(source), m.guard, m.broken, 1)), 0o600); err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]map[string]string{"Replace": {file: patched}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o600)
}
