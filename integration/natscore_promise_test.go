package integration_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

func TestCoreConnectSaysWhatIsWrongWithoutCredentials(t *testing.T) {
	t.Parallel()
	down := natstest.New(t)
	guarded := natstest.Start(t, natstest.WithUser("bob", "secret", nil))
	for what, c := range map[string]struct {
		url  string
		opts []natscore.Option
		kind transport.Kind
		hint string
	}{
		"no server":           {down.URLFor("bob", "hunter2"), nil, transport.Temporary, "WaitForBroker"},
		"wrong password":      {guarded.URLFor("bob", "hunter2"), nil, transport.Permanent, "credentials"},
		"wrong and patient":   {guarded.URLFor("bob", "hunter2"), []natscore.Option{natscore.WaitForBroker()}, transport.Permanent, "credentials"},
		"token and no server": {strings.Replace(down.URL(), "//", "//hunter2@", 1), nil, transport.Temporary, "WaitForBroker"},
	} {
		_, err := natscore.Connect(coreContext(t), c.url, append(c.opts, natscore.WithNATS(natstest.Patient()))...)
		if err == nil || transport.KindOf(err) != c.kind {
			t.Errorf("%s: %v", what, err)
			continue
		}
		coreContains(t, err.Error(), c.hint, "127.0.0.1")
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", what, err)
		}
	}
}

func TestCoreConnectWaitsForTheBroker(t *testing.T) {
	t.Parallel()
	s := natstest.New(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	connecting, url := make(chan struct{}), s.URL()
	wg.Go(func() {
		close(connecting)
		tr, err := natscore.Connect(coreContext(t), url, natscore.WaitForBroker(), natscore.WithName("patient"))
		if err != nil {
			t.Error(err)
			return
		}
		corePublish(t, tr, "a", "x")
		coreClose(t, tr.Close)
	})
	<-connecting
	s.Start()
}

func TestCoreConnectStopsWaitingWithItsContext(t *testing.T) {
	t.Parallel()
	s := natstest.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
	defer cancel()
	_, err := natscore.Connect(ctx, s.URL(), natscore.WaitForBroker())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v", err)
	}
}

func TestCoreNewLeavesTheConnectionToItsOwner(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	var users atomic.Int32
	nc := s.Conn(nats.ReconnectHandler(func(*nats.Conn) { users.Add(1) }))
	tr := natscore.New(nc)
	events := coreWatch(t, tr)
	s.CutClients()
	coreEventually(t, "both learn of the reconnect", func() bool {
		return users.Load() == 1 && events.has(transport.Reconnected)
	})
	coreClose(t, tr.Close)
	coreClose(t, tr.Close)
	if err := tr.Publish(t.Context(), transport.Address{Name: "a"}, &transport.Message{}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("publish after Close: %v", err)
	}
	if err := nc.Flush(); err != nil {
		t.Errorf("the owner's connection: %v", err)
	}
}

func TestCoreConnectionClosedByItsOwnerEndsReceivers(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Conn()
	tr := natscore.New(nc)
	events := coreWatch(t, tr)
	rx := coreOpen(t, tr, natscore.SubjectConfig{Subject: "a"}, transport.Want{})
	nc.Close()
	_, err := rx.Receive(coreContext(t))
	if !errors.Is(err, nats.ErrConnectionClosed) || transport.KindOf(err) != transport.Permanent {
		t.Errorf("receive: %v", err)
	}
	if !events.has(transport.ConnectionLost) {
		t.Error("the loss is not reported")
	}
}

