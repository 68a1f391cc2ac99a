package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/oldnats"
)

// What a server of version 2.9 would drop in silence is refused by every command,
// and a file that asks for nothing of it runs there and has no drift.
func TestProgramRefusesWhatAnOldServerWouldDrop(t *testing.T) {
	t.Parallel()
	url := oldnats.Start(t).URL()
	file := func(stream, consumer string) string {
		return "broker: " + url + "\nstreams: [{name: ORDERS, subjects: [\"orders.>\"], max_age: 14d" + stream + "}]\n" +
			"subscriptions: [{name: orders, from: {stream: ORDERS, subjects: [\"orders.>\"], start: all, consumer: {ack_wait: 1m" + consumer + "}}, handler: {log: {}}}]\n"
	}
	for more, fact := range map[string]string{
		", compression: s2": "compression", ", metadata: {a: b}": "metadata", ", allow_msg_ttl: true": "ttl",
		", subject_transform: {src: \"orders.*\", dest: \"orders.x.{{wildcard(1)}}\"}": "transform",
	} {
		holdfastEnds(t, file(more, ""), "check", "-").want(t, 2, "HF1009 error orders", fact)
	}
	holdfastEnds(t, file("", ", priority_policy: pinned_client, priority_groups: [g]"), "check", "-").want(t, 2, "HF1009 error orders", "priority")

	p := run(t, t.TempDir(), file("", ""))
	ready(t, p)
	if e := holdfastEnds(t, file("", ""), "check", "-"); e.code == 2 || strings.Contains(e.out, "HF1202") || strings.Contains(e.out, "HF1108") {
		t.Errorf("drift of what was just made: exit %d\n%s%s", e.code, e.out, e.stderr)
	}
	holdfastEnds(t, file(", discard: old", ""), "check", "-").want(t, 1, "HF1202 warning orders", "discard")
	holdfastEnds(t, "", "pause", "ORDERS/orders", "--for", "1h", "--broker", url).want(t, 1, "2.11 or later")
	holdfastEnds(t, "", "publish", "orders.a", "x", "--after", "1h", "--broker", url).want(t, 1, "need nats-server 2.12 or later")
	holdfastEnds(t, "", "publish", "orders.a", "x", "--every", "1h", "--id", "a", "--broker", url).want(t, 1, "2.14 or later")
	holdfastEnds(t, "", "schedule", "enable", "ORDERS", "--broker", url).want(t, 1, "2.12 or later")
	if err := p.terminate(t, 30*time.Second); err != nil {
		t.Errorf("the stop: %v", err)
	}
	if strings.Contains(p.stderr.String(), `"subject":"orders.a"`) {
		t.Error("what was refused was sent")
	}
}
