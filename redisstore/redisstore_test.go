package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/holdfast-go/holdfast/internal/redistest"
	"github.com/holdfast-go/holdfast/redisstore"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

func connect(t *testing.T, srv *redistest.Server) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: srv.Addr(), DialTimeout: time.Second, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestStoreKeepsThePromisesOfACountStore(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	transporttest.RunCountStore(t, func(t *testing.T) transport.CountStore {
		return redisstore.New(connect(t, srv), redisstore.WithPrefix(t.Name()+":"))
	})
}

// TestStoreThatIsDownSaysSoAndComesBack: calls fail while the server is away, in
// time, and what was counted before is there afterwards.
func TestStoreThatIsDownSaysSoAndComesBack(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	store := redisstore.New(connect(t, srv))
	key := transport.CountKey{Subscription: "billing", Message: "m"}
	if n, err := store.Add(t.Context(), key, "one", time.Hour); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	srv.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := store.Add(ctx, key, "two", time.Hour)
	if e, ok := errors.AsType[*transport.Error](err); !ok || e.Kind != transport.Unknown || e.Op != "count attempt" {
		t.Errorf("a server that is away gives %v", err)
	}
	srv.Start(t)
	if n, err := store.Add(ctx, key, "two", time.Hour); n != 2 || err != nil {
		t.Errorf("after the restart %d attempts are counted, %v", n, err)
	}
}

// TestKeysExpire: nothing that the store writes stays for ever.
func TestKeysExpire(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := connect(t, srv)
	store := redisstore.New(client)
	ids := []string{"a", strings.Repeat("long", 1000), "with space\nand \x00", ""}
	for _, id := range ids {
		if _, err := store.Add(t.Context(), transport.CountKey{Subscription: "s", Message: id}, "1", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := client.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) != len(ids) {
		t.Fatalf("%d keys for %d messages, %v", len(keys), len(ids), err)
	}
	for _, key := range keys {
		left, err := client.TTL(t.Context(), key).Result()
		if err != nil || left <= 0 || left > time.Hour || len(key) > 300 || !strings.HasPrefix(key, redisstore.DefaultPrefix) {
			t.Errorf("key %q expires in %v, %v", key, left, err)
		}
	}
}

// TestForeignKeyIsNotTouched: what somebody else keeps under the same name is an
// error that says so.
func TestForeignKeyIsNotTouched(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := connect(t, srv)
	if err := client.Set(t.Context(), "p:s:m", "theirs", 0).Err(); err != nil {
		t.Fatal(err)
	}
	store := redisstore.New(client, redisstore.WithPrefix("p:"))
	_, err := store.Count(t.Context(), transport.CountKey{Subscription: "s", Message: "m"})
	e, ok := errors.AsType[*transport.Error](err)
	if !ok || e.Kind != transport.Permanent || !strings.Contains(e.Hint, "prefix") {
		t.Errorf("got %v", err)
	}
	if _, err := store.Add(t.Context(), transport.CountKey{Subscription: "s", Message: "m"}, "1", time.Hour); err == nil {
		t.Error("an attempt was counted in a key of somebody else")
	}
	if v, _ := client.Get(t.Context(), "p:s:m").Result(); v != "theirs" {
		t.Errorf("their key is now %q", v)
	}
}

// TestManyClientsCountOnce: several connections count the attempts of one
// message, and each number is given out once.
func TestManyClientsCountOnce(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int]int{}
	for c := range 4 {
		store := redisstore.New(connect(t, srv))
		wg.Go(func() {
			for i := range 25 {
				n, err := store.Add(t.Context(), transport.CountKey{Subscription: "s", Message: "m"}, fmt.Sprint(c, " ", i), time.Hour)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[n]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n := 1; n <= 100; n++ {
		if seen[n] != 1 {
			t.Fatalf("the count %d was given out %d times", n, seen[n])
		}
	}
}
