package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
)

// TestBillingExampleRuns: the program of the README charges what can be charged,
// buries what cannot, and ends cleanly.
func TestBillingExampleRuns(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	binary := filepath.Join(t.TempDir(), "billing")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/holdfast-go/holdfast/examples/billing").CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	p := start(t, t.TempDir(), []string{"NATS_URL=" + srv.URL()}, binary)
	nc := srv.Conn()
	eventually(t, 30*time.Second, "the stream", func() bool { return streams(t, nc, "ORDERS") })
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{`{"order":"a","cents":100}`, `{"order":"b","cents":-1}`, `{"order":"stolen-card","cents":5}`, `{"order":`} {
		if _, err := js.Publish(t.Context(), "orders.placed", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	line, err := p.stdout.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "charged a 100 cents under ") {
		t.Errorf("the example said %q, %v", line, err)
	}
	var reasons []string
	eventually(t, 30*time.Second, "three dead letters", func() bool {
		reasons = nil
		for _, l := range deadLetters(t, srv.URL()) {
			reasons = append(reasons, l.Reason)
		}
		return len(reasons) == 3
	})
	if got := strings.Join(reasons, " "); got != "invalid permanent undecodable" {
		t.Errorf("reasons are %q", got)
	}
	if err := p.terminate(t, 30*time.Second); err != nil {
		t.Errorf("the example did not end cleanly: %v", err)
	}
}
