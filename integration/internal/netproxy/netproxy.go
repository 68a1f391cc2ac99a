// Package netproxy stands between clients and a broker in tests, and breaks what
// goes through it without disturbing others.
package netproxy

import (
	"context"
	"io"
	"net"
	"runtime/pprof"
	"sync"
	"testing"
)

// Proxy passes on what clients and a broker say to each other, until it is told
// otherwise. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu      sync.Mutex // guards what follows
	conns   map[net.Conn]struct{}
	refuse  bool
	swallow bool
	closed  bool
	thaw    chan struct{} // not nil while frozen: closed when it ends
	mute    bool          // frozen is only what the broker says
}

// Start starts a proxy in front of a broker at host:port. It ends with the test.
func Start(tb testing.TB, target string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{listener: l, target: target, conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut ends every connection at once and counts them.
func (p *Proxy) Cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cutLocked()
}

func (p *Proxy) cutLocked() int {
	n := len(p.conns) / 2
	for c := range p.conns {
		_ = c.Close()
	}
	return n
}

// Refuse makes the proxy drop what connects, or stop doing so.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// Swallow makes the proxy read everything and pass nothing on, as a network that
// went away without a word, until the returned function is called. That ends every
// connection: what was swallowed is missing in each.
func (p *Proxy) Swallow() (heal func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.swallow = false
		p.cutLocked()
	}
}

// Freeze makes the proxy pass nothing on, with its connections open, as a network
// that swallows packets does, until the returned function is called.
func (p *Proxy) Freeze() (thaw func()) { return p.freeze(false) }

// Mute is Freeze for what the broker says alone: it is told everything.
func (p *Proxy) Mute() (thaw func()) { return p.freeze(true) }

func (p *Proxy) freeze(mute bool) (thaw func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := make(chan struct{})
	p.thaw, p.mute = ch, mute
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.thaw == ch {
			close(ch)
			p.thaw = nil
		}
	})
}

// frozen returns a channel that what the broker or its client says waits for, or
// nil.
func (p *Proxy) frozen(broker bool) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mute && !broker {
		return nil
	}
	return p.thaw
}

// cold is a reader that waits while the proxy is frozen.
type cold struct {
	p      *Proxy
	c      net.Conn
	broker bool // c is the broker's
}

func (r cold) Read(b []byte) (int, error) {
	n, err := r.c.Read(b)
	if thaw := r.p.frozen(r.broker); thaw != nil {
		<-thaw
	}
	return n, err
}

// sink is a writer that drops what it is given while the proxy swallows.
type sink struct {
	p *Proxy
	c net.Conn
}

func (w sink) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	swallow := w.p.swallow
	w.p.mu.Unlock()
	if swallow {
		return len(b), nil
	}
	return w.c.Write(b)
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	if p.thaw != nil {
		close(p.thaw)
		p.thaw = nil
	}
	p.mu.Unlock()
	_ = p.listener.Close()
	p.Cut()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	// The proxy belongs to no goroutine that a test looks for by its labels.
	pprof.SetGoroutineLabels(context.Background())
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.join(c) })
	}
}

// join connects a client with the broker until either end is gone.
func (p *Proxy) join(client net.Conn) {
	broker, err := net.Dial("tcp", p.target)
	if err != nil || !p.keep(client, broker) {
		_ = client.Close()
		if err == nil {
			_ = broker.Close()
		}
		return
	}
	defer p.forget(client, broker)
	var wg sync.WaitGroup
	for _, pair := range [][2]net.Conn{{client, broker}, {broker, client}} {
		wg.Go(func() {
			_, _ = io.Copy(sink{p, pair[0]}, cold{p, pair[1], pair[1] == broker}) // it ends when either end is closed
			_ = pair[0].Close()
			_ = pair[1].Close()
		})
	}
	wg.Wait()
}

func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.closed {
		return false
	}
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
	return true
}

func (p *Proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}
