package integration_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/integration/internal/oldnats"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

// Trap 43: a server of version 2.9, which drops in silence what it does not
// know.
func newOldWorld(t *testing.T) *jsWorld {
	t.Helper()
	w := &jsWorld{T: t, ctx: testContext(t)}
	w.js, w.events = w.connect(oldnats.Start(t).URL())
	return w
}

func TestJetStreamKeepsItsPromisesOnAnOldServer(t *testing.T) {
	t.Parallel()
	for _, p := range transporttest.Promises() {
		switch p.Name {
		case "ReturnedDeliveryIsNotCounted", "UnseenMessagesAreNotCounted":
			continue // it has no metadata to remember them by, see below
		}
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			jetStreamPromise(t, p, func(t testing.TB) transporttest.Harness { return oldHarness(t, oldnats.Start(t)) })
		})
	}
}

func oldHarness(t testing.TB, s *oldnats.Server) transporttest.Harness {
	t.Helper()
	js, err := jetstream.Connect(t.Context(), s.URL(), jetstream.WithNATS(natstest.Patient(), nats.ReconnectWait(20*time.Millisecond)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = js.Close(context.Background()) })
	return jetStreamPromises(js, s.Restart, func(t testing.TB) transporttest.Harness { return oldHarness(t, s) })
}

func TestJetStreamOldServerThatDropsStreamSettingsIsRefused(t *testing.T) {
	t.Parallel()
	w := newOldWorld(t)
	src := w.source(func(c *jetstream.ConsumerConfig) {
		c.StreamConfig = &natsjs.StreamConfig{Subjects: c.Subjects, Compression: natsjs.S2Compression}
	})
	found, err := w.js.Check(w.ctx, src, want(1))
	if err != nil || len(findings(found, transport.CodeServerTooOld)) != 1 {
		t.Fatalf("check: %v %s", err, describe(found))
	}
	report, err := w.js.Provision(w.ctx, src, want(1))
	if !errors.Is(err, transport.ErrUnsupported) || transport.KindOf(err) != transport.Permanent {
		t.Fatalf("provision: %v", err)
	}
	old := findings(report.Findings, transport.CodeServerTooOld)
	if len(old) != 1 || !strings.Contains(old[0].Fact, "compression") {
		t.Fatalf("found %s", describe(report.Findings))
	}
	if _, err := w.js.JetStream().Stream(w.ctx, "ORDERS"); !errors.Is(err, natsjs.ErrStreamNotFound) {
		t.Fatalf("a stream without the setting is left behind: %v", err)
	}
}

func TestJetStreamOldServerGetsNoConsumerThatTakesTooMuch(t *testing.T) {
	t.Parallel()
	w := newOldWorld(t)
	w.provision(w.source(), want(1))
	src := w.source(func(c *jetstream.ConsumerConfig) {
		c.Durable, c.Subjects = "two", []string{"orders.placed", "orders.paid"}
	})
	found, err := w.js.Check(w.ctx, src, want(1))
	if err != nil || len(findings(found, transport.CodeServerTooOld)) != 1 {
		t.Fatalf("check: %v %s", err, describe(found))
	}
	report, err := w.js.Provision(w.ctx, src, want(1))
	if !errors.Is(err, transport.ErrUnsupported) || len(findings(report.Findings, transport.CodeServerTooOld)) != 1 {
		t.Fatalf("provision: %v %s", err, describe(report.Findings))
	}
	// Without its filters it would take every message of the stream.
	if _, err := w.js.JetStream().Consumer(w.ctx, "ORDERS", "two"); !errors.Is(err, natsjs.ErrConsumerNotFound) {
		t.Fatalf("the consumer is left behind: %v", err)
	}
}

func TestJetStreamOldServerTakesAReject(t *testing.T) {
	t.Parallel()
	w := newOldWorld(t)
	rx := w.started(w.source(briefly), want(1))
	w.publish("orders.placed", 1)
	d := w.receive(rx)
	// An old server would take "+TERM reason" for a word it does not know.
	if err := d.(transport.Rejecter).Reject(w.ctx, "no good"); err != nil {
		t.Fatal(err)
	}
	w.nothing(rx, brief+time.Second)
	if info := w.consumer("ORDERS", "billing"); info.NumAckPending != 0 {
		t.Fatalf("%d are pending after a reject", info.NumAckPending)
	}
}

// An old server does not know the action of a consumer's creation, and would
// take each for an update.
func TestJetStreamTwoReleasesOnAnOldServerDoNotFlap(t *testing.T) {
	t.Parallel()
	w := newOldWorld(t)
	old := w.source()
	next := w.source(func(c *jetstream.ConsumerConfig) { c.AckWait = 2 * lease })
	w.provision(old, want(1))
	for range 3 {
		report := w.provision(next, want(1))
		if len(report.Updated) > 0 || len(findings(report.Findings, transport.CodeConsumerDrift)) != 1 {
			t.Fatalf("the next release did %v and found %s", report.Updated, describe(report.Findings))
		}
		if report := w.provision(old, want(1)); len(report.Created)+len(report.Updated)+len(report.Findings) > 0 {
			t.Fatalf("the old release did something: %+v", report)
		}
		if wait := w.consumer("ORDERS", "billing").Config.AckWait; wait != lease {
			t.Fatalf("the ack wait flapped to %s", wait)
		}
	}
}

func TestJetStreamOldServerCountsWhatIsReturned(t *testing.T) {
	t.Parallel()
	w := newOldWorld(t)
	rx := w.started(w.source(), want(0))
	w.publish("orders.placed", 1)
	d := w.receive(rx)
	// With no pull beside the one message: a server of version 2.9 counts one too
	// few when it finds a pull whose receiver is gone.
	if err := rx.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.(transport.Returner).Return(w.ctx); err != nil {
		t.Fatal(err)
	}
	d = w.receive(w.open(w.source(), want(0)))
	if n := d.Deliveries(); n < 2 {
		t.Fatalf("delivery %d, and the server can remember nothing", n)
	}
	w.ack(d)
}
