package integration_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/integration/internal/oldnats"
	"github.com/holdfast-go/holdfast/transport"
)

// accessWant asks for everything that needs a permission of its own.
func accessWant() transport.Want {
	w := want(4)
	w.DeadLetter = true
	return w
}

// untouched fails when a check left a trace.
func (w *jsWorld) untouched() {
	w.Helper()
	info := w.consumer("ORDERS", "billing")
	if info.NumAckPending != 0 || info.NumPending != 1 || info.NumWaiting != 0 || info.Delivered.Consumer != 0 {
		w.Errorf("after the check %d are pending, %d to come, %d pulls wait, %d were delivered",
			info.NumAckPending, info.NumPending, info.NumWaiting, info.Delivered.Consumer)
	}
	for stream, subjects := range map[string]uint64{"ORDERS": 1, "HOLDFAST_DEAD": 0} {
		s, err := w.js.JetStream().Stream(w.ctx, stream)
		if err != nil {
			w.Fatal(err)
		}
		if n := s.CachedInfo().State.Msgs; n != subjects {
			w.Errorf("after the check %s holds %d messages", stream, n)
		}
	}
}

func TestJetStreamCheckFindsEachMissingPermissionAndTouchesNothing(t *testing.T) {
	t.Parallel()
	for name, denied := range map[string]string{
		"take messages":       "$JS.API.CONSUMER.MSG.NEXT.ORDERS.billing",
		"settle messages":     "$JS.ACK.ORDERS.billing.>",
		"store dead letters":  "holdfast.dead.>",
		"be made or updated":  "$JS.API.CONSUMER.CREATE.ORDERS.billing",
		"look at the account": "$JS.API.INFO",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Start(t, natstest.WithUser("admin", "a", nil), natstest.WithUser("app", "b", &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{denied}},
			}))
			w := &jsWorld{T: t, ctx: testContext(t), server: s}
			w.js, _ = w.connect(s.URLFor("admin", "a"))
			w.provision(w.source(), accessWant())
			w.publish("orders.placed", 1)
			admin := w.js
			w.js, _ = w.connect(s.URLFor("app", "b"))
			found, err := w.js.Check(w.ctx, w.source(), accessWant())
			if err != nil {
				t.Fatal(err)
			}
			missing := findings(found, transport.CodePermission)
			subject, _, _ := strings.Cut(denied, ".>")
			if len(missing) != 1 || !strings.Contains(missing[0].Fact, name) || !strings.Contains(missing[0].Fact, subject) {
				t.Fatalf("found %s", describe(found))
			}
			w.js = admin
			w.untouched()
		})
	}
}

func TestJetStreamCheckTouchesNothingWhereAllIsAllowed(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{"new server": natstest.Start(t).URL(), "old server": oldnats.Start(t).URL()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &jsWorld{T: t, ctx: testContext(t)}
			w.js, _ = w.connect(url)
			w.provision(w.source(), accessWant())
			w.publish("orders.placed", 1)
			// Each question is answered: none is left to its timeout.
			soon(t, 4*time.Second, "a check", func() {
				found, err := w.js.Check(w.ctx, w.source(), accessWant())
				if err != nil || len(found) > 0 {
					t.Fatalf("check: %v %s", err, describe(found))
				}
			})
			w.untouched()
		})
	}
}
