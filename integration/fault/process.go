//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is a child of this program. It ends with it.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr *tailBuffer
	done   chan struct{}
	err    error // of the end; read after done
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 8 << 10

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-tailSize):]
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}

// startSelf runs this program again with a setting in its environment.
func startSelf(name, setting string, stdout *os.File) (*process, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(path), stderr: &tailBuffer{}, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), name+"="+setting)
	p.cmd.Stdout, p.cmd.Stderr = stdout, p.stderr
	// A process that is stopped does not see the end of its standard input.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the process, which kill sees to
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// kill ends the process as a power cut would, and waits for it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// publisher is a publisher process whose ledger is read.
type publisher struct {
	*process
	read   chan struct{} // closed when the last line is read
	killed bool
}

// startPublisher starts a publisher process.
func startPublisher(o order, to *ledger) (*publisher, error) {
	setting, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	// The pipe outlives the process: what it wrote before it was killed is there.
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p, err := startSelf(publisherVar, string(setting), in)
	_ = in.Close()
	if err != nil {
		_ = out.Close()
		return nil, err
	}
	pub := &publisher{process: p, read: make(chan struct{})}
	go func() { // ends with the process
		defer close(pub.read)
		defer out.Close()
		lines := bufio.NewReaderSize(out, 256<<10)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return // a cut line tells of nothing
			}
			to.add(line[:len(line)-1])
		}
	}()
	return pub, nil
}

// kill ends the publisher and reads what it has written.
func (p *publisher) kill() {
	p.killed = true
	p.process.kill()
	<-p.read
}

// say gives the publisher an order.
func (p *publisher) say(verb string) error {
	_, err := io.WriteString(p.stdin, verb+"\n")
	return err
}

// end waits for the publisher to end in peace.
func (p *publisher) end(limit time.Duration) error {
	select {
	case <-p.done:
		<-p.read
		if p.err != nil {
			return fmt.Errorf("%w ended with %w: %s", errChild, p.err, p.stderr)
		}
		return nil
	case <-time.After(limit):
		return fmt.Errorf("%w did not end within %v", errChild, limit)
	}
}
