package integration_test

import (
	"errors"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// What would change nothing, or something else, is refused before anything is done.
func TestJetStreamCallsWithoutAnEffectAreRefused(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.provision(w.source(), want(1))
	if err := w.js.Pause(w.ctx, w.source(), time.Now().Add(-time.Second)); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a pause that is over: %v", err)
	}
	if err := w.js.EnableSchedules(w.ctx, "ORDERS"); err != nil {
		t.Fatal(err)
	}
	err := w.js.Recur(w.ctx, jetstream.Subject("orders.placed"), jetstream.Recurrence{Spec: "@every 1h", TimeZone: "Europe/Berlin"}, &transport.Message{ID: "r"})
	if !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a time zone without a time of day: %v", err)
	}
}

// An update of a bucket changes what is asked for and keeps the rest: what it is
// called, and subjects that somebody has added.
func TestKVUpdateKeepsWhatNothingIsAskedAbout(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	if _, err := w.js.JetStream().CreateKeyValue(w.ctx, natsjs.KeyValueConfig{Bucket: "prices", Description: "of the shop"}); err != nil {
		t.Fatal(err)
	}
	stream, err := w.js.JetStream().Stream(w.ctx, "KV_prices")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.Subjects = append(cfg.Subjects, "prices.raw")
	if _, err := w.js.JetStream().UpdateStream(w.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := jetstream.OpenKV[string](w.ctx, w.js, jetstream.BucketConfig{
		Bucket: "prices", Mode: jetstream.ModeUpdate, Config: &natsjs.KeyValueConfig{History: 5},
	}); err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Config; got.Description != "of the shop" || len(got.Subjects) != 2 || got.MaxMsgsPerSubject != 5 {
		t.Errorf("after the update: %q %q %d", got.Description, got.Subjects, got.MaxMsgsPerSubject)
	}
}
