package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

func TestJetStreamKeepsThePromisesOfATransport(t *testing.T) {
	t.Parallel()
	for _, p := range transporttest.Promises() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			jetStreamPromise(t, p, func(t testing.TB) transporttest.Harness { return jetStreamHarness(t, natstest.Start(t)) })
		})
	}
}

// jetStreamPromise checks a promise, again on a machine that stalls.
func jetStreamPromise(t *testing.T, p transporttest.Promise, open func(testing.TB) transporttest.Harness) {
	t.Helper()
	check.Punctual(t, briefer/4, func(t testing.TB) { p.Check(t, open(t)) })
}

func jetStreamHarness(t testing.TB, s *natstest.Server) transporttest.Harness {
	t.Helper()
	js, err := jetstream.Connect(t.Context(), s.URL(), jetstream.WithNATS(natstest.Patient(), nats.ReconnectWait(20*time.Millisecond)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = js.Close(context.Background()) })
	return jetStreamPromises(js, s.Restart, func(t testing.TB) transporttest.Harness { return jetStreamHarness(t, s) })
}

// jetStreamPromises is a harness on a server that restart restarts.
func jetStreamPromises(js *jetstream.Transport, restart func(), second func(testing.TB) transporttest.Harness) transporttest.Harness {
	return transporttest.Harness{
		Transport: js,
		Source: func(_ testing.TB, spec transporttest.Spec) (transport.Source, transport.Address) {
			lease := spec.Lease
			if lease == 0 {
				lease = briefer
			}
			cfg := jetstream.ConsumerConfig{
				Stream: spec.Name, Subjects: []string{spec.Name}, Durable: spec.Group, Start: jetstream.StartAll(), AckWait: lease,
			}
			if js.Capabilities().Schedules {
				cfg.StreamConfig = &natsjs.StreamConfig{
					Subjects: []string{spec.Name, js.ScheduleSubjects(spec.Name)}, AllowMsgSchedules: true, AllowMsgTTL: true,
				}
			}
			return js.Consumer(cfg), transport.Address{Name: spec.Name}
		},
		Lease:           briefer,
		RedeliverWithin: briefer + 3*time.Second,
		Patience:        time.Minute,
		Restart: func(t testing.TB) {
			t.Helper()
			before := js.Conn().Stats().Reconnects
			restart()
			coreEventually(t, "the connection is back", func() bool {
				return js.Conn().IsConnected() && js.Conn().Stats().Reconnects > before
			})
		},
		Abandon:      func(_ testing.TB, rx transport.Receiver) { rx.(interface{ Abandon() }).Abandon() },
		Second:       second,
		MaxSize:      1 << 20,
		Deduplicates: true,
	}
}
