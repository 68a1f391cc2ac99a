package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/integration/internal/oldnats"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// streams are configurations with everything a stream can have.
func fullStreams() []natsjs.StreamConfig {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return []natsjs.StreamConfig{
		{
			Name: "ORDERS", Subjects: []string{"orders.>"}, Description: "orders", Retention: natsjs.LimitsPolicy, Storage: natsjs.FileStorage,
			MaxConsumers: 20, MaxMsgs: 5000, MaxBytes: 1 << 20, MaxAge: 40 * 24 * time.Hour, MaxMsgsPerSubject: 4000, MaxMsgSize: 4096,
			Discard: natsjs.DiscardNew, Duplicates: time.Minute, DenyDelete: true, FirstSeq: 100,
			Compression: natsjs.S2Compression, AllowDirect: true, AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Minute,
			AllowAtomicPublish: true, Metadata: map[string]string{"team": "shop"},
			SubjectTransform: &natsjs.SubjectTransformConfig{Source: "orders.old.>", Destination: "orders.new.>"},
			RePublish:        &natsjs.RePublish{Destination: "stored.>", HeadersOnly: true},
			ConsumerLimits:   natsjs.StreamConsumerLimits{MaxAckPending: 100_000},
		},
		{Name: "COPY", Mirror: &natsjs.StreamSource{Name: "ORDERS", OptStartTime: &at, FilterSubject: "orders.new.>"}, Storage: natsjs.MemoryStorage},
		{
			Name: "ALL", Subjects: []string{"other"}, AllowRollup: true,
			Sources: []*natsjs.StreamSource{
				{Name: "ORDERS", OptStartSeq: 2, SubjectTransforms: []natsjs.SubjectTransformConfig{{Source: "orders.>", Destination: "all.>"}}},
				{Name: "COPY", Domain: "nowhere", FilterSubject: "x"},
			},
		},
		{Name: "LATER", Subjects: []string{"later.>"}, AllowMsgSchedules: true},
		{Name: "COUNT", Subjects: []string{"count"}, AllowMsgCounter: true, AllowBatchPublish: true},
		{Name: "FAST", Subjects: []string{"fast"}, PersistMode: natsjs.AsyncPersistMode, DenyPurge: true, DiscardNewPerSubject: true, MaxMsgsPerSubject: 9, Discard: natsjs.DiscardNew},
	}
}

func (w *jsWorld) reading(sc natsjs.StreamConfig, change ...func(*jetstream.ConsumerConfig)) transport.Source {
	cfg := jetstream.ConsumerConfig{StreamConfig: &sc, Durable: "reader", Start: jetstream.StartAll(), MaxAckPending: 1000}
	for _, c := range change {
		c(&cfg)
	}
	return w.js.Consumer(cfg)
}

