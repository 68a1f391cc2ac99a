package rabbitmq

import (
	"bufio"
	"net"
	"sync"
	"time"
)

// pipe gathers writes: the client library makes one for every publish and ack,
// and what comes while the last one is on its way to the socket goes out with
// the next. A write never waits for the socket. What it may hold is bounded by
// the publish window, the prefetch and the number of calls; a peer that reads
// nothing is found out by its heartbeat.
//
// It also reads more at once than the client library asks for, and spares it the
// deadline that it sets for every frame it reads.
type pipe struct {
	net.Conn
	in *bufio.Reader // used by the goroutine that reads

	mu      sync.Mutex // guards what follows
	wake    *sync.Cond
	buf     []byte
	spare   []byte
	err     error
	closing bool

	done chan struct{} // closed once nothing more is written
	once sync.Once
}

const (
	// keptBuffer is how large a buffer may be and still be kept for reuse.
	keptBuffer = 1 << 20
	// readBuffer is how much is read at once, in bytes.
	readBuffer = 32 << 10
	// deadlinePause is how long a deadline stays before it is pushed on again.
	deadlinePause = 20 * time.Millisecond
	// lastWords is how long Close waits for what is still to be written.
	lastWords = time.Second
)

func newPipe(c net.Conn) *pipe {
	p := &pipe{Conn: c, in: bufio.NewReaderSize(c, readBuffer), done: make(chan struct{})}
	p.wake = sync.NewCond(&p.mu)
	go p.pump() // ended and awaited by Close
	return p
}

// Read implements net.Conn.
func (p *pipe) Read(b []byte) (int, error) { return p.in.Read(b) }

// SetReadDeadline implements net.Conn. It takes a while: the client library's
// heartbeater, which calls it, would otherwise be woken by every frame.
func (p *pipe) SetReadDeadline(t time.Time) error {
	err := p.Conn.SetReadDeadline(t)
	select {
	case <-p.done:
	case <-time.After(deadlinePause):
	}
	return err
}

// Write implements net.Conn. An error of the socket is returned by a later call.
func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, p.err
	}
	if p.closing {
		return 0, net.ErrClosed
	}
	if len(p.buf) == 0 {
		p.wake.Signal()
	}
	p.buf = append(p.buf, b...)
	return len(b), nil
}

// pump writes what is gathered.
func (p *pipe) pump() {
	defer close(p.done)
	for {
		out := p.take()
		if out == nil {
			return
		}
		_, err := p.Conn.Write(out)
		p.mu.Lock()
		if cap(out) <= keptBuffer {
			p.spare = out[:0]
		}
		if err != nil {
			p.err = err
		}
		p.mu.Unlock()
		if err != nil {
			_ = p.Conn.Close() // the reader must learn of it
			return
		}
	}
}

// take waits for something to write; nil means that there will be nothing.
func (p *pipe) take() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) == 0 {
		if p.closing {
			return nil
		}
		p.wake.Wait()
	}
	out := p.buf
	p.buf, p.spare = p.spare, nil
	return out
}

// Close implements net.Conn. What was written before goes out first, as far as
// the peer takes it within a second.
func (p *pipe) Close() error {
	p.once.Do(func() {
		p.mu.Lock()
		p.closing = true
		p.wake.Signal()
		p.mu.Unlock()
		_ = p.Conn.SetWriteDeadline(time.Now().Add(lastWords))
		<-p.done
		_ = p.Conn.Close()
	})
	return nil
}

// cut ends the connection at once, and whoever waits for it.
func (p *pipe) cut() { _ = p.Conn.Close() }
