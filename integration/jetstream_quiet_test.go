package integration_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// complaints keeps the warnings and errors that a server logs.
type complaints struct {
	mu    sync.Mutex
	lines []string
}

func (c *complaints) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, fmt.Sprintf(format, args...))
}

func (c *complaints) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

func (c *complaints) Warnf(format string, args ...any)  { c.add(format, args...) }
func (c *complaints) Errorf(format string, args ...any) { c.add(format, args...) }
func (c *complaints) Fatalf(format string, args ...any) { c.add(format, args...) }
func (c *complaints) Noticef(string, ...any)            {}
func (c *complaints) Debugf(string, ...any)             {}
func (c *complaints) Tracef(string, ...any)             {}

func TestJetStreamCheckMakesNoNoiseInTheServersLog(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	said := &complaints{}
	s.SetLoggerV2(said, false, false, false)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	w := &jsWorld{T: t, ctx: testContext(t)}
	w.js, _ = w.connect(s.ClientURL())
	check := func() {
		t.Helper()
		if found, err := w.js.Check(w.ctx, w.source(), accessWant()); err != nil {
			t.Fatalf("check: %v %s", err, describe(found))
		}
	}
	check() // nothing is there yet
	w.provision(w.source(), accessWant())
	check()
	// A server logs before it answers, and each question was answered.
	for _, line := range said.all() {
		t.Errorf("the server complains: %s", line)
	}
}
