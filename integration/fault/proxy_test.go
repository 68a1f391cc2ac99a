//go:build linux

package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/netproxy"
)

// through connects through a new proxy.
func through(t *testing.T) (*proxy, net.Conn) {
	t.Helper()
	p, err := newProxy(netproxy.Echo(t), rand.New(rand.NewPCG(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	c, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return p, c
}

// say sends text and returns what comes back of it.
func say(c net.Conn, text []byte) ([]byte, error) {
	if _, err := c.Write(text); err != nil {
		return nil, err
	}
	back := make([]byte, len(text))
	n, err := io.ReadFull(c, back)
	return back[:n], err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestTheProxyPassesEverythingOn(t *testing.T) {
	t.Parallel()
	p, c := through(t)
	text := bytes.Repeat([]byte("0123456789"), 1000)
	for _, slow := range []bool{false, true} {
		p.set(func(p *proxy) { p.slow = slow })
		if back, err := say(c, text); err != nil || !bytes.Equal(back, text) {
			t.Fatalf("slow=%v: %d bytes came back, %v", slow, len(back), err)
		}
	}
}

func TestTheProxySwallowsOneWay(t *testing.T) {
	t.Parallel()
	p, c := through(t)
	if _, err := say(c, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	p.set(func(p *proxy) { p.deaf = true })
	if _, err := c.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "four bytes are swallowed", func() bool {
		swallowed := 0
		p.set(func(p *proxy) { swallowed = p.swallow })
		return swallowed == 4
	})
	p.set(func(p *proxy) { p.deaf = false })
	if back, err := say(c, []byte("again")); err != nil || string(back) != "again" {
		t.Fatalf("%q, %v", back, err)
	}
}

func TestTheProxyCutsInTheMiddle(t *testing.T) {
	t.Parallel()
	p, c := through(t)
	if _, err := say(c, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	p.set(func(p *proxy) {
		for k := range p.links {
			k.dying = true
		}
	})
	if back, err := say(c, bytes.Repeat([]byte("x"), 1000)); err == nil {
		t.Fatalf("%d bytes came back over a link that was cut", len(back))
	}
	eventually(t, "one cut of one connection is noted", func() bool {
		cuts, joined := p.history()
		return len(cuts) == 1 && joined == 1
	})
}
