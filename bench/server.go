package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// The bench is its own NATS server: it starts itself again with this variable,
// which names the directory of the server's files.
const serverEnv = "HOLDFAST_BENCH_SERVER"

// syncEnv makes that server sync every write to disk.
const syncEnv = "HOLDFAST_BENCH_SYNC"

func wantsServer() bool { return os.Getenv(serverEnv) != "" }

// serve runs a NATS server on loopback until stdin ends, so that it cannot
// outlive the bench. It prints its URL as one line.
func serve(stdin io.Reader, stdout io.Writer) int {
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: os.Getenv(serverEnv), MaxPayload: 1 << 20,
		SyncAlways: os.Getenv(syncEnv) != "",
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench server:", err)
		return 1
	}
	srv.Start()
	if !srv.ReadyForConnections(20 * time.Second) {
		fmt.Fprintln(os.Stderr, "bench server: it takes no connections")
		return 1
	}
	fmt.Fprintln(stdout, srv.ClientURL())
	_, _ = io.Copy(io.Discard, stdin) // ends with the bench, one way or another
	srv.Shutdown()
	srv.WaitForShutdown()
	return 0
}

// broker is the server's process, seen from the bench.
type broker struct {
	url   string
	pid   int
	dir   string
	cmd   *exec.Cmd
	stdin io.Closer
}

// startBroker starts the server with files in a temporary directory. env is
// added to its environment.
func startBroker(env ...string) (*broker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return nil, err
	}
	b := &broker{dir: dir, cmd: exec.Command(self)}
	b.cmd.Env = append(os.Environ(), serverEnv+"="+dir)
	b.cmd.Env = append(b.cmd.Env, env...)
	b.cmd.Stderr = os.Stderr
	stdin, err1 := b.cmd.StdinPipe()
	stdout, err2 := b.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, b.cmd.Start()); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	b.stdin, b.pid = stdin, b.cmd.Process.Pid
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the server: %w", err), b.stop())
	}
	b.url = strings.TrimSpace(line)
	return b, nil
}

// stop ends the server, waits for it and removes its files.
func (b *broker) stop() error {
	return errors.Join(b.stdin.Close(), b.cmd.Wait(), os.RemoveAll(b.dir))
}
