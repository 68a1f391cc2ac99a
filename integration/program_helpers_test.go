package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// program builds cmd/holdfast once for all tests of this package.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-program")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "holdfast")
	build := exec.Command("go", "build", "-o", path, "github.com/holdfast-go/holdfast/cmd/holdfast")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	for name, app := range map[string]func(context.Context, string) error{killerVar: killerApp, strategyVar: strategyApp, natsNodeVar: natsNode, parkerVar: parkerApp} {
		if setting := os.Getenv(name); setting != "" {
			os.Exit(child(app, setting))
		}
	}
	code := m.Run()
	if path, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// child runs an app in place of the tests, until SIGTERM, and returns the code to
// exit with.
func child(app func(context.Context, string) error, setting string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := app(ctx, setting); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return 0
}

// holdfastCommand runs a command of the program that must succeed, and returns its
// output.
func holdfastCommand(t *testing.T, args ...string) string {
	t.Helper()
	e := holdfastEnds(t, "", args...)
	if e.code != 0 {
		t.Fatalf("holdfast %s: exit code %d\n%s%s", strings.Join(args, " "), e.code, e.out, e.stderr)
	}
	return e.out
}

// process is a command in the background, whose output goes to the test's log
// when the test fails.
type process struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *lockedBuffer
	done   chan struct{}
	err    error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts a command and sees to its end.
func start(t *testing.T, dir string, env []string, name string, args ...string) *process {
	t.Helper()
	return startTo(t, nil, dir, env, name, args...)
}

// startTo is start with the output in a file, where it stays when the process
// ends; stdout is nil then.
func startTo(t *testing.T, to *os.File, dir string, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...), stderr: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = dir, append(os.Environ(), env...)
	p.cmd.Stderr, p.cmd.Stdout = p.stderr, to
	if to == nil {
		// A pipe of our own: that of StdoutPipe is closed when the process ends,
		// with whatever nobody has read yet.
		out, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p.cmd.Stdout, p.stdout = in, bufio.NewReader(out)
		t.Cleanup(func() { out.Close() })
		defer in.Close()
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(name), tail(p.stderr.String(), 4000))
		}
	})
	return p
}

// busy is how many times as long as a machine with nothing else to do a busy one
// may take. Only failures take that long.
const busy = 4

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// kill ends the process as a power cut would, and waits for it.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// terminate asks the process to stop and returns how it ended. A busy machine may
// take longer than within.
func (p *process) terminate(t *testing.T, within time.Duration) error {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(busy * within):
		t.Fatalf("the process did not end within %v of SIGTERM", busy*within)
		return nil
	}
}

// run starts `holdfast run` on a configuration.
func run(t *testing.T, dir, yaml string, env ...string) *process {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "holdfast.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir, env, path, "run", file)
	go io.Copy(io.Discard, p.stdout)
	return p
}

// connect waits for a server to answer.
func connect(t *testing.T, url string) *nats.Conn {
	t.Helper()
	var nc *nats.Conn
	eventually(t, 30*time.Second, "the server at "+url+" to answer", func() bool {
		var err error
		nc, err = nats.Connect(url)
		return err == nil
	})
	t.Cleanup(nc.Close)
	return nc
}

// eventually polls until cond holds. A busy machine may take longer than within.
func eventually(t *testing.T, within time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(busy * within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", busy*within, what)
		}
		<-tick.C
	}
}

// letter is one line of `holdfast dlq list -o json`.
type letter struct {
	ID           string `json:"id"`
	DeadID       string `json:"dead_id"`
	Subscription string `json:"subscription"`
	Subject      string `json:"subject"`
	Reason       string `json:"reason"`
	Attempts     int    `json:"attempts"`
	Error        string `json:"error"`
	Time         string `json:"time"`
}

func deadLetters(t *testing.T, url string, args ...string) []letter {
	t.Helper()
	out := holdfastCommand(t, append([]string{"dlq", "list", "--broker", url, "-o", "json"}, args...)...)
	var letters []letter
	if err := json.Unmarshal([]byte(out), &letters); err != nil {
		t.Fatalf("dlq list is not a JSON array: %v\n%s", err, out)
	}
	return letters
}
