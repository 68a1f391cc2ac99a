package rabbittest

import (
	"testing"

	"github.com/holdfast-go/holdfast/integration/internal/netproxy"
)

// Proxy stands between one client and a broker.
type Proxy struct{ *netproxy.Proxy }

// NewProxy starts a proxy in front of the broker. It ends with the test.
func (b *Broker) NewProxy(tb testing.TB) *Proxy {
	tb.Helper()
	return &Proxy{netproxy.Start(tb, b.Addr())}
}

// URL is what a client connects to.
func (p *Proxy) URL() string { return "amqp://guest:guest@" + p.Addr() }
