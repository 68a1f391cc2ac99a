package exechandler

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// pipes connects a command: the body goes in, the ends of what it writes are
// kept. The command's own end is waited for apart from them, so that a process
// it left behind, with the pipes in its hands, delays nothing.
type pipes struct {
	stdin    *os.File
	out, err *os.File
	theirs   []*os.File
	stdout   head
	stderr   tail
	copying  sync.WaitGroup
}

func connect(cmd *exec.Cmd) (*pipes, error) {
	p := &pipes{stdout: head{limit: stdoutHead}, stderr: tail{limit: stderrTail}}
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.theirs, p.stdin = append(p.theirs, inR), inW
	for _, own := range []**os.File{&p.out, &p.err} {
		r, w, err := os.Pipe()
		if err != nil {
			p.abandon()
			return nil, err
		}
		*own, p.theirs = r, append(p.theirs, w)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.theirs[0], p.theirs[1], p.theirs[2]
	return p, nil
}

// abandon closes everything for a command that never started.
func (p *pipes) abandon() {
	p.closeTheirs()
	for _, f := range []*os.File{p.stdin, p.out, p.err} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (p *pipes) closeTheirs() {
	for _, f := range p.theirs {
		_ = f.Close()
	}
}

// begin copies until end.
func (p *pipes) begin(body []byte) {
	p.closeTheirs()
	p.copying.Go(func() {
		// A command need not read its stdin: a broken pipe is no failure.
		_, _ = p.stdin.Write(body)
		_ = p.stdin.Close()
	})
	p.copying.Go(func() { _, _ = io.Copy(&p.stdout, p.out) })
	p.copying.Go(func() { _, _ = io.Copy(&p.stderr, p.err) })
}

// end waits for the copying and closes the pipes. The command is over.
func (p *pipes) end() {
	last := time.Now().Add(drainDelay)
	for _, f := range []*os.File{p.out, p.err} {
		_ = f.SetReadDeadline(last)
	}
	_ = p.stdin.SetWriteDeadline(last)
	p.copying.Wait()
	_ = p.out.Close()
	_ = p.err.Close()
}

// tail keeps the last bytes written to it.
type tail struct {
	limit int
	buf   []byte
}

// Write keeps what fits and never fails.
func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > t.limit {
		p = p[len(p)-t.limit:]
	}
	if over := len(t.buf) + len(p) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// String returns what was kept as clean text without the line that was cut in
// front.
func (t *tail) String() string {
	s := strings.ToValidUTF8(string(t.buf), "?")
	if _, rest, cut := strings.Cut(s, "\n"); cut && len(t.buf) == t.limit {
		s = rest
	}
	return strings.TrimSpace(strings.Map(printable, s))
}

func printable(r rune) rune {
	if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
		return -1
	}
	return r
}

// head keeps the first bytes written to it.
type head struct {
	limit int
	seen  int
	buf   []byte
}

var _ io.Writer = (*head)(nil)

// Write keeps what fits and never fails.
func (h *head) Write(p []byte) (int, error) {
	h.seen += len(p)
	h.buf = append(h.buf, p[:min(len(p), h.limit-len(h.buf))]...)
	return len(p), nil
}

// String returns what was kept, and how much was not.
func (h *head) String() string {
	s := strings.TrimSpace(strings.Map(printable, strings.ToValidUTF8(string(h.buf), "?")))
	if more := h.seen - len(h.buf); more > 0 {
		s += fmt.Sprintf(" ... (%d bytes more)", more)
	}
	return s
}
