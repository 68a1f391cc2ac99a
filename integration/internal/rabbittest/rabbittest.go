// Package rabbittest gives tests a real RabbitMQ, see internal/rabbitnode. A broker
// lives no longer than the process that started it.
package rabbittest

import (
	"sync"
	"testing"

	"github.com/holdfast-go/holdfast/internal/rabbitnode"
)

// Broker is a running RabbitMQ node. Its methods are safe for concurrent use,
// except those that stop and start it.
type Broker struct{ node *rabbitnode.Node }

// shared starts the broker that the tests of one process share.
var shared = sync.OnceValues(func() (*rabbitnode.Node, error) { return rabbitnode.Start("", true) })

// Shared returns the broker that all tests of this process use. Tests must not
// stop it, nor count on its being empty.
func Shared(tb testing.TB) *Broker {
	tb.Helper()
	n, err := shared()
	if err != nil {
		tb.Fatal(err)
	}
	return &Broker{n}
}

// Start returns a broker of the test's own, which may be killed. advanced is its
// configuration in Erlang terms, such as "[{rabbit, [{consumer_timeout, 2000}]}].",
// or empty. It is stopped when the test ends.
func Start(tb testing.TB, advanced string) *Broker {
	tb.Helper()
	return StartWith(tb, rabbitnode.Settings{Advanced: advanced})
}

// StartWith is Start with more settings.
func StartWith(tb testing.TB, own rabbitnode.Settings) *Broker {
	tb.Helper()
	n, err := rabbitnode.StartWith(own)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := n.Remove(); err != nil {
			tb.Logf("the files of the broker: %v", err)
		}
	})
	return &Broker{n}
}

// StartCluster returns the nodes of a cluster of the test's own, which may be
// killed one by one. They are stopped when the test ends.
func StartCluster(tb testing.TB, size int) []*Broker {
	tb.Helper()
	c, err := rabbitnode.StartCluster(size)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Remove(); err != nil {
			tb.Logf("the files of the cluster: %v", err)
		}
	})
	nodes := make([]*Broker, size)
	for i, n := range c.Nodes {
		nodes[i] = &Broker{n}
	}
	return nodes
}

// Kill ends the node with SIGKILL, as a power switch would, and waits until it
// is gone. What it had on disk stays for Restart.
func (b *Broker) Kill() { b.node.Kill() }

// Restart starts a broker that was killed, on its port and its data.
func (b *Broker) Restart(tb testing.TB) {
	tb.Helper()
	if err := b.node.Run(); err != nil {
		tb.Fatal(err)
	}
}

// Addr is where the broker listens.
func (b *Broker) Addr() string { return b.node.Addr() }

// TLSAddr is where the broker listens with TLS, if its settings say so.
func (b *Broker) TLSAddr() string { return b.node.TLSAddr() }

// URL is what a client connects to.
func (b *Broker) URL() string { return b.node.URL() }

// Ctl runs rabbitmqctl and returns what it says. A call takes seconds.
func (b *Broker) Ctl(tb testing.TB, args ...string) string {
	tb.Helper()
	out, err := b.node.Ctl(args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}