// Every setting is made, found again as it is by a second program, and told of
// when it differs.
func TestJetStreamStreamsInFull(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	for _, sc := range fullStreams() {
		src := w.reading(sc)
		if found, err := w.js.Check(w.ctx, src, want(1)); err != nil || hasErrors(found) {
			t.Fatalf("%s: check: %v %s", sc.Name, err, describe(found))
		}
		w.provision(src, want(1))
		verify := w.reading(sc, func(c *jetstream.ConsumerConfig) { c.Mode = jetstream.ModeVerify })
		found, err := w.js.Check(w.ctx, verify, want(1))
		if err != nil || len(findings(found, transport.CodeStreamDrift)) > 0 || hasErrors(found) {
			t.Fatalf("%s: check of what was made: %v %s", sc.Name, err, describe(found))
		}
	}
	drifted := map[string]func(*natsjs.StreamConfig){
		"compression":               func(c *natsjs.StreamConfig) { c.Compression = natsjs.NoCompression },
		"republish":                 func(c *natsjs.StreamConfig) { c.RePublish.Destination = "elsewhere.>" },
		"subject_transform":         func(c *natsjs.StreamConfig) { c.SubjectTransform = nil },
		"consumer_limits":           func(c *natsjs.StreamConfig) { c.ConsumerLimits.MaxAckPending = 5000 },
		"metadata team":             func(c *natsjs.StreamConfig) { c.Metadata = map[string]string{"team": "bar"} },
		"allow_atomic":              func(c *natsjs.StreamConfig) { c.AllowAtomicPublish = false },
		"subject_delete_marker_ttl": func(c *natsjs.StreamConfig) { c.SubjectDeleteMarkerTTL = time.Hour },
		"description":               func(c *natsjs.StreamConfig) { c.Description = "bills" },
	}
	for setting, change := range drifted {
		sc := fullStreams()[0]
		change(&sc)
		found, err := w.js.Check(w.ctx, w.reading(sc, func(c *jetstream.ConsumerConfig) { c.Mode = jetstream.ModeVerify }), want(1))
		drift := findings(found, transport.CodeStreamDrift)
		if err != nil || len(drift) != 1 || drift[0].Level != transport.LevelError || len(drift[0].Diff) != 1 || !strings.HasPrefix(drift[0].Diff[0], setting+": ") {
			t.Errorf("%s: %v %s", setting, err, describe(found))
		}
	}
	// An update applies what differs, and keeps what the program says nothing of.
	sc := fullStreams()[0]
	sc.RePublish.Destination, sc.Description, sc.Metadata = "elsewhere.>", "", map[string]string{"owner": "ann"}
	w.provision(w.reading(sc, func(c *jetstream.ConsumerConfig) { c.Mode = jetstream.ModeUpdate }), want(1))
	s, err := w.js.JetStream().Stream(w.ctx, "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	got := s.CachedInfo().Config
	if got.RePublish.Destination != "elsewhere.>" || got.Description != "orders" || got.Metadata["team"] != "shop" || got.Metadata["owner"] != "ann" || got.FirstSeq != 100 {
		t.Fatalf("after the update: %+v", got)
	}
}

func hasErrors(found []transport.Finding) bool {
	for _, f := range found {
		if f.Level == transport.LevelError {
			return true
		}
	}
	return false
}

// What is stored is mirrored, sourced under other subjects and republished, and
// a subscription to each gets it.
func TestJetStreamMirrorsSourcesAndRepublishing(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.stream(natsjs.StreamConfig{
		Name: "ORDERS", Subjects: []string{"orders.>"}, Compression: natsjs.S2Compression,
		SubjectTransform: &natsjs.SubjectTransformConfig{Source: "orders.old.>", Destination: "orders.new.>"},
		RePublish:        &natsjs.RePublish{Destination: "stored.>"},
	})
	mirror := w.started(w.reading(natsjs.StreamConfig{Name: "COPY", Mirror: &natsjs.StreamSource{Name: "ORDERS"}}), want(1))
	moved := w.started(w.reading(natsjs.StreamConfig{Name: "MOVED", Sources: []*natsjs.StreamSource{{
		Name: "ORDERS", SubjectTransforms: []natsjs.SubjectTransformConfig{{Source: "orders.>", Destination: "moved.>"}},
	}}}, func(c *jetstream.ConsumerConfig) { c.Subjects = []string{"moved.new.*"} }), want(1))
	sub, err := w.server.Conn().SubscribeSync("stored.>")
	if err == nil {
		err = w.server.Conn().Flush() // the publish goes over another connection
	}
	if err != nil {
		t.Fatal(err)
	}
	w.publish("orders.old.tea", 1)
	if d := w.receive(mirror); d.Message().Subject != "orders.new.tea" || string(d.Message().Body) != "body 1" {
		t.Fatalf("of the mirror: %+v", d.Message())
	}
	if d := w.receive(moved); d.Message().Subject != "moved.new.tea" || d.Message().ID != "m1" {
		t.Fatalf("of the source: %+v", d.Message())
	}
	if m, err := sub.NextMsg(patience); err != nil || m.Subject != "stored.orders.new.tea" {
		t.Fatalf("republished: %+v, %v", m, err)
	}
}

// A stream of a leaf node mirrors one of the hub by its domain: with a transport
// in the leaf's domain, with one behind its API prefix and with one on the leaf.
func TestJetStreamDomainsOfMirrors(t *testing.T) {
	t.Parallel()
	port := natstest.FreePort(t)
	hub := newJSWorld(t, natstest.WithOptions(func(o *server.Options) {
		o.ServerName, o.JetStreamDomain = "hub", "hub"
		o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", port
	}))
	w := newJSWorld(t, natstest.WithOptions(func(o *server.Options) {
		o.ServerName, o.JetStreamDomain = "leaf", "leaf"
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)}}}}
	}))
	hub.stream(natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	for i, through := range []struct {
		at   *jsWorld
		opts []jetstream.Option
	}{{at: w}, {hub, []jetstream.Option{jetstream.Domain("leaf")}}, {hub, []jetstream.Option{jetstream.APIPrefix("$JS.leaf.API")}}} {
		js, _ := w.connect(through.at.server.URL(), through.opts...)
		mirror := natsjs.StreamConfig{Name: fmt.Sprint("COPY", i), Mirror: &natsjs.StreamSource{Name: "ORDERS", Domain: "hub"}}
		src := func(mode jetstream.Mode) transport.Source {
			return js.Consumer(jetstream.ConsumerConfig{StreamConfig: &mirror, Durable: "reader", Start: jetstream.StartNew(), Mode: mode})
		}
		w.retry("the leaf is connected", func(ctx context.Context) error {
			_, err := js.Provision(ctx, src(jetstream.ModeEnsure), want(1))
			return err
		})
		if found, err := js.Check(w.ctx, src(jetstream.ModeVerify), want(1)); err != nil || hasErrors(found) {
			t.Fatalf("check: %v %s", err, describe(found))
		}
		rx, err := js.Open(w.ctx, src(jetstream.ModeVerify), want(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = rx.Close(context.Background()) })
		if _, err := hub.js.JetStream().Publish(w.ctx, "orders.a", []byte("here")); err != nil {
			t.Fatal(err)
		}
		w.ack(w.receive(rx))
	}
	both := w.reading(natsjs.StreamConfig{Name: "BOTH", Mirror: &natsjs.StreamSource{Name: "ORDERS", Domain: "hub", External: &natsjs.ExternalStream{APIPrefix: "$JS.hub.API"}}})
	if found, err := w.js.Check(w.ctx, both, want(1)); err != nil || len(findings(found, transport.CodeInvalid)) != 1 {
		t.Fatalf("a domain and an external stream: %v %s", err, describe(found))
	}
}

