package integration_test

import (
	"context"
	"errors"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/integration/internal/oldnats"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

func connectCounter(t *testing.T, url string, opts ...jetstream.Option) *jetstream.Transport {
	t.Helper()
	js, err := jetstream.Connect(t.Context(), url, append(opts, jetstream.WithNATS(natstest.Patient()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = js.Close(context.Background()) })
	return js
}

func openCounter(t *testing.T, js *jetstream.Transport, cfg jetstream.CountStoreConfig) *jetstream.CountStore {
	t.Helper()
	s, err := js.CountStore(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestJetStreamCountStoreKeepsThePromises(t *testing.T) {
	t.Parallel()
	transporttest.RunCountStore(t, func(t *testing.T) transport.CountStore {
		return openCounter(t, connectCounter(t, natstest.Start(t).URL()), jetstream.CountStoreConfig{})
	})
}

// TestJetStreamCountStoreKeepsThePromisesOnAnOldServer: one that cannot expire
// single counts keeps all for as long as the bucket says.
func TestJetStreamCountStoreKeepsThePromisesOnAnOldServer(t *testing.T) {
	t.Parallel()
	srv := oldnats.Start(t)
	transporttest.RunCountStore(t, func(t *testing.T) transport.CountStore {
		s := openCounter(t, connectCounter(t, srv.URL(), jetstream.Namespace("n"+t.Name()[len(t.Name())-8:])), jetstream.CountStoreConfig{})
		if s.MaxExpiry() != 48*time.Hour {
			t.Errorf("the bucket keeps counts for %v", s.MaxExpiry())
		}
		return s
	})
}

// TestJetStreamCountStoreExpiresWithItsBucketOnAnOldServer: each attempt keeps
// the count for another time to live.
func TestJetStreamCountStoreExpiresWithItsBucketOnAnOldServer(t *testing.T) {
	t.Parallel()
	js := connectCounter(t, oldnats.Start(t).URL())
	s := openCounter(t, js, jetstream.CountStoreConfig{Bucket: "brief", TTL: time.Second})
	key := transport.CountKey{Subscription: "s", Message: "m"}
	if n, err := s.Add(t.Context(), key, "1", time.Second); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		n, err := s.Count(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the count does not expire")
		}
	}
}

// TestJetStreamCountStoreLeavesNothingBehind: what was forgotten takes no place
// in the bucket.
func TestJetStreamCountStoreLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	js := connectCounter(t, natstest.Start(t).URL())
	s := openCounter(t, js, jetstream.CountStoreConfig{})
	for _, id := range []string{"a", "b with space", "c"} {
		key := transport.CountKey{Subscription: "s", Message: id}
		for _, attempt := range []string{"1", "2"} {
			if _, err := s.Add(t.Context(), key, attempt, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Forget(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := js.JetStream().Stream(t.Context(), "KV_holdfast_attempts")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages are left in the bucket", n)
	}
}

// TestJetStreamCountStoreRefusesABucketThatDoesNotSuit: one that keeps counts
// for ever, or for less than is asked for, is left alone and named.
func TestJetStreamCountStoreRefusesABucketThatDoesNotSuit(t *testing.T) {
	t.Parallel()
	js := connectCounter(t, natstest.Start(t).URL())
	for name, ttl := range map[string]time.Duration{"ever": 0, "short": time.Minute} {
		if _, err := js.JetStream().CreateKeyValue(t.Context(), natsjs.KeyValueConfig{Bucket: name, TTL: ttl}); err != nil {
			t.Fatal(err)
		}
		_, err := js.CountStore(t.Context(), jetstream.CountStoreConfig{Bucket: name})
		if !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("bucket %s: %v", name, err)
		}
	}
	if _, err := js.CountStore(t.Context(), jetstream.CountStoreConfig{Bucket: "a.b"}); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a bucket whose name is none: %v", err)
	}
}

// TestJetStreamCountStoreComesBackWithItsServer: calls fail while the server is
// away, in time, and count on afterwards.
func TestJetStreamCountStoreComesBackWithItsServer(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	s := openCounter(t, connectCounter(t, srv.URL()), jetstream.CountStoreConfig{})
	key := transport.CountKey{Subscription: "s", Message: "m"}
	if n, err := s.Add(t.Context(), key, "1", time.Hour); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	srv.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := s.Add(ctx, key, "2", time.Hour); err == nil {
		t.Error("an attempt was counted while the server was away")
	}
	srv.Start()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		try, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		n, err := s.Add(try, key, "2", time.Hour)
		cancel()
		if err == nil {
			if n != 2 {
				t.Errorf("%d attempts are counted", n)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
