package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// natsNodeVar makes the test binary run a node of a NATS cluster instead: its
// value is a clusterNode. A node in a process of its own can be killed.
const natsNodeVar = "HOLDFAST_TEST_NATS_NODE"

// clusterNode says what a node needs to know.
type clusterNode struct {
	Name    string
	Client  int
	Cluster int
	Routes  []int
	Dir     string
}

// natsNode runs a node until it is told to end, or killed.
func natsNode(ctx context.Context, setting string) error {
	var n clusterNode
	if err := json.Unmarshal([]byte(setting), &n); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: n.Name, Host: "127.0.0.1", Port: n.Client, NoLog: true, NoSigs: true, JetStream: true, StoreDir: n.Dir,
		AuthTimeout: time.Minute.Seconds(),
	}
	if n.Cluster > 0 {
		o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: n.Cluster}
	}
	for _, port := range n.Routes {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	srv, err := server.NewServer(o)
	if err != nil {
		return err
	}
	srv.Start()
	<-ctx.Done()
	srv.Shutdown()
	return nil
}

// natsCluster is three nodes, each a process.
type natsCluster struct {
	*testing.T
	nodes []clusterNode
	cmds  []*exec.Cmd
}

func newNATSCluster(t *testing.T) *natsCluster {
	t.Helper()
	c := &natsCluster{T: t, cmds: make([]*exec.Cmd, 3)}
	dir := t.TempDir()
	var ports []int
	for range 6 {
		ports = append(ports, natstest.FreePort(t))
	}
	for i := range 3 {
		c.nodes = append(c.nodes, clusterNode{
			Name: fmt.Sprint("n", i), Client: ports[i], Cluster: ports[3+i], Routes: ports[3:], Dir: filepath.Join(dir, fmt.Sprint(i)),
		})
	}
	t.Cleanup(func() {
		for i := range 3 {
			c.kill(i)
		}
	})
	for i := range 3 {
		c.start(i)
	}
	return c
}

func (c *natsCluster) start(i int) {
	c.Helper()
	c.cmds[i] = c.nodes[i].start(c.T)
}

// start starts the process of a node, which somebody else ends.
func (n clusterNode) start(t *testing.T) *exec.Cmd {
	t.Helper()
	setting, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self) // a context would end it too early for a cleanup
	cmd.Env = append(os.Environ(), natsNodeVar+"="+string(setting))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// natsProcess runs one server in a process of its own, whose memory is not ours,
// and returns its URL.
func natsProcess(t *testing.T) string {
	t.Helper()
	n := clusterNode{Name: "alone", Client: natstest.FreePort(t), Dir: t.TempDir()}
	cmd := n.start(t)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return fmt.Sprintf("nats://127.0.0.1:%d", n.Client)
}

// kill ends a node without a warning.
func (c *natsCluster) kill(i int) {
	if c.cmds[i] == nil {
		return
	}
	_ = c.cmds[i].Process.Kill()
	_ = c.cmds[i].Wait() // it was killed
	c.cmds[i] = nil
}

func (c *natsCluster) url() string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", n.Client))
	}
	return strings.Join(urls, ",")
}

// leader returns which node leads a stream.
func (c *natsCluster) leader(js natsjs.JetStream, stream string) (leader int) {
	c.Helper()
	eventually(c.T, time.Minute, "a leader of "+stream, func() bool {
		ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, stream)
		if err != nil || s.CachedInfo().Cluster == nil || s.CachedInfo().Cluster.Leader == "" {
			return false
		}
		_, err = fmt.Sscanf(s.CachedInfo().Cluster.Leader, "n%d", &leader)
		return err == nil
	})
	return leader
}

// dial connects to whichever nodes answer.
func (c *natsCluster) dial() *jetstream.Transport {
	c.Helper()
	js, err := jetstream.Connect(c.Context(), c.url(), jetstream.WaitForBroker(), jetstream.WithNATS(natstest.Patient(), nats.ReconnectWait(100*time.Millisecond)))
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { _ = js.Close(context.Background()) })
	return js
}

// sums are what the writers of the cluster test know for certain.
type sums struct {
	mu        sync.Mutex
	counted   int             // increments that succeeded
	conflicts int             // what was told as a conflict
	unsure    int             // and nobody knows whether it was with the write itself
	keys      map[string]bool // values that are stored
}

