package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/integration/internal/eventlog"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// kvWorld is a server, a transport and a bucket of numbers.
type kvWorld struct {
	*testing.T
	srv *natstest.Server
	js  *jetstream.Transport
	kv  *jetstream.KV[int]
}

func newKVWorld(t *testing.T, history uint8) *kvWorld {
	t.Helper()
	w := &kvWorld{T: t, srv: natstest.Start(t)}
	w.js = w.dial()
	w.kv = w.open(w.js, history)
	return w
}

func (w *kvWorld) dial() *jetstream.Transport {
	w.Helper()
	js, err := jetstream.Connect(w.Context(), w.srv.URL(), jetstream.WithNATS(natstest.Patient(), nats.ReconnectWait(20*time.Millisecond)))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = js.Close(context.Background()) })
	return js
}

func (w *kvWorld) open(js *jetstream.Transport, history uint8) *jetstream.KV[int] {
	w.Helper()
	kv, err := jetstream.OpenKV[int](w.Context(), js, jetstream.BucketConfig{Bucket: "numbers", Config: &natsjs.KeyValueConfig{
		History: history, LimitMarkerTTL: time.Hour,
	}})
	if err != nil {
		w.Fatal(err)
	}
	return kv
}

func (w *kvWorld) put(key string, values ...int) {
	w.Helper()
	for _, v := range values {
		if _, err := w.kv.Put(w.Context(), key, v); err != nil {
			w.Fatal(err)
		}
	}
}

// watched notes what handlers of a watch saw, by key.
type watched struct {
	mu   sync.Mutex
	seen map[string][]string
	fail func(e jetstream.Entry[int], attempt int) error
}

func (s *watched) handle(_ context.Context, m *holdfast.Message[jetstream.Entry[int]]) error {
	e := m.Body
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(e, m.Attempt); err != nil {
			return err
		}
	}
	if m.Key != e.Key || e.Revision == 0 || e.Time.IsZero() {
		return fmt.Errorf("an entry of key %q in a message of key %q: %+v", e.Key, m.Key, e)
	}
	if s.seen == nil {
		s.seen = map[string][]string{}
	}
	text := e.Operation.String()
	if e.Operation == jetstream.OpPut {
		text = fmt.Sprint(e.Value)
	}
	if e.Expired {
		text = "expired"
	}
	s.seen[e.Key] = append(s.seen[e.Key], text)
	return nil
}

func (s *watched) of(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.seen[key], " ")
}

func (s *watched) expect(t *testing.T, want map[string]string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%v", want), func() bool {
		for k, v := range want {
			if s.of(k) != v {
				return false
			}
		}
		return true
	})
}

// watch runs an app with one watch.
func (w *kvWorld) watch(js *jetstream.Transport, s *watched, cfg jetstream.WatchConfig, opts ...holdfast.Option) (stop func()) {
	w.Helper()
	cfg.Bucket = jetstream.BucketConfig{Bucket: "numbers"}
	if cfg.AckWait == 0 {
		cfg.AckWait = time.Minute // a machine that stalls ends no lease
	}
	app := holdfast.New(holdfast.Config{Name: "watcher", Logger: testLog(w.T)})
	opts = append([]holdfast.Option{holdfast.OrderByKey(), holdfast.Concurrency(4)}, opts...)
	if cfg.Durable == "" {
		opts = append(opts, holdfast.Name("watch"))
	}
	holdfast.Handle(app, js.WatchKV(cfg), s.handle, opts...)
	return runApp(w.T, app)
}

