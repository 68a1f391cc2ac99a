package integration

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
)

// TestQuotesExampleRuns: the program of docs/nats is found, answers, refuses, and
// ends cleanly.
func TestQuotesExampleRuns(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, natstest.WithUser("quotes", "secret", nil))
	binary := filepath.Join(t.TempDir(), "quotes")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/holdfast-go/holdfast/examples/quotes").CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	p := start(t, t.TempDir(), []string{"NATS_URL=" + srv.URLFor("quotes", "secret")}, binary)
	nc := srv.ConnTo(srv.URLFor("quotes", "secret"))
	eventually(t, 30*time.Second, "the service", func() bool {
		m, err := nc.Request("$SRV.PING.quotes", nil, 5*time.Second)
		var ping micro.Ping
		return err == nil && json.Unmarshal(m.Data, &ping) == nil && ping.Version == "1.0.0"
	})
	for body, want := range map[string]string{
		`{"item":"tea"}`:  `{"item":"tea","cents":250}`,
		`{"item":"salt"}`: "not sold here",
		`{}`:              "name an item",
		`{"item":`:        "unexpected",
	} {
		m, err := nc.RequestMsg(&nats.Msg{Subject: "quotes.get", Data: []byte(body)}, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(m.Data) + m.Header.Get(micro.ErrorHeader); !strings.Contains(got, want) {
			t.Errorf("%s was answered %q, want %q", body, got, want)
		}
	}
	if err := p.terminate(t, 30*time.Second); err != nil {
		t.Errorf("the example did not end cleanly: %v", err)
	}
}
