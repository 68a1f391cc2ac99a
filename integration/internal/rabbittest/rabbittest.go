// Package rabbittest runs a real RabbitMQ for tests: Debian's package, on free
// loopback ports, with directories, a cookie and a port mapper of its own and
// without plugins. A broker lives no longer than the process that started it.
package rabbittest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// bin is where Debian's package puts the scripts that do not change the user.
	bin = "/usr/lib/rabbitmq/bin"
	// ready bounds how long a broker may take to accept connections.
	ready = 90 * time.Second
)

// Broker is a running RabbitMQ node. Its methods are safe for concurrent use,
// except those that stop and start it.
type Broker struct {
	dir      string
	port     int
	epmd     int
	dist     int
	advanced string
	brief    bool      // nobody is left to remove dir when the node ends
	guard    io.Closer // closing it ends the node, as the end of this process does
	node     *exec.Cmd
}

// install makes sure that the package is there, once a process.
var install = sync.OnceValue(func() error {
	if _, err := os.Stat(filepath.Join(bin, "rabbitmq-server")); err == nil {
		return nil
	}
	cmd := exec.Command("apt-get", "install", "-y", "--no-install-recommends", "rabbitmq-server")
	// RUNLEVEL=1 keeps the package from starting the service of the system.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("these tests need RabbitMQ, and it is neither installed nor installable: apt-get install rabbitmq-server: %w: %s", err, lastLine(out))
	}
	return nil
})

// shared starts the broker that the tests of one process share.
var shared = sync.OnceValues(func() (*Broker, error) { return start("", true) })

// Shared returns the broker that all tests of this process use. Tests must not
// stop it, nor count on its being empty.
func Shared(tb testing.TB) *Broker {
	tb.Helper()
	b, err := shared()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Start returns a broker of the test's own, which may be killed. advanced is its
// configuration in Erlang terms, such as "[{rabbit, [{consumer_timeout, 2000}]}].",
// or empty. It is stopped when the test ends.
func Start(tb testing.TB, advanced string) *Broker {
	tb.Helper()
	b, err := start(advanced, false)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		b.Kill()
		_ = os.RemoveAll(b.dir)
	})
	return b
}

func start(advanced string, brief bool) (*Broker, error) {
	if err := install(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "rabbittest")
	if err != nil {
		return nil, err
	}
	if advanced == "" {
		advanced = "[]."
	}
	b := &Broker{dir: dir, advanced: advanced, brief: brief}
	for _, port := range []*int{&b.port, &b.epmd, &b.dist} {
		if *port, err = freePort(); err != nil {
			return nil, err
		}
	}
	if err := b.prepare(); err != nil {
		return nil, err
	}
	return b, b.run()
}

// prepare writes what the node reads when it starts.
func (b *Broker) prepare() error {
	files := map[string]string{
		"rabbitmq.conf": "listeners.tcp.default = 127.0.0.1:" + strconv.Itoa(b.port) +
			"\nlog.file.level = info\nvm_memory_high_watermark.absolute = 4GB\ndisk_free_limit.absolute = 10MB\n",
		"advanced.config": b.advanced + "\n",
		"plugins":         "[].\n",
		".erlang.cookie":  "HOLDFASTTEST" + strconv.Itoa(b.port),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (b *Broker) name() string { return "hf" + strconv.Itoa(b.port) + "@localhost" }

func (b *Broker) env() []string {
	at := func(name string) string { return filepath.Join(b.dir, name) }
	return append(os.Environ(),
		"HOME="+b.dir,
		"ERL_EPMD_PORT="+strconv.Itoa(b.epmd),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME="+b.name(),
		"RABBITMQ_DIST_PORT="+strconv.Itoa(b.dist),
		"RABBITMQ_CONFIG_FILE="+at("rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE="+at("advanced.config"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+at("plugins"),
		"RABBITMQ_MNESIA_BASE="+at("data"),
		"RABBITMQ_LOG_BASE="+at("log"),
		"RABBITMQ_PID_FILE="+at("pid"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		// Busy waiting of the Erlang schedulers takes the processors from the test.
		"RABBITMQ_SERVER_ERL_ARGS=+K true +A 16 +P 1048576 +sbwt none +sbwtdcpu none +sbwtdio none",
	)
}

// guardScript runs the port mapper and the node in one process group, and ends
// them all as soon as its standard input is closed: by Kill, or by the end of
// the process that holds the other end. The directory $1, if there is one, is
// removed by somebody outside of the group.
const guardScript = `epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 &
"$0" &
cat >/dev/null
if [ -n "$1" ]; then setsid sh -c 'sleep 1; rm -rf "$0"' "$1" & sleep 0.2; fi
kill -KILL 0`

// run starts the node and waits until it takes connections.
func (b *Broker) run() error {
	log, err := os.Create(filepath.Join(b.dir, "out"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("sh", "-c", guardScript, filepath.Join(bin, "rabbitmq-server"))
	if b.brief {
		cmd.Args = append(cmd.Args, b.dir)
	}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = b.env(), b.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if b.guard, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.node = cmd
	return b.await()
}

// await waits until the node speaks AMQP.
func (b *Broker) await() error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(ready); time.Now().Before(end); <-tick.C {
		if speaks(b.Addr()) {
			return nil
		}
	}
	out, _ := os.ReadFile(filepath.Join(b.dir, "out"))
	b.Kill()
	return fmt.Errorf("RabbitMQ does not answer %v after it was started: %s", ready, lastLine(out))
}

// speaks tells whether a broker answers a protocol header.
func speaks(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return false
	}
	var first [1]byte
	_, err = io.ReadFull(c, first[:])
	return err == nil && first[0] == 1
}

// Kill ends the node with SIGKILL, as a power switch would, and waits until it
// is gone. What it had on disk stays for Restart.
func (b *Broker) Kill() {
	if b.node == nil {
		return
	}
	_ = b.guard.Close()
	_ = b.node.Wait() // it was killed
	b.node = nil
}

// Restart starts a broker that was killed, on its port and its data.
func (b *Broker) Restart(tb testing.TB) {
	tb.Helper()
	if err := b.run(); err != nil {
		tb.Fatal(err)
	}
}

// Addr is where the broker listens.
func (b *Broker) Addr() string { return "127.0.0.1:" + strconv.Itoa(b.port) }

// URL is what a client connects to.
func (b *Broker) URL() string { return "amqp://guest:guest@" + b.Addr() }

// Ctl runs rabbitmqctl and returns what it says. A call takes seconds.
func (b *Broker) Ctl(tb testing.TB, args ...string) string {
	tb.Helper()
	cmd := exec.Command(filepath.Join(bin, "rabbitmqctl"), append([]string{"-q", "-n", b.name()}, args...)...)
	cmd.Env = b.env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("rabbitmqctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("no TCP port")
	}
	return addr.Port, nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
