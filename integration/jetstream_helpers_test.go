package integration_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/eventlog"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// patience is the deadline of whatever should happen soon. It is generous
// because other tests share the machine; no test passes by it running out.
const patience = 2 * time.Minute

// lease outlives a machine that stalls. Tests of what happens when a lease ends
// ask for a shorter one.
const lease = time.Minute

// brief is a lease that tests wait for, and which a machine that stalls for some
// seconds does not end.
const brief = 6 * time.Second

// briefer is the lease of the suite, which is run again when the machine stalls.
const briefer = 2 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in %s: %s", patience, what)
		}
		<-tick.C
	}
}

// jsWorld is one server and a transport on it.
type jsWorld struct {
	*testing.T
	ctx    context.Context
	server *natstest.Server
	js     *jetstream.Transport
	events *eventLog
}

func newJSWorld(t *testing.T, opts ...natstest.Option) *jsWorld {
	t.Helper()
	s := natstest.Start(t, opts...)
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, w.events = w.connect(s.URL())
	return w
}

func (w *jsWorld) connect(url string, opts ...jetstream.Option) (*jetstream.Transport, *eventLog) {
	w.Helper()
	opts = append([]jetstream.Option{jetstream.WithNATS(natstest.Patient(), nats.ReconnectWait(20*time.Millisecond))}, opts...)
	js, err := jetstream.Connect(w.ctx, url, opts...)
	if err != nil {
		w.Fatal(err)
	}
	log := &eventLog{}
	js.Observe(log.Add)
	w.Cleanup(func() {
		if err := js.Close(context.Background()); err != nil {
			w.Logf("close: %v", err)
		}
	})
	return js, log
}

// source is a durable on ORDERS.
func (w *jsWorld) source(change ...func(*jetstream.ConsumerConfig)) transport.Source {
	cfg := jetstream.ConsumerConfig{
		Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing",
		Start: jetstream.StartAll(), AckWait: lease,
	}
	for _, c := range change {
		c(&cfg)
	}
	return w.js.Consumer(cfg)
}

// briefly makes a source one whose lease ends while a test waits.
func briefly(c *jetstream.ConsumerConfig) { c.AckWait = brief }

func want(prefetch int) transport.Want {
	return transport.Want{Subscription: "billing", Concurrency: 1, Prefetch: prefetch, Redelivery: true, Delay: true, MaxDelay: time.Minute}
}

func (w *jsWorld) provision(src transport.Source, wnt transport.Want) transport.Report {
	w.Helper()
	report, err := w.js.Provision(w.ctx, src, wnt)
	if err != nil {
		w.Fatalf("provision: %v", err)
	}
	return report
}

func (w *jsWorld) open(src transport.Source, wnt transport.Want) transport.Receiver {
	w.Helper()
	rx, err := w.js.Open(w.ctx, src, wnt)
	if err != nil {
		w.Fatalf("open: %v", err)
	}
	w.Cleanup(func() { _ = rx.Close(context.Background()) })
	return rx
}

// started provisions and opens.
func (w *jsWorld) started(src transport.Source, wnt transport.Want) transport.Receiver {
	w.Helper()
	w.provision(src, wnt)
	return w.open(src, wnt)
}

// publish stores n messages with IDs m1, m2, ...
func (w *jsWorld) publish(subject string, n int) {
	w.Helper()
	for i := range n {
		m := &transport.Message{ID: fmt.Sprintf("m%d", i+1), Body: fmt.Appendf(nil, "body %d", i+1)}
		if err := w.js.Publish(w.ctx, transport.Address{Name: subject}, m); err != nil {
			w.Fatalf("publish: %v", err)
		}
	}
}

func (w *jsWorld) receive(rx transport.Receiver) transport.Delivery {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	d, err := rx.Receive(ctx)
	if err != nil {
		w.Fatalf("receive: %v", err)
	}
	return d
}

func (w *jsWorld) ack(d transport.Delivery) {
	w.Helper()
	if err := d.Ack(w.ctx); err != nil {
		w.Fatalf("ack: %v", err)
	}
}

// nothing asserts that no delivery comes for a while.
func (w *jsWorld) nothing(rx transport.Receiver, during time.Duration) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, during)
	defer cancel()
	if d, err := rx.Receive(ctx); err == nil {
		w.Fatalf("received %s, delivery %d, and should not", d.Message().ID, d.Deliveries())
	}
}

// consumer asks the server about a consumer. A question that the test's own
// faults swallow is asked again.
func (w *jsWorld) consumer(stream, name string) *natsjs.ConsumerInfo {
	w.Helper()
	var info *natsjs.ConsumerInfo
	w.retry("look at the consumer", func(ctx context.Context) error {
		c, err := w.js.JetStream().Consumer(ctx, stream, name)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	return info
}

// retry runs do, some seconds each time, until it succeeds.
func (w *jsWorld) retry(what string, do func(context.Context) error) {
	w.Helper()
	eventually(w.T, what, func() bool {
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		defer cancel()
		return do(ctx) == nil
	})
}

// eventLog keeps the events of a transport.
type eventLog struct{ eventlog.Log }

func (l *eventLog) count(kind transport.EventKind) int { return len(l.All(kind, "")) }

func (l *eventLog) has(kind transport.EventKind) bool { return l.count(kind) > 0 }

// findings returns those with this code.
func findings(all []transport.Finding, code transport.Code) []transport.Finding {
	var out []transport.Finding
	for _, f := range all {
		if f.Code == code {
			out = append(out, f)
		}
	}
	return out
}

func describe(all []transport.Finding) string {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "\n  %s %v", f, f.Diff)
	}
	return b.String()
}

// foreign publishes as a client that knows nothing of holdfast: raw header
// lines, and no ID. It returns once the message is stored.
func (w *jsWorld) foreign(subject, headers, body string) {
	w.Helper()
	nc := w.server.Conn()
	m := &nats.Msg{Subject: subject, Data: []byte(body)}
	if headers != "" {
		m.Header = nats.Header{}
		for line := range strings.SplitSeq(strings.TrimSuffix(headers, "\r\n"), "\r\n") {
			name, value, _ := strings.Cut(line, ": ")
			m.Header.Add(name, value)
		}
	}
	if _, err := nc.RequestMsgWithContext(w.ctx, m); err != nil {
		w.Fatalf("publish as a foreign client: %v", err)
	}
}
