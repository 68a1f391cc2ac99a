package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
)

// TestRemindersExampleRuns: the program of docs/jetstream/delays.md says what was
// planned and not taken back, and ends cleanly.
func TestRemindersExampleRuns(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	binary := filepath.Join(t.TempDir(), "reminders")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/holdfast-go/holdfast/examples/reminders").CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	p := start(t, t.TempDir(), []string{"NATS_URL=" + srv.URL()}, binary)
	ticks, tea := 0, false
	for ticks < 3 || !tea {
		line, err := p.stdout.ReadString('\n')
		if err != nil {
			t.Fatalf("the example ended after %d ticks: %v", ticks, err)
		}
		switch line = strings.TrimSpace(line); line {
		case "tick":
			ticks++
		case "tea is ready":
			tea = true
		default:
			t.Errorf("the example said %q", line)
		}
	}
	if err := p.terminate(t, 30*time.Second); err != nil {
		t.Errorf("the example did not end cleanly: %v", err)
	}
}
