// Package rabbitnode runs a real RabbitMQ for tests and benchmarks: Debian's
// package, on free loopback ports, with directories, a cookie and a port mapper of
// its own and without plugins. A node lives no longer than the process that
// started it.
package rabbitnode

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/internal/freeport"
)

const (
	// bin is where Debian's package puts the scripts that do not change the user.
	bin = "/usr/lib/rabbitmq/bin"
	// ready bounds how long a node may take to accept connections, on a machine
	// that is busy with many.
	ready = 5 * time.Minute
)

// Node is a RabbitMQ node. Its methods are safe for concurrent use, except those
// that stop and start it.
type Node struct {
	dir    string
	claims []*freeport.Port // of the four ports
	port   int
	epmd   int
	dist   int
	tls    int
	cookie string
	own    Settings
	lone   bool      // it has a port mapper of its own
	brief  bool      // nobody is left to remove dir when the node ends
	guard  io.Closer // closing it ends the node, as the end of this process does
	node   *exec.Cmd
}

// Settings are what a node has beyond the usual.
type Settings struct {
	// Advanced is configuration in Erlang terms, such as
	// "[{rabbit, [{consumer_timeout, 2000}]}].".
	Advanced string
	// Conf is further lines of rabbitmq.conf. TLSPort in it stands for a free port.
	Conf string
	// Plugins are enabled.
	Plugins []string
	// Brief: nobody is left to remove the files of the node when it ends, so that
	// they are removed with it.
	Brief bool
}

// install makes sure that the package is there.
func install() error {
	if _, err := os.Stat(filepath.Join(bin, "rabbitmq-server")); err == nil {
		return nil
	}
	// Several processes may ask at once; apt lets them wait for each other.
	cmd := exec.Command("apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends", "rabbitmq-server")
	// RUNLEVEL=1 keeps the package from starting the service of the system.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("this needs RabbitMQ, and it is neither installed nor installable: apt-get install rabbitmq-server: %w: %s", err, lastLine(out))
	}
	return nil
}

// Start starts a node, whose package it installs where it is missing, and waits
// until it takes connections. advanced is its configuration in Erlang terms, such
// as "[{rabbit, [{consumer_timeout, 2000}]}].", or empty. The files of a brief
// node are removed when it ends, and those of another by Remove.
func Start(advanced string, brief bool) (*Node, error) {
	return StartWith(Settings{Advanced: advanced, Brief: brief})
}

// StartWith is Start with more settings.
func StartWith(own Settings) (*Node, error) {
	n, err := newNode(own)
	if err != nil {
		return nil, err
	}
	if err := n.prepare(); err != nil {
		return nil, err
	}
	return n, n.Run()
}

// newNode chooses the directory and the ports of a node.
func newNode(own Settings) (*Node, error) {
	if err := install(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "rabbitnode")
	if err != nil {
		return nil, err
	}
	if own.Advanced == "" {
		own.Advanced = "[]."
	}
	n := &Node{dir: dir, own: own, brief: own.Brief, lone: true}
	for _, port := range []*int{&n.port, &n.epmd, &n.dist, &n.tls} {
		p, err := freeport.Take()
		if err != nil {
			return nil, errors.Join(err, n.Remove())
		}
		*port, n.claims = p.Number(), append(n.claims, p)
	}
	n.cookie = "HOLDFASTTEST" + strconv.Itoa(n.port)
	return n, nil
}

// Remove ends the node and removes its files.
func (n *Node) Remove() error {
	n.Kill()
	for _, p := range n.claims {
		p.Release()
	}
	return os.RemoveAll(n.dir)
}

