package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
)

// The program logs in with a credentials file and with an nkey, by flag and by
// file: it checks, runs, publishes and shows a bucket, and without them it is
// refused in words that say what is missing. No secret is in any output.
func TestProgramLogsInWithFiles(t *testing.T) {
	t.Parallel()
	_, user, seed := natstest.NewKey(t, nkeys.CreateUser)
	issuer := natstest.NewIssuer(t)
	_, creds := issuer.User()
	for name, c := range map[string]struct {
		server natstest.Option
		text   string
	}{
		"creds": {issuer.Storing, creds},
		"nkey":  {func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: user}} }, seed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := natstest.Start(t, natstest.WithOptions(c.server)).URL()
			file := filepath.Join(t.TempDir(), "login")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			yaml := "broker: " + url + "\nconnection: {" + name + ": " + file + "}\n" +
				"subscriptions: [{name: orders, from: {stream: ORDERS, subjects: [\"orders.>\"], durable: orders, start: all}, handler: {log: {}}}]\n"
			p := run(t, t.TempDir(), yaml)
			ready(t, p)
			login := []string{"--broker", url, "--" + name, file}
			holdfastCommand(t, append([]string{"publish", "orders.a", "one order"}, login...)...)
			holdfastCommand(t, append([]string{"kv", "put", "prices", "tea", "3", "--create"}, login...)...)
			if out := holdfastCommand(t, append([]string{"kv", "get", "prices", "tea"}, login...)...); strings.TrimSpace(out) != "3" {
				t.Errorf("the bucket gave %q", out)
			}
			eventually(t, time.Minute, "the order to be handled", func() bool {
				return strings.Contains(p.stderr.String(), "orders.a")
			})
			if err := p.terminate(t, 40*time.Second); err != nil {
				t.Errorf("the stop: %v", err)
			}
			if strings.Contains(p.stderr.String(), strings.TrimSpace(seed)) {
				t.Error("the seed is in the log")
			}
			refused := holdfastEnds(t, "", "publish", "orders.a", "x", "--broker", url)
			refused.want(t, 6, "credentials")
		})
	}
}
