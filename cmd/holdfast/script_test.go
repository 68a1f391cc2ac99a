//go:build unix

package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/cli"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
)

// deadline is generous: a machine may be busy, and a message whose handler was
// killed comes back when its lease of 30 seconds ends.
const deadline = 90 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"holdfast": func() { os.Exit(cli.Main(os.Args[1:], ui.System())) },
	})
}

// The scripts in testdata/script are the contract of the command line.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("TERM", "dumb")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // many short processes
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": daemon, "halt": halt, "kill9": kill9, "until": until, "twice": twice, "insist": insist, "hook": hook, "code": code, "term": term, "fill": fill,
		},
	})
}

// process is a holdfast that runs in the background of a script.
type process struct {
	cmd  *exec.Cmd
	done chan error
}

// processes of all scripts, by script and name.
type processTable struct {
	mu sync.Mutex
	m  map[string]*process
}

var running = processTable{m: map[string]*process{}} //nolint:gochecknoglobals // scripts have no place of their own for values

func (p *processTable) get(ts *testscript.TestScript, name string) *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.m[ts.Getenv("WORK")+"/"+name]
}

func (p *processTable) put(ts *testscript.TestScript, name string, pr *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.m[ts.Getenv("WORK")+"/"+name] = pr
}

// daemon NAME ARG... starts holdfast ARG..., waits until it is ready, keeps what
// it says in NAME.out and NAME.err, and puts the URL it printed into $NAME.
func daemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: daemon NAME ARG...")
	}
	name := args[0]
	stdout, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	defer stdout.Close() //nolint:errcheck // the process has its own
	stderr, err := os.Create(ts.MkAbs(name + ".err"))
	ts.Check(err)
	defer stderr.Close() //nolint:errcheck // the process has its own
	path := filepath.Join(strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator))[0], "holdfast")
	cmd := exec.Command(path, args[1:]...) //nolint:gosec // a test
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), stdout, stderr
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "TERM=dumb", "GORACE=atexit_sleep_ms=0", "HOLDFAST_BROKER=" + ts.Getenv("HOLDFAST_BROKER"), "HOOK=" + ts.Getenv("HOOK"), "SECRET=" + ts.Getenv("SECRET")}
	ts.Check(cmd.Start())
	p := &process{cmd, make(chan error, 1)}
	go func() { p.done <- cmd.Wait() }() // received by halt, kill9 or the end of the script
	running.put(ts, name, p)
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		select {
		case <-p.done:
		case <-time.After(deadline):
		}
	})
	ready := regexp.MustCompile(`"msg":"ready"|with JetStream`)
	poll(ts, name+" to be ready", func() bool {
		select {
		case err := <-p.done:
			p.done <- err
			ts.Fatalf("%s ended before it was ready: %v\n%s", name, err, ts.ReadFile(name+".err"))
		default:
		}
		return ready.MatchString(ts.ReadFile(name + ".err"))
	})
	ts.Setenv(name, strings.TrimSpace(ts.ReadFile(name+".out")))
}

// halt NAME sends SIGTERM and waits for a clean end.
func halt(ts *testscript.TestScript, neg bool, args []string) {
	end(ts, neg, args[0], syscall.SIGTERM)
}

// term NAME sends SIGTERM and does not wait.
func term(ts *testscript.TestScript, _ bool, args []string) {
	if p := running.get(ts, args[0]); p != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
}

// twice NAME sends two signals in one moment and waits for a clean end.
func twice(ts *testscript.TestScript, neg bool, args []string) {
	if p := running.get(ts, args[0]); p != nil {
		_ = p.cmd.Process.Signal(syscall.SIGINT)
	}
	end(ts, neg, args[0], syscall.SIGTERM)
}

// insist NAME sends SIGTERM until the process has ended, which it does with an
// error.
func insist(ts *testscript.TestScript, _ bool, args []string) {
	p := running.get(ts, args[0])
	if p == nil {
		ts.Fatalf("%s does not run", args[0])
	}
	poll(ts, args[0]+" to end", func() bool {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		return len(p.done) > 0
	})
	end(ts, true, args[0], syscall.SIGTERM)
}

// kill9 NAME ends a process without a warning.
func kill9(ts *testscript.TestScript, _ bool, args []string) {
	end(ts, true, args[0], syscall.SIGKILL)
}

func end(ts *testscript.TestScript, neg bool, name string, sig syscall.Signal) {
	p := running.get(ts, name)
	if p == nil {
		ts.Fatalf("%s does not run", name)
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case err := <-p.done:
		p.done <- err
		if (err != nil) != neg {
			ts.Fatalf("%s ended with %v\n%s", name, err, ts.ReadFile(name+".err"))
		}
	case <-time.After(deadline):
		ts.Fatalf("%s did not end\n%s", name, ts.ReadFile(name+".err"))
	}
}

// until REGEXP COMMAND ARG... runs a command until its output matches. The
// command "cat" reads a file of the script.
func until(ts *testscript.TestScript, neg bool, args []string) {
	re := regexp.MustCompile(args[0])
	var last string
	poll(ts, fmt.Sprintf("%q", args[0]), func() bool {
		if args[1] == "cat" {
			b, err := os.ReadFile(ts.MkAbs(args[2]))
			if err != nil {
				return false
			}
			last = string(b)
		} else {
			_ = ts.Exec(args[1], args[2:]...)
			last = ts.ReadFile("stdout")
		}
		return re.MatchString(last) != neg
	})
}

func poll(ts *testscript.TestScript, what string, done func() bool) {
	end := time.Now().Add(deadline)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(end) {
			ts.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}

// code N COMMAND ARG... runs a command and wants this exit code.
func code(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// hook starts an endpoint at $HOOK. It answers 422 to a body with "invalid",
// 503 once and then 200 to one with "busy", {"status":"drop"} to one with
// "unwanted", and 200 to everything else. Requests are written to hook.log.
func hook(ts *testscript.TestScript, _ bool, _ []string) {
	log, err := os.Create(ts.MkAbs("hook.log"))
	ts.Check(err)
	var mu sync.Mutex
	busy := true
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(log, "%s attempt=%s id=%s signed=%t subject=%s type=%s\n", body, r.Header.Get("holdfast-attempt"),
			r.Header.Get("webhook-id"), strings.HasPrefix(r.Header.Get("webhook-signature"), "v1,"), r.Header.Get("holdfast-subject"), r.Header.Get("Content-Type"))
		switch {
		case bytes.Contains(body, []byte("invalid")):
			http.Error(w, "no such product", http.StatusUnprocessableEntity)
		case bytes.Contains(body, []byte("busy")) && busy:
			busy = false
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		case bytes.Contains(body, []byte("unwanted")):
			_, _ = io.WriteString(w, `{"status":"drop","reason":"not for us"}`)
		}
	}))
	ts.Defer(func() { srv.Close(); _ = log.Close() })
	ts.Setenv("HOOK", srv.URL)
}
