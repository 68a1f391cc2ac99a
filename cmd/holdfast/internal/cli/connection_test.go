package cli

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
)

// secretServer is a server with one user, whose password is a canary.
func secretServer(t *testing.T, canary string) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{{Username: "bob", Password: canary}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s.ClientURL()
}

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const ordersFile = `broker: BROKER
connection: {inbox_prefix: _MINE}
subscriptions:
  - name: orders
    from: {stream: ORDERS, subjects: [orders.>], start: all}
    handler: {log: {}}
`

// TestCheckConnectsAsAContextSaysAndPrintsPermissions changes the environment.
func TestCheckConnectsAsAContextSaysAndPrintsPermissions(t *testing.T) {
	const canary = "c4n4ry"
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	broker := secretServer(t, canary)
	writeFile(t, filepath.Join(dir, "nats", "context", "prod.json"), `{"url":"`+broker+`","user":"bob","password":"`+canary+`"}`)
	writeFile(t, filepath.Join(dir, "nats", "context", "wrong.json"), `{"url":"`+broker+`","user":"eve","password":"`+canary+`"}`)
	writeFile(t, filepath.Join(dir, "nats", "context", "broken.json"), `{"url":"`+broker+`","password":"`+canary)
	file := writeFile(t, filepath.Join(dir, "orders.yaml"), strings.Replace(ordersFile, "BROKER", broker, 1))

	out, talk, code := run(nil, "check", file, "--context", "prod")
	if code != ui.ExitOK {
		t.Fatalf("exit %d: %s%s", code, out, talk)
	}
	for _, want := range []string{"HF1404", `"$JS.API.STREAM.INFO.ORDERS"`, `"_MINE.>"`} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not say %s:\n%s", want, out)
		}
	}
	said := out + talk
	u, err := url.Parse(broker)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"check", file},
		{"check", file, "--context", "wrong"},
		{"check", file, "--context", "broken"},
		{"check", file, "--context", "missing"},
		{"check", file, "--creds", "missing.creds"},
		{"check", file, "--nkey", file},
		{"check", file, "--tls-ca", file},
		{"check", file, "--tls-cert", file},
		{"check", file, "--context", "prod", "--tls-first"},
		{"check", file, "--broker", "nats://eve:" + canary + "@" + u.Host},
		{"dlq", "list", "--context", "wrong"},
		{"publish", "--broker", "amqp://bob:" + canary + "@127.0.0.1:1", "--creds", "x.creds", "orders", "body"},
	} {
		out, talk, code := run(nil, args...)
		if code == ui.ExitOK {
			t.Errorf("%v went well: %s%s", args, out, talk)
		}
		said += out + talk
	}
	if i := strings.Index(said, canary); i >= 0 {
		t.Errorf("a secret was shown: %s", said[max(0, i-200):i+10])
	}
	if out, talk, code := run(nil, "dlq", "list", "--context", "prod"); code != ui.ExitOK && code != ui.ExitNothing {
		t.Errorf("exit %d: %s%s", code, out, talk)
	}
}

func TestAConnectionThatCannotBeMeantIsRefusedInTheFile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		strings.Replace(ordersFile, "broker: BROKER\n", "", 1):                     "none is named",
		strings.Replace(ordersFile, "inbox_prefix: _MINE", "creds: a, nkey: b", 1): "two logins",
		strings.Replace(ordersFile, "inbox_prefix: _MINE", "cert: a", 1):           "belong together",
		strings.Replace(ordersFile, "inbox_prefix: _MINE", "cred: a", 1):           "creds",
	} {
		text = strings.Replace(text, "BROKER", "nats://127.0.0.1:1", 1)
		file := writeFile(t, filepath.Join(t.TempDir(), "orders.yaml"), text)
		out, talk, code := run(nil, "check", "--offline", file)
		if code != ui.ExitOK && strings.Contains(out+talk, want) {
			continue
		}
		t.Errorf("exit %d, want %q: %s%s", code, want, out, talk)
	}
}