func TestKVWatchBeginsWhereItIsTold(t *testing.T) {
	t.Parallel()
	w := newKVWorld(t, 10)
	w.put("a", 1, 2)
	w.put("b", 1)
	if err := w.kv.Delete(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	var fromNow, current, whole, some watched
	w.watch(w.js, &fromNow, jetstream.WatchConfig{Durable: "now", Start: jetstream.StartNew()})
	w.watch(w.js, &current, jetstream.WatchConfig{Durable: "current", Start: jetstream.StartLastPerSubject()})
	w.watch(w.js, &whole, jetstream.WatchConfig{Durable: "whole", Start: jetstream.StartAll()})
	w.watch(w.js, &some, jetstream.WatchConfig{Start: jetstream.StartAll(), Keys: []string{"a", "c.*"}})
	w.put("a", 3)
	w.put("c.x", 1)
	if err := w.kv.Purge(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.kv.Create(t.Context(), "e", 9, jetstream.KeyTTL(time.Hour)); err != nil {
		t.Fatal(err)
	}
	fromNow.expect(t, map[string]string{"a": "3 purge", "b": "", "c.x": "1", "e": "9"})
	current.expect(t, map[string]string{"a": "2 3 purge", "b": "delete", "c.x": "1", "e": "9"})
	whole.expect(t, map[string]string{"a": "1 2 3 purge", "b": "1 delete", "c.x": "1", "e": "9"})
	some.expect(t, map[string]string{"a": "1 2 3 purge", "b": "", "c.x": "1", "e": ""})
}

func TestKVWatchSeesWhatTheServerRemoves(t *testing.T) {
	t.Parallel()
	w := &kvWorld{T: t, srv: natstest.Start(t)}
	w.js = w.dial()
	w.kv = w.open(w.js, 1)
	var s watched
	w.watch(w.js, &s, jetstream.WatchConfig{Durable: "d", Start: jetstream.StartNew()})
	if _, err := w.kv.Create(t.Context(), "k", 1, jetstream.KeyTTL(8*time.Second)); err != nil {
		t.Fatal(err)
	}
	s.expect(t, map[string]string{"k": "1 expired"})
}

// Every part of the policy holds for a watch: retries in the order of the key,
// dead letters, and a redrive that knows what it was.
func TestKVWatchHasTheWholePolicy(t *testing.T) {
	t.Parallel()
	w := newKVWorld(t, 1)
	poisoned := true
	s := &watched{}
	s.fail = func(e jetstream.Entry[int], attempt int) error {
		switch {
		case e.Key == "slow" && e.Value == 1 && attempt < 3:
			return errors.New("not yet")
		case e.Key == "poison" && e.Operation == jetstream.OpDelete && poisoned:
			return holdfast.Permanent(errors.New("no"))
		}
		return nil
	}
	w.watch(w.js, s, jetstream.WatchConfig{Durable: "shop", Start: jetstream.StartAll()},
		holdfast.Retry{Attempts: 5, Backoff: holdfast.Constant(300 * time.Millisecond)})
	w.put("slow", 1)
	w.put("slow", 2, 3) // a history of 1: revision 1 is gone from the bucket
	w.put("poison", 1)
	eventually(t, 30*time.Second, "the value", func() bool { return s.of("poison") == "1" })
	if err := w.kv.Delete(t.Context(), "poison"); err != nil {
		t.Fatal(err)
	}
	w.put("fine", 7)
	s.expect(t, map[string]string{"fine": "7", "poison": "1"})
	eventually(t, 30*time.Second, "the last value of the slow key", func() bool { return strings.HasSuffix(s.of("slow"), "3") })
	eventually(t, 30*time.Second, "a dead letter", func() bool { return len(graves(t, w.js)) == 1 })
	letter := graves(t, w.js)[0]
	if letter.Reason != "permanent" || letter.Subscription != "shop" {
		t.Errorf("the dead letter is %+v", letter)
	}
	// A value that is no number never reaches the handler.
	native, err := w.kv.Native(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := native.Put(t.Context(), "odd", []byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "a second dead letter", func() bool { return len(graves(t, w.js)) == 2 })
	s.mu.Lock()
	poisoned = false
	s.mu.Unlock()
	if _, err := deadletter.Open(w.js.DeadLetters()).Redrive(t.Context(), deadletter.Query{IDs: []string{letter.ID}}, deadletter.RedriveOptions{}); err != nil {
		t.Fatal(err)
	}
	s.expect(t, map[string]string{"poison": "1 delete"})
}

// A restart goes on where the watch stood, and says what is gone.
func TestKVWatchGoesOnAndSaysWhatItMissed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		keys  []string
		start jetstream.StartPolicy
		text  string
	}{
		{"all keys from now", nil, jetstream.StartNew(), "5 revisions of the bucket numbers were removed before"},
		{"all keys with current values", nil, jetstream.StartLastPerSubject(), "5 revisions of the bucket numbers were removed before"},
		{"some keys", []string{"a", "b"}, jetstream.StartAll(), "5 revisions of the bucket numbers from that time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newKVWorld(t, 2)
			w.put("a", -3, -2, -1)
			cfg := jetstream.WatchConfig{Durable: "shop", Start: c.start, Keys: c.keys}
			var before watched
			stop := w.watch(w.js, &before, cfg)
			w.put("a", 0)
			w.put("b", 0)
			eventually(t, 30*time.Second, "the last values", func() bool {
				return strings.HasSuffix(before.of("a"), "0") && strings.HasSuffix(before.of("b"), "0")
			})
			stop()
			w.put("a", 1, 2, 3, 4, 5) // a history of 2 keeps 4 and 5
			w.put("b", 1, 2, 3, 4)    // and 3 and 4
			var after watched
			events := &eventlog.Log{}
			js := w.dial()
			js.Observe(events.Add)
			stop = w.watch(js, &after, cfg)
			after.expect(t, map[string]string{"a": "4 5", "b": "3 4"})
			eventually(t, 30*time.Second, "word of what was missed", func() bool { return events.Sum(transport.Compacted) == 5 })
			if got := events.Text(transport.Compacted); !strings.Contains(got, c.text) {
				t.Errorf("it says %q", got)
			}
			stop()
			// Nothing more is told of a time in which nothing was removed.
			events = &eventlog.Log{}
			js = w.dial()
			js.Observe(events.Add)
			stop = w.watch(js, &after, cfg)
			w.put("a", 6)
			after.expect(t, map[string]string{"a": "4 5 6"})
			stop()
			if got := events.Text(transport.Compacted); got != "" && c.keys == nil {
				t.Errorf("it says %q", got)
			}
		})
	}
}

