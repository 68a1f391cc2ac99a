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
	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

func TestCoreRefusesWhatItCannotDoNamingJetStream(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.WithoutJetStream())
	tr := coreConnect(t, s.URL())
	src := tr.Subject(natscore.SubjectConfig{Subject: "orders.placed", Group: "billing", Durable: "billing"})
	want := transport.Want{Subscription: "b", Redelivery: true, Delay: true, DeadLetter: true, Reject: true}
	findings, err := tr.Check(coreContext(t), src, want)
	if err != nil {
		t.Fatal(err)
	}
	if len(findings) != 4 {
		t.Errorf("the findings are %v", findings)
	}
	for _, code := range []transport.Code{transport.CodeNoRedelivery, transport.CodeNoDeadLetters, transport.CodeNoReject, transport.CodeNoDurable} {
		f := coreFinding(t, findings, code)
		if f.Level != transport.LevelError || f.Subscription != "b" {
			t.Errorf("the finding is %+v", f)
		}
		coreContains(t, f.Fix, `js.Consumer(jetstream.ConsumerConfig{Stream: "NAME", Subjects: []string{"orders.placed"}, Durable: "billing"})`)
	}
	if _, err := tr.Provision(coreContext(t), src, want); !errors.Is(err, transport.ErrUnsupported) {
		t.Errorf("provision: %v", err)
	}
	if _, err := tr.Open(coreContext(t), src, want); !errors.Is(err, transport.ErrUnsupported) {
		t.Errorf("open: %v", err)
	}
}

func TestCoreRefusesASubjectThatStreamsCapture(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Conn()
	coreStream(t, nc, "ORDERS", "orders.placed", "orders.paid")
	coreStream(t, nc, "AUDIT", "orders.refused.>")
	coreStream(t, nc, "OTHER", "other")
	tr := coreConnect(t, s.URL())

	src := tr.Subject(natscore.SubjectConfig{Subject: "orders.>"})
	findings, err := tr.Check(coreContext(t), src, transport.Want{Subscription: "billing", Redelivery: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(findings) != 2 {
		t.Errorf("the findings are %v", findings)
	}
	for _, code := range []transport.Code{transport.CodeCaptured, transport.CodeNoRedelivery} {
		f := coreFinding(t, findings, code)
		coreContains(t, f.Fact, "ORDERS", "AUDIT")
		coreContains(t, f.Fix,
			`js.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing"})`,
			`Stream: "AUDIT"`)
		if f.Level != transport.LevelError {
			t.Errorf("the level of %s is %s", code, f.Level)
		}
	}

	allowed := tr.Subject(natscore.SubjectConfig{Subject: "orders.placed", AllowCaptured: true})
	findings, err = tr.Check(coreContext(t), allowed, transport.Want{Subscription: "billing", Reply: true})
	if err != nil || len(findings) != 1 || findings[0].Code != transport.CodeCaptured || findings[0].Level != transport.LevelWarning {
		t.Errorf("with AllowCaptured: %v, %v", findings, err)
	}

	free := tr.Subject(natscore.SubjectConfig{Subject: "orders.refused"})
	if findings, err := tr.Check(coreContext(t), free, transport.Want{}); err != nil || len(findings) != 0 {
		t.Errorf("a subject that no stream captures: %v, %v", findings, err)
	}
}

func TestCoreSubscriptionLeavesThePublishersConfirmationAlone(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Conn()
	coreStream(t, nc, "ORDERS", "orders.>")
	tr := coreConnect(t, s.URL())
	rx := coreOpen(t, tr, natscore.SubjectConfig{Subject: "orders.>", AllowCaptured: true}, transport.Want{})
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n {
			d, err := rx.Receive(coreContext(t))
			if err != nil {
				t.Error(err)
				return
			}
			if err := d.Nack(t.Context(), time.Second); !errors.Is(err, transport.ErrUnsupported) {
				t.Errorf("nack: %v", err)
			}
			if err := d.Ack(t.Context()); err != nil {
				t.Errorf("ack: %v", err)
			}
			if err := d.Ack(t.Context()); !errors.Is(err, transport.ErrSettled) {
				t.Errorf("the second ack: %v", err)
			}
		}
	})
	for i := range n {
		if ack, err := js.Publish("orders.placed", []byte("x")); err != nil || ack.Sequence != uint64(i+1) {
			t.Fatalf("publish %d: %+v, %v", i, ack, err)
		}
	}
	wg.Wait()
}

