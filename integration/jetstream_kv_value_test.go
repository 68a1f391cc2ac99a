package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

type price struct {
	Cents int `json:"cents"`
}

// openKV opens a bucket named prices.
func openKV[T any](w *jsWorld, change ...func(*jetstream.BucketConfig)) *jetstream.KV[T] {
	w.Helper()
	cfg := jetstream.BucketConfig{Bucket: "prices"}
	for _, c := range change {
		c(&cfg)
	}
	kv, err := jetstream.OpenKV[T](w.ctx, w.js, cfg)
	if err != nil {
		w.Fatalf("open the bucket: %v", err)
	}
	return kv
}

// keeping asks for a bucket with these settings.
func keeping(set func(*natsjs.KeyValueConfig)) func(*jetstream.BucketConfig) {
	return func(c *jetstream.BucketConfig) {
		c.Config = &natsjs.KeyValueConfig{}
		set(c.Config)
	}
}

func history(n uint8) func(*jetstream.BucketConfig) {
	return keeping(func(c *natsjs.KeyValueConfig) { c.History = n })
}

func TestKVKeepsTypedValues(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	kv := openKV[price](w)
	if _, err := kv.Get(w.ctx, "tea"); !errors.Is(err, transport.ErrNotFound) {
		t.Fatalf("a key that is not there: %v", err)
	}
	rev, err := kv.Put(w.ctx, "tea.green", price{250})
	if err != nil || rev != 1 {
		t.Fatalf("put: %d, %v", rev, err)
	}
	e, err := kv.Get(w.ctx, "tea.green")
	if err != nil || e.Value.Cents != 250 || e.Revision != 1 || e.Key != "tea.green" || e.Bucket != "prices" || e.Operation != jetstream.OpPut || e.Time.IsZero() {
		t.Fatalf("get: %+v, %v", e, err)
	}
	native, err := kv.Native(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := native.Get(w.ctx, "tea.green"); err != nil || string(n.Value()) != `{"cents":250}` {
		t.Fatalf("the client library reads %v, %v", n, err)
	}
	if _, err := native.Put(w.ctx, "tea.green", []byte(`{"cents":300}`)); err != nil {
		t.Fatal(err)
	}
	if e, err := kv.Get(w.ctx, "tea.green"); err != nil || e.Value.Cents != 300 {
		t.Fatalf("what the client library wrote: %+v, %v", e, err)
	}
	if _, err := native.Put(w.ctx, "tea.green", []byte(`{"cents":`)); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(w.ctx, "tea.green"); transport.KindOf(err) != transport.Permanent {
		t.Fatalf("a value that cannot be decoded: %v", err)
	}
	text := openKV[string](w)
	if e, err := text.GetRevision(w.ctx, "tea.green", rev); err == nil {
		t.Fatalf("revision 1 is gone and was read: %+v", e)
	}
	if e, err := text.Get(w.ctx, "tea.green"); err != nil || e.Value != `{"cents":` {
		t.Fatalf("as text: %+v, %v", e, err)
	}
}

func TestKVConflictIsOneTypedError(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	kv := openKV[string](w)
	conflict := func(what string, expected uint64, err error) {
		t.Helper()
		c, ok := errors.AsType[*jetstream.ConflictError](err)
		if !ok || c.Key != "k" || c.Expected != expected || transport.KindOf(err) != transport.Permanent {
			t.Fatalf("%s: %v", what, err)
		}
	}
	one, err := kv.Create(w.ctx, "k", "one")
	if err != nil {
		t.Fatal(err)
	}
	_, err = kv.Create(w.ctx, "k", "again")
	conflict("create of a key that exists", 0, err)
	two, err := kv.Update(w.ctx, "k", "two", one)
	if err != nil {
		t.Fatal(err)
	}
	_, err = kv.Update(w.ctx, "k", "late", one)
	conflict("update from an old revision", one, err)
	conflict("delete of an old revision", one, kv.Delete(w.ctx, "k", jetstream.IfRevision(one)))
	conflict("purge of an old revision", one, kv.Purge(w.ctx, "k", jetstream.IfRevision(one)))
	if err := kv.Delete(w.ctx, "k", jetstream.IfRevision(two)); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(w.ctx, "k"); !errors.Is(err, transport.ErrNotFound) {
		t.Fatalf("a deleted key: %v", err)
	}
	three, err := kv.Create(w.ctx, "k", "three")
	if err != nil {
		t.Fatalf("create after a delete: %v", err)
	}
	if err := kv.Purge(w.ctx, "k", jetstream.IfRevision(three)); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(w.ctx, "k", "four"); err != nil {
		t.Fatalf("create after a purge: %v", err)
	}
}

func TestKVOneOfManyWritersWinsEachRevision(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	kv := openKV[int](w)
	if _, err := kv.Create(w.ctx, "n", 0); err != nil {
		t.Fatal(err)
	}
	const writers, each = 8, 25
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if err := increment(w.ctx, kv); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if e, err := kv.Get(w.ctx, "n"); err != nil || e.Value != writers*each {
		t.Fatalf("counted %d, %v", e.Value, err)
	}
}

// increment changes a value as one does: again when somebody was faster.
func increment(ctx context.Context, kv *jetstream.KV[int]) error {
	for {
		e, err := kv.Get(ctx, "n")
		if err != nil {
			return err
		}
		_, err = kv.Update(ctx, "n", e.Value+1, e.Revision)
		if _, conflict := errors.AsType[*jetstream.ConflictError](err); !conflict {
			return err
		}
	}
}

func TestKVHistoryKeysAndEntries(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	kv := openKV[int](w, history(5))
	for i := range 7 {
		if _, err := kv.Put(w.ctx, "a.x", i); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []string{"a.y", "b.x", "b.gone", "c"} {
		if _, err := kv.Put(w.ctx, k, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := kv.Delete(w.ctx, "b.gone"); err != nil {
		t.Fatal(err)
	}
	var values []int
	for e, err := range kv.History(w.ctx, "a.x") {
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, e.Value)
	}
	if !slices.Equal(values, []int{2, 3, 4, 5, 6}) {
		t.Errorf("history: %v", values)
	}
	var ops []string
	for e, err := range kv.History(w.ctx, "b.gone") {
		if err != nil {
			t.Fatal(err)
		}
		ops = append(ops, e.Operation.String())
	}
	if strings.Join(ops, " ") != "put delete" {
		t.Errorf("the history of a deleted key: %v", ops)
	}
	for range kv.History(w.ctx, "nowhere") {
		t.Error("an unknown key has a history")
	}
	keys := func(patterns ...string) string {
		t.Helper()
		var got []string
		for k, err := range kv.Keys(w.ctx, patterns...) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, k)
		}
		slices.Sort(got)
		return strings.Join(got, " ")
	}
	for pattern, want := range map[string]string{"": "a.x a.y b.x c", "a.*": "a.x a.y", "*.x": "a.x b.x", "z.>": ""} {
		var patterns []string
		if pattern != "" {
			patterns = []string{pattern}
		}
		if got := keys(patterns...); got != want {
			t.Errorf("keys %q: %s", pattern, got)
		}
	}
	if got := keys("a.*", "c"); got != "a.x a.y c" {
		t.Errorf("keys of two patterns: %s", got)
	}
	sum := 0
	for e, err := range kv.Entries(w.ctx) {
		if err != nil {
			t.Fatal(err)
		}
		sum += e.Value
	}
	if sum != 6+3 {
		t.Errorf("entries add up to %d", sum)
	}
	for range kv.Keys(w.ctx) {
		break // a caller may stop
	}
}

func TestKVValuesExpireWhereTheBucketLetsThem(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	plain := openKV[string](w)
	if _, err := plain.Put(w.ctx, "k", "v", jetstream.KeyTTL(time.Minute)); !errors.Is(err, transport.ErrUnsupported) || !strings.Contains(err.Error(), "LimitMarkerTTL") {
		t.Fatalf("a bucket without markers: %v", err)
	}
	kv := openKV[string](w, func(c *jetstream.BucketConfig) { c.Bucket = "sessions" }, keeping(func(c *natsjs.KeyValueConfig) {
		c.LimitMarkerTTL, c.History = 5*time.Second, 3
	}))
	for _, short := range []time.Duration{0, -1, 500 * time.Millisecond, 3 * time.Second} {
		// The last one would be raised to the TTL of markers in silence.
		if _, err := kv.Put(w.ctx, "k", "v", jetstream.KeyTTL(short)); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("a time to live of %v: %v", short, err)
		}
	}
	if err := kv.Delete(w.ctx, "k", jetstream.MarkerTTL(time.Minute)); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a delete that expires: %v", err)
	}
	one := openKV[string](w, func(c *jetstream.BucketConfig) { c.Bucket = "short" }, keeping(func(c *natsjs.KeyValueConfig) { c.LimitMarkerTTL = time.Minute }))
	if _, err := one.Create(w.ctx, "k", "v", jetstream.KeyTTL(1100*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the value expires", func() bool {
		_, err := one.Get(w.ctx, "k")
		return errors.Is(err, transport.ErrNotFound)
	})
	var last jetstream.Entry[string]
	eventually(t, "the server leaves its mark", func() bool {
		for e, err := range one.History(w.ctx, "k") {
			if err != nil {
				t.Fatal(err)
			}
			last = e
		}
		return last.Operation == jetstream.OpPurge
	})
	if !last.Expired {
		t.Fatalf("the mark of an expired value: %+v", last)
	}
	if _, err := one.Create(w.ctx, "k", "again"); err != nil {
		t.Fatalf("create after it expired: %v", err)
	}
	if err := one.Purge(w.ctx, "k", jetstream.MarkerTTL(time.Second)); err != nil {
		t.Fatal(err)
	}
}

