package integration_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/oldnats"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// refusal returns the codes of the findings in an error.
func refusal(err error) string {
	f, ok := errors.AsType[*jetstream.FindingsError](err)
	if !ok {
		return ""
	}
	var codes []string
	for _, one := range f.Findings {
		codes = append(codes, string(one.Code)+" "+strings.Join(one.Diff, ", "))
	}
	return strings.Join(codes, "; ")
}

func TestKVBucketIsVerifiedEnsuredOrAdopted(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	open := func(mode jetstream.Mode, cfg *natsjs.KeyValueConfig) (*jetstream.KV[string], error) {
		return jetstream.OpenKV[string](w.ctx, w.js, jetstream.BucketConfig{Bucket: "prices", Mode: mode, Config: cfg})
	}
	if _, err := open(jetstream.ModeVerify, nil); !errors.Is(err, transport.ErrNotFound) || !strings.HasPrefix(refusal(err), "HF1201") {
		t.Fatalf("a missing bucket in verify mode: %v", err)
	}
	made := &natsjs.KeyValueConfig{History: 5, TTL: time.Hour, Description: "of tea", Metadata: map[string]string{"team": "shop"}}
	kv, err := open(jetstream.ModeEnsure, made)
	if err != nil || len(kv.Findings()) != 0 {
		t.Fatalf("ensure: %v, %v", kv.Findings(), err)
	}
	if kv, err := open(jetstream.ModeVerify, made); err != nil || len(kv.Findings()) != 0 {
		t.Fatalf("verify what was made: %v", err)
	}
	if kv, err := open(jetstream.ModeVerify, nil); err != nil || len(kv.Findings()) != 0 {
		t.Fatalf("adopt what was made: %v", err)
	}
	other := &natsjs.KeyValueConfig{History: 7, TTL: time.Hour, Metadata: map[string]string{"team": "bar"}}
	const drift = "max_msgs_per_subject: want 7, have 5"
	if _, err := open(jetstream.ModeVerify, other); !strings.Contains(refusal(err), drift) || !strings.Contains(refusal(err), "metadata team") || transport.KindOf(err) != transport.Permanent {
		t.Fatalf("verify what drifted: %v", err)
	}
	kv, err = open(jetstream.ModeEnsure, other)
	if err != nil {
		t.Fatal(err)
	}
	if f := kv.Findings(); len(f) != 1 || f[0].Code != transport.CodeStreamDrift || f[0].Level != transport.LevelWarning || !slices.Contains(f[0].Diff, drift) {
		t.Fatalf("ensure what drifted: %v", f)
	}
	kv, err = open(jetstream.ModeUpdate, other)
	if err != nil || len(kv.Findings()) != 0 {
		t.Fatalf("update: %v, %v", kv, err)
	}
	if _, err := open(jetstream.ModeVerify, other); err != nil {
		t.Fatalf("verify after the update: %v", err)
	}
	// A bucket that another client made is one of ours, and the reverse.
	cfg := natsjs.KeyValueConfig{Bucket: "foreign", History: 3, LimitMarkerTTL: time.Minute, Compression: true}
	if _, err := w.js.JetStream().CreateKeyValue(w.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if kv, err := jetstream.OpenKV[string](w.ctx, w.js, jetstream.BucketConfig{Bucket: "foreign", Mode: jetstream.ModeVerify, Config: &cfg}); err != nil {
		t.Fatalf("a bucket of another client: %v, %v", kv, err)
	}
	if _, err := w.js.JetStream().CreateKeyValue(w.ctx, natsjs.KeyValueConfig{Bucket: "prices", History: 7, TTL: time.Hour, Metadata: map[string]string{"team": "bar"}}); err != nil {
		t.Logf("the client library says of our bucket: %v", err)
	}
	for _, wrong := range []natsjs.KeyValueConfig{{History: 65}, {Bucket: "x"}, {LimitMarkerTTL: time.Millisecond}} {
		if _, err := open(jetstream.ModeEnsure, &wrong); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

func TestKVStreamThatIsNoBucketIsRefused(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	for _, cfg := range []natsjs.StreamConfig{
		{Name: "KV_unbounded", Subjects: []string{"$KV.unbounded.>"}},
		{Name: "KV_work", Subjects: []string{"$KV.work.>"}, MaxMsgsPerSubject: 1, Retention: natsjs.WorkQueuePolicy},
		{Name: "OBJ_odd", Subjects: []string{"odd.>"}},
	} {
		if _, err := w.js.JetStream().CreateStream(w.ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	for _, bucket := range []string{"unbounded", "work"} {
		if _, err := jetstream.OpenKV[string](w.ctx, w.js, jetstream.BucketConfig{Bucket: bucket}); !strings.HasPrefix(refusal(err), string(transport.CodeNotABucket)) {
			t.Errorf("%s: %v", bucket, err)
		}
		src := w.js.WatchKV(jetstream.WatchConfig{Bucket: jetstream.BucketConfig{Bucket: bucket}, Durable: "d", Start: jetstream.StartAll()})
		found, err := w.js.Check(w.ctx, src, want(1))
		if err != nil || len(findings(found, transport.CodeNotABucket)) != 1 {
			t.Errorf("check of a watch of %s: %v %s", bucket, err, describe(found))
		}
	}
	if _, err := jetstream.OpenObjectStore(w.ctx, w.js, jetstream.ObjectStoreConfig{Bucket: "odd"}); !strings.HasPrefix(refusal(err), string(transport.CodeNotABucket)) {
		t.Errorf("an object store: %v", err)
	}
}

// A watch is checked as any other source, and says what is peculiar to it.
func TestKVWatchIsChecked(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	check := func(cfg jetstream.WatchConfig, wnt transport.Want) []transport.Finding {
		t.Helper()
		if cfg.Bucket.Bucket == "" {
			cfg.Bucket.Bucket = "prices"
		}
		found, err := w.js.Check(w.ctx, w.js.WatchKV(cfg), wnt)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	ordered := want(1)
	ordered.Ordered = true
	all := jetstream.WatchConfig{Durable: "d", Start: jetstream.StartAll()}
	found := check(all, want(1))
	if len(findings(found, transport.CodeStreamCreated)) != 1 || len(findings(found, transport.CodeConsumerCreated)) != 1 || len(findings(found, transport.CodeUnorderedWatch)) != 1 {
		t.Errorf("a new watch: %s", describe(found))
	}
	if found := findings(check(all, ordered), transport.CodeUnorderedWatch); len(found) != 0 {
		t.Errorf("an ordered watch: %s", describe(found))
	}
	for what, cfg := range map[string]jetstream.WatchConfig{
		"no start":            {Durable: "d"},
		"no start, ephemeral": {},
	} {
		if found := findings(check(cfg, ordered), transport.CodeNoStart); len(found) != 1 {
			t.Errorf("%s: %s", what, describe(found))
		}
	}
	for what, cfg := range map[string]jetstream.WatchConfig{
		"a bad key":    {Durable: "d", Start: jetstream.StartAll(), Keys: []string{"a b"}},
		"overlapping":  {Durable: "d", Start: jetstream.StartAll(), Keys: []string{"a.*", "a.b"}},
		"a bad bucket": {Durable: "d", Start: jetstream.StartAll(), Bucket: jetstream.BucketConfig{Bucket: "a.b"}},
	} {
		if found := findings(check(cfg, ordered), transport.CodeInvalid); len(found) == 0 {
			t.Errorf("%s is not found", what)
		}
	}
	verify := all
	verify.Bucket.Mode = jetstream.ModeVerify
	if found := findings(check(verify, ordered), transport.CodeStreamMissing); len(found) != 1 {
		t.Errorf("a missing bucket in verify mode: %s", describe(found))
	}
	// What it makes is a bucket as any other client would make it.
	w.provision(w.js.WatchKV(jetstream.WatchConfig{Bucket: jetstream.BucketConfig{Bucket: "prices"}, Durable: "d", Start: jetstream.StartAll()}), ordered)
	if _, err := jetstream.OpenKV[string](w.ctx, w.js, jetstream.BucketConfig{Bucket: "prices", Mode: jetstream.ModeVerify, Config: &natsjs.KeyValueConfig{}}); err != nil {
		t.Errorf("what the watch made: %v", err)
	}
	// It is not changed by what was written meanwhile, in no mode.
	if _, err := openKV[string](w).Put(w.ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	begun := w.consumer("KV_prices", "d").Config.Metadata["holdfast.begun"]
	for _, mode := range []jetstream.Mode{jetstream.ModeEnsure, jetstream.ModeVerify, jetstream.ModeUpdate} {
		again := all
		again.Bucket = jetstream.BucketConfig{Bucket: "prices", Mode: mode}
		if report := w.provision(w.js.WatchKV(again), ordered); len(report.Created)+len(report.Updated)+len(report.Findings) > 0 {
			t.Errorf("provisioned again in mode %s: %+v", mode, report)
		}
	}
	if now := w.consumer("KV_prices", "d").Config.Metadata["holdfast.begun"]; begun != "0" || now != begun {
		t.Errorf("the watch remembers %q, and %q before", now, begun)
	}
	drifted := all
	drifted.Bucket.Config = &natsjs.KeyValueConfig{History: 9}
	if found := findings(check(drifted, ordered), transport.CodeStreamDrift); len(found) != 1 {
		t.Errorf("a bucket that drifted: %s", describe(found))
	}
	moved := w.js.WatchKV(all).(transport.Prefixer)
	if s := moved.WithPrefix("test.").String(); s != "jetstream bucket test_/test_d" {
		t.Errorf("with a prefix: %s", s)
	}
}

func newOldKVWorld(t *testing.T) (*jsWorld, *oldnats.Server) {
	t.Helper()
	srv := oldnats.Start(t)
	w := &jsWorld{T: t, ctx: testContext(t)}
	w.js, w.events = w.connect(srv.URL())
	return w, srv
}

// What a server of version 2.9 would drop in silence is found and refused.
func TestKVOldServerThatDropsSettingsIsRefused(t *testing.T) {
	t.Parallel()
	w, _ := newOldKVWorld(t)
	for what, cfg := range map[string]natsjs.KeyValueConfig{
		"LimitMarkerTTL": {LimitMarkerTTL: time.Minute},
		"Compression":    {Compression: true},
		"Metadata":       {Metadata: map[string]string{"k": "v"}},
		"Sources":        {Sources: []*natsjs.StreamSource{{Name: "other"}}},
	} {
		for _, mode := range []jetstream.Mode{jetstream.ModeEnsure, jetstream.ModeVerify, jetstream.ModeUpdate} {
			_, err := jetstream.OpenKV[string](w.ctx, w.js, jetstream.BucketConfig{Bucket: "prices", Mode: mode, Config: &cfg})
			if !errors.Is(err, transport.ErrUnsupported) || !strings.HasPrefix(refusal(err), string(transport.CodeServerTooOld)) || !strings.Contains(err.Error(), what) {
				t.Errorf("%s in mode %s: %v", what, mode, err)
			}
		}
	}
	for what, cfg := range map[string]natsjs.ObjectStoreConfig{
		"Compression": {Compression: true},
		"Metadata":    {Metadata: map[string]string{"k": "v"}},
	} {
		_, err := jetstream.OpenObjectStore(w.ctx, w.js, jetstream.ObjectStoreConfig{Bucket: "files", Config: &cfg})
		if !errors.Is(err, transport.ErrUnsupported) || !strings.HasPrefix(refusal(err), string(transport.CodeServerTooOld)) {
			t.Errorf("object store, %s: %v", what, err)
		}
	}
	for name := range w.js.JetStream().StreamNames(w.ctx).Name() {
		t.Errorf("the stream %s is left behind", name)
	}
	kv := openKV[string](w)
	if _, err := kv.Create(w.ctx, "k", "v", jetstream.KeyTTL(time.Minute)); !errors.Is(err, transport.ErrUnsupported) || !strings.Contains(err.Error(), "2.9.") {
		t.Errorf("a time to live: %v", err)
	}
	if err := kv.Purge(w.ctx, "k", jetstream.MarkerTTL(time.Minute)); !errors.Is(err, transport.ErrUnsupported) {
		t.Errorf("a time to live of a mark: %v", err)
	}
	for _, err := range kv.Keys(w.ctx, "a", "b") {
		if !errors.Is(err, transport.ErrUnsupported) {
			t.Errorf("keys of two patterns: %v", err)
		}
	}
	src := w.js.WatchKV(jetstream.WatchConfig{Bucket: jetstream.BucketConfig{Bucket: "prices"}, Keys: []string{"a", "b"}, Durable: "d", Start: jetstream.StartAll()})
	found, err := w.js.Check(w.ctx, src, want(1))
	if err != nil || len(findings(found, transport.CodeServerTooOld)) != 1 {
		t.Errorf("a watch of two patterns: %v %s", err, describe(found))
	}
}

// What it knows works as on a new one.
func TestKVAndObjectsOnAnOldServer(t *testing.T) {
	t.Parallel()
	w, srv := newOldKVWorld(t)
	kv := openKV[int](w, history(2))
	one, err := kv.Create(w.ctx, "a", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(w.ctx, "a", 1); err == nil {
		t.Error("a key is created twice")
	} else if _, ok := errors.AsType[*jetstream.ConflictError](err); !ok {
		t.Errorf("create of a key that exists: %v", err)
	}
	if _, err := kv.Update(w.ctx, "a", 2, one); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(w.ctx, "b", 1); err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(w.ctx, "b"); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for k, err := range kv.Keys(w.ctx) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	if !slices.Equal(keys, []string{"a"}) {
		t.Errorf("keys: %v", keys)
	}
	src := w.js.WatchKV(jetstream.WatchConfig{Bucket: jetstream.BucketConfig{Bucket: "prices"}, Durable: "d", Start: jetstream.StartLastPerSubject(), AckWait: lease})
	rx := w.started(src, want(3))
	for _, expected := range []string{"a", "b"} {
		d := w.receive(rx)
		if d.Message().Key != expected {
			t.Errorf("watched %q, not %q", d.Message().Key, expected)
		}
		w.ack(d)
	}
	srv.Restart()
	if _, err := kv.Put(w.ctx, "c", 1); err != nil {
		t.Fatal(err)
	}
	if d := w.receive(rx); d.Message().Key != "c" {
		t.Errorf("watched %q after a restart", d.Message().Key)
	}
	s := openObjects(w)
	body := noise(1 << 20)
	putObject(w, s, "file", body)
	if got, err := readObject(w, s, "file"); err != nil || !bytes.Equal(got, body) {
		t.Errorf("an object: %d bytes, %v", len(got), err)
	}
}
