package integration

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
)

// TestStockExampleRuns: the program of docs/jetstream/streams.md and starts.md
// handles what is stored, reads it again with every start, and ends cleanly.
func TestStockExampleRuns(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	binary := filepath.Join(t.TempDir(), "stock")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/holdfast-go/holdfast/examples/stock").CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	for _, want := range [][]string{
		{"3 of tea went out", "mirrored: 17 of tea", "mirrored: 20 of tea", "paused", "read: 17 of tea", "read: 20 of tea"},
		// The second time the durables go on, and the read model begins anew.
		{"3 of tea went out", "mirrored: 17 of tea", "mirrored: 20 of tea", "paused", "read: 17 of tea", "read: 20 of tea", "read: 34 of tea", "read: 37 of tea"},
	} {
		p := start(t, t.TempDir(), []string{"NATS_URL=" + srv.URL()}, binary)
		var lines []string
		for range want {
			line, err := p.stdout.ReadString('\n')
			if err != nil {
				t.Fatalf("the example said %q, %v", lines, err)
			}
			lines = append(lines, strings.TrimSpace(line))
		}
		slices.Sort(lines)
		if !slices.Equal(lines, want) {
			t.Errorf("the example said %q", lines)
		}
		if err := p.terminate(t, 30*time.Second); err != nil {
			t.Errorf("the example did not end cleanly: %v", err)
		}
	}
}