func TestKVRefusesNamesTheServerWould(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	for _, bucket := range []string{"", "a.b", "a b", "a*", "pr/ces", "ü"} {
		if _, err := jetstream.OpenKV[string](w.ctx, w.js, jetstream.BucketConfig{Bucket: bucket}); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("the bucket name %q: %v", bucket, err)
		}
	}
	kv := openKV[string](w)
	for _, key := range []string{"", ".", ".a", "a.", "a..b", "a b", "a*", "a.>", "*", "a\x00b", "a\r\nPUB x", "ü", "a@b", strings.Repeat("k", 1025), strings.Repeat("k", 1<<20)} {
		_, put := kv.Put(w.ctx, key, "v")
		_, get := kv.Get(w.ctx, key)
		del := kv.Delete(w.ctx, key)
		for _, err := range []error{put, get, del} {
			if !errors.Is(err, transport.ErrInvalid) || len(err.Error()) > 400 {
				t.Errorf("the key %.20q: %.400v", key, err)
			}
		}
	}
	for _, key := range []string{"a", "a.b", "-/_=.x", "A9", "=", strings.Repeat("k", 1024)} {
		if _, err := kv.Put(w.ctx, key, key); err != nil {
			t.Errorf("the key %.20q: %v", key, err)
		}
		if e, err := kv.Get(w.ctx, key); err != nil || e.Value != key {
			t.Errorf("the key %.20q: %+v, %v", key, e, err)
		}
	}
	for range kv.Keys(w.ctx, "a b") {
		break
	}
	for k, err := range kv.Keys(w.ctx, "a..*") {
		if !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("a bad pattern: %q, %v", k, err)
		}
	}
	if _, err := kv.Put(w.ctx, "big", strings.Repeat("v", 2<<20)); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("a value above max_payload: %v", err)
	}
	small := openKV[string](w, func(c *jetstream.BucketConfig) { c.Bucket = "small" }, keeping(func(c *natsjs.KeyValueConfig) { c.MaxValueSize = 100 }))
	if _, err := small.Put(w.ctx, "k", strings.Repeat("v", 200)); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("a value above that of the bucket: %v", err)
	}
	full := openKV[string](w, func(c *jetstream.BucketConfig) { c.Bucket = "full" }, keeping(func(c *natsjs.KeyValueConfig) { c.MaxBytes = 1000 }))
	var err error
	for i := range 20 {
		if _, err = full.Put(w.ctx, fmt.Sprintf("k%d", i), strings.Repeat("v", 200)); err != nil {
			break
		}
	}
	if err == nil || transport.KindOf(err) != transport.Temporary {
		t.Errorf("a full bucket: %v", err)
	}
}

func TestKVOutlivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	kv := openKV[int](w)
	if _, err := kv.Put(w.ctx, "k", 1); err != nil {
		t.Fatal(err)
	}
	w.server.Stop()
	done := make(chan error, 1)
	go func() {
		_, err := kv.Put(w.ctx, "k", 2)
		done <- err
	}()
	short, cancel := context.WithTimeout(w.ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := kv.Get(short, "k"); !errors.Is(err, context.DeadlineExceeded) || transport.KindOf(err) != transport.Temporary {
		t.Fatalf("get without a server: %v", err)
	}
	w.server.Start()
	if err := <-done; err != nil {
		t.Fatalf("put over a restart: %v", err)
	}
	if e, err := kv.Get(w.ctx, "k"); err != nil || e.Value != 2 {
		t.Fatalf("get after a restart: %+v, %v", e, err)
	}
	if err := w.js.JetStream().DeleteKeyValue(w.ctx, "prices"); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(w.ctx, "k", 3); !errors.Is(err, transport.ErrNotFound) || transport.KindOf(err) != transport.Permanent {
		t.Fatalf("put to a deleted bucket: %v", err)
	}
	if _, err := kv.Get(w.ctx, "k"); !errors.Is(err, transport.ErrNotFound) || !strings.Contains(err.Error(), "bucket is gone") {
		t.Fatalf("get from a deleted bucket: %v", err)
	}
}
