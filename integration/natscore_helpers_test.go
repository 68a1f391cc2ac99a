package integration_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// corePatience is how long a test waits for what should happen at once. Only
// failures take that long.
const corePatience = 2 * time.Minute

func coreContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), corePatience)
	t.Cleanup(cancel)
	return ctx
}

// coreConnect connects to a server and closes the transport with the test. It
// reconnects faster than by default, so that tests are short.
func coreConnect(t testing.TB, url string, opts ...natscore.Option) *natscore.Transport {
	t.Helper()
	opts = append(opts, natscore.WithNATS(natstest.Patient(), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(time.Millisecond, time.Millisecond)))
	tr, err := natscore.Connect(coreContext(t), url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { coreClose(t, tr.Close) })
	return tr
}

func coreClose(t testing.TB, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), corePatience)
	defer cancel()
	if err := fn(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

func coreOpen(t testing.TB, tr *natscore.Transport, cfg natscore.SubjectConfig, want transport.Want) transport.Receiver {
	t.Helper()
	rx, err := tr.Open(coreContext(t), tr.Subject(cfg), want)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { coreClose(t, rx.Close) })
	return rx
}

func corePublish(t testing.TB, tr *natscore.Transport, subject, body string) {
	t.Helper()
	if err := tr.Publish(coreContext(t), transport.Address{Name: subject}, &transport.Message{Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

func coreReceive(t testing.TB, rx transport.Receiver) transport.Delivery {
	t.Helper()
	d, err := rx.Receive(coreContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// coreEventually waits until cond holds.
func coreEventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(corePatience)
	for !cond() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: not within %v", what, corePatience)
		}
	}
}

// soon calls do until it takes less than limit once: a machine that stalls makes
// everything slow now and then, and what waits for a time of its own is always so.
func soon(t testing.TB, limit time.Duration, what string, do func()) {
	t.Helper()
	soonOnce(t, limit, what, func() time.Duration {
		begin := time.Now()
		do()
		return time.Since(begin)
	})
}

// soonOnce is soon for what do measures itself.
func soonOnce(t testing.TB, limit time.Duration, what string, do func() time.Duration) {
	t.Helper()
	var took []time.Duration
	for range 20 {
		d := do()
		if d < limit {
			return
		}
		took = append(took, d)
	}
	t.Errorf("%s never took less than %v: %v", what, limit, took)
}

// coreWatch collects the events of a transport.
func coreWatch(t testing.TB, tr transport.Observable) *eventLog {
	log := &eventLog{}
	t.Cleanup(tr.Observe(log.Add))
	return log
}

// coreFinding returns the finding with a code, which must be there.
func coreFinding(t testing.TB, findings []transport.Finding, code transport.Code) transport.Finding {
	t.Helper()
	for _, f := range findings {
		if f.Code == code {
			return f
		}
	}
	t.Fatalf("no finding %s in %v", code, findings)
	return transport.Finding{}
}

func coreContains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not hold %q", text, part)
		}
	}
}

// coreStream makes a stream.
func coreStream(t testing.TB, nc *nats.Conn, name string, subjects ...string) {
	t.Helper()
	js, err := nc.JetStream(nats.MaxWait(corePatience))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AddStream(&nats.StreamConfig{Name: name, Subjects: subjects}); err != nil {
		t.Fatal(err)
	}
}