// Every setting of a consumer that holdfast does not own goes through, and is
// compared.
func TestJetStreamConsumersInFull(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	native := natsjs.ConsumerConfig{
		Description: "bills", ReplayPolicy: natsjs.ReplayOriginalPolicy, SampleFrequency: "10%", MaxWaiting: 64,
		MaxRequestBatch: 5, MaxRequestExpires: 20 * time.Second, MaxRequestMaxBytes: 1 << 20, MemoryStorage: true, Metadata: map[string]string{"team": "shop"},
	}
	with := func(change func(*natsjs.ConsumerConfig), mode jetstream.Mode) transport.Source {
		return w.source(func(c *jetstream.ConsumerConfig) {
			cfg := native
			change(&cfg)
			c.Consumer, c.Mode = &cfg, mode
		})
	}
	asIs := func(*natsjs.ConsumerConfig) {}
	rx := w.started(with(asIs, jetstream.ModeEnsure), want(7))
	w.publish("orders.a", 9)
	for range 9 {
		w.ack(w.receive(rx))
	}
	if found, err := w.js.Check(w.ctx, with(asIs, jetstream.ModeVerify), want(1)); err != nil || len(findings(found, transport.CodeConsumerDrift)) > 0 {
		t.Fatalf("check of what was made: %v %s", err, describe(found))
	}
	for setting, change := range map[string]func(*natsjs.ConsumerConfig){
		"replay_policy": func(c *natsjs.ConsumerConfig) { c.ReplayPolicy = natsjs.ReplayInstantPolicy },
		"max_batch":     func(c *natsjs.ConsumerConfig) { c.MaxRequestBatch = 6 },
		"metadata team": func(c *natsjs.ConsumerConfig) { c.Metadata = map[string]string{"team": "bar"} },
		"headers_only":  func(c *natsjs.ConsumerConfig) { c.HeadersOnly = true },
	} {
		found, err := w.js.Check(w.ctx, with(change, jetstream.ModeVerify), want(1))
		drift := findings(found, transport.CodeConsumerDrift)
		if err != nil || len(drift) != 1 || len(drift[0].Diff) != 1 || !strings.HasPrefix(drift[0].Diff[0], setting+": ") {
			t.Errorf("%s: %v %s", setting, err, describe(found))
		}
	}
	w.provision(with(func(c *natsjs.ConsumerConfig) { c.MaxRequestBatch, c.Metadata = 6, map[string]string{"x": "y"} }, jetstream.ModeUpdate), want(1))
	if got := w.consumer("ORDERS", "billing").Config; got.MaxRequestBatch != 6 || got.Metadata["team"] != "shop" || got.Metadata["x"] != "y" {
		t.Fatalf("after the update: %+v", got)
	}
	// What no update can change is said before anything is done.
	found, err := w.js.Check(w.ctx, with(func(c *natsjs.ConsumerConfig) { c.ReplayPolicy = natsjs.ReplayInstantPolicy }, jetstream.ModeUpdate), want(1))
	if drift := findings(found, transport.CodeConsumerDrift); err != nil || len(drift) != 1 || drift[0].Level != transport.LevelError {
		t.Fatalf("an update of the replay policy: %v %s", err, describe(found))
	}
}

