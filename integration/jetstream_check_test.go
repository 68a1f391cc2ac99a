package integration_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

func orders(change func(*natsjs.StreamConfig)) natsjs.StreamConfig {
	cfg := natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Discard: natsjs.DiscardNew, Duplicates: 2 * time.Minute}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

func billing(change func(*natsjs.ConsumerConfig)) *natsjs.ConsumerConfig {
	cfg := natsjs.ConsumerConfig{
		Durable: "billing", AckPolicy: natsjs.AckExplicitPolicy, AckWait: lease,
		MaxDeliver: -1, MaxAckPending: 50_000, FilterSubject: "orders.>",
	}
	change(&cfg)
	return &cfg
}

// Each finding is shown on a server that is set up wrongly in one way.
func TestJetStreamCheckFindsEveryContradiction(t *testing.T) {
	t.Parallel()
	verify := func(c *jetstream.ConsumerConfig) { c.Mode = jetstream.ModeVerify }
	dead := func() transport.Want { w := want(9); w.DeadLetter = true; return w }
	for _, c := range []struct {
		name     string
		streams  []natsjs.StreamConfig
		consumer *natsjs.ConsumerConfig
		source   func(*jetstream.ConsumerConfig)
		want     transport.Want
		code     transport.Code
		level    transport.Level
		says     string
	}{
		{name: "stream missing", source: verify, code: transport.CodeStreamMissing, level: transport.LevelError, says: "ORDERS"},
		{name: "stream created", code: transport.CodeStreamCreated, level: transport.LevelInfo, says: "orders.>"},
		{name: "consumer created", code: transport.CodeConsumerCreated, level: transport.LevelInfo, says: "ORDERS/billing"},
		{name: "consumer missing", streams: []natsjs.StreamConfig{orders(nil)}, source: verify, code: transport.CodeConsumerMissing, level: transport.LevelError, says: "ORDERS/billing"},
		{name: "trap 19 interest", streams: []natsjs.StreamConfig{orders(func(s *natsjs.StreamConfig) { s.Retention = natsjs.InterestPolicy })}, code: transport.CodeInterest, level: transport.LevelWarning, says: "ORDERS"},
		{name: "trap 20 work queue discards", streams: []natsjs.StreamConfig{orders(func(s *natsjs.StreamConfig) {
			s.Retention, s.Discard, s.MaxMsgs = natsjs.WorkQueuePolicy, natsjs.DiscardOld, 100
		})}, code: transport.CodeDiscardOld, level: transport.LevelError, says: "max_msgs 100"},
		{name: "limits stream discards", streams: []natsjs.StreamConfig{orders(func(s *natsjs.StreamConfig) { s.Discard, s.MaxBytes = natsjs.DiscardOld, 1<<20 })}, code: transport.CodeDiscardOld, level: transport.LevelWarning, says: "max_bytes"},
		{name: "no ack", streams: []natsjs.StreamConfig{orders(func(s *natsjs.StreamConfig) { s.NoAck = true })}, code: transport.CodeNoAckStream, level: transport.LevelError, says: "no_ack"},
		{name: "age shorter than a retry", streams: []natsjs.StreamConfig{orders(func(s *natsjs.StreamConfig) { s.MaxAge, s.Duplicates = 30*time.Second, 10*time.Second })}, code: transport.CodeExpires, level: transport.LevelError, says: "30s"},
		{name: "filter outside", streams: []natsjs.StreamConfig{orders(func(s *natsjs.StreamConfig) { s.Subjects = []string{"invoices.>"} })}, code: transport.CodeFilterOutside, level: transport.LevelError, says: "orders.>"},
		{name: "subjects of another stream", streams: []natsjs.StreamConfig{orders(func(s *natsjs.StreamConfig) { s.Name = "OTHER" })}, code: transport.CodeSubjectsOverlap, level: transport.LevelError, says: "OTHER"},
		{name: "max deliver", streams: []natsjs.StreamConfig{orders(nil)}, consumer: billing(func(c *natsjs.ConsumerConfig) { c.MaxDeliver = 5 }), code: transport.CodeMaxDeliver, level: transport.LevelError, says: "5"},
		{name: "trap 29 backoff", streams: []natsjs.StreamConfig{orders(nil)}, consumer: billing(func(c *natsjs.ConsumerConfig) {
			c.BackOff, c.MaxDeliver, c.AckWait = []time.Duration{2 * time.Second, 3 * time.Second}, 5000, 0
		}), code: transport.CodeBackOff, level: transport.LevelError, says: "2s 3s"},
		{name: "ack wait", streams: []natsjs.StreamConfig{orders(nil)}, consumer: billing(func(c *natsjs.ConsumerConfig) { c.AckWait = 200 * time.Millisecond }), code: transport.CodeAckWait, level: transport.LevelError, says: "200ms"},
		{name: "max ack pending", streams: []natsjs.StreamConfig{orders(nil)}, consumer: billing(func(c *natsjs.ConsumerConfig) { c.MaxAckPending = 5 }), code: transport.CodeMaxAckPending, level: transport.LevelError, says: "5"},
		{name: "ack policy", streams: []natsjs.StreamConfig{orders(nil)}, consumer: billing(func(c *natsjs.ConsumerConfig) { c.AckPolicy = natsjs.AckAllPolicy }), code: transport.CodeAckPolicy, level: transport.LevelError, says: "ack policy"},
		{name: "inactive threshold", streams: []natsjs.StreamConfig{orders(nil)}, consumer: billing(func(c *natsjs.ConsumerConfig) { c.InactiveThreshold = time.Hour }), code: transport.CodeInactive, level: transport.LevelError, says: "1h0m0s"},
		{name: "memory consumer", streams: []natsjs.StreamConfig{orders(nil)}, consumer: billing(func(c *natsjs.ConsumerConfig) { c.MemoryStorage = true }), code: transport.CodeMemoryConsumer, level: transport.LevelWarning, says: "memory"},
		{name: "paused", streams: []natsjs.StreamConfig{orders(nil)}, consumer: billing(func(c *natsjs.ConsumerConfig) { at := time.Now().Add(time.Hour); c.PauseUntil = &at }), code: transport.CodeConsumerPaused, level: transport.LevelWarning, says: "paused"},
		{name: "other filters", streams: []natsjs.StreamConfig{orders(nil)}, consumer: billing(func(c *natsjs.ConsumerConfig) { c.FilterSubject = "orders.placed" }), code: transport.CodeConsumerDrift, level: transport.LevelError, says: "orders.placed"},
		{name: "trap 40 verify drift", streams: []natsjs.StreamConfig{orders(nil)}, consumer: billing(func(c *natsjs.ConsumerConfig) { c.AckWait = 2 * lease }), source: verify, code: transport.CodeConsumerDrift, level: transport.LevelError, says: "differs"},
		{name: "dead stream created", want: dead(), code: transport.CodeDeadCreated, level: transport.LevelInfo, says: "HOLDFAST_DEAD"},
		{name: "dead retention", want: dead(), streams: []natsjs.StreamConfig{{Name: "HOLDFAST_DEAD", Subjects: []string{"holdfast.dead.>"}, Retention: natsjs.WorkQueuePolicy}}, code: transport.CodeDeadRetention, level: transport.LevelError, says: "HOLDFAST_DEAD"},
		{name: "dead too small", want: dead(), streams: []natsjs.StreamConfig{{Name: "HOLDFAST_DEAD", Subjects: []string{"holdfast.dead.>"}, MaxMsgSize: 1024}}, code: transport.CodeDeadSize, level: transport.LevelError, says: "1024"},
		{name: "dead expires", want: dead(), streams: []natsjs.StreamConfig{{Name: "HOLDFAST_DEAD", Subjects: []string{"holdfast.dead.>"}, MaxAge: time.Hour}}, code: transport.CodeDeadExpires, level: transport.LevelWarning, says: "1h0m0s"},
		{name: "dead captures", want: dead(), streams: []natsjs.StreamConfig{{Name: "HOLDFAST_DEAD", Subjects: []string{"holdfast.dead.>", "orders.*"}}, {Name: "ORDERS", Subjects: []string{"nothing"}}}, code: transport.CodeDeadCaptures, level: transport.LevelError, says: "orders.*"},
		{name: "redrive retention", want: dead(), streams: []natsjs.StreamConfig{{Name: "HOLDFAST_REDRIVE", Subjects: []string{"holdfast.redrive.*"}}}, code: transport.CodeRedriveStream, level: transport.LevelWarning, says: "HOLDFAST_REDRIVE"},
		{name: "invalid source", source: func(c *jetstream.ConsumerConfig) { c.Subjects = []string{"orders..a"} }, code: transport.CodeInvalid, level: transport.LevelError, says: "empty token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newJSWorld(t)
			for _, s := range c.streams {
				w.stream(s)
			}
			if c.consumer != nil {
				if _, err := w.js.JetStream().CreateConsumer(w.ctx, "ORDERS", *c.consumer); err != nil {
					t.Fatal(err)
				}
			}
			wnt := c.want
			if wnt.Subscription == "" {
				wnt = want(9)
			}
			change := c.source
			if change == nil {
				change = func(*jetstream.ConsumerConfig) {}
			}
			all, err := w.js.Check(w.ctx, w.source(change), wnt)
			if err != nil {
				t.Fatal(err)
			}
			found := findings(all, c.code)
			if len(found) == 0 {
				t.Fatalf("no %s; found:%s", c.code, describe(all))
			}
			if f := found[0]; f.Level != c.level || !strings.Contains(f.Fact, c.says) || f.Subscription != "billing" || f.Fix == "" && c.level != transport.LevelInfo {
				t.Fatalf("found %+v", f)
			}
		})
	}
}

