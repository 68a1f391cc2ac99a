package integration_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

// newBatchWorld is a server that syncs every write, and a transport that
// publishes in atomic batches.
func newBatchWorld(t *testing.T, opts ...natstest.Option) *jsWorld {
	t.Helper()
	synced := natstest.WithOptions(func(o *server.Options) { o.SyncAlways = true })
	s := natstest.Start(t, append(opts, synced)...)
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, w.events = w.connect(s.URL(), jetstream.AtomicBatches(), impatient())
	return w
}

func TestJetStreamAtomicBatchesKeepOrderAndOutcomes(t *testing.T) {
	t.Parallel()
	w := newBatchWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, AllowAtomicPublish: true})
	const total = 2000
	f := newFeeder(t, w.ctx, w.js, "orders.a")
	f.feed(total)
	if len(f.stored) != total {
		t.Fatalf("%d of %d are reported as stored: %v", len(f.stored), total, f.refused)
	}
	w.storedInOrder("ORDERS", total)
	messages, batches := w.batched("ORDERS")
	t.Logf("%d of %d messages in %d batches", messages, total, batches)
	if batches == 0 || messages < total/2 {
		t.Fatalf("%d of %d messages came in %d batches", messages, total, batches)
	}
}

// A batch is rejected as a whole when it holds a duplicate. Its messages are
// stored all the same, in order and before what was sent after them.
func TestJetStreamAtomicBatchWithDuplicatesIsResolvedByMessage(t *testing.T) {
	t.Parallel()
	w := newBatchWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, AllowAtomicPublish: true})
	const total = 600
	for n := uint64(0); n < total; n += 150 {
		// Stored already, behind the back of the pipeline.
		m := numbered(n)
		m.DedupID, m.ID = m.ID, "before"
		if err := w.js.Publish(w.ctx, transport.Address{Name: "orders.a"}, m); err != nil {
			t.Fatal(err)
		}
	}
	f := newFeeder(t, w.ctx, w.js, "orders.a")
	f.feed(total)
	if len(f.stored) != total {
		t.Fatalf("%d of %d are reported as stored: %v", len(f.stored), total, f.refused)
	}
	s, err := w.js.JetStream().Stream(w.ctx, "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; got != total {
		t.Fatalf("%d messages are stored", got)
	}
	for seq, n := uint64(5), uint64(0); n < total; n++ {
		if n%150 == 0 {
			continue
		}
		m, err := s.GetMsg(w.ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Header.Get("Nats-Msg-Id"); got != numbered(n).ID {
			t.Fatalf("sequence %d holds %s instead of %s", seq, got, numbered(n).ID)
		}
		seq++
	}
}

func TestJetStreamAtomicBatchesKeepOrderOverCuts(t *testing.T) {
	t.Parallel()
	w := newBatchWorld(t)
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, AllowAtomicPublish: true})
	const total = 6000
	f := newFeeder(t, w.ctx, w.js, "orders.a")
	w.feedOverCuts(f, total)
	marked := w.storedInOrder("ORDERS", total)
	messages, batches := w.batched("ORDERS")
	t.Logf("%d pipelines, %d messages sent again, %d of them stored by then; %d messages in %d batches", f.opened, f.resent, f.resent-marked, messages, batches)
	if f.opened < 2 || batches == 0 {
		t.Fatal("no connection was cut, or nothing was batched")
	}
}

