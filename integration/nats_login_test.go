package integration_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// natsLogin is one login, as the options of either package say it.
type natsLogin struct {
	core natscore.Option
	js   jetstream.Option
}

// bothConnect connects with either package and publishes on NATS core, which
// fails when the server did not take the login.
func bothConnect(t *testing.T, url string, l natsLogin) {
	t.Helper()
	core := coreConnect(t, url, l.core)
	corePublish(t, core, "hello", "x")
	js, err := jetstream.Connect(coreContext(t), url, l.js, jetstream.WithNATS(natstest.Patient()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { coreClose(t, js.Close) })
	if !js.Conn().IsConnected() {
		t.Error("the transport for JetStream is not connected")
	}
}

// natsFile writes a file of the test's own and returns its path.
func natsFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	natsWrite(t, path, text)
	return path
}

func natsWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEveryLoginOpensAConnectionOnBothTransports(t *testing.T) {
	t.Parallel()
	_, public, seed := natstest.NewKey(t, nkeys.CreateUser)
	s := natstest.Start(t, natstest.WithUser("bob", "s3cret", nil), natstest.WithOptions(func(o *server.Options) {
		o.Nkeys = []*server.NkeyUser{{Nkey: public}}
	}))
	issuer := natstest.NewIssuer(t)
	_, creds := issuer.User()
	withJWT := natstest.Start(t, natstest.WithOptions(issuer.Trusted))
	withToken := natstest.Start(t, natstest.WithOptions(func(o *server.Options) { o.Authorization = "t0ken" }))
	keyFile, credsFile := natsFile(t, "bob.nk", seed), natsFile(t, "bob.creds", creds)
	none := natsLogin{natscore.WithName("x"), jetstream.WithName("x")}
	for name, c := range map[string]struct {
		url   string
		login natsLogin
	}{
		"user of the URL":  {s.URLFor("bob", "s3cret"), none},
		"token of the URL": {strings.Replace(withToken.URL(), "://", "://t0ken@", 1), none},
		"user":             {s.URL(), natsLogin{natscore.WithUser("bob", "s3cret"), jetstream.WithUser("bob", "s3cret")}},
		"token":            {withToken.URL(), natsLogin{natscore.WithToken("t0ken"), jetstream.WithToken("t0ken")}},
		"nkey":             {s.URL(), natsLogin{natscore.WithNKeyFile(keyFile), jetstream.WithNKeyFile(keyFile)}},
		"credentials file": {withJWT.URL(), natsLogin{natscore.WithCredsFile(credsFile), jetstream.WithCredsFile(credsFile)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothConnect(t, c.url, c.login)
			plain, _, _ := strings.Cut(c.url, "://")
			_, host, found := strings.Cut(c.url, "@")
			if !found {
				host = strings.TrimPrefix(c.url, plain+"://")
			}
			if _, err := natscore.Connect(coreContext(t), plain+"://"+host, natscore.WithNATS(natstest.Patient())); !errors.Is(err, transport.ErrPermission) {
				t.Errorf("without the login: %v", err)
			}
		})
	}
}

func TestAnNKeyThatWasReplacedIsInUseAfterTheNextReconnect(t *testing.T) {
	t.Parallel()
	_, one, seed := natstest.NewKey(t, nkeys.CreateUser)
	file := natsFile(t, "app.nk", seed)
	allow := func(public string) func(*server.Options) {
		return func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }
	}
	s := natstest.Start(t, natstest.WithOptions(allow(one)))
	tr := coreConnect(t, s.URL(), natscore.WithNKeyFile(file))
	js, err := jetstream.Connect(coreContext(t), s.URL(), jetstream.WithNKeyFile(file), jetstream.WithNATS(natstest.Patient()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { coreClose(t, js.Close) })

	_, two, next := natstest.NewKey(t, nkeys.CreateUser)
	natsWrite(t, file, next)
	s.RestartWith(allow(two))
	coreEventually(t, "a publish under the new key", func() bool {
		return tr.Publish(t.Context(), transport.Address{Name: "hello"}, &transport.Message{}) == nil
	})
	coreEventually(t, "the other transport", func() bool { return js.Conn().IsConnected() })
	// A pipeline has a connection of its own.
	if _, err := js.OpenPipeline(coreContext(t), func(uint64, error) {}); err != nil {
		t.Fatal(err)
	}
	for _, nc := range []*nats.Conn{tr.Conn(), js.Conn()} {
		if nc.Opts.Nkey != two {
			t.Error("the connection was made with the key that was replaced")
		}
	}
}

func TestACredentialsFileThatWasReplacedIsInUseAfterTheNextReconnect(t *testing.T) {
	t.Parallel()
	issuer := natstest.NewIssuer(t)
	old, creds := issuer.User()
	file := natsFile(t, "app.creds", creds)
	s := natstest.Start(t, natstest.WithOptions(issuer.Trusted))
	tr := coreConnect(t, s.URL(), natscore.WithCredsFile(file))

	issuer.Revoke(old)
	s.RestartWith(issuer.Trusted)
	coreEventually(t, "the loss of the connection", func() bool { return !tr.Conn().IsConnected() })
	if _, err := natscore.Connect(coreContext(t), s.URL(), natscore.WithCredsFile(file), natscore.WithNATS(natstest.Patient())); !errors.Is(err, transport.ErrPermission) {
		t.Fatalf("with credentials that were revoked: %v", err)
	}
	_, creds = issuer.User()
	natsWrite(t, file, creds)
	coreEventually(t, "a publish under the new credentials", func() bool {
		return tr.Publish(t.Context(), transport.Address{Name: "hello"}, &transport.Message{}) == nil
	})
}

func TestSettingsOfALoginThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]natscore.Option{
		"two logins":                {natscore.WithUser("a", "b"), natscore.WithToken("c")},
		"a password without a user": {natscore.WithUser("", "b")},
		"a missing creds file":      {natscore.WithCredsFile("missing.creds")},
		"a missing nkey file":       {natscore.WithNKeyFile("missing.nk")},
		"a missing authority":       {natscore.WithCA("missing.pem")},
		"a missing certificate":     {natscore.WithClientCert("missing.pem", "missing-key.pem")},
		"half a certificate":        {natscore.WithClientCert("missing.pem", "")},
	} {
		opts = append(opts, natscore.WaitForBroker())
		_, err := natscore.Connect(coreContext(t), "nats://127.0.0.1:1", opts...)
		if !errors.Is(err, transport.ErrInvalid) || transport.KindOf(err) != transport.Permanent {
			t.Errorf("%s: %v", name, err)
		}
	}
	nc := natstest.Start(t).Conn()
	if _, err := jetstream.New(nc, jetstream.WithUser("a", "b")); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a login for a connection that was made elsewhere: %v", err)
	}
}

// TestContextsOfTheNATSProgramAreRead changes the environment: it is not parallel.
func TestContextsOfTheNATSProgramAreRead(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("NATS_CONTEXT", "")
	_, public, seed := natstest.NewKey(t, nkeys.CreateUser)
	s := natstest.Start(t, natstest.WithUser("bob", "s3cret", nil), natstest.WithUser("eve", "other", nil), natstest.WithOptions(func(o *server.Options) {
		o.Nkeys = []*server.NkeyUser{{Nkey: public}}
	}))
	t.Setenv("HOLDFAST_TEST_KEYS", filepath.Dir(natsFile(t, "app.nk", seed)))
	put := func(name, text string) {
		natsWrite(t, filepath.Join(dir, "nats", "context", name+".json"), strings.ReplaceAll(text, "URL", s.URL()))
	}
	put("prod", `{"url":"URL","user":"bob","password":"s3cret","inbox_prefix":"_MINE","jetstream_domain":"hub","color_scheme":""}`)
	put("key", `{"url":"URL","nkey":"$HOLDFAST_TEST_KEYS/app.nk"}`)
	put("nsc", `{"url":"URL","nsc":"nsc://o/a/u"}`)
	put("op", `{"url":"URL","user":"bob","password":"op://vault/bob"}`)

	if _, err := natscore.Connect(coreContext(t), "", natscore.WithContext("")); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("with no context selected: %v", err)
	}
	bothConnect(t, "", natsLogin{natscore.WithContext("prod"), jetstream.WithContext("prod")})
	bothConnect(t, "", natsLogin{natscore.WithContext("key"), jetstream.WithContext("key")})

	natsWrite(t, filepath.Join(dir, "nats", "context.txt"), "prod\n")
	tr := coreConnect(t, "", natscore.WithContext(""))
	if inbox := tr.Conn().NewInbox(); !strings.HasPrefix(inbox, "_MINE.") {
		t.Errorf("the inbox of the selected context is %s", inbox)
	}
	t.Setenv("NATS_CONTEXT", "key")
	if nc := coreConnect(t, "", natscore.WithContext("")).Conn(); nc.Opts.Nkey != public {
		t.Error("$NATS_CONTEXT does not win over the selected context")
	}
	// What is given beside a context wins, a login as a whole.
	if nc := coreConnect(t, "", natscore.WithContext("key"), natscore.WithUser("eve", "other")).Conn(); nc.Opts.User != "eve" || nc.Opts.Nkey != "" {
		t.Errorf("the login beside the context: user %q, nkey %q", nc.Opts.User, nc.Opts.Nkey)
	}
	for _, name := range []string{"nsc", "op", "missing", "../context/prod", "a/b", ".."} {
		if _, err := natscore.Connect(coreContext(t), "", natscore.WithContext(name)); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("the context %q: %v", name, err)
		}
	}
}

func TestAnInboxPrefixServesAccountsThatMayNotUseAnother(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.WithUser("bob", "b", &server.Permissions{
		Subscribe: &server.SubjectPermission{Allow: []string{"_MINE.>"}},
	}))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, _ = w.connect(s.URLFor("bob", "b"), jetstream.WithInboxPrefix("_MINE"))
	w.provision(w.source(), want(1))
	w.publish("orders.placed", 1)
	rx := w.open(w.source(), want(1))
	d, err := rx.Receive(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Ack(w.ctx); err != nil {
		t.Error(err)
	}
	core := coreConnect(t, s.URLFor("bob", "b"))
	ctx, cancel := context.WithTimeout(t.Context(), corePatience)
	defer cancel()
	if _, err := core.Request(ctx, transport.Address{Name: "hello"}, &transport.Message{}); !errors.Is(err, transport.ErrPermission) {
		t.Errorf("a request whose answer cannot come: %v", err)
	}
}