// Of what vanished without a successor nothing comes, and it is told all the same.
func TestKVWatchSaysThatRevisionsVanished(t *testing.T) {
	t.Parallel()
	w := &kvWorld{T: t, srv: natstest.Start(t)}
	w.js = w.dial()
	kv, err := jetstream.OpenKV[int](t.Context(), w.js, jetstream.BucketConfig{Bucket: "numbers", Config: &natsjs.KeyValueConfig{TTL: 8 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	w.kv = kv
	var s watched
	cfg := jetstream.WatchConfig{Durable: "shop", Start: jetstream.StartNew()}
	stop := w.watch(w.js, &s, cfg, holdfast.NoRetry())
	w.put("a", 1)
	s.expect(t, map[string]string{"a": "1"})
	stop()
	w.put("b", 1)
	w.put("c", 1)
	eventually(t, 30*time.Second, "all values expire", func() bool {
		for range w.kv.Keys(t.Context()) {
			return false
		}
		return true
	})
	events := &eventlog.Log{}
	js := w.dial()
	js.Observe(events.Add)
	w.watch(js, &s, cfg, holdfast.NoRetry())
	eventually(t, 30*time.Second, "word of what vanished", func() bool { return events.Sum(transport.Compacted) == 2 })
	w.put("a", 2)
	s.expect(t, map[string]string{"a": "1 2"})
}

// A plain watch may be blind for 20 s after a restart of the server.
func TestKVWatchIsNotBlindAfterARestartOfTheServer(t *testing.T) {
	t.Parallel()
	w := newKVWorld(t, 64)
	var durable, ephemeral watched
	w.watch(w.js, &durable, jetstream.WatchConfig{Durable: "shop", Start: jetstream.StartLastPerSubject()})
	w.watch(w.js, &ephemeral, jetstream.WatchConfig{Start: jetstream.StartLastPerSubject()})
	want, blind := "", 0
	for i := range 5 {
		w.srv.Restart()
		w.put("k", i)
		want = strings.TrimSpace(want + " " + fmt.Sprint(i))
		began := time.Now()
		durable.expect(t, map[string]string{"k": want})
		ephemeral.expect(t, map[string]string{"k": want})
		if took := time.Since(began); took > 15*time.Second {
			t.Logf("restart %d: the watch was blind for %s", i, took)
			blind++
		}
		eventually(t, 30*time.Second, "the acks", func() bool { return w.settled("KV_numbers") })
	}
	if blind > 1 { // a machine may stall once
		t.Errorf("the watch was blind %d times", blind)
	}
}

// settled tells whether no consumer of a stream waits for an ack.
func (w *kvWorld) settled(stream string) bool {
	s, err := w.js.JetStream().Stream(w.Context(), stream)
	if err != nil {
		return false
	}
	consumers := s.ListConsumers(w.Context())
	for c := range consumers.Info() {
		if c.NumAckPending > 0 {
			return false
		}
	}
	return consumers.Err() == nil
}
