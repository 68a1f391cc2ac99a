package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
)

// TestObjectWatchOpensWhatItIsToldOf: a handler reads the very version it is told
// of, a version that is gone is told as such, and a restart goes on where the
// watch stood.
func TestObjectWatchOpensWhatItIsToldOf(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	js := dial(t, srv.URL())
	store, err := jetstream.OpenObjectStore(t.Context(), js, jetstream.ObjectStoreConfig{Bucket: "files"})
	if err != nil {
		t.Fatal(err)
	}
	put := func(name, body string) {
		t.Helper()
		if _, err := store.Put(t.Context(), jetstream.ObjectMeta{Name: name}, strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var got []string
	gate := make(chan struct{}, 10)
	handle := func(ctx context.Context, m *holdfast.Message[jetstream.ObjectInfo]) error {
		<-gate
		text := m.Key + " "
		r, err := store.Open(ctx, &m.Body)
		switch {
		case m.Body.Deleted:
			text += "deleted"
		case errors.Is(err, jetstream.ErrObjectReplaced):
			text += "replaced" // a newer one is told of next
		case err != nil:
			return err
		default:
			defer r.Close() //nolint:errcheck // it never fails
			body, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			text += string(body)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, text)
		return nil
	}
	run := func() (stop func()) {
		app := holdfast.New(holdfast.Config{Name: "thumbnails", Logger: testLog(t)})
		holdfast.Handle(app, store.Watch(jetstream.ObjectWatchConfig{Durable: "thumbs", Start: jetstream.StartAll()}), handle, holdfast.OrderByKey())
		return runApp(t, app)
	}
	expect := func(want ...string) {
		t.Helper()
		eventually(t, 30*time.Second, fmt.Sprint(want), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Join(got, "; ") == strings.Join(want, "; ")
		})
	}
	put("a/b", "one")
	stop := run()
	gate <- struct{}{}
	expect("a/b one")
	put("c", "first")
	// The handler has the first version in hand when the second takes its place.
	eventually(t, 30*time.Second, "the handler to begin", func() bool {
		return store.Bucket() == "files" && appBusy(t, js)
	})
	put("c", "second")
	gate <- struct{}{}
	gate <- struct{}{}
	expect("a/b one", "c replaced", "c second")
	stop()
	put("d", "while away")
	if err := store.Delete(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	run()
	gate <- struct{}{}
	gate <- struct{}{}
	expect("a/b one", "c replaced", "c second", "d while away", "a/b deleted")
}

// appBusy tells whether the watch has something in hand.
func appBusy(t *testing.T, js *jetstream.Transport) bool {
	t.Helper()
	c, err := js.JetStream().Consumer(t.Context(), "OBJ_files", "thumbs")
	return err == nil && c.CachedInfo().NumAckPending > 0
}

// TestObjectsHaveFlatMemory does not run in parallel, since it looks at the heap
// of the process. The server has a process of its own.
func TestObjectsHaveFlatMemory(t *testing.T) {
	size := int64(128<<20) * int64(scale(t))
	js := dialWhenUp(t, natsProcess(t))
	store, err := jetstream.OpenObjectStore(t.Context(), js, jetstream.ObjectStoreConfig{Bucket: "files"})
	if err != nil {
		t.Fatal(err)
	}
	const limit = 32 << 20
	sum := sha256.New()
	began := time.Now()
	grown := heapPeak(func() {
		if _, err := store.Put(t.Context(), jetstream.ObjectMeta{Name: "big"}, io.TeeReader(io.LimitReader(&counting{}, size), sum)); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("put %d MiB in %s, the heap grew by %.1f MiB", size>>20, time.Since(began).Round(time.Millisecond), float64(grown)/(1<<20))
	if grown > limit {
		t.Errorf("the heap grew by %d in a put", grown)
	}
	got := sha256.New()
	began = time.Now()
	grown = heapPeak(func() {
		r, err := store.Get(t.Context(), "big")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close() //nolint:errcheck // it never fails
		if n, err := io.Copy(got, r); err != nil || n != size {
			t.Fatalf("%d bytes of %d, %v", n, size, err)
		}
	})
	t.Logf("got %d MiB in %s, the heap grew by %.1f MiB", size>>20, time.Since(began).Round(time.Millisecond), float64(grown)/(1<<20))
	if grown > limit || !bytes.Equal(got.Sum(nil), sum.Sum(nil)) {
		t.Errorf("the heap grew by %d in a get", grown)
	}
}

// counting yields bytes that change from one to the next.
type counting struct{ n byte }

func (c *counting) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = c.n
		c.n++
	}
	return len(p), nil
}
