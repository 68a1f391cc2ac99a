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

// TestPricesExampleRuns: the program of docs/jetstream sees what is in its bucket
// and its object store, and ends cleanly.
func TestPricesExampleRuns(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	binary := filepath.Join(t.TempDir(), "prices")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/holdfast-go/holdfast/examples/prices").CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	p := start(t, t.TempDir(), []string{"NATS_URL=" + srv.URL()}, binary)
	var lines []string
	for range 3 {
		line, err := p.stdout.ReadString('\n')
		if err != nil {
			t.Fatalf("the example said %q, %v", lines, err)
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	slices.Sort(lines)
	want := []string{"coffee is not sold any more", "tea.green costs 260 cents since revision 2", "tea.jpg has 400000 bytes"}
	if !slices.Equal(lines, want) {
		t.Errorf("the example said %q", lines)
	}
	if err := p.terminate(t, 30*time.Second); err != nil {
		t.Errorf("the example did not end cleanly: %v", err)
	}
}
