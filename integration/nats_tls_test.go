package integration_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// natsSeen collects the names in the certificates that clients showed.
type natsSeen struct {
	mu    sync.Mutex
	names []string
}

func (s *natsSeen) verify(state tls.ConnectionState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(state.PeerCertificates) > 0 {
		s.names = append(s.names, state.PeerCertificates[0].Subject.CommonName)
	}
	return nil
}

func (s *natsSeen) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.names) == 0 {
		return ""
	}
	return s.names[len(s.names)-1]
}

// withTLS makes a server show this certificate of the authority. It asks clients
// for one of clients, unless that is nil.
func withTLS(a *authority, name string, clients *authority, seen *natsSeen) func(*server.Options) {
	return func(o *server.Options) {
		cert, err := tls.LoadX509KeyPair(a.path(name+".pem"), a.path(name+"-key.pem"))
		if err != nil {
			a.t.Fatal(err)
		}
		cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		if clients != nil {
			cfg.ClientCAs = x509.NewCertPool()
			cfg.ClientCAs.AddCert(clients.cert)
			cfg.ClientAuth = tls.RequireAndVerifyClientCert
			cfg.VerifyConnection = seen.verify
			o.TLSVerify = true
		}
		o.TLSConfig = cfg
	}
}

func TestCertificatesThatWereReplacedAreInUseAfterTheNextReconnect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	ca.issue("server", nil)
	named := func(name string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject.CommonName = name }
	}
	ca.issue("client", named("one"))
	seen := &natsSeen{}
	s := natstest.Start(t, natstest.WithOptions(withTLS(ca, "server", ca, seen)))
	tr := coreConnect(t, s.URL(), natscore.WithCA(ca.path("ca.pem")), natscore.WithClientCert(ca.path("client.pem"), ca.path("client-key.pem")))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, _ = w.connect(s.URL(), jetstream.WithCA(ca.path("ca.pem")), jetstream.WithClientCert(ca.path("client.pem"), ca.path("client-key.pem")))
	corePublish(t, tr, "hello", "x")
	if seen.last() != "one" {
		t.Fatalf("the server saw the certificate of %q", seen.last())
	}

	ca.issue("client", named("two"))
	s.CutClients()
	coreEventually(t, "the new certificate", func() bool { return seen.last() == "two" })
	coreEventually(t, "a publish on it", func() bool {
		return tr.Publish(t.Context(), transport.Address{Name: "hello"}, &transport.Message{}) == nil
	})

	// The authority itself is replaced, on both sides.
	next := newAuthority(t, t.TempDir(), "ca")
	next.issue("server", nil)
	next.issue("client", named("three"))
	for _, file := range []string{"ca.pem", "client.pem", "client-key.pem"} {
		natsWrite(t, ca.path(file), string(next.read(file)))
	}
	s.RestartWith(withTLS(next, "server", next, seen))
	coreEventually(t, "a publish under the new authority", func() bool {
		return tr.Publish(t.Context(), transport.Address{Name: "hello"}, &transport.Message{}) == nil
	})
	coreEventually(t, "the other transport", func() bool { return w.js.Conn().IsConnected() })
	if seen.last() != "three" {
		t.Errorf("the server saw the certificate of %q", seen.last())
	}
}

func TestWhoeverIsNotTrustedIsRefusedWithAHint(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, t.TempDir(), "ca"), newAuthority(t, t.TempDir(), "ca")
	ca.issue("server", nil)
	ca.issue("elsewhere", func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"elsewhere.example"}, nil })
	ca.issue("old", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	ca.issue("client", nil)
	other.issue("client", nil)
	start := func(name string, clients *authority) string {
		return natstest.Start(t, natstest.WithOptions(withTLS(ca, name, clients, &natsSeen{}))).URL()
	}
	trusting, plain := start("server", nil), natstest.Start(t).URL()
	asking := start("server", ca)
	trust := natscore.WithCA(ca.path("ca.pem"))
	cert := func(a *authority) natscore.Option {
		return natscore.WithClientCert(a.path("client.pem"), a.path("client-key.pem"))
	}
	for name, c := range map[string]struct {
		url  string
		opts []natscore.Option
		hint string
	}{
		"another authority":        {trusting, []natscore.Option{natscore.WithCA(other.path("ca.pem"))}, "WithCA"},
		"the system's authorities": {trusting, nil, "WithCA"},
		"another host":             {start("elsewhere", nil), []natscore.Option{trust}, "another host"},
		"an old certificate":       {start("old", nil), []natscore.Option{trust}, "not valid at this time"},
		"no client certificate":    {asking, []natscore.Option{trust}, "WithClientCert"},
		"another's client":         {asking, []natscore.Option{trust, cert(other)}, "WithClientCert"},
		"a server without TLS":     {plain, []natscore.Option{trust}, "offers no TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What is wrong stays wrong: nobody waits for it.
			tr, err := natscore.Connect(coreContext(t), c.url, append(c.opts, natscore.WaitForBroker(), natscore.WithNATS(natstest.Patient()))...)
			if err == nil {
				coreClose(t, tr.Close)
				t.Fatal("it was trusted")
			}
			e, ok := errors.AsType[*transport.Error](err)
			if !ok || e.Kind != transport.Permanent || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("%v", err)
			}
		})
	}
	coreConnect(t, trusting, trust)
	coreConnect(t, asking, trust, cert(ca))
}