func TestCoreRequestTellsAStreamsConfirmationFromAnAnswer(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := s.Conn()
	coreStream(t, nc, "RPC", "rpc.>")
	tr := coreConnect(t, s.URL())

	_, err := tr.Request(coreContext(t), transport.Address{Name: "rpc.price"}, &transport.Message{Body: []byte("{}")})
	if !errors.Is(err, transport.ErrUnroutable) {
		t.Fatalf("a request that a stream captures: %v", err)
	}
	coreContains(t, err.Error(), "RPC", "rpc.price")

	findings, err := tr.CheckRequest(coreContext(t), transport.Address{Name: "rpc.price"})
	if err != nil || len(findings) != 1 || findings[0].Code != transport.CodeCaptured {
		t.Errorf("CheckRequest: %v, %v", findings, err)
	}

	_, err = nc.Subscribe("free.price", func(m *nats.Msg) { _ = m.Respond([]byte(`{"stream":"RPC","seq":7}`)) })
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	reply, err := tr.Request(coreContext(t), transport.Address{Name: "free.price"}, &transport.Message{})
	if err != nil || string(reply.Body) != `{"stream":"RPC","seq":7}` {
		t.Errorf("an answer that looks like a confirmation: %v, %v", reply, err)
	}
}

func TestCoreRequestThatNobodyListensToFailsAtOnce(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	tr := coreConnect(t, s.URL())
	_, err := tr.Request(coreContext(t), transport.Address{Name: "nobody"}, &transport.Message{})
	if !errors.Is(err, transport.ErrUnroutable) || transport.KindOf(err) != transport.Temporary {
		t.Errorf("the error is %v", err)
	}
}

func TestCorePublishWhileDisconnectedFailsAtOnce(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	tr := coreConnect(t, s.URL())
	corePublish(t, tr, "a", "x")
	s.Stop()
	coreEventually(t, "the connection is lost", func() bool { return !tr.Conn().IsConnected() })
	for range 10 {
		err := tr.Publish(coreContext(t), transport.Address{Name: "a"}, &transport.Message{Body: []byte("x")})
		if transport.KindOf(err) != transport.Temporary || !errors.Is(err, nats.ErrDisconnected) {
			t.Fatalf("publish while disconnected: %v", err)
		}
	}
	if _, err := tr.Request(coreContext(t), transport.Address{Name: "a"}, &transport.Message{}); transport.KindOf(err) != transport.Temporary {
		t.Errorf("request while disconnected: %v", err)
	}
	if _, err := tr.Open(coreContext(t), tr.Subject(natscore.SubjectConfig{Subject: "a"}), transport.Want{}); transport.KindOf(err) != transport.Temporary {
		t.Errorf("open while disconnected: %v", err)
	}
}

func TestCorePublishIsNeverConfirmedByABrokenLink(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	stay := coreConnect(t, s.URL())
	rx := coreOpen(t, stay, natscore.SubjectConfig{Subject: "a"}, transport.Want{})
	tr := coreConnect(t, s.URL())
	var wg sync.WaitGroup
	var mu sync.Mutex
	confirmed := map[string]bool{}
	for w := range 8 {
		wg.Go(func() {
			for i := range 100 {
				id := fmt.Sprintf("%d-%d", w, i)
				if tr.Publish(coreContext(t), transport.Address{Name: "a"}, &transport.Message{ID: id}) == nil {
					mu.Lock()
					confirmed[id] = true
					mu.Unlock()
				}
			}
		})
	}
	for range 10 {
		coreEventually(t, "a connection is there to be cut", tr.Conn().IsConnected)
		cid, err := tr.Conn().GetClientID()
		if err == nil {
			_ = s.Server().DisconnectClientByID(cid) // it may have gone meanwhile
		}
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	for len(confirmed) > 0 {
		d, err := rx.Receive(coreContext(t))
		if err != nil {
			t.Fatalf("%d confirmed messages never reached the server: %v", len(confirmed), err)
		}
		delete(confirmed, d.Message().ID)
	}
}

func TestCorePublishIsNotConfirmedByTheNextConnection(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	p := s.NewProxy()
	tr := coreConnect(t, p.URL())
	heal := p.Swallow()
	const n = 50
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			err := tr.Publish(coreContext(t), transport.Address{Name: "a"}, &transport.Message{Body: []byte("x")})
			if err == nil || transport.KindOf(err) != transport.Unknown || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a message that was lost with its connection: %v", err)
			}
		})
	}
	coreEventually(t, "all are written", func() bool { return tr.Conn().Stats().OutMsgs == n })
	heal()
	wg.Wait()
	coreEventually(t, "the connection is back", tr.Conn().IsConnected)
	corePublish(t, tr, "a", "x")
}