func TestJetStreamCheckOfARightSetupFindsNothing(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	wnt := want(9)
	wnt.DeadLetter = true
	src := w.source()
	first := w.provision(src, wnt)
	if len(first.Created) != 5 {
		t.Fatalf("created %v", first.Created)
	}
	second := w.provision(src, wnt)
	if len(second.Created)+len(second.Updated)+len(second.Findings) != 0 {
		t.Fatalf("the second time: %+v", second)
	}
	found, err := w.js.Check(w.ctx, src, wnt)
	if err != nil || len(found) != 0 {
		t.Fatalf("check: %v, findings:%s", err, describe(found))
	}
}

func TestJetStreamDriftIsAReadableDiffAndLeftAlone(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(orders(nil))
	if _, err := w.js.JetStream().CreateConsumer(w.ctx, "ORDERS", *billing(func(c *natsjs.ConsumerConfig) { c.MaxDeliver = 5 })); err != nil {
		t.Fatal(err)
	}
	report := w.provision(w.source(), want(1))
	if len(report.Findings) != 1 || !slices.Equal(report.Findings[0].Diff, []string{"max_deliver: want -1, have 5"}) {
		t.Fatalf("ensure found:%s", describe(report.Findings))
	}
	if n := w.consumer("ORDERS", "billing").Config.MaxDeliver; n != 5 {
		t.Fatalf("ensure changed max_deliver to %d", n)
	}
	report = w.provision(w.source(func(c *jetstream.ConsumerConfig) { c.Mode = jetstream.ModeUpdate }), want(1))
	if len(report.Updated) != 1 || w.consumer("ORDERS", "billing").Config.MaxDeliver != -1 {
		t.Fatalf("update: %+v", report)
	}
}