func TestTheHandshakeMayComeFirst(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, t.TempDir(), "ca")
	ca.issue("server", nil)
	s := natstest.Start(t, natstest.WithOptions(withTLS(ca, "server", nil, nil)), natstest.WithOptions(func(o *server.Options) {
		o.TLSHandshakeFirst, o.TLSHandshakeFirstFallback = true, 0
	}))
	trust, first := natscore.WithCA(ca.path("ca.pem")), natscore.WithTLSFirst()
	corePublish(t, coreConnect(t, s.URL(), trust, first), "hello", "x")
	js, err := jetstream.Connect(coreContext(t), s.URL(), jetstream.WithCA(ca.path("ca.pem")), jetstream.WithTLSFirst(), jetstream.WithNATS(natstest.Patient()))
	if err != nil {
		t.Fatal(err)
	}
	coreClose(t, js.Close)
	if tr, err := natscore.Connect(coreContext(t), s.URL(), trust); err == nil {
		coreClose(t, tr.Close)
		t.Error("the server greeted first")
	}
}

func TestMessagesFlowOverAWebsocket(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.WithOptions(func(o *server.Options) {
		o.Websocket = server.WebsocketOpts{Host: "127.0.0.1", Port: -1, NoTLS: true}
	}))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	url := s.Server().WebsocketURL()
	if !strings.HasPrefix(url, "ws://") {
		t.Fatalf("the server's websocket is at %q", url)
	}
	w.js, _ = w.connect(url)
	w.provision(w.source(), want(1))
	rx := w.open(w.source(), want(1))
	for i := range 2 {
		m := &transport.Message{ID: fmt.Sprint("m", i), Body: []byte("x")}
		if err := w.js.Publish(w.ctx, transport.Address{Name: "orders.placed"}, m); err != nil {
			t.Fatal(err)
		}
		d, err := rx.Receive(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Ack(w.ctx); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			s.CutClients()
			coreEventually(t, "the connection to be back", func() bool {
				return w.js.Conn().Stats().Reconnects > 0 && w.js.Conn().IsConnected()
			})
		}
	}
}

func TestOneServerOfSeveralIsEnough(t *testing.T) {
	t.Parallel()
	one, two := natstest.Start(t), natstest.Start(t)
	dead := natstest.New(t).URL()
	// The third is not there, and the other two do not know of each other.
	tr := coreConnect(t, fmt.Sprintf("%s, %s,%s", dead, one.URL(), two.URL()))
	corePublish(t, tr, "hello", "x")
	alive, gone := two, one
	if addressOf(t, tr.Conn().ConnectedUrl()) == addressOf(t, two.URL()) {
		alive, gone = one, two
	}
	gone.Stop()
	coreEventually(t, "a publish on the other server", func() bool {
		return tr.Publish(t.Context(), transport.Address{Name: "hello"}, &transport.Message{}) == nil
	})
	if addressOf(t, tr.Conn().ConnectedUrl()) != addressOf(t, alive.URL()) {
		t.Errorf("connected to %s", tr.Conn().ConnectedUrl())
	}
}

func addressOf(t *testing.T, url string) string {
	t.Helper()
	_, address, _ := strings.Cut(url, "://")
	if _, _, err := net.SplitHostPort(address); err != nil {
		t.Fatal(err)
	}
	return address
}
