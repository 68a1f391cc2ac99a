package integration_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// Trap 7: the client library closes a connection for good when the server
// reports an error it does not know. The connection is made anew, and the
// subscription goes on and says that it does.
func TestJetStreamConnectionClosedForGoodIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	var handled atomic.Int64
	a := w.startApp(func(context.Context, *holdfast.Message[string]) error { handled.Add(1); return nil })
	state := func() observe.State { return a.app.Health().Subscriptions[0].State }
	eventually(t, "the app runs", func() bool { return state() == observe.StateRunning })
	for round := range 2 {
		gone := a.js.Conn()
		if err := gone.Publish(strings.Repeat("a", 5000), nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "there is another connection", func() bool { return a.js.Conn() != gone && a.js.Conn().IsConnected() })
		eventually(t, "the app runs again", func() bool { return state() == observe.StateRunning })
		id := "m" + itoa(round)
		if err := a.js.Publish(w.ctx, transport.Address{Name: "orders.placed"}, &transport.Message{ID: id}); err != nil {
			t.Fatalf("publish over the new connection: %v", err)
		}
		eventually(t, "it is handled", func() bool { return int(handled.Load()) == round+1 })
	}
	if a.js.JetStream().Conn() != a.js.Conn() {
		t.Error("the native handle is on a connection that is gone")
	}
	a.end(t)
}

// A connection that somebody else made keeps its handlers, while the transport
// is in use and after.
func TestJetStreamAdoptedConnectionKeepsItsHandlers(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	var back atomic.Int64
	nc := w.server.Conn(nats.ReconnectHandler(func(*nats.Conn) { back.Add(1) }))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	log := &eventLog{}
	js.Observe(log.Add)
	w.server.CutClients()
	eventually(t, "both heard of the reconnect", func() bool { return back.Load() == 1 && log.count(transport.Reconnected) == 1 })
	if err := js.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	if nc.IsClosed() {
		t.Fatal("it was closed with the transport")
	}
	w.server.CutClients()
	eventually(t, "its own handler is called", func() bool { return back.Load() == 2 })
	if n := log.count(transport.Reconnected); n != 1 {
		t.Errorf("a closed transport reported %d reconnects", n)
	}
	nc.Close()
	if _, err := jetstream.New(nc); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a closed connection was adopted: %v", err)
	}
}

// Trap 7 as it is met: the server comes back with a smaller max_payload, and
// what is too large now is refused and closes nothing.
func TestJetStreamServerThatComesBackSmallerRefusesWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, w.events = w.connect(s.URL())
	w.provision(w.source(), want(4))
	rx := w.open(w.source(), want(4))
	big := &transport.Message{ID: "big", Body: make([]byte, 512<<10)}
	to := transport.Address{Name: "orders.placed"}
	if err := w.js.Publish(w.ctx, to, big); err != nil {
		t.Fatal(err)
	}
	w.ack(w.receive(rx))
	before := w.js.Conn().Stats().Reconnects
	s.RestartWith(func(o *server.Options) { o.MaxPayload = 4096 })
	eventually(t, "the connection is back", func() bool { return w.js.Conn().IsConnected() && w.js.Conn().Stats().Reconnects > before })
	for range 3 {
		err := w.js.Publish(w.ctx, to, &transport.Message{ID: "big-2", Body: big.Body})
		if !errors.Is(err, transport.ErrTooLarge) || transport.KindOf(err) != transport.Permanent {
			t.Fatalf("publish of too much: %v", err)
		}
		w.retry("a small one is stored", func(ctx context.Context) error {
			return w.js.Publish(ctx, to, &transport.Message{Body: []byte("small")})
		})
		w.ack(w.receive(rx))
	}
	if n := w.events.count(transport.ConnectionLost); n > 0 {
		t.Errorf("%d connections were lost for good", n)
	}
}
