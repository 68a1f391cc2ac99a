// Package oldnats runs the nats-server 2.9 of the system, as an old server that
// is still met in the field: loopback only, JetStream on, files in the test's
// own directory.
package oldnats

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
)

// ready bounds how long a server may take to accept connections and to end.
const ready = 2 * time.Minute

// Server is a process of the old server. It ends with its test. Its methods
// belong to the goroutine of the test.
type Server struct {
	tb   testing.TB
	port int
	dir  string
	bin  string
	cmd  *exec.Cmd
	said *lines
}

// Start starts a server and fails the test when there is none, or not an old
// one.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{tb: tb, bin: find(tb), dir: tb.TempDir(), port: natstest.FreePort(tb)}
	tb.Cleanup(s.Stop)
	s.start()
	return s
}

// find returns the program. Debian puts it where only root looks.
func find(tb testing.TB) string {
	tb.Helper()
	bin, err := exec.LookPath("nats-server")
	if err != nil {
		bin = "/usr/sbin/nats-server"
		_, err = os.Stat(bin)
	}
	if err != nil {
		tb.Fatal("nats-server 2.9 is missing: apt-get install nats-server, or run .ci/run, which does")
	}
	out, err := exec.CommandContext(tb.Context(), bin, "--version").CombinedOutput()
	if version := strings.TrimSpace(string(out)); err != nil || !strings.Contains(version, "v2.9.") {
		tb.Fatalf("%s is %q, and these tests need a nats-server 2.9, as Debian 12 has it: %v", bin, version, err)
	}
	return bin
}

// URL returns the address of the server.
func (s *Server) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

// Restart ends the server and starts it again on the same port and files.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	s.start()
}

func (s *Server) start() {
	s.tb.Helper()
	s.said = &lines{}
	// The server is ended by Stop, which lets it write its files first.
	s.cmd = exec.Command(s.bin, "-a", "127.0.0.1", "-p", fmt.Sprint(s.port), "-js", "-sd", filepath.Join(s.dir, "js"))
	stderr, err := s.cmd.StderrPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.tb.Fatalf("start %s: %v", s.bin, err)
	}
	s.said.follow(bufio.NewScanner(stderr))
	s.await()
}

// await returns when the server accepts connections.
func (s *Server) await() {
	s.tb.Helper()
	deadline := time.Now().Add(ready)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		nc, err := nats.Connect(s.URL(), nats.NoReconnect(), natstest.Patient())
		if err == nil {
			nc.Close()
			return
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("the old server did not accept connections within %s: %v\n%s", ready, err, s.said)
		}
		<-tick.C
	}
}

// Stop ends the server and waits for it. Its files stay.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(os.Interrupt) // fails only when it has ended
	kill := time.AfterFunc(ready, func() { _ = s.cmd.Process.Kill() })
	s.said.done.Wait() // before Wait, which closes what is read from
	_ = s.cmd.Wait()   // how it ended is of no concern
	kill.Stop()
	s.cmd = nil
}

// lines keeps what the server wrote, for a failure to show.
type lines struct {
	done sync.WaitGroup
	mu   sync.Mutex // guards text
	text []string
}

func (l *lines) follow(in *bufio.Scanner) {
	l.done.Go(func() {
		for in.Scan() {
			l.mu.Lock()
			l.text = append(l.text, in.Text())
			l.mu.Unlock()
		}
	})
}

// String returns all lines.
func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.text, "\n")
}