// prepare writes what the node reads when it starts.
func (n *Node) prepare() error {
	files := map[string]string{
		"rabbitmq.conf": "listeners.tcp.default = 127.0.0.1:" + strconv.Itoa(n.port) +
			"\nlog.file.level = info\nvm_memory_high_watermark.absolute = 4GB\ndisk_free_limit.absolute = 10MB\n" +
			strings.ReplaceAll(n.own.Conf, "TLSPort", strconv.Itoa(n.tls)),
		"advanced.config": n.own.Advanced + "\n",
		"plugins":         "[" + strings.Join(n.own.Plugins, ",") + "].\n",
		".erlang.cookie":  n.cookie,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) name() string { return "hf" + strconv.Itoa(n.port) + "@localhost" }

func (n *Node) env() []string {
	at := func(name string) string { return filepath.Join(n.dir, name) }
	shared := "yes"
	if n.lone {
		shared = ""
	}
	return append(os.Environ(),
		"SHARED_MAPPER="+shared,
		"HOME="+n.dir,
		"ERL_EPMD_PORT="+strconv.Itoa(n.epmd),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME="+n.name(),
		"RABBITMQ_DIST_PORT="+strconv.Itoa(n.dist),
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

// mapperScript runs the port mapper.
const mapperScript = `if [ -z "$SHARED_MAPPER" ]; then epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 & fi
`

// guardScript runs the port mapper and the node in one process group, and ends
// them all as soon as its standard input is closed: by Kill, or by the end of
// the process that holds the other end. The directory $1, if there is one, is
// removed by somebody outside of the group.
const guardScript = mapperScript + `"$0" &
cat >/dev/null
if [ -n "$1" ]; then setsid sh -c 'sleep 1; rm -rf "$0"' "$1" & sleep 0.2; fi
kill -KILL 0`

// Run starts a node that was killed, on its port and its data, and waits until it
// takes connections.
func (n *Node) Run() error {
	if err := n.launch(); err != nil {
		return err
	}
	return n.await()
}

// launch starts the node.
func (n *Node) launch() error {
	log, err := os.Create(filepath.Join(n.dir, "out"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("sh", "-c", guardScript, filepath.Join(bin, "rabbitmq-server"))
	if n.brief {
		cmd.Args = append(cmd.Args, n.dir)
	}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = n.env(), n.dir, log, log
	setGroup(cmd)
	if n.guard, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.node = cmd
	return nil
}

// await waits until the node speaks AMQP.
func (n *Node) await() error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(ready); time.Now().Before(end); <-tick.C {
		if speaks(n.Addr()) {
			return nil
		}
	}
	out, _ := os.ReadFile(filepath.Join(n.dir, "out"))
	n.Kill()
	return fmt.Errorf("RabbitMQ does not answer %v after it was started: %s", ready, lastLine(out))
}

// speaks tells whether a broker answers a protocol header.
func speaks(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return false
	}
	var first [1]byte
	_, err = io.ReadFull(c, first[:])
	return err == nil && first[0] == 1
}

// Kill ends the node with SIGKILL, as a power switch would, and waits until it
// is gone. What it had on disk stays for Run.
func (n *Node) Kill() {
	if n.node == nil {
		return
	}
	_ = n.guard.Close()
	_ = n.node.Wait() // it was killed
	n.node = nil
	n.silent()
}

// silent waits until nobody of the node listens any more: the shell that is waited
// for may end before the node that it kills does.
func (n *Node) silent() {
	ports := []int{n.port, n.dist}
	if n.lone {
		ports = append(ports, n.epmd)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(ready); time.Now().Before(end); <-tick.C {
		if !slices.ContainsFunc(ports, listens) {
			return
		}
	}
}

// listens tells whether somebody takes connections.
func listens(port int) bool {
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(port), 5*time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// Addr is where the node listens.
func (n *Node) Addr() string { return "127.0.0.1:" + strconv.Itoa(n.port) }

// TLSAddr is where the node listens with TLS, if its settings say so.
func (n *Node) TLSAddr() string { return "127.0.0.1:" + strconv.Itoa(n.tls) }

// URL is what a client connects to.
func (n *Node) URL() string { return "amqp://guest:guest@" + n.Addr() }

// PID is the process of the node, or 0 where that is not known.
func (n *Node) PID() int {
	text, _ := os.ReadFile(filepath.Join(n.dir, "pid"))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// Ctl runs rabbitmqctl and returns what it says. A call takes seconds.
func (n *Node) Ctl(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(bin, "rabbitmqctl"), append([]string{"-q", "-n", n.name()}, args...)...)
	cmd.Env = n.env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("rabbitmqctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