func TestCorePublishIntoABlackHoleIsNotConfirmed(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	p := s.NewProxy()
	tr := coreConnect(t, p.URL())
	corePublish(t, tr, "a", "x")
	p.Swallow()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const n = 100
	before := tr.Conn().Stats().OutMsgs
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			err := tr.Publish(ctx, transport.Address{Name: "a"}, &transport.Message{Body: []byte("x")})
			if transport.KindOf(err) != transport.Unknown || !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("publish into a black hole: %v", err)
			}
		})
	}
	coreEventually(t, "all are written", func() bool { return tr.Conn().Stats().OutMsgs == before+n })
	cancel()
	wg.Wait()
}

func TestCoreOversizeIsRefusedAfterTheServerCameBackSmaller(t *testing.T) {
	t.Parallel()
	limit := int32(1 << 20)
	s := natstest.Start(t, natstest.WithOptions(func(o *server.Options) { o.MaxPayload = limit }))
	tr := coreConnect(t, s.URL())
	big := &transport.Message{Body: make([]byte, 512<<10)}
	if err := tr.Publish(coreContext(t), transport.Address{Name: "a"}, big); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	small := natstest.Start(t, natstest.WithMaxPayload(1024), natstest.WithOptions(func(o *server.Options) { o.Port = corePort(t, s) }))
	// Until the client has noticed, it is connected to the server that was stopped.
	coreEventually(t, "the connection is back", func() bool { return tr.Conn().IsConnected() && tr.Conn().MaxPayload() == 1024 })
	if small.URL() != s.URL() {
		t.Fatalf("the server moved from %s to %s", s.URL(), small.URL())
	}
	for range 3 {
		err := tr.Publish(coreContext(t), transport.Address{Name: "a"}, big)
		if !errors.Is(err, transport.ErrTooLarge) || transport.KindOf(err) != transport.Permanent {
			t.Fatalf("publish of too much: %v", err)
		}
		corePublish(t, tr, "a", "x")
	}
}

func TestCoreConnectionClosedForGoodIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	tr := coreConnect(t, s.URL())
	events := coreWatch(t, tr)
	rx := coreOpen(t, tr, natscore.SubjectConfig{Subject: "a"}, transport.Want{})
	for range 2 {
		gone := tr.Conn()
		// A protocol line that is too long is one of the errors after which the
		// client library closes a connection for good.
		if err := gone.Publish(strings.Repeat("a", 5000), nil); err != nil {
			t.Fatal(err)
		}
		_, err := rx.Receive(coreContext(t))
		if transport.KindOf(err) != transport.Temporary || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("receive: %v", err)
		}
		coreClose(t, rx.Close)
		coreEventually(t, "there is another connection", func() bool { return tr.Conn() != gone && tr.Conn().IsConnected() })
		rx = coreOpen(t, tr, natscore.SubjectConfig{Subject: "a"}, transport.Want{})
		corePublish(t, tr, "a", "again")
		coreReceive(t, rx)
	}
	if n := events.count(transport.ConnectionLost); n != 2 {
		t.Errorf("%d losses are reported", n)
	}
	coreEventually(t, "both returns are reported", func() bool {
		return events.count(transport.Reconnected) == 2
	})
}

func TestCoreSurvivesAnOutageAndSaysSo(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	tr := coreConnect(t, s.URL())
	events := coreWatch(t, tr)
	rx := coreOpen(t, tr, natscore.SubjectConfig{Subject: "a"}, transport.Want{})
	if n := tr.Conn().Opts.MaxReconnect; n != -1 {
		t.Errorf("the client gives up after %d attempts", n)
	}
	s.Stop()
	coreEventually(t, "the disconnect is reported", func() bool { return events.has(transport.Disconnected) })
	s.Start()
	coreEventually(t, "the reconnect is reported", func() bool { return events.has(transport.Reconnected) })
	corePublish(t, tr, "a", "after the outage")
	if d := coreReceive(t, rx); string(d.Message().Body) != "after the outage" {
		t.Errorf("got %q", d.Message().Body)
	}
	if events.has(transport.ConnectionLost) {
		t.Error("the connection was given up")
	}
}

