package integration_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// FAULTS 1, 5, 6: nothing is missing, doubled or out of order over connections
// that are cut again and again, and what was sent again says so.
func TestJetStreamPipelineKeepsOrderOverCuts(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	const total = 20_000
	f := newFeeder(t, w.ctx, w.js, "orders.a")
	w.feedOverCuts(f, total)
	marked := w.storedInOrder("ORDERS", total)
	t.Logf("%d pipelines, %d messages sent again, %d of them stored by then", f.opened, f.resent, f.resent-marked)
	if f.opened < 2 {
		t.Fatal("no connection was cut")
	}
}

// FAULTS 4: the broker is away for a while, and flow is back soon after it.
func TestJetStreamPipelineFlowsSoonAfterTheBrokerIsBack(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	outages := 0
	soonOnce(t, 2*time.Second, "flow", func() time.Duration {
		outages++
		return w.pipelineOutage(outages)
	})
}

// pipelineOutage stops the server and starts it again, and returns how long it took
// until a pipeline was open again.
func (w *jsWorld) pipelineOutage(outages int) time.Duration {
	t := w.T
	p := newFeeder(t, w.ctx, w.js, "orders.a").openPipe()
	w.server.Stop()
	<-p.Done()
	if p.Err() == nil || transport.KindOf(p.Err()) != transport.Temporary {
		t.Fatalf("the pipeline is over and says %v", p.Err())
	}
	p.End(false)
	p.End(true)

	opened := make(chan error, 1)
	var q transport.Pipeline
	go func() {
		var err error
		q, err = w.js.OpenPipeline(w.ctx, func(uint64, error) {})
		opened <- err
	}()
	eventually(t, "it is told that there is no connection for publishing", func() bool {
		return len(w.events.All(transport.Disconnected, "publishing")) == outages
	})
	impatience, cancel := context.WithTimeout(w.ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := w.js.OpenPipeline(impatience, func(uint64, error) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a pipeline that is to be opened within 50 ms: %v", err)
	}
	w.server.Start()
	back := time.Now()
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	took := time.Since(back)
	q.End(false)
	eventually(t, "it is told that there is one again", func() bool {
		return len(w.events.All(transport.Reconnected, "publishing")) == outages
	})
	if err := one(t, w.ctx, w.js, transport.Address{Name: "orders.a"}, numbered(uint64(outages))); err != nil {
		t.Fatal(err)
	}
	return took
}

// FAULTS 12: a connection that is open and dead. Sending does not hang for ever,
// and the end of a stuck pipeline waits for nobody.
func TestJetStreamPipelineOnAHalfOpenConnectionEnds(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	proxy := w.server.NewProxy()
	js, _ := w.connect(proxy.URL(), impatient())
	f := newFeeder(t, w.ctx, js, "orders.a")

	soonOnce(t, 3*time.Second, "the end of a stuck pipeline", func() time.Duration {
		stuck := f.openPipe()
		thaw := proxy.Freeze()
		m := numbered(0)
		f.mu.Lock()
		f.open[0] = m
		f.mu.Unlock()
		if err := stuck.Send(f.to, m, 0); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		stuck.End(true)
		took := time.Since(began)
		<-stuck.Done()
		thaw()
		return took
	})

	full := f.openPipe()
	thaw := proxy.Freeze()
	big := &transport.Message{ID: "big", Body: make([]byte, 512<<10)}
	for tag := uint64(1); full.Err() == nil; tag++ {
		f.mu.Lock()
		f.open[tag] = big
		f.mu.Unlock()
		_ = full.Send(f.to, big, tag) // until a write has waited for too long
	}
	<-full.Done()
	thaw()

	// Some of it may arrive after all; what follows still gets its outcome.
	if err := one(t, w.ctx, js, f.to, numbered(5)); err != nil {
		t.Fatal(err)
	}
}

func TestJetStreamPipelineTellsEachMessageItsOutcome(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t, natstest.WithMaxPayload(64<<10))
	w.stream(natsjs.StreamConfig{Name: "FULL", Subjects: []string{"full.>"}, MaxMsgs: 1, Discard: natsjs.DiscardNew})
	w.stream(natsjs.StreamConfig{Name: "SMALL", Subjects: []string{"small.>"}, MaxMsgSize: 512})
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	w.publish("full.a", 1)
	for _, c := range []struct {
		name, subject string
		m             transport.Message
		is            error
		kind          transport.Kind
		hint          string
	}{
		{"a full stream", "full.a", transport.Message{ID: "x"}, transport.ErrFull, transport.Temporary, "full"},
		{"larger than the stream takes", "small.a", transport.Message{ID: "x", Body: make([]byte, 1000)}, transport.ErrTooLarge, transport.Permanent, "max_msg_size"},
		{"larger than the server takes", "orders.a", transport.Message{ID: "x", Body: make([]byte, 70<<10)}, transport.ErrTooLarge, transport.Permanent, "max_payload"},
		{"nobody there", "nowhere.a", transport.Message{ID: "x"}, transport.ErrUnroutable, transport.Temporary, "create one"},
		{"a wildcard", "orders.*", transport.Message{ID: "x"}, transport.ErrInvalid, transport.Permanent, ""},
		{"a header of the broker", "orders.a", transport.Message{ID: "x", Header: transport.Header{"Nats-Rollup": {"all"}}}, transport.ErrInvalid, transport.Permanent, ""},
		{"a header that would change", "orders.a", transport.Message{ID: "x", Header: transport.Header{"A": {" b"}}}, transport.ErrInvalid, transport.Permanent, ""},
		{"an ID that would change", "orders.a", transport.Message{ID: "x\n"}, transport.ErrInvalid, transport.Permanent, ""},
		{"a time to live the stream does not take", "orders.a", transport.Message{ID: "x", TTL: time.Minute}, transport.ErrUnsupported, transport.Permanent, "allow_msg_ttl"},
		{"a schedule the stream does not keep", "orders.a", transport.Message{ID: "x", NotBefore: time.Now().Add(time.Hour)}, transport.ErrUnsupported, transport.Permanent, "allow_msg_schedules"},
		{"a priority", "orders.a", transport.Message{ID: "x", Priority: 1}, transport.ErrUnsupported, transport.Permanent, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := transport.Address{Name: c.subject}
			for way, err := range map[string]error{"pipeline": one(t, w.ctx, w.js, to, &c.m), "Publish": w.js.Publish(w.ctx, to, &c.m)} {
				if !errors.Is(err, c.is) || transport.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.hint) {
					t.Errorf("%s: %v", way, err)
				}
			}
		})
	}
	for n := range uint64(3) {
		if err := one(t, w.ctx, w.js, transport.Address{Name: "orders.a"}, numbered(n)); err != nil {
			t.Fatal(err)
		}
	}
	w.storedInOrder("ORDERS", 3)
}

