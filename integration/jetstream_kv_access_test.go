package integration_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// A permission that is missing is told by name, and not waited for.
func TestKVDenialIsToldAtOnce(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, natstest.WithUser("admin", "a", nil),
		natstest.WithUser("reader", "r", &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"$JS.API.>"}}}))
	w := &jsWorld{T: t, ctx: testContext(t), server: srv}
	w.js, w.events = w.connect(srv.URLFor("admin", "a"))
	openKV[string](w)
	openObjects(w)
	w.js, w.events = w.connect(srv.URLFor("reader", "r"))
	kv, s := openKV[string](w), openObjects(w)
	if _, err := kv.Get(w.ctx, "k"); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	if _, err := kv.Put(ctx, "k", "v"); !errors.Is(err, transport.ErrPermission) || transport.KindOf(err) != transport.Permanent {
		t.Errorf("put: %v", err)
	}
	if _, err := kv.Create(ctx, "k", "v"); !errors.Is(err, transport.ErrPermission) {
		t.Errorf("create: %v", err)
	}
	if _, err := s.Put(ctx, jetstream.ObjectMeta{Name: "o"}, bytes.NewReader(noise(1<<20))); !errors.Is(err, transport.ErrPermission) {
		t.Errorf("put an object: %v", err)
	}
}

// Behind a domain every subject has a prefix.
func TestKVAndObjectsBehindADomain(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, natstest.WithOptions(func(o *server.Options) { o.JetStreamDomain = "hub" }))
	w := &jsWorld{T: t, ctx: testContext(t), server: srv}
	w.js, w.events = w.connect(srv.URL(), jetstream.Domain("hub"))
	kv := openKV[string](w, history(3))
	rev, err := kv.Create(w.ctx, "k", "v")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Update(w.ctx, "k", "w", rev); err != nil {
		t.Fatal(err)
	}
	if e, err := kv.Get(w.ctx, "k"); err != nil || e.Value != "w" {
		t.Errorf("%+v, %v", e, err)
	}
	n := 0
	for _, err := range kv.History(w.ctx, "k") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	src := w.js.WatchKV(jetstream.WatchConfig{Bucket: jetstream.BucketConfig{Bucket: "prices"}, Durable: "d", Start: jetstream.StartLastPerSubject()})
	d := w.receive(w.started(src, want(1)))
	if n != 2 || d.Message().Key != "k" || string(d.Message().Body) != "w" {
		t.Errorf("%d revisions; watched %q %s", n, d.Message().Key, d.Message().Body)
	}
	s, body := openObjects(w), noise(1<<20)
	putObject(w, s, "o", body)
	if got, err := readObject(w, s, "o"); err != nil || !bytes.Equal(got, body) {
		t.Errorf("an object: %d bytes, %v", len(got), err)
	}
}

// A bucket of an old client that only the leader answers for.
func TestKVWithoutDirectReads(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	if _, err := w.js.JetStream().CreateStream(w.ctx, natsjs.StreamConfig{
		Name: "KV_prices", Subjects: []string{"$KV.prices.>"}, MaxMsgsPerSubject: 2, AllowRollup: true, DenyDelete: true,
	}); err != nil {
		t.Fatal(err)
	}
	kv := openKV[string](w)
	rev, err := kv.Put(w.ctx, "k", "one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(w.ctx, "k", "two"); err != nil {
		t.Fatal(err)
	}
	if e, err := kv.Get(w.ctx, "k"); err != nil || e.Value != "two" || e.Time.IsZero() {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := kv.GetRevision(w.ctx, "k", rev); err != nil || e.Value != "one" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := kv.GetRevision(w.ctx, "other", rev); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("a revision of another key: %v", err)
	}
	if err := kv.Purge(w.ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(w.ctx, "k"); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("a purged key: %v", err)
	}
}

// A second member of a durable gets nothing that was acked. Nor does it come again
// when somebody deletes the durable: it is made again where it stood.
func TestKVWatchIsNotReplayed(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	kv := openKV[int](w, history(10))
	put := func(i int) {
		t.Helper()
		if _, err := kv.Put(w.ctx, "k", i); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		put(i)
	}
	src := kv.Watch(jetstream.WatchConfig{Durable: "d", Start: jetstream.StartAll(), AckWait: brief})
	rx := w.started(src, want(3))
	for range 5 {
		w.ack(w.receive(rx))
	}
	second := w.open(src, want(3))
	w.nothing(second, brief+time.Second)
	if err := second.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.js.JetStream().DeleteConsumer(w.ctx, "KV_prices", "d"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the durable is made again", func() bool { return w.events.count(transport.Recreated) == 1 })
	put(5)
	d := w.receive(rx)
	if string(d.Message().Body) != "5" {
		t.Errorf("received %s", d.Message().Body)
	}
	w.ack(d)
	w.nothing(rx, brief+time.Second)
	if n := w.events.count(transport.Compacted); n != 0 {
		t.Errorf("%d times it is told that something was missed", n)
	}
}