// What would break a promise is refused with its code, by Check and by Provision.
func TestJetStreamConsumerSettingsThatBreakAPromiseAreRefused(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	for code, cfg := range map[transport.Code]natsjs.ConsumerConfig{
		transport.CodeMaxDeliver:   {MaxDeliver: 5},
		transport.CodeBackOff:      {BackOff: []time.Duration{time.Second}},
		transport.CodeAckPolicy:    {AckPolicy: natsjs.AckNonePolicy},
		transport.CodePushConsumer: {DeliverSubject: "push.here"},
		transport.CodeInactive:     {InactiveThreshold: time.Minute},
		transport.CodeInvalid:      {FilterSubject: "orders.a"},
		transport.CodeHeadersOnly:  {HeadersOnly: true},
	} {
		src := w.source(func(c *jetstream.ConsumerConfig) { c.Consumer = &cfg })
		asked := want(1)
		asked.DeadLetter = true
		found, err := w.js.Check(w.ctx, src, asked)
		if f := findings(found, code); err != nil || len(f) != 1 || f[0].Level != transport.LevelError || f[0].Fix == "" {
			t.Errorf("%s: %v %s", code, err, describe(found))
		}
		if _, err := w.js.Provision(w.ctx, src, asked); !errors.Is(err, transport.ErrInvalid) || !strings.Contains(err.Error(), string(code)) {
			t.Errorf("%s: provision: %v", code, err)
		}
	}
	if _, err := w.js.JetStream().Stream(w.ctx, "ORDERS"); !errors.Is(err, natsjs.ErrStreamNotFound) {
		t.Fatalf("something was made: %v", err)
	}
}

// An old server says nothing about what it does not know.
func TestJetStreamOldServerIsAskedForNothingItWouldDrop(t *testing.T) {
	t.Parallel()
	w := &jsWorld{T: t, ctx: testContext(t)}
	w.js, w.events = w.connect(oldnats.Start(t).URL())
	until := time.Now().Add(time.Hour)
	for setting, change := range map[string]func(*jetstream.ConsumerConfig){
		"allow_msg_ttl": func(c *jetstream.ConsumerConfig) { c.StreamConfig = &natsjs.StreamConfig{AllowMsgTTL: true} },
		"subject_transform": func(c *jetstream.ConsumerConfig) {
			c.StreamConfig = &natsjs.StreamConfig{SubjectTransform: &natsjs.SubjectTransformConfig{Source: "a", Destination: "b"}}
		},
		"a mirror or a source": func(c *jetstream.ConsumerConfig) {
			c.StreamConfig = &natsjs.StreamConfig{Sources: []*natsjs.StreamSource{{Name: "X", SubjectTransforms: []natsjs.SubjectTransformConfig{{Source: "a", Destination: "b"}}}}}
		},
		"allow_atomic": func(c *jetstream.ConsumerConfig) { c.StreamConfig = &natsjs.StreamConfig{AllowAtomicPublish: true} },
		"pause_until":  func(c *jetstream.ConsumerConfig) { c.Consumer = &natsjs.ConsumerConfig{PauseUntil: &until} },
		"metadata": func(c *jetstream.ConsumerConfig) {
			c.Consumer = &natsjs.ConsumerConfig{Metadata: map[string]string{"a": "b"}}
		},
		"priority_groups": func(c *jetstream.ConsumerConfig) {
			c.Consumer = &natsjs.ConsumerConfig{PriorityPolicy: natsjs.PriorityPolicyPinned, PriorityGroups: []string{"g"}}
		},
	} {
		src := w.source(func(c *jetstream.ConsumerConfig) {
			change(c)
			if c.StreamConfig != nil {
				c.StreamConfig.Subjects = c.Subjects
			}
		})
		found, err := w.js.Check(w.ctx, src, want(1))
		old := findings(found, transport.CodeServerTooOld)
		if err != nil || len(old) != 1 || !strings.Contains(old[0].Fact, setting) || !strings.Contains(old[0].Fact, "2.9.10") {
			t.Errorf("%s: %v %s", setting, err, describe(found))
		}
		if _, err := w.js.Provision(w.ctx, src, want(1)); !errors.Is(err, transport.ErrUnsupported) {
			t.Errorf("%s: provision: %v", setting, err)
		}
	}
	if _, err := w.js.JetStream().Stream(w.ctx, "ORDERS"); !errors.Is(err, natsjs.ErrStreamNotFound) {
		t.Fatalf("something was made: %v", err)
	}
	// What it knows it gets.
	full := natsjs.StreamConfig{Name: "OLD", Subjects: []string{"old.>"}, AllowDirect: true, DenyDelete: true, RePublish: &natsjs.RePublish{Destination: "again.>"}}
	for _, sc := range []natsjs.StreamConfig{full, {Name: "OLDCOPY", Mirror: &natsjs.StreamSource{Name: "OLD"}}, {Name: "OLDALL", Sources: []*natsjs.StreamSource{{Name: "OLD"}}}} {
		w.provision(w.reading(sc), want(1))
		found, err := w.js.Check(w.ctx, w.reading(sc, func(c *jetstream.ConsumerConfig) { c.Mode = jetstream.ModeVerify }), want(1))
		if err != nil || hasErrors(found) {
			t.Errorf("%s: %v %s", sc.Name, err, describe(found))
		}
	}
}

