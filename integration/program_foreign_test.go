package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
)

// line is what a foreign handler wrote of one run.
type line struct {
	How     string `json:"how"`
	ID      string `json:"id"`
	Attempt int    `json:"attempt"`
	Outcome string `json:"outcome"`
}

// TestForeignClientAndHandlers: messages published by the JavaScript client are
// handled by a command and by a URL written in JavaScript, retried,
// dead-lettered, and redriven once the handlers are mended.
func TestForeignClientAndHandlers(t *testing.T) {
	t.Parallel()
	const count = 40 // per subject: 4 poison, 4 flaky, and one that is not JSON
	dir, scripts := t.TempDir(), foreign(t)
	ledger, mended := filepath.Join(dir, "ledger"), filepath.Join(dir, "mended")
	secret := "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
	env := []string{"LEDGER=" + ledger, "MENDED=" + mended, "SECRET=" + secret}

	web := start(t, scripts, env, "node", "http.mjs")
	port, err := web.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("the foreign server did not start: %v", err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", natstest.FreePort(t))
	program := run(t, dir, fmt.Sprintf(`
listen: %s
data: %s
subscriptions:
  - name: by-command
    from: {stream: ORDERS, subjects: ["orders.>"], durable: by-command, start: all}
    handler: {exec: [node, %q]}
    concurrency: 2
    timeout: 30s
    retry: {attempts: 5, immediate: 1, backoff: [50ms, 100ms], jitter: 20%%}
    dead_letter: true
  - name: by-url
    from: {stream: PAYMENTS, subjects: ["payments.>"], durable: by-url, start: all}
    handler: {http: {url: "http://127.0.0.1:%s/", secret: "${SECRET}"}}
    concurrency: 4
    retry: {attempts: 5, immediate: 1, backoff: [50ms, 100ms], jitter: 20%%}
    dead_letter: true
`, address, filepath.Join(dir, "data"), filepath.Join(scripts, "exec.mjs"), strings.TrimSpace(port)), env...)

	url := "nats://" + address
	nc := connect(t, url)
	eventually(t, 30*time.Second, "both streams", func() bool { return streams(t, nc, "ORDERS", "PAYMENTS") })
	node(t, scripts, "publish.mjs", url, "orders.placed", fmt.Sprint(count), "o")
	node(t, scripts, "publish.mjs", url, "payments.made", fmt.Sprint(count), "p")

	const dead = 4 + 1
	eventually(t, 2*time.Minute, "all outcomes of both handlers", func() bool {
		runs := read(t, ledger)
		return handled(runs, "exec") == count-4 && handled(runs, "http") == count-4 && len(deadLetters(t, url)) == 2*dead
	})
	runs := read(t, ledger)
	for _, prefix := range []string{"o", "p"} {
		if got := attempts(runs, prefix+"-5"); got != "1 retry, 2 retry, 3 ok" {
			t.Errorf("flaky message %s-5 ran: %s", prefix, got)
		}
		if got := attempts(runs, prefix+"-10"); got != "1 permanent" {
			t.Errorf("poison message %s-10 ran: %s", prefix, got)
		}
	}
	for _, l := range deadLetters(t, url) {
		if l.DeadID == "" || l.ID == "" || l.Subject == "" || l.Reason != "permanent" || l.Attempts != 1 || l.Error == "" || l.Time == "" {
			t.Errorf("dead letter does not tell its story: %+v", l)
		}
	}

	// Mended, the poison succeeds; what is not JSON never will, and comes back.
	if err := os.WriteFile(mended, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"by-command", "by-url"} {
		holdfastCommand(t, "dlq", "redrive", "--broker", url, "--subscription", name, "--yes")
	}
	eventually(t, time.Minute, "the redriven messages", func() bool {
		runs := read(t, ledger)
		return handled(runs, "exec") == count && handled(runs, "http") == count && len(deadLetters(t, url)) == 2
	})
	if err := program.terminate(t, 40*time.Second); err != nil {
		t.Errorf("holdfast run did not end cleanly: %v", err)
	}
}

// foreign returns the folder of the foreign scripts with what they need
// installed.
func foreign(t *testing.T) string {
	t.Helper()
	dir, err := foreignScripts()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// foreignScripts installs what the scripts need, once a process.
var foreignScripts = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs("foreign")
	if err != nil {
		return "", err
	}
	_, nats := os.Stat(filepath.Join(dir, "node_modules", "@nats-io", "transport-node"))
	_, amqp := os.Stat(filepath.Join(dir, "node_modules", "amqplib"))
	if nats == nil && amqp == nil {
		return dir, nil
	}
	install := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w: this test needs Node 18 or later with npm\n%s", err, out)
	}
	return dir, nil
})

func node(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("node %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// read returns the lines of the ledger so far.
func read(t *testing.T, path string) []line {
	t.Helper()
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []line
	for s := bufio.NewScanner(f); s.Scan(); {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err == nil { // the last line may be half written
			lines = append(lines, l)
		}
	}
	return lines
}

// handled is how many different messages one handler brought to a good end.
func handled(lines []line, how string) int {
	ids := make(map[string]bool)
	for _, l := range lines {
		if l.How == how && l.Outcome == "ok" {
			ids[l.ID] = true
		}
	}
	return len(ids)
}

func attempts(lines []line, id string) string {
	var runs []string
	for _, l := range lines {
		if l.ID == id {
			runs = append(runs, fmt.Sprint(l.Attempt, " ", l.Outcome))
		}
	}
	return strings.Join(runs, ", ")
}