func TestCorePermissionLostOnReconnectEndsTheReceiver(t *testing.T) {
	t.Parallel()
	var deny []string
	s := natstest.Start(t, natstest.WithOptions(func(o *server.Options) {
		o.Users = []*server.User{{Username: "bob", Password: "secret"}}
	}))
	tr := coreConnect(t, s.URLFor("bob", "secret"))
	rx := coreOpen(t, tr, natscore.SubjectConfig{Subject: "a.*", Group: "g"}, transport.Want{})
	s.Stop()
	deny = append(deny, "a.>")
	natstest.Start(t, natstest.WithUser("bob", "secret", &server.Permissions{Subscribe: &server.SubjectPermission{Deny: deny}}),
		natstest.WithOptions(func(o *server.Options) { o.Port = corePort(t, s) }))
	_, err := rx.Receive(coreContext(t))
	if !errors.Is(err, transport.ErrPermission) {
		t.Fatalf("receive: %v", err)
	}
	coreContains(t, err.Error(), "a.*")
}

func TestCoreCheckWithoutJetStreamFindsNothing(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.WithoutJetStream())
	tr := coreConnect(t, s.URL())
	findings, err := tr.Check(coreContext(t), tr.Subject(natscore.SubjectConfig{Subject: "a.>"}), transport.Want{Reply: true, Ordered: true})
	if err != nil || len(findings) != 0 {
		t.Errorf("%v, %v", findings, err)
	}
}

func TestCoreCheckDoesNotHangOnASilentJetStream(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.WithoutJetStream())
	nc := s.Conn()
	if _, err := nc.SubscribeSync("$JS.API.>"); err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	tr := coreConnect(t, s.URL())
	// Of the patience that the context has it takes little.
	findings, err := tr.Check(coreContext(t), tr.Subject(natscore.SubjectConfig{Subject: "a"}), transport.Want{})
	if err != nil {
		t.Fatal(err)
	}
	if f := coreFinding(t, findings, transport.CodeUnreachable); f.Level != transport.LevelWarning {
		t.Errorf("the finding is %v", f)
	}
}

func TestCoreCheckNamesEveryFaultOfAConfiguration(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	tr := coreConnect(t, s.URL())
	src := tr.Subject(natscore.SubjectConfig{Subject: "a..b", Group: "two words", PendingMessages: -1, PendingBytes: -1})
	findings, err := tr.Check(coreContext(t), src, transport.Want{})
	if err != nil || len(findings) != 4 {
		t.Errorf("%v, %v", findings, err)
	}
	if _, err := tr.Open(coreContext(t), src, transport.Want{}); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("open: %v", err)
	}
	other := coreConnect(t, s.URL())
	if _, err := other.Check(coreContext(t), src, transport.Want{}); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("the source of another transport: %v", err)
	}
}

func TestCoreStreamsBeyondOnePageAreFound(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.WithoutJetStream())
	nc := s.Conn()
	// A server answers with 1024 names at most; a stand-in answers with two.
	_, err := nc.Subscribe("$JS.API.STREAM.NAMES", func(m *nats.Msg) {
		page := `["A","B"]`
		if strings.Contains(string(m.Data), `"offset":2`) {
			page = `["C"]`
		}
		_ = m.Respond([]byte(`{"total":3,"streams":` + page + `}`))
	})
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	tr := coreConnect(t, s.URL())
	findings, err := tr.Check(coreContext(t), tr.Subject(natscore.SubjectConfig{Subject: "a"}), transport.Want{})
	if err != nil {
		t.Fatal(err)
	}
	coreContains(t, coreFinding(t, findings, transport.CodeCaptured).Fact, "A, B, C")
}

