package integration_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
)

func TestJetStreamCheckMakesNoNoiseInTheServersLog(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	said := &natstest.Complaints{}
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
	for _, line := range said.All() {
		if strings.Contains(line, "took too long") || strings.Contains(line, "processing time") {
			continue // of a machine that stalls
		}
		t.Errorf("the server complains: %s", line)
	}
}
