package integration

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
)

// scaleVar multiplies what the tests of flat memory move: 10 gives the million
// keys and more than a gigabyte of what is promised.
const scaleVar = "HOLDFAST_TEST_SCALE"

func scale(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv(scaleVar))
	if err != nil {
		return 1
	}
	return n
}

// heapPeak calls run and returns how much the heap grew at most meanwhile.
func heapPeak(run func()) (bytes uint64) {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	base := m.HeapAlloc
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			runtime.ReadMemStats(&m)
			if m.HeapAlloc > base {
				bytes = max(bytes, m.HeapAlloc-base)
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	run()
	close(stop)
	<-stopped
	return bytes
}

// TestKVWatchOfManyKeysHasFlatMemory does not run in parallel, since it looks at
// the heap of the process. The server has a process of its own.
func TestKVWatchOfManyKeysHasFlatMemory(t *testing.T) {
	keys := 100_000 * scale(t)
	js := dialWhenUp(t, natsProcess(t))
	native, err := js.JetStream().CreateKeyValue(t.Context(), natsjs.KeyValueConfig{Bucket: "numbers"})
	if err != nil {
		t.Fatal(err)
	}
	fillBucket(t, js, keys)
	kv, err := jetstream.OpenKV[string](t.Context(), js, jetstream.BucketConfig{Bucket: native.Bucket()})
	if err != nil {
		t.Fatal(err)
	}
	const limit = 48 << 20
	began, listed := time.Now(), 0
	grown := heapPeak(func() {
		for _, err := range kv.Keys(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			listed++
		}
	})
	t.Logf("listed %d keys in %s, the heap grew by %.1f MiB", listed, time.Since(began).Round(time.Millisecond), float64(grown)/(1<<20))
	if listed != keys || grown > limit {
		t.Errorf("listed %d keys of %d, and the heap grew by %d", listed, keys, grown)
	}
	var seen, shown atomic.Int64
	began = time.Now()
	grown = heapPeak(func() {
		app := holdfast.New(holdfast.Config{Name: "watcher"})
		holdfast.Handle(app, kv.Watch(jetstream.WatchConfig{Durable: "all", Start: jetstream.StartLastPerSubject()}),
			func(_ context.Context, m *holdfast.Message[jetstream.Entry[string]]) error {
				// A watch can tell how far it is.
				left, ok := jetstream.PendingOf(m)
				if n := seen.Add(1); ok && int64(left) <= int64(keys)-1 && n > 0 {
					shown.Add(1)
				}
				return nil
			}, holdfast.Concurrency(4), holdfast.Prefetch(256), holdfast.OrderByKey())
		stop := runApp(t, app)
		eventually(t, 10*time.Minute, "all keys", func() bool { return seen.Load() >= int64(keys) })
		stop()
	})
	t.Logf("watched %d keys in %s, the heap grew by %.1f MiB", seen.Load(), time.Since(began).Round(time.Millisecond), float64(grown)/(1<<20))
	if grown > limit || shown.Load() != seen.Load() {
		t.Errorf("the heap grew by %d; progress was known for %d of %d", grown, shown.Load(), seen.Load())
	}
}

// dialWhenUp waits for a server that is starting.
func dialWhenUp(t *testing.T, url string) *jetstream.Transport {
	t.Helper()
	js, err := jetstream.Connect(t.Context(), url, jetstream.WaitForBroker())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = js.Close(context.Background()) })
	return js
}

// fillBucket writes so many keys.
func fillBucket(t *testing.T, js *jetstream.Transport, keys int) {
	t.Helper()
	natstest.Fill(t, js.JetStream(), keys, func(i int) *nats.Msg {
		return &nats.Msg{Subject: fmt.Sprintf("$KV.numbers.shop.%d.key", i), Data: []byte("a value of some length")}
	})
}
