//go:build linux

package main

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// proxy stands between a publisher and a broker and breaks what goes through it.
// It is safe for concurrent use.
type proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu      sync.Mutex // guards what follows
	rnd     *rand.Rand
	links   map[*link]struct{}
	closed  bool
	refuse  bool // who connects is cut off
	deaf    bool // what the broker says is swallowed
	mute    bool // what the client says is swallowed
	slow    bool // bytes come late, and a few at a time
	chaos   bool // a link lives for half a second to one and a half
	cuts    []span
	joined  int
	swallow int // bytes that were swallowed
	dripped int // bytes that came slowly
}

// link is one connection through the proxy.
type link struct {
	p              *proxy
	client, broker *net.TCPConn
	dying          bool // it ends in the middle of what comes next
	over           bool
}

func newProxy(target string, rnd *rand.Rand) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, rnd: rnd, links: map[*link]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// set changes what the proxy does.
func (p *proxy) set(change func(*proxy)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.join(c) })
	}
}

// join connects a client with the broker until either end is gone.
func (p *proxy) join(client net.Conn) {
	broker, err := net.DialTimeout("tcp", p.target, 10*time.Second)
	if err != nil {
		_ = client.Close()
		return
	}
	k := &link{p: p, client: client.(*net.TCPConn), broker: broker.(*net.TCPConn)}
	p.mu.Lock()
	refused := p.refuse || p.closed
	if !refused {
		p.links[k] = struct{}{}
		p.joined++
		if p.chaos {
			p.wg.Go(k.liveShort(500*time.Millisecond + time.Duration(p.rnd.Int64N(int64(time.Second)))))
		}
	}
	p.mu.Unlock()
	if refused {
		k.shut()
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { k.pump(k.broker, k.client, false) })
	pumps.Go(func() { k.pump(k.client, k.broker, true) })
	pumps.Wait()
	p.mu.Lock()
	delete(p.links, k)
	p.mu.Unlock()
}

// liveShort ends the link after d: in the middle of what it carries next, and
// soon after when it carries nothing.
func (k *link) liveShort(d time.Duration) func() {
	return func() {
		<-time.After(d)
		k.p.set(func(*proxy) { k.dying = true })
		<-time.After(100 * time.Millisecond)
		k.cut(nil, nil)
	}
}

// errCut ends a pump whose link is cut.
var errCut = errors.New("cut")

// pump carries bytes one way.
func (k *link) pump(to, from *net.TCPConn, answers bool) {
	defer k.shut()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if k.carry(to, b[:n], answers) != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// carry writes b, or what the proxy lets through of it.
func (k *link) carry(to *net.TCPConn, b []byte, answers bool) error {
	k.p.mu.Lock()
	dying, slow := k.dying, k.p.slow
	swallow := k.p.deaf && answers || k.p.mute && !answers
	if swallow {
		k.p.swallow += len(b)
	} else if slow {
		k.p.dripped += len(b)
	}
	part := k.p.rnd.IntN(len(b))
	k.p.mu.Unlock()
	switch {
	case swallow:
		return nil
	case dying:
		k.cut(to, b[:part])
		return errCut
	case slow:
		return drip(to, b)
	}
	_, err := to.Write(b)
	return err
}

// drip writes b late and in pieces that end anywhere in a frame.
func drip(to *net.TCPConn, b []byte) error {
	<-time.After(20 * time.Millisecond)
	for len(b) > 0 {
		n := min(len(b), 777)
		if _, err := to.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// cut ends the link with a reset, after a last piece if there is one.
func (k *link) cut(to *net.TCPConn, last []byte) {
	from := time.Now()
	k.p.mu.Lock()
	over := k.over
	k.over = true
	k.p.mu.Unlock()
	if over {
		return
	}
	if len(last) > 0 {
		_, _ = to.Write(last) // the other end may be gone
		// A reset overtakes what was not read yet.
		_ = to.CloseWrite()
	}
	_ = k.client.SetLinger(0)
	k.shut()
	k.p.set(func(p *proxy) { p.cuts = append(p.cuts, span{from, time.Now()}) })
}

func (k *link) shut() {
	_ = k.client.Close()
	_ = k.broker.Close()
}

// cutAll cuts every link at once.
func (p *proxy) cutAll() {
	p.mu.Lock()
	var links []*link
	for k := range p.links {
		links = append(links, k)
	}
	p.mu.Unlock()
	for _, k := range links {
		k.cut(nil, nil)
	}
}

// bent returns how many bytes were swallowed, and how many came slowly.
func (p *proxy) bent() (swallowed, dripped int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.swallow, p.dripped
}

// history returns the cuts so far, and how many connections were made.
func (p *proxy) history() (cuts []span, joined int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]span(nil), p.cuts...), p.joined
}

// close ends everything and waits.
func (p *proxy) close() {
	p.set(func(p *proxy) { p.closed = true })
	_ = p.listener.Close()
	p.cutAll()
	p.wg.Wait()
}