// Where the stream or the server has no batches, and where one fills the stream,
// each message gets the outcome it would have had by itself.
func TestJetStreamAtomicBatchesFallBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  natsjs.StreamConfig
		opts []natstest.Option
		busy bool
		is   error
	}{
		"the stream takes no batches": {cfg: natsjs.StreamConfig{}},
		"the server takes smaller ones only": {
			cfg:  natsjs.StreamConfig{AllowAtomicPublish: true},
			opts: []natstest.Option{natstest.WithOptions(func(o *server.Options) { o.JetStreamLimits.MaxBatchSize = 10 })},
		},
		"the server has too many under way": {
			cfg:  natsjs.StreamConfig{AllowAtomicPublish: true},
			opts: []natstest.Option{natstest.WithOptions(func(o *server.Options) { o.JetStreamLimits.MaxBatchInflightPerStream = 1 })},
			busy: true,
		},
		"the stream is full in the middle": {
			cfg: natsjs.StreamConfig{AllowAtomicPublish: true, MaxMsgs: 300, Discard: natsjs.DiscardNew}, is: transport.ErrFull,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newBatchWorld(t, c.opts...)
			c.cfg.Name, c.cfg.Subjects = "ORDERS", []string{"orders.>"}
			w.stream(c.cfg)
			if c.busy { // by a batch that somebody else has begun
				w.foreignBatch("orders.b")
			}
			const total = 500
			f := newFeeder(t, w.ctx, w.js, "orders.a")
			f.feed(total)
			var missing []uint64
			for n := range uint64(total) {
				err := f.refused[n]
				if err != nil {
					missing = append(missing, n)
				}
				if err != nil && (c.is == nil || !errors.Is(err, c.is) || transport.KindOf(err) != transport.Temporary) {
					t.Fatalf("message %d: %v", n, err)
				}
			}
			if c.is != nil && len(missing) != 200 {
				t.Fatalf("%d messages were refused", len(missing))
			}
			w.storedInOrder("ORDERS", total, missing...)
		})
	}
}

// foreignBatch begins a batch and does not end it.
func (w *jsWorld) foreignBatch(subject string) {
	w.Helper()
	nc := w.server.Conn()
	m := &nats.Msg{Subject: subject, Header: nats.Header{"Nats-Batch-Id": {"foreign"}, "Nats-Batch-Sequence": {"1"}}}
	if _, err := nc.RequestMsgWithContext(w.ctx, m); err != nil {
		w.Fatal(err)
	}
}

func TestJetStreamAtomicBatchToNobodyOrForbiddenIsRefused(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t,
		natstest.WithUser("admin", "secret", nil),
		natstest.WithUser("app", "app-secret", &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"orders.a", "nowhere.>", "$JS.API.>"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, _ = w.connect(s.URLFor("admin", "secret"))
	w.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, AllowAtomicPublish: true})
	js, _ := w.connect(s.URLFor("app", "app-secret"), jetstream.AtomicBatches())
	const total = 50
	for subject, is := range map[string]error{"orders.b": transport.ErrPermission, "nowhere.a": transport.ErrUnroutable} {
		f := newFeeder(t, w.ctx, js, subject)
		f.feed(total)
		for n := range uint64(total) {
			if !errors.Is(f.refused[n], is) {
				t.Fatalf("%s, message %d: %v", subject, n, f.refused[n])
			}
		}
	}
	f := newFeeder(t, w.ctx, js, "orders.a")
	f.feed(total)
	w.storedInOrder("ORDERS", total)
}

// What holds of pipelines holds of those that publish in atomic batches.
func TestJetStreamAtomicBatchesKeepThePromisesOfAPipeline(t *testing.T) {
	t.Parallel()
	for _, p := range transporttest.Promises() {
		if !strings.Contains(p.Name, "Pipeline") && !strings.Contains(p.Name, "Send") {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			w := newBatchWorld(t)
			h := jetStreamPromises(w.js, w.server.Restart, func(t testing.TB) transporttest.Harness { return jetStreamHarness(t, w.server) })
			h.Lease, h.RedeliverWithin = lease, lease+time.Second // nothing of a pipeline waits for its end
			h.Source = func(_ testing.TB, spec transporttest.Spec) (transport.Source, transport.Address) {
				return w.js.Consumer(jetstream.ConsumerConfig{
					Stream: spec.Name, Subjects: []string{spec.Name}, Durable: spec.Group, Start: jetstream.StartAll(), AckWait: max(spec.Lease, lease),
					StreamConfig: &natsjs.StreamConfig{Subjects: []string{spec.Name}, AllowAtomicPublish: true, AllowMsgTTL: true},
				}), transport.Address{Name: spec.Name}
			}
			p.Check(t, h)
		})
	}
}
