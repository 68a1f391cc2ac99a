package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
)

// TestTopologyOfAFileIsDeclared: exchanges with alternates, exchanges bound to
// exchanges, typed arguments and an exclusive consumer, all from one file.
func TestTopologyOfAFileIsDeclared(t *testing.T) {
	t.Parallel()
	b, dir, name := rabbittest.Shared(t), t.TempDir(), rabbitName()
	yaml := strings.NewReplacer("NAME", name, "URL", b.URL(), "DIR", dir).Replace(`
broker: URL
subscriptions:
  - name: routed
    from:
      queue: NAME.routed
      type: classic
      exclusive: true
      priority: 5
      arguments: {x-max-length: 1000, x-overflow: reject-publish}
      exchanges:
        - {exchange: NAME.shop, kind: topic, alternate: NAME.unrouted}
        - {exchange: NAME.unrouted, kind: fanout}
        - {exchange: NAME.inner, kind: headers, internal: true, bindings: [{exchange: NAME.shop, key: "orders.#"}]}
      bindings: [{exchange: NAME.inner, args: {x-match: any, tier: 2, gold: true}}]
    handler: {exec: [sh, -c, "cat >> DIR/routed; echo >> DIR/routed"]}
  - name: lost
    from: {queue: NAME.lost, bindings: [{exchange: NAME.unrouted, kind: fanout}]}
    handler: {exec: [sh, -c, "cat >> DIR/lost; echo >> DIR/lost"]}
`)
	p := run(t, dir, yaml)
	ready(t, p)
	conn, err := amqp.Dial(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for key, headers := range map[string]amqp.Table{"orders.new": {"tier": int64(2)}, "orders.old": {"tier": "2"}, "other": {"gold": true}} {
		if err := ch.PublishWithContext(t.Context(), name+".shop", key, false, false, amqp.Publishing{Headers: headers, Body: []byte(key)}); err != nil {
			t.Fatal(err)
		}
	}
	// A header of another type does not match, and what the inner exchange cannot
	// route is dropped there: the alternate belongs to the outer one.
	for file, want := range map[string]string{"routed": "orders.new", "lost": "other"} {
		eventually(t, time.Minute, fmt.Sprintf("%q in %s", want, file), func() bool {
			got, err := os.ReadFile(filepath.Join(dir, file))
			return err == nil && strings.Contains(string(got), want)
		})
	}
	if _, err := ch.ConsumeWithContext(context.WithoutCancel(t.Context()), name+".routed", "", false, false, false, false, nil); err == nil || !strings.Contains(err.Error(), "exclusive") {
		t.Errorf("a second consumer of an exclusive one: %v", err)
	}
	if err := p.terminate(t, 40*time.Second); err != nil {
		t.Errorf("holdfast run did not end cleanly: %v", err)
	}
	// The file is what is there: a check finds nothing to do but to tell about
	// the queue that is not replicated.
	for _, f := range holdfastChecks(t, filepath.Join(dir, "holdfast.yaml"), 1) { // it warns
		if f.Level == "error" {
			t.Errorf("the check says %+v", f)
		}
	}
}
