package integration_test

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// withWebsocket lets a server take clients over a websocket with TLS.
func withWebsocket(ca *authority) func(*server.Options) {
	return func(o *server.Options) {
		cert, err := tls.LoadX509KeyPair(ca.path("server.pem"), ca.path("server-key.pem"))
		if err != nil {
			ca.t.Fatal(err)
		}
		o.Websocket = server.WebsocketOpts{
			Host: "127.0.0.1", Port: natstest.FreePort(ca.t),
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		}
	}
}

// A subscription, a publisher and a request work over wss:// with a credentials
// file, of an operator's JWT, and go on after the connection was cut.
func TestWebsocketWithTLSAndCredentialsFileServesBothTransports(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, t.TempDir(), "ca")
	ca.issue("server", nil)
	issuer := natstest.NewIssuer(t)
	s := natstest.Start(t, natstest.WithOptions(issuer.Storing), natstest.WithOptions(withWebsocket(ca)))
	_, creds := issuer.User()
	file, trust := natsFile(t, "app.creds", creds), ca.path("ca.pem")
	url := s.Server().WebsocketURL()
	if !strings.HasPrefix(url, "wss://") {
		t.Fatalf("the server takes clients at %s", url)
	}
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, w.events = w.connect(url, jetstream.WithCredsFile(file), jetstream.WithCA(trust))
	core := coreConnect(t, url, natscore.WithCredsFile(file), natscore.WithCA(trust))

	var handled atomic.Int64
	app := holdfast.New(holdfast.Config{Name: "shop"})
	holdfast.Handle(app, w.source(), func(context.Context, *holdfast.Message[string]) error { handled.Add(1); return nil })
	holdfast.Reply(app, core.Subject(natscore.SubjectConfig{Subject: "quotes.get", Group: "quotes"}),
		func(_ context.Context, m *holdfast.Message[string]) (string, error) { return m.Body + "!", nil })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the app ended with %v", err)
		}
	}()
	eventually(t, "the app runs", func() bool { return app.Health().Healthy })
	p := holdfast.NewPublisher[string](w.js, jetstream.Subject("orders.placed"))
	round := func(n int64) {
		t.Helper()
		if err := p.Publish(w.ctx, "tea"); err != nil {
			t.Fatalf("publish: %v", err)
		}
		eventually(t, "it is handled", func() bool { return handled.Load() >= n })
		w.retry("a request is answered", func(ctx context.Context) error {
			answer, err := holdfast.Request[string, string](ctx, core, natscore.Subject("quotes.get"), "tea")
			if err == nil && answer != "tea!" {
				t.Errorf("the answer is %q", answer)
			}
			return err
		})
	}
	round(1)
	before := w.js.Conn().Stats().Reconnects
	s.CutClients()
	eventually(t, "the connections are back", func() bool {
		return w.js.Conn().IsConnected() && core.Conn().IsConnected() && w.js.Conn().Stats().Reconnects > before
	})
	round(2)
	if left, err := p.Close(w.ctx); len(left) > 0 || err != nil {
		t.Errorf("the publisher was closed with %d messages: %v", len(left), err)
	}
}

// Who is refused over wss:// is told why, without a secret.
func TestWebsocketRefusalsSayHowToMendThem(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, t.TempDir(), "ca")
	ca.issue("server", nil)
	s := natstest.Start(t, natstest.WithUser("bob", "s3cret", nil), natstest.WithOptions(withWebsocket(ca)))
	url := s.Server().WebsocketURL()
	with := strings.Replace(url, "wss://", "wss://bob:hunter2@", 1)
	_, err := jetstream.Connect(coreContext(t), with, jetstream.WithNATS(natstest.Patient()))
	if err == nil || !strings.Contains(err.Error(), "WithCA") || transport.KindOf(err) != transport.Permanent {
		t.Errorf("without the authority: %v", err)
	}
	_, wrong := jetstream.Connect(coreContext(t), with, jetstream.WithCA(ca.path("ca.pem")), jetstream.WithNATS(natstest.Patient()))
	if !errors.Is(wrong, transport.ErrPermission) {
		t.Errorf("with a wrong password: %v", wrong)
	}
	for _, err := range []error{err, wrong} {
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "bob:")) {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
}