// FAULTS 13: the server refuses because too much is under way. Each message is
// either stored or told to try again.
func TestJetStreamPipelineIsToldThatTheServerIsBusy(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t, natstest.WithOptions(func(o *server.Options) { o.StreamMaxBufferedMsgs = 4 }))
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	for round := 0; ; round++ {
		const total = 5000
		f := newFeeder(t, w.ctx, w.js, "orders.a")
		f.window = total
		f.feed(total)
		for n, err := range f.refused {
			if !errors.Is(err, transport.ErrBusy) || transport.KindOf(err) != transport.Temporary {
				t.Fatalf("message %d: %v", n, err)
			}
		}
		if len(f.refused) > 0 {
			if got := w.stored("ORDERS"); got != uint64(len(f.stored)) {
				t.Fatalf("%d messages were reported as stored and %d are", len(f.stored), got)
			}
			return
		}
		if w.ctx.Err() != nil {
			t.Fatal("the server took everything")
		}
		if err := w.js.JetStream().DeleteStream(w.ctx, "ORDERS"); err != nil {
			t.Fatal(err)
		}
		w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	}
}

// FAULTS 15: what is not allowed is refused, and nothing else with it.
func TestJetStreamPipelineIsToldOfAMissingPermission(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t,
		natstest.WithUser("admin", "secret", nil),
		natstest.WithUser("app", "app-secret", &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"orders.a", "$JS.API.>"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}),
		natstest.WithUser("deaf", "deaf-secret", &server.Permissions{Subscribe: &server.SubjectPermission{Allow: []string{"orders.a"}}}))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, _ = w.connect(s.URLFor("admin", "secret"))
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})

	js, _ := w.connect(s.URLFor("app", "app-secret"))
	outcomes := map[uint64]error{}
	told := make(chan struct{})
	const total = 100
	p, err := js.OpenPipeline(w.ctx, func(tag uint64, err error) {
		if outcomes[tag] = err; len(outcomes) == total {
			close(told)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint64(total) {
		subject := "orders.a"
		if n%2 == 1 {
			subject = "orders.b"
		}
		if err := p.Send(transport.Address{Name: subject}, numbered(n), n); err != nil {
			t.Fatal(err)
		}
	}
	<-told
	p.End(false)
	for n, err := range outcomes {
		if n%2 == 0 && err != nil {
			t.Errorf("message %d, which is allowed: %v", n, err)
		}
		if n%2 == 1 && (!errors.Is(err, transport.ErrPermission) || transport.KindOf(err) != transport.Permanent || !strings.Contains(err.Error(), "orders.b")) {
			t.Errorf("message %d, which is not allowed: %v", n, err)
		}
	}

	deaf, err := jetstream.Connect(w.ctx, s.URLFor("deaf", "deaf-secret"), jetstream.WithNATS(natstest.Patient()))
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close(w.ctx)
	_, err = deaf.OpenPipeline(w.ctx, func(uint64, error) {})
	if !errors.Is(err, transport.ErrPermission) || transport.KindOf(err) != transport.Permanent {
		t.Errorf("a pipeline that could hear no answers: %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "deaf-secret") {
		t.Error("the error holds the password")
	}
}

// A subscriber that answers in place of the stream confirms nothing.
func TestJetStreamPipelineBelievesTheStreamOnly(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	nc := w.server.Conn()
	if _, err := nc.Subscribe(">", func(m *nats.Msg) {
		if m.Reply != "" && !strings.HasPrefix(m.Subject, "$") && !strings.HasPrefix(m.Subject, "_") {
			_ = m.Respond([]byte(`{"fine":true}`))
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := one(t, w.ctx, w.js, transport.Address{Name: "orders.a"}, numbered(0)); err != nil {
		t.Errorf("a message the stream has stored: %v", err)
	}
	// Again until the answer has come in time.
	eventually(t, "a stuck pipeline says that somebody answers in place of the stream", func() bool {
		answered := make(chan error, 1)
		p, err := w.js.OpenPipeline(w.ctx, func(_ uint64, err error) { answered <- err })
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Send(transport.Address{Name: "nowhere.a"}, numbered(1), 1); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-answered:
			t.Fatalf("a message nobody stores has the outcome %v", err)
		case <-time.After(200 * time.Millisecond):
		}
		p.End(true)
		return p.Err() != nil && strings.Contains(p.Err().Error(), "in place of the stream")
	})
}

func TestJetStreamPipelineSaysWhatWasSentBefore(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(4))
	for n, resent := range []bool{false, true} {
		m := numbered(uint64(n))
		m.Resent = resent
		if err := one(t, w.ctx, w.js, transport.Address{Name: "orders.a"}, m); err != nil {
			t.Fatal(err)
		}
		d := w.receive(rx)
		if d.Message().Resent != resent {
			t.Errorf("sent with Resent %v, received with %v", resent, d.Message().Resent)
		}
		w.ack(d)
	}
}

// A connection for publishing has the credentials and the way of the
// transport's own: a user and password, an adopted connection, a dialer, a
// server in this process.
func TestJetStreamPipelineConnectsAsTheTransportDoes(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, natstest.WithUser("admin", "secret", nil))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, _ = w.connect(s.URLFor("admin", "secret"))
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	to := transport.Address{Name: "orders.a"}

	adopted := s.ConnTo(s.URLFor("admin", "secret"))
	onAdopted, err := jetstream.New(adopted)
	if err != nil {
		t.Fatal(err)
	}
	byOption, _ := w.connect(s.URL(), jetstream.WithNATS(nats.UserInfo("admin", "secret")))
	inProcess, _ := w.connect(s.URL(), jetstream.WithNATS(nats.UserInfo("admin", "secret"), nats.InProcessServer(s.Server())))
	for n, js := range []*jetstream.Transport{w.js, onAdopted, byOption, inProcess} {
		if err := one(t, w.ctx, js, to, numbered(uint64(n))); err != nil {
			t.Errorf("way %d: %v", n, err)
		}
	}
	w.storedInOrder("ORDERS", 4)

	// The connection is the caller's: when he closes it nothing is published.
	p, err := onAdopted.OpenPipeline(w.ctx, func(uint64, error) {})
	if err != nil {
		t.Fatal(err)
	}
	adopted.Close()
	<-p.Done()
	if _, err := onAdopted.OpenPipeline(w.ctx, func(uint64, error) {}); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("a pipeline on a connection its owner closed: %v", err)
	}
	if err := onAdopted.Close(w.ctx); err != nil {
		t.Error(err)
	}
}

func TestJetStreamPipelineLeavesNoGoroutine(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	label := "pipeline-leak"
	pprof.Do(w.ctx, pprof.Labels(label, "yes"), func(context.Context) {
		js, err := jetstream.Connect(w.ctx, w.server.URL(), impatient())
		if err != nil {
			t.Error(err)
			return
		}
		f := newFeeder(t, w.ctx, js, "orders.a")
		f.feed(100)
		open := f.openPipe() // and never ended
		w.kickPublishing()
		<-open.Done()
		last, err := js.OpenPipeline(w.ctx, func(uint64, error) {})
		if err != nil {
			t.Error(err)
			return
		}
		if err := js.Close(w.ctx); err != nil {
			t.Error(err)
		}
		<-last.Done()
		if !errors.Is(last.Err(), transport.ErrClosed) {
			t.Errorf("a pipeline of a closed transport says %v", last.Err())
		}
		if err := last.Send(transport.Address{Name: "orders.a"}, numbered(1), 1); err == nil {
			t.Error("a closed pipeline takes a message")
		}
	})
	eventually(t, "no goroutine of the transport is left", func() bool {
		var all bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&all, 1)
		return !strings.Contains(all.String(), `"`+label+`":"yes"`)
	})
}

// countingDialer is a dialer of a user's own.
type countingDialer struct{ n atomic.Int32 }

func (d *countingDialer) Dial(network, address string) (net.Conn, error) {
	d.n.Add(1)
	return net.Dial(network, address)
}

func TestJetStreamPipelineUsesTLSAndTheDialerOfTheTransport(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, t.TempDir(), "ca")
	ca.issue("server", nil)
	pair, err := tls.LoadX509KeyPair(ca.path("server.pem"), ca.path("server-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s := natstest.Start(t, natstest.WithOptions(func(o *server.Options) {
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	dialer := &countingDialer{}
	w.js, _ = w.connect(s.URL(), jetstream.WithNATS(
		nats.Secure(&tls.Config{RootCAs: ca.pool(), MinVersion: tls.VersionTLS12}), nats.SetCustomDialer(dialer)))
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	before := dialer.n.Load()
	if err := one(t, w.ctx, w.js, transport.Address{Name: "orders.a"}, numbered(0)); err != nil {
		t.Fatal(err)
	}
	if dialer.n.Load() == before {
		t.Error("the connection for publishing was not made by the user's dialer")
	}
	w.storedInOrder("ORDERS", 1)
}
