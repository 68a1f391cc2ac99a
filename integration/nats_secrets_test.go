package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// canary is a secret that must not be seen anywhere.
const canary = "c4n4ry"

// said collects everything that a program could show.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
	n    int
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// say notes a value in every form in which it may be printed, and every error
// within it.
func (s *said) say(v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	_, _ = fmt.Fprintf(&s.text, "%v\n%+v\n%#v\n", v, v, v)
	err, _ := v.(error)
	for err != nil {
		_, _ = fmt.Fprintf(&s.text, "%s\n%q\n", err, err)
		err = errors.Unwrap(err)
	}
	slog.New(slog.NewJSONHandler(&s.text, nil)).Info("said", "value", fmt.Sprint(v))
}

func (s *said) without(t *testing.T, secrets ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range secrets {
		if i := strings.Index(s.text.String(), secret); i >= 0 {
			t.Errorf("a secret was shown: ...%s...", s.text.String()[max(0, i-200):min(s.text.Len(), i+50)])
		}
	}
	if s.n == 0 {
		t.Error("nothing was said, so nothing was shown by it")
	}
}

func TestNoErrorOfAConnectionShowsASecret(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	ca := newAuthority(t, t.TempDir(), "ca")
	ca.issue("server", nil)
	_, _, seed := natstest.NewKey(t, nkeys.CreateUser)
	issuer := natstest.NewIssuer(t)
	_, creds := issuer.User()
	ours := natstest.Start(t, natstest.WithUser("bob", "right", nil)).URL()
	secure := natstest.Start(t, natstest.WithUser("bob", "right", nil), natstest.WithOptions(withTLS(ca, "server", nil, nil))).URL()
	jwt := natstest.Start(t, natstest.WithOptions(natstest.NewIssuer(t).Trusted)).URL()
	dead := "nats://127.0.0.1:1"
	withUser := func(url string) string { return strings.Replace(url, "://", "://bob:"+canary+"@", 1) }
	inContext := func(name, text string) natscore.Option {
		natsWrite(t, filepath.Join(dir, "nats", "context", name+".json"), text)
		return natscore.WithContext(name)
	}
	keyFile, credsFile := natsFile(t, "app.nk", seed), natsFile(t, "app.creds", creds)
	garbage := natsFile(t, "garbage", "-----BEGIN NATS USER JWT-----\n"+canary+"\n------END\nSU"+canary)
	broken := natsFile(t, "broken", strings.Replace(creds, seed[10:20], canary+"AAAA", 1))

	heard := &said{}
	for i, c := range []struct {
		url  string
		opts []natscore.Option
	}{
		{withUser(ours), nil},
		{withUser(secure), nil},
		{withUser(dead), nil},
		{withUser(dead) + "," + withUser(ours), nil},
		{"nats://" + canary + "@127.0.0.1:1", nil},
		{"nats://bob:" + canary + "%zz@127.0.0.1:1", nil},
		{"nats://bob:" + canary + "/x@127.0.0.1:1", nil},
		{"ws://bob:" + canary + "@127.0.0.1:1", nil},
		{"ws://bob:" + canary + "@127.0.0.1:1," + withUser(ours), nil},
		{"bad://bob:" + canary + "@127.0.0.1:1", nil},
		{withUser(ours), []natscore.Option{natscore.WithUser("bob", canary), natscore.WithToken(canary)}},
		{ours, []natscore.Option{natscore.WithUser("bob", canary)}},
		{ours, []natscore.Option{natscore.WithUser("", canary)}},
		{ours, []natscore.Option{natscore.WithToken(canary)}},
		{ours, []natscore.Option{natscore.WithNKeyFile(keyFile)}},
		{ours, []natscore.Option{natscore.WithNKeyFile(garbage)}},
		{ours, []natscore.Option{natscore.WithCredsFile(credsFile)}},
		{jwt, []natscore.Option{natscore.WithCredsFile(credsFile)}},
		{jwt, []natscore.Option{natscore.WithCredsFile(broken)}},
		{jwt, []natscore.Option{natscore.WithCredsFile(garbage)}},
		{ours, []natscore.Option{natscore.WithCA(garbage)}},
		{ours, []natscore.Option{natscore.WithClientCert(garbage, garbage)}},
		{"", []natscore.Option{inContext("dead", `{"url":"nats://`+canary+`@127.0.0.1:1","password":"`+canary+`","user":"bob"}`)}},
		{"", []natscore.Option{inContext("wrong", `{"url":"`+ours+`","password":"`+canary+`","user":"bob"}`)}},
		{"", []natscore.Option{inContext("broken", `{"url":"`+ours+`","password":"`+canary+`"`+canary)}},
		{"", []natscore.Option{inContext("typed", `{"url":"`+ours+`","password":{"`+canary+`":1}}`)}},
		{"", []natscore.Option{inContext("behind", `{"url":"`+ours+`","password":"op://`+canary+`","user":"bob"}`)}},
	} {
		tr, err := natscore.Connect(coreContext(t), c.url, c.opts...)
		if err == nil {
			coreClose(t, tr.Close)
			t.Errorf("case %d connected", i)
			continue
		}
		heard.say(err)
	}
	heard.without(t, canary, seed, strings.Split(creds, "\n")[1])
}

func TestNothingThatARunningConnectionSaysShowsASecret(t *testing.T) {
	t.Parallel()
	allow := &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.ACK.>", "closed.>"}}}
	s := natstest.Start(t, natstest.WithUser("bob", canary, allow))
	heard := &said{}
	js, err := jetstream.Connect(coreContext(t), s.URLFor("bob", canary), jetstream.WithNATS(natstest.Patient()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { coreClose(t, js.Close) })
	byOption, err := jetstream.Connect(coreContext(t), s.URL(), jetstream.WithUser("bob", canary), jetstream.WithNATS(natstest.Patient()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { coreClose(t, byOption.Close) })
	core := coreConnect(t, s.URLFor("bob", canary))
	for _, tr := range []interface {
		transport.Transport
		transport.Observable
	}{js, byOption, core} {
		tr.Observe(func(e transport.Event) { heard.say(e); heard.say(e.Err) })
		heard.say(tr)
		heard.say(tr.Publish(t.Context(), transport.Address{Name: "closed.to.us"}, &transport.Message{}))
		heard.say(tr.Publish(t.Context(), transport.Address{Name: "nobody.there"}, &transport.Message{ID: "1"}))
	}
	log := slog.New(slog.NewJSONHandler(heard, &slog.HandlerOptions{Level: slog.LevelDebug}))
	app := holdfast.New(holdfast.Config{Name: "canary", Logger: log})
	src := byOption.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing", Start: jetstream.StartAll()})
	heard.say(src)
	holdfast.Handle(app, src, func(context.Context, *holdfast.Message[[]byte]) error { return nil })
	found, err := app.Check(t.Context())
	heard.say(err)
	heard.say(found)
	heard.say(app.Run(t.Context())) // it may not ack

	// The password is another one now: nobody gets in any more.
	s.RestartWith(func(o *server.Options) { o.Users[0].Password = "another" })
	coreEventually(t, "the refusal", func() bool {
		return errors.Is(js.Conn().LastError(), nats.ErrAuthorization)
	})
	for _, tr := range []transport.Transport{js, byOption, core} {
		heard.say(tr.Publish(t.Context(), transport.Address{Name: "nobody.there"}, &transport.Message{ID: "1"}))
		_, err := tr.Check(t.Context(), src, transport.Want{Subscription: "billing", Concurrency: 1})
		heard.say(err)
	}
	heard.say(js.Conn().LastError())
	heard.without(t, canary)
}