func TestCoreCountsEveryDroppedMessage(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]natscore.SubjectConfig{
		"by number": {Subject: "a", PendingMessages: 10},
		"by bytes":  {Subject: "a", PendingBytes: 10 * 101}, // subject and body of ten
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Start(t)
			tr := coreConnect(t, s.URL())
			events := coreWatch(t, tr)
			rx := coreOpen(t, tr, cfg, transport.Want{Subscription: "slow"})
			nc := s.Conn()
			for range 100 {
				if err := nc.Publish("a", make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			coreEventually(t, "90 drops are reported", func() bool {
				return events.Sum(transport.Dropped) >= 90
			})
			for range 10 {
				coreReceive(t, rx)
			}
			coreClose(t, rx.Close)
			if n := events.Sum(transport.Dropped); n != 90 {
				t.Errorf("%d of 90 drops were counted", n)
			}
		})
	}
}

func TestCoreCloseReportsWhatNoHandlerSaw(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	tr := coreConnect(t, s.URL())
	events := coreWatch(t, tr)
	rx := coreOpen(t, tr, natscore.SubjectConfig{Subject: "a"}, transport.Want{Subscription: "x"})
	for range 100 {
		corePublish(t, tr, "a", "x")
	}
	for range 5 {
		coreReceive(t, rx)
	}
	coreClose(t, rx.Close)
	if n := events.Sum(transport.Dropped); n != 95 {
		t.Errorf("%d unhandled messages were reported and 95 were left", n)
	}
	if _, err := rx.Receive(t.Context()); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("receive after Close: %v", err)
	}
}

func TestCorePermissionErrorsNameTheSubjectSoon(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t,
		natstest.WithUser("bob", "secret", &server.Permissions{
			Publish:   &server.SubjectPermission{Deny: []string{"no.>", "$JS.API.>"}},
			Subscribe: &server.SubjectPermission{Deny: []string{"no.>"}},
		}),
		natstest.WithUser("mute", "secret", &server.Permissions{
			Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}},
		}))
	bob := coreConnect(t, s.URLFor("bob", "secret"))
	mute := coreConnect(t, s.URLFor("mute", "secret"))
	msg := &transport.Message{Body: []byte("x")}
	prompt := func(what string, call func(ctx context.Context) error, subject string) {
		t.Helper()
		soon(t, time.Second, what, func() {
			err := call(coreContext(t))
			if !errors.Is(err, transport.ErrPermission) {
				t.Errorf("%s: %v", what, err)
				return
			}
			coreContains(t, err.Error(), subject)
		})
	}
	prompt("publish", func(ctx context.Context) error {
		return bob.Publish(ctx, transport.Address{Name: "no.way"}, msg)
	}, "no.way")
	prompt("request", func(ctx context.Context) error {
		_, err := bob.Request(ctx, transport.Address{Name: "no.answer"}, msg)
		return err
	}, "no.answer")
	prompt("open", func(ctx context.Context) error {
		_, err := bob.Open(ctx, bob.Subject(natscore.SubjectConfig{Subject: "no.entry", Group: "g"}), transport.Want{})
		return err
	}, "no.entry")
	for range 2 {
		prompt("request without an inbox", func(ctx context.Context) error {
			_, err := mute.Request(ctx, transport.Address{Name: "yes"}, msg)
			return err
		}, "_INBOX")
	}
	findings, err := bob.Check(coreContext(t), bob.Subject(natscore.SubjectConfig{Subject: "yes"}), transport.Want{})
	if err != nil {
		t.Fatal(err)
	}
	f := coreFinding(t, findings, transport.CodePermission)
	if f.Level != transport.LevelWarning {
		t.Errorf("the finding is %v", f)
	}
	coreContains(t, f.Fact+f.Fix, "$JS.API.STREAM.NAMES", "yes")
	corePublish(t, bob, "yes", "still works")
}

func TestCoreManyPublishersLearnEachOfTheirOwnRefusal(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.WithUser("bob", "secret", &server.Permissions{
		Publish: &server.SubjectPermission{Deny: []string{"no.>"}},
	}))
	tr := coreConnect(t, s.URLFor("bob", "secret"))
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := range 20 {
				refused := (w+i)%2 == 0
				subject := fmt.Sprintf("yes.%d.%d", w, i)
				if refused {
					subject = fmt.Sprintf("no.%d.%d", w, i)
				}
				err := tr.Publish(coreContext(t), transport.Address{Name: subject}, &transport.Message{})
				if errors.Is(err, transport.ErrPermission) != refused || err == nil == refused {
					t.Errorf("publish to %s: %v", subject, err)
				}
			}
		})
	}
	wg.Wait()
}

// corePort returns the port of a server that has been started once.
func corePort(t testing.TB, s *natstest.Server) int {
	t.Helper()
	var port int
	if _, err := fmt.Sscanf(s.URL(), "nats://127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	return port
}