func TestJetStreamServerWithoutJetStreamIsFound(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t, natstest.WithoutJetStream())
	found, err := w.js.Check(w.ctx, w.source(), want(1))
	if err != nil || len(findings(found, transport.CodeNoJetStream)) != 1 {
		t.Fatalf("check: %v, findings:%s", err, describe(found))
	}
}

// Traps 30 to 32: a foreign delivery limit leaves messages behind.
func TestJetStreamMessagesLeftBehindAreHandedOver(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(orders(func(s *natsjs.StreamConfig) { s.Retention = natsjs.WorkQueuePolicy }))
	if _, err := w.js.JetStream().CreateConsumer(w.ctx, "ORDERS", *billing(func(c *natsjs.ConsumerConfig) {
		c.MaxDeliver = 2
	})); err != nil {
		t.Fatal(err)
	}
	src := w.source()
	w.publish("orders.a", 3)
	// Somebody else wears the messages out while nobody listens.
	c, err := w.js.JetStream().Consumer(w.ctx, "ORDERS", "billing")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		batch, err := c.Fetch(3, natsjs.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			if err := m.Nak(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := c.Fetch(1, natsjs.FetchMaxWait(100*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "check sees them", func() bool {
		found, err := w.js.Check(w.ctx, src, want(9))
		return err == nil && len(findings(found, transport.CodeStrandedMessages)) == 1
	})
	rx := w.open(src, want(9))
	got := map[string]bool{}
	for range 3 {
		d := w.receive(rx)
		if len(got) == 0 {
			// A nack of such a message is kept by the receiver.
			if err := d.Nack(w.ctx, 50*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			d = w.receive(rx)
		}
		got[d.Message().ID] = true
		w.ack(d)
	}
	for len(got) < 3 {
		d := w.receive(rx)
		got[d.Message().ID] = true
		w.ack(d)
	}
	eventually(t, "the queue is empty", func() bool { return w.stored("ORDERS") == 0 })
	if w.events.count(transport.Stranded) == 0 {
		t.Fatal("no event told of them")
	}
}

// Trap 34: the same failure of the same message is buried once.
func TestJetStreamBurialIsIdempotent(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	wnt := want(1)
	wnt.DeadLetter = true
	w.provision(w.source(), wnt)
	store := w.js.DeadLetters()
	key := transport.DeadKey{Subscription: "billing", Fingerprint: "f1", ID: "d1"}
	m := &transport.Message{ID: "m1", Body: []byte("x"), Header: transport.Header{"Holdfast-Reason": {"permanent"}}}
	for range 3 {
		if err := store.Bury(w.ctx, key, m); err != nil {
			t.Fatal(err)
		}
	}
	counts, err := store.Summary(w.ctx)
	if err != nil || len(counts) != 1 || counts[0].Count != 1 {
		t.Fatalf("summary: %v, %v", counts, err)
	}
	n := 0
	for letter, err := range store.Letters(w.ctx, transport.LetterFilter{}) {
		if err != nil || letter.Key != key || letter.Message.ID != "m1" || letter.Message.Header.Get("Holdfast-Reason") != "permanent" {
			t.Fatalf("letter %+v, %v", letter, err)
		}
		n++
	}
	if err := store.Remove(w.ctx, key); err != nil || n != 1 {
		t.Fatalf("%d letters, remove: %v", n, err)
	}
	if err := store.Remove(w.ctx, key); !errors.Is(err, transport.ErrNotFound) {
		t.Fatalf("a second remove: %v", err)
	}
}

func TestJetStreamDeadLettersNeedTheirStream(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	store := w.js.DeadLetters()
	key := transport.DeadKey{Subscription: "billing", Fingerprint: "f1", ID: "d1"}
	err := store.Bury(w.ctx, key, &transport.Message{ID: "a"})
	if err == nil || !strings.Contains(err.Error(), "HOLDFAST_DEAD") {
		t.Fatalf("bury: %v", err)
	}
	err = store.Redrive(w.ctx, "billing", &transport.Message{ID: "a"})
	if err == nil || !strings.Contains(err.Error(), "HOLDFAST_REDRIVE") {
		t.Fatalf("redrive: %v", err)
	}
	if counts, err := store.Summary(w.ctx); err != nil || len(counts) != 0 {
		t.Fatalf("summary: %v, %v", counts, err)
	}
	for letter, err := range store.Letters(w.ctx, transport.LetterFilter{}) {
		t.Fatalf("there is %+v, %v", letter, err)
	}
}
