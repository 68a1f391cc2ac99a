// Package redistest runs a real Redis for tests: Debian's package, on a free
// loopback port, in a directory of its own. A server lives no longer than the
// process that started it.
package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/internal/freeport"
)

// ready bounds how long a server may take to answer.
const ready = 2 * time.Minute

// Server is a running Redis that writes each change to disk before it answers.
type Server struct {
	dir   string
	port  *freeport.Port
	path  string
	guard io.Closer // closing it ends the server, as the end of this process does
	cmd   *exec.Cmd
}

// find returns the path of the server, which it installs where it is missing.
func find() (string, error) {
	if path := lookPath(); path != "" {
		return path, nil
	}
	// Several tests may ask at once; apt lets them wait for each other.
	cmd := exec.Command("apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends", "redis-server")
	// RUNLEVEL=1 keeps the package from starting the service of the system.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	out, err := cmd.CombinedOutput()
	if path := lookPath(); err == nil && path != "" {
		return path, nil
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return "", fmt.Errorf("these tests need Redis, and it is neither installed nor installable: apt-get install redis-server: %w: %s", err, lines[len(lines)-1])
}

func lookPath() string {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return ""
	}
	return path
}

// Start returns a server of the test's own, which may be stopped and started. It
// is stopped when the test ends.
func Start(tb testing.TB) *Server {
	tb.Helper()
	path, err := find()
	if err != nil {
		tb.Fatal(err)
	}
	port, err := freeport.Take()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(port.Release)
	s := &Server{dir: tb.TempDir(), port: port, path: path}
	tb.Cleanup(s.Stop)
	s.Start(tb)
	return s
}

// guardScript runs the server and ends it as soon as its standard input is
// closed: by Stop, or by the end of the process that holds the other end.
const guardScript = `"$0" "$@" </dev/null >out 2>&1 &
cat >/dev/null
kill -KILL $!
wait`

// Start starts a server that was stopped, on its port and its data.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	cmd := exec.Command("sh", "-c", guardScript, s.path,
		"--bind", "127.0.0.1", "--port", strconv.Itoa(s.port.Number()), "--dir", s.dir,
		"--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no")
	cmd.Dir, cmd.SysProcAttr = s.dir, &syscall.SysProcAttr{Setpgid: true}
	guard, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	s.cmd, s.guard = cmd, guard
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(ready); !s.answers(); <-tick.C {
		if time.Now().After(end) {
			out, _ := os.ReadFile(s.dir + "/out")
			tb.Fatalf("Redis does not answer %v after it was started: %s", ready, out)
		}
	}
}

// answers tells whether the server takes commands.
func (s *Server) answers() bool {
	c, err := net.DialTimeout("tcp", s.Addr(), 5*time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "PING\r\n"); err != nil {
		return false
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return err == nil && strings.HasPrefix(line, "+PONG")
}

// Stop ends the server with SIGKILL and waits until it is gone. What it had on
// disk stays for Start.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.guard.Close()
	_ = s.cmd.Wait() // it was killed
	s.cmd = nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port.Number()) }