// A server that should know a setting by its version and drops it all the same
// is found out by what it answers.
func TestJetStreamSettingsThatWereDroppedAreFound(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	nc := w.server.Conn()
	sub, err := nc.Subscribe("DROPS.API.>", func(m *nats.Msg) {
		body := bytes.ReplaceAll(m.Data, []byte(`"compression":"s2"`), []byte(`"compression":"none"`))
		body = bytes.ReplaceAll(body, []byte(`"max_batch":7,`), nil)
		_ = nc.PublishRequest("$JS.API."+strings.TrimPrefix(m.Subject, "DROPS.API."), m.Reply, body)
	})
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	js, _ := w.connect(w.server.URL(), jetstream.APIPrefix("DROPS.API"))
	for setting, cfg := range map[string]jetstream.ConsumerConfig{
		"compression: want S2, have None": {StreamConfig: &natsjs.StreamConfig{Name: "PRESSED", Subjects: []string{"pressed"}, Compression: natsjs.S2Compression}},
		"max_batch: want 7, have 0":       {Stream: "PLAIN", Subjects: []string{"plain"}, Consumer: &natsjs.ConsumerConfig{MaxRequestBatch: 7}},
	} {
		cfg.Durable, cfg.Start = "reader", jetstream.StartAll()
		report, err := js.Provision(w.ctx, js.Consumer(cfg), want(1))
		found := findings(report.Findings, transport.CodeFieldsDropped)
		if !errors.Is(err, transport.ErrUnsupported) || len(found) != 1 || len(found[0].Diff) != 1 || found[0].Diff[0] != setting {
			t.Errorf("%s: %v %s", setting, err, describe(report.Findings))
		}
	}
	if _, err := w.js.JetStream().Consumer(w.ctx, "PLAIN", "reader"); !errors.Is(err, natsjs.ErrConsumerNotFound) {
		t.Fatalf("the consumer is left behind: %v", err)
	}
}

// The client library's own objects are in reach, and may be used beside us.
func TestJetStreamNativeObjectsBesideASubscription(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	rx := w.started(w.source(), want(3))
	stream, err := w.js.JetStream().Stream(w.ctx, "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	beside, err := stream.CreateConsumer(w.ctx, natsjs.ConsumerConfig{Durable: "beside"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.JetStream().Publish(w.ctx, "orders.native", []byte("native")); err != nil {
		t.Fatal(err)
	}
	d := w.receive(rx)
	if m, ok := d.(transport.Native).Native().(*nats.Msg); !ok || string(m.Data) != "native" {
		t.Fatalf("the native message is %v", d.(transport.Native).Native())
	}
	theirs, err := beside.Next()
	if err != nil || string(theirs.Data()) != "native" || theirs.Ack() != nil {
		t.Fatalf("beside: %v", err)
	}
	// Our own durable in their hands: looked at, and updated, with the receiver open.
	ours, err := stream.Consumer(w.ctx, "billing")
	if err != nil || ours.CachedInfo().NumAckPending != 1 {
		t.Fatalf("our consumer: %v", err)
	}
	cfg := ours.CachedInfo().Config
	cfg.Description = "looked after"
	if _, err := stream.UpdateConsumer(w.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	w.ack(d)
	if err := stream.Purge(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.publish("orders.a", 1)
	w.ack(w.receive(rx))
	eventually(t, "all is acked", func() bool { return w.consumer("ORDERS", "billing").NumAckPending == 0 })
	if found, err := w.js.Check(w.ctx, w.source(), want(1)); err != nil || hasErrors(found) || len(findings(found, transport.CodeConsumerDrift)) > 0 {
		t.Fatalf("check: %v %s", err, describe(found))
	}
}