func TestCoreGroupSharesAndPrefixMovesIt(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	tr := coreConnect(t, s.URL())
	src := tr.Subject(natscore.SubjectConfig{Subject: "orders", Group: "g"}).(transport.Prefixer).WithPrefix("eu.")
	if src.Name() != "eu.g" || src.String() != "NATS core subject eu.orders in group eu.g" {
		t.Errorf("the source is %q, %q", src.Name(), src)
	}
	var got atomic.Int32
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(coreContext(t))
	for range 2 {
		rx, err := tr.Open(ctx, src, transport.Want{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { coreClose(t, rx.Close) })
		wg.Go(func() {
			for {
				if _, err := rx.Receive(ctx); err != nil {
					return
				}
				got.Add(1)
			}
		})
	}
	all := coreOpen(t, tr, natscore.SubjectConfig{Subject: "eu.>"}, transport.Want{})
	for range 50 {
		corePublish(t, tr, "eu.orders", "x")
	}
	for range 50 {
		coreReceive(t, all)
	}
	coreEventually(t, "the group has them all", func() bool { return got.Load() == 50 })
	stop()
	wg.Wait()
	if got.Load() != 50 {
		t.Errorf("the group got %d of 50 messages", got.Load())
	}
}

func TestCoreForeignMessagesAreReadAsTheyAre(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Conn()
	tr := coreConnect(t, s.URL())
	rx := coreOpen(t, tr, natscore.SubjectConfig{Subject: "a"}, transport.Want{})
	m := nats.NewMsg("a")
	m.Header["X"] = []string{"1", "2"}
	m.Header["Nats-Msg-Id"] = []string{"theirs"}
	m.Header["Status"] = []string{"503"}
	if err := nc.PublishMsg(m); err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	d := coreReceive(t, rx)
	got := d.Message()
	if got.ID != "theirs" || got.Subject != "a" || len(got.Header["X"]) != 2 || got.Header.Get("Status") != "503" || d.Deliveries() != 1 {
		t.Errorf("got %+v", got)
	}
	if _, ok := d.(transport.Native).Native().(*nats.Msg); !ok {
		t.Error("Native is not the client library's message")
	}
	if d.(transport.Responder).WantsReply() {
		t.Error("a message without a reply subject wants a reply")
	}
	if err := d.(transport.Responder).Respond(t.Context(), &transport.Message{}); !errors.Is(err, transport.ErrUnsupported) {
		t.Errorf("respond to nobody: %v", err)
	}
}

func TestCoreInstructionsToTheServerAreRefused(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	tr := coreConnect(t, s.URL())
	for _, name := range []string{"Nats-Rollup", "nats-expected-stream"} {
		m := &transport.Message{Header: transport.Header{name: {"x"}}, Body: []byte("x")}
		if err := tr.Publish(coreContext(t), transport.Address{Name: "a"}, m); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("publish with %s: %v", name, err)
		}
	}
}

func TestCoreRequestCarriesTheAnswerAsItIs(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	tr := coreConnect(t, s.URL(), natscore.WithInboxPrefix("_MINE"))
	rx := coreOpen(t, tr, natscore.SubjectConfig{Subject: "svc"}, transport.Want{Reply: true})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		d, err := rx.Receive(coreContext(t))
		if err != nil {
			t.Error(err)
			return
		}
		if reply := d.(transport.Native).Native().(*nats.Msg).Reply; !strings.HasPrefix(reply, "_MINE.") {
			t.Errorf("the reply subject is %s", reply)
		}
		// Its shape is that of a stream's confirmation, its header is not.
		err = d.(transport.Responder).Respond(coreContext(t), &transport.Message{
			Body:   []byte(`{"stream":"S","seq":1}`),
			Header: transport.Header{"Holdfast-Reply": {"ok"}, "X": {"1", "2"}},
		})
		if err != nil {
			t.Error(err)
		}
	})
	reply, err := tr.Request(coreContext(t), transport.Address{Name: "svc"}, &transport.Message{ID: "q", Body: []byte("?")})
	if err != nil {
		t.Fatal(err)
	}
	if string(reply.Body) != `{"stream":"S","seq":1}` || len(reply.Header["X"]) != 2 {
		t.Errorf("the answer is %+v", reply)
	}
}

func TestCoreRequestWithoutAnAnswerEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	tr := coreConnect(t, s.URL())
	rx := coreOpen(t, tr, natscore.SubjectConfig{Subject: "svc"}, transport.Want{Reply: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := tr.Request(ctx, transport.Address{Name: "svc"}, &transport.Message{})
		ended <- err
	}()
	coreReceive(t, rx) // it was asked, and never answers
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || transport.KindOf(err) != transport.Unknown {
		t.Errorf("the error is %v", err)
	}
}
