package netproxy_test

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/netproxy"
)

// client is a connection through a proxy.
type client struct {
	t   *testing.T
	c   net.Conn
	in  *bufio.Reader
	got chan string // what came; closed when the connection is
}

func connect(t *testing.T, p *netproxy.Proxy) *client {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	k := &client{t: t, c: c, in: bufio.NewReader(c), got: make(chan string, 100)}
	go func() {
		defer close(k.got)
		for {
			line, err := k.in.ReadString('\n')
			if err != nil {
				return
			}
			k.got <- line[:len(line)-1]
		}
	}()
	return k
}

func (k *client) say(line string) {
	k.t.Helper()
	if _, err := io.WriteString(k.c, line+"\n"); err != nil {
		k.t.Fatal(err)
	}
}

// hears waits for a line, or for the end of the connection, which is no line.
func (k *client) hears(want string) {
	k.t.Helper()
	select {
	case got := <-k.got:
		if got != want {
			k.t.Fatalf("heard %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		k.t.Fatalf("nothing comes, want %q", want)
	}
}

func TestWhatIsFrozenComesLater(t *testing.T) {
	t.Parallel()
	p := netproxy.Start(t, netproxy.Echo(t))
	k := connect(t, p)
	k.say("one")
	k.hears("one")
	for _, freeze := range []func() func(){p.Freeze, p.Mute} {
		thaw := freeze()
		k.say("two")
		select {
		case got := <-k.got:
			t.Fatalf("heard %q through ice", got)
		case <-time.After(50 * time.Millisecond):
		}
		thaw()
		thaw() // again is nothing
		k.hears("two")
	}
}

func TestWhatIsSwallowedNeverComes(t *testing.T) {
	t.Parallel()
	p := netproxy.Start(t, netproxy.Echo(t))
	k := connect(t, p)
	k.say("one")
	k.hears("one")
	heal := p.Swallow()
	k.say("lost")
	heal()
	k.hears("") // the end
	next := connect(t, p)
	next.say("two")
	next.hears("two")
}

func TestConnectionsAreCutAndRefused(t *testing.T) {
	t.Parallel()
	p := netproxy.Start(t, netproxy.Echo(t))
	one, two := connect(t, p), connect(t, p)
	for _, k := range []*client{one, two} {
		k.say("one")
		k.hears("one")
	}
	p.Refuse(true)
	if n := p.Cut(); n != 2 {
		t.Errorf("%d connections were cut", n)
	}
	one.hears("")
	two.hears("")
	connect(t, p).hears("")
	p.Refuse(false)
	k := connect(t, p)
	k.say("again")
	k.hears("again")
}
