package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// stream makes a stream beside the transport under test.
func (w *jsWorld) stream(cfg natsjs.StreamConfig) {
	w.Helper()
	if _, err := w.js.JetStream().CreateOrUpdateStream(w.ctx, cfg); err != nil {
		w.Fatal(err)
	}
}

func (w *jsWorld) stored(stream string) uint64 {
	w.Helper()
	s, err := w.js.JetStream().Stream(w.ctx, stream)
	if err != nil {
		w.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// Trap 12: a publish whose confirmation was lost is repeated under its ID.
func TestJetStreamRepeatedPublishIsStoredOnce(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.provision(w.source(), want(1))
	w.publish("orders.placed", 1)
	w.publish("orders.placed", 1)
	if n := w.stored("ORDERS"); n != 1 {
		t.Fatalf("%d messages are stored", n)
	}
}

// Trap 14: one ID for two legs of a message.
func TestJetStreamLegsOfOneMessageHaveKeysOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(4))
	for _, leg := range []string{"", "m1:again"} {
		m := &transport.Message{ID: "m1", DedupID: leg, Body: []byte("x")}
		if err := w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, m); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		d := w.receive(rx)
		if d.Message().ID != "m1" {
			t.Fatalf("arrived as %q", d.Message().ID)
		}
		w.ack(d)
	}
}

// Trap 15: headers of the broker on a copy act upon the copy.
func TestJetStreamRefusesHeadersOfTheBroker(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.provision(w.source(), want(1))
	for _, name := range []string{"Nats-Msg-Id", "nats-rollup", "NATS-Expected-Stream"} {
		m := &transport.Message{ID: "a", Header: transport.Header{name: {"x"}}}
		if err := w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, m); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("a message with %s: %v", name, err)
		}
	}
}

// Trap 21: a full stream that refuses.
func TestJetStreamFullStreamIsTemporary(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 1, Discard: natsjs.DiscardNew})
	w.publish("orders.a", 1)
	err := w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, &transport.Message{ID: "other"})
	if err == nil || transport.KindOf(err) != transport.Temporary {
		t.Fatalf("a publish to a full stream: %v", err)
	}
}

// Trap 23 and B24: a foreign message with an empty body and a Status header is
// a message.
func TestJetStreamStatusHeaderIsNoStatus(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(4))
	m := &transport.Message{ID: "a", Header: transport.Header{"Status": {"404"}}}
	if err := w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, m); !errors.Is(err, transport.ErrInvalid) {
		t.Fatalf("the publish of one of our own: %v", err)
	}
	w.foreign("orders.a", "Status: 408\r\nDescription: Request Timeout\r\n", "")
	w.foreign("orders.a", "", "after")
	d := w.receive(rx)
	if d.Message().Header.Get("Status") != "408" {
		t.Fatalf("the message with a Status header did not come first: %+v", d.Message())
	}
	w.ack(d)
	w.ack(w.receive(rx))
}

// Trap 11: what the account may not do is said within a second.
func TestJetStreamMissingPermissionIsNamedSoon(t *testing.T) {
	t.Parallel()
	limited := &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{"$JS.API.STREAM.INFO.>", "$JS.API.INFO", "$JS.ACK.>"}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}
	s := natstest.Start(t, natstest.WithUser("admin", "admin-secret", nil), natstest.WithUser("app", "app-secret", limited))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, _ = w.connect(s.URLFor("admin", "admin-secret"))
	w.provision(w.source(), want(1))

	js, _ := w.connect(s.URLFor("app", "app-secret"))
	soon(t, time.Second, "a publish that is not allowed", func() {
		err := js.Publish(w.ctx, transport.Address{Name: "orders.a"}, &transport.Message{ID: "a"})
		if !errors.Is(err, transport.ErrPermission) || !strings.Contains(err.Error(), "orders.a") || transport.KindOf(err) != transport.Permanent {
			t.Fatalf("a publish that is not allowed: %v", err)
		}
	})
	src := js.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing", Start: jetstream.StartAll()})
	soon(t, 2*time.Second, "a check", func() {
		found, err := js.Check(w.ctx, src, want(1))
		if err != nil || len(findings(found, transport.CodePermission)) == 0 {
			t.Fatalf("check: %v, findings:%s", err, describe(found))
		}
		if strings.Contains(describe(found), "app-secret") {
			t.Fatal("a finding holds the password")
		}
	})
}

func TestJetStreamPublishWithoutAStreamIsUnroutable(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	err := w.js.Publish(w.ctx, transport.Address{Name: "nowhere.a"}, &transport.Message{ID: "a"})
	if !errors.Is(err, transport.ErrUnroutable) || transport.KindOf(err) != transport.Temporary {
		t.Fatalf("got %v", err)
	}
}

func TestJetStreamPublishIsSafeForThousandsAtOnce(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.provision(w.source(), want(1))
	const callers = 2000
	var wg sync.WaitGroup
	errs := make(chan error, callers)
	for i := range callers {
		wg.Go(func() {
			errs <- w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, &transport.Message{ID: fmt.Sprint("p", i), Body: []byte("x")})
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := w.stored("ORDERS"); n != callers {
		t.Fatalf("%d of %d are stored", n, callers)
	}
}

// Traps 5 and 42: nothing is accepted into a hidden buffer.
func TestJetStreamPublishAndAckFailWhileDisconnected(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(1))
	w.publish("orders.a", 1)
	d := w.receive(rx)
	w.server.Stop()
	eventually(t, "the connection is lost", func() bool { return !w.js.Conn().IsConnected() })
	err := w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, &transport.Message{ID: "b"})
	if transport.KindOf(err) != transport.Temporary {
		t.Fatalf("publish: %v", err)
	}
	if err := d.Ack(w.ctx); err == nil {
		t.Fatal("an ack while disconnected returned nil")
	}
	w.server.Start()
	eventually(t, "the failed ack can be repeated", func() bool {
		err := d.Ack(w.ctx)
		return err == nil || errors.Is(err, transport.ErrLeaseLost)
	})
}

func TestJetStreamBrokerThatIsDownIsAnErrorWithoutCredentials(t *testing.T) {
	t.Parallel()
	s := natstest.New(t)
	ctx := testContext(t)
	_, err := jetstream.Connect(ctx, strings.Replace(s.URL(), "nats://", "nats://me:secret@", 1))
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Fatalf("connect: %v", err)
	}
	if _, err := jetstream.Connect(ctx, "nats://me:sec ret%@127.0.0.1:bad"); err == nil || strings.Contains(err.Error(), "ret%") {
		t.Fatalf("connect: %v", err)
	}
}

func TestJetStreamWaitsForTheBrokerWhenToldTo(t *testing.T) {
	t.Parallel()
	s := natstest.New(t)
	ctx := testContext(t)
	url := s.URL()
	done := make(chan error, 1)
	go func() {
		js, err := jetstream.Connect(ctx, url, jetstream.WaitForBroker())
		if err == nil {
			err = js.Close(context.Background())
		}
		done <- err
	}()
	hold(ctx, 300*time.Millisecond)
	s.Start()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	s.Stop()
	if _, err := jetstream.Connect(short, s.URL(), jetstream.WaitForBroker()); err == nil {
		t.Fatal("a broker that never came is no error")
	}
}