// TestKVInAClusterLosesNothingWhenItsLeaderIsKilled: three replicas, writers and
// a watch, and the leader of the bucket is killed again and again. What was
// confirmed is there, what is a conflict is told as one, and the watch goes on
// where it stood.
func TestKVInAClusterLosesNothingWhenItsLeaderIsKilled(t *testing.T) {
	t.Parallel()
	c := newNATSCluster(t)
	js := c.dial()
	cfg := jetstream.BucketConfig{Bucket: "numbers", Config: &natsjs.KeyValueConfig{Replicas: 3, History: 64}}
	var kv *jetstream.KV[int]
	eventually(t, time.Minute, "the bucket", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var err error
		kv, err = jetstream.OpenKV[int](ctx, js, cfg)
		return err == nil
	})
	if _, err := kv.Create(t.Context(), "shared", 0); err != nil {
		t.Fatal(err)
	}
	seen := newVisits()
	app := holdfast.New(holdfast.Config{Name: "watcher", Logger: testLog(t)})
	holdfast.Handle(app, kv.Watch(jetstream.WatchConfig{Durable: "shop", Start: jetstream.StartAll(), AckWait: 10 * time.Second}),
		func(_ context.Context, m *holdfast.Message[jetstream.Entry[int]]) error {
			if m.Body.Key != "shared" {
				seen.add(m.Body.Key)
			}
			return nil
		}, holdfast.Concurrency(8), holdfast.OrderByKey())
	stop := runApp(t, app)
	known := &sums{keys: map[string]bool{}}
	writing, done := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() { known.increment(writing, t, kv) })
		wg.Go(func() { known.write(writing, t, kv, i) })
	}
	for range 3 {
		before := known.progress()
		eventually(t, time.Minute, "the writers get on", func() bool { return known.progress() > before+100 })
		victim := c.leader(js.JetStream(), "KV_numbers")
		c.kill(victim)
		before = known.progress()
		eventually(t, time.Minute, "the writers get on without the leader", func() bool { return known.progress() > before+100 })
		c.start(victim)
	}
	done()
	wg.Wait()
	known.check(t, kv)
	eventually(t, time.Minute, "the watch has seen every key", func() bool { return seen.different() == len(known.keys) })
	stop()
	// What was in hand when a leader died may come twice; what was handled long
	// before does not.
	if again := seen.total() - seen.different(); again > 3*(8+256) {
		t.Errorf("%d of %d were handled again", again, seen.different())
	}
	t.Logf("%d increments, %d conflicts (%d of unknown outcome), %d keys, %d handled again",
		known.counted, known.conflicts, known.unsure, len(known.keys), seen.total()-seen.different())
}

func (s *sums) progress() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counted + len(s.keys)
}

// increment raises the shared number until ctx ends.
func (s *sums) increment(ctx context.Context, t *testing.T, kv *jetstream.KV[int]) {
	for ctx.Err() == nil {
		// A write that was begun is finished: nothing shall be in doubt.
		e, err := kv.Get(context.WithoutCancel(ctx), "shared")
		if err == nil {
			_, err = kv.Update(context.WithoutCancel(ctx), "shared", e.Value+1, e.Revision)
		}
		conflict, ok := errors.AsType[*jetstream.ConflictError](err)
		s.mu.Lock()
		switch {
		case err == nil:
			s.counted++
		case ok && conflict.Expected == e.Revision:
			s.conflicts++
			if transport.KindOf(err) == transport.Unknown {
				s.unsure++
			}
		default:
			t.Errorf("increment: %v", err)
		}
		s.mu.Unlock()
	}
}

// write stores keys of its own until ctx ends.
func (s *sums) write(ctx context.Context, t *testing.T, kv *jetstream.KV[int], writer int) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("log.%d.%d", writer, n)
		if _, err := kv.Create(context.WithoutCancel(ctx), key, n); err != nil {
			t.Errorf("create %s: %v", key, err)
			return
		}
		s.mu.Lock()
		s.keys[key] = true
		s.mu.Unlock()
	}
}

// check compares what the bucket holds with what was confirmed.
func (s *sums) check(t *testing.T, kv *jetstream.KV[int]) {
	t.Helper()
	found := 0
	for e, err := range kv.Entries(t.Context(), "log.>") {
		if err != nil {
			t.Fatal(err)
		}
		if !s.keys[e.Key] {
			t.Errorf("%s is stored and was never confirmed", e.Key)
		}
		found++
	}
	if found != len(s.keys) {
		t.Errorf("%d keys were confirmed and %d are stored", len(s.keys), found)
	}
	// The last of the history is what the leader has.
	last := -1
	for e, err := range kv.History(t.Context(), "shared") {
		if err != nil {
			t.Fatal(err)
		}
		last = e.Value
	}
	if last < s.counted || last > s.counted+s.unsure {
		t.Errorf("the shared number is %d after %d increments, %d of unknown outcome", last, s.counted, s.unsure)
	}
}
