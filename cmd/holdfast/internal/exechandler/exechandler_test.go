//go:build unix

package exechandler_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/exechandler"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/outcome"
)

// The test binary is also the command: its first argument says what to do.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "as-command" {
		os.Exit(command(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

func command(what string, args []string) int {
	switch what {
	case "exit":
		code, _ := strconv.Atoi(args[0])
		fmt.Fprintln(os.Stderr, "some reason")
		return code
	case "dump":
		body, _ := io.ReadAll(os.Stdin)
		out, _ := json.Marshal(map[string]any{"body": string(body), "env": os.Environ()})
		_ = os.WriteFile(args[0], out, 0o600)
		return 0
	case "hang":
		signal.Ignore(syscall.SIGTERM)
		touch(args[0])
		<-time.After(time.Hour)
	case "polite":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		touch(args[0])
		<-c
		fmt.Fprintln(os.Stderr, "said goodbye")
		return 0
	case "family":
		child := exec.Command(os.Args[0], "as-command", "hang", args[0]+".child")
		child.Stdout = os.Stdout
		_ = child.Start()
		touch(args[0], strconv.Itoa(child.Process.Pid))
		return 0
	case "noisy":
		fmt.Print(strings.Repeat("x", 1<<20))
		fmt.Fprint(os.Stderr, strings.Repeat("first\n", 10000), "the \x1b[31mlast\x1b[0m line \xff\n")
		return 1
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		<-time.After(time.Hour)
	}
	return 99
}

func touch(path string, text ...string) {
	_ = os.WriteFile(path, []byte(strings.Join(text, "")), 0o600)
}

func handler(t *testing.T, grace time.Duration, args ...string) *exechandler.Handler {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h, err := exechandler.New(exechandler.Config{Args: append([]string{self, "as-command"}, args...), Grace: grace})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func message(body string) outcome.Message {
	return outcome.Message{ID: "m-1", Subject: "orders.placed", Subscription: "orders", Attempt: 3, Body: []byte(body), Header: map[string][]string{"A": {"1", "2"}}}
}

func TestTheExitCodeDecides(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]outcome.Verdict{0: outcome.Ack, 75: outcome.Retry, 65: outcome.Permanent, 1: outcome.Retry, 2: outcome.Retry, 127: outcome.Retry} {
		o := handler(t, 0, "exit", strconv.Itoa(code)).Handle(t.Context(), message("x"))
		if o.Verdict != want {
			t.Errorf("exit %d = %v (%v), want %v", code, o.Verdict, o.Err, want)
		}
		if code != 0 && (o.Err == nil || !strings.Contains(o.Err.Error(), "some reason")) {
			t.Errorf("exit %d: error %v does not tell what the command said", code, o.Err)
		}
	}
}

func TestACommandGetsTheBodyAndTheMetadata(t *testing.T) {
	t.Setenv("HOLDFAST_BROKER", "nats://secret@h")
	file := filepath.Join(t.TempDir(), "out")
	m := message("the\x00body")
	m.Header = map[string][]string{"Multi": {"a", "b"}, "Bin": {"\xff\x00é"}, "None": nil}
	m.ID = "id\x00\xfe"
	m.Params = map[string]string{"region": "eü", "id": "7"}
	if o := handler(t, 0, "dump", file).Handle(t.Context(), m); o.Verdict != outcome.Ack {
		t.Fatal(o.Err)
	}
	var got struct {
		Body string
		Env  []string
	}
	read(t, file, &got)
	env := map[string]string{}
	for _, kv := range got.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	if got.Body != "the\x00body" || env["HOLDFAST_SUBJECT"] != "orders.placed" || env["HOLDFAST_SUBSCRIPTION"] != "orders" || env["HOLDFAST_ATTEMPT"] != "3" || env["HOLDFAST_ID"] != "id\ufffd" {
		t.Errorf("got %+v", got)
	}
	if env["HOLDFAST_PARAMS"] != `{"id":"7","region":"e\u00fc"}` {
		t.Errorf("parameters %q", env["HOLDFAST_PARAMS"])
	}
	if _, there := env["HOLDFAST_BROKER"]; there {
		t.Error("the broker's URL was handed to the command")
	}
	var headers map[string][]string
	if err := json.Unmarshal([]byte(env["HOLDFAST_HEADERS"]), &headers); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(headers) != fmt.Sprint(map[string][]string{"Multi": {"a", "b"}, "Bin": {"\ufffd\x00é"}, "None": {}}) {
		t.Errorf("headers %q", headers)
	}
}

func read(t *testing.T, file string, v any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func TestHugeHeadersNeverKeepACommandFromStarting(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "out")
	m := message("x")
	m.Header = map[string][]string{"Huge": {strings.Repeat("h", 900<<10)}, "Small": {"s"}}
	for i := range 5000 {
		m.Header[fmt.Sprintf("N%d", i)] = []string{strings.Repeat("v", 100)}
	}
	m.ID, m.Subject = strings.Repeat("é", 1<<20), strings.Repeat("s.", 1<<20)
	if o := handler(t, 0, "dump", file).Handle(t.Context(), m); o.Verdict != outcome.Ack {
		t.Fatal(o.Err)
	}
	var got struct{ Env []string }
	read(t, file, &got)
	all := strings.Join(got.Env, "\n")
	if !strings.Contains(all, `"Small":["s"]`) || !strings.Contains(all, "HOLDFAST_HEADERS_OMITTED=[") {
		t.Error("small headers are kept, and those that are not are named")
	}
}

func TestACommandNeedNotReadItsInput(t *testing.T) {
	t.Parallel()
	o := handler(t, 0, "exit", "0").Handle(t.Context(), message(strings.Repeat("x", 4<<20)))
	if o.Verdict != outcome.Ack {
		t.Fatalf("%v %v", o.Verdict, o.Err)
	}
}

func TestANoisyCommandIsBounded(t *testing.T) {
	t.Parallel()
	o := handler(t, 0, "noisy").Handle(t.Context(), message(""))
	if o.Verdict != outcome.Retry || len(o.Err.Error()) > 1500 || !strings.HasSuffix(o.Err.Error(), "the [31mlast[0m line ?") {
		t.Fatalf("%d bytes: ...%q", len(o.Err.Error()), o.Err.Error()[max(0, len(o.Err.Error())-60):])
	}
}

func TestAKilledCommandIsARetry(t *testing.T) {
	t.Parallel()
	o := handler(t, 0, "kill").Handle(t.Context(), message(""))
	if o.Verdict != outcome.Retry || !strings.Contains(o.Err.Error(), "killed") {
		t.Fatalf("%v %v", o.Verdict, o.Err)
	}
}

func TestATimeoutEndsACommandThatHangs(t *testing.T) {
	t.Parallel()
	up := filepath.Join(t.TempDir(), "up")
	ctx, cancel := context.WithCancelCause(t.Context())
	late := errors.New("out of time")
	go func() {
		waitFor(t, up)
		cancel(late)
	}()
	began := time.Now()
	o := handler(t, 50*time.Millisecond, "hang", up).Handle(ctx, message(""))
	if time.Since(began) < 50*time.Millisecond {
		t.Error("the command was killed before its grace period was over")
	}
	if o.Verdict != outcome.Retry || !errors.Is(o.Err, late) {
		t.Fatalf("%v %v", o.Verdict, o.Err)
	}
}

func TestACommandMayEndPolitely(t *testing.T) {
	t.Parallel()
	up := filepath.Join(t.TempDir(), "up")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		waitFor(t, up)
		cancel()
	}()
	o := handler(t, time.Minute, "polite", up).Handle(ctx, message(""))
	if o.Verdict != outcome.Retry || !errors.Is(o.Err, context.Canceled) || !strings.Contains(o.Err.Error(), "said goodbye") {
		t.Fatalf("%v %v", o.Verdict, o.Err)
	}
}

// A command that ends and leaves a child behind, its pipes in hand.
func TestNothingOutlivesTheCommand(t *testing.T) {
	t.Parallel()
	up := filepath.Join(t.TempDir(), "up")
	if o := handler(t, 0, "family", up).Handle(t.Context(), message("")); o.Verdict != outcome.Ack {
		t.Fatal(o.Err)
	}
	text, err := os.ReadFile(up)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child to be gone", func() bool { return gone(pid) })
}

// gone tells whether a process has ended; one that nobody has waited for yet
// counts as ended.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestACommandThatCannotBeRunIsFoundAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"./none": "does not exist", "no-such-command-here": "not in PATH", "./plain": "chmod +x", "./": "is a directory", "": "no command"} {
		_, err := exechandler.New(exechandler.Config{Args: []string{name}, Dir: dir})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%q) = %v, want %q", name, err, want)
		}
	}
}

func TestACommandThatVanishedIsARetry(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "cmd")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	h, err := exechandler.New(exechandler.Config{Args: []string{file}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if o := h.Handle(t.Context(), message("")); o.Verdict != outcome.Retry || !errors.Is(o.Err, os.ErrNotExist) {
		t.Fatalf("%v %v", o.Verdict, o.Err)
	}
}

func waitFor(t *testing.T, file string) {
	eventually(t, file, func() bool { _, err := os.Stat(file); return err == nil })
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			t.Errorf("waited in vain for %s", what)
			return
		}
		<-tick.C
	}
}
