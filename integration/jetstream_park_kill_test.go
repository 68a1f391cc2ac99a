package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
)

// parkerVar makes the test binary run the app of the parking test instead: its
// value is the server's URL.
const parkerVar = "HOLDFAST_TEST_PARKER"

const (
	// parkedFor is how long after its publication a message is handled.
	parkedFor = 45 * time.Second
	// parkerWindow is how many messages the app has in hand at most: what is fetched
	// beside what is handled, and what comes back.
	parkerWindow = 2 * (8 + 8)
)

// parkerApp fails each message until it is old enough, and says so.
func parkerApp(ctx context.Context, url string) error {
	js, err := jetstream.Connect(ctx, url, jetstream.WaitForBroker(), jetstream.Parking(jetstream.ParkConfig{After: time.Second}))
	if err != nil {
		return err
	}
	app := holdfast.New(holdfast.Config{Name: "parker"})
	holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{
		Stream: "WORK", Subjects: []string{"work.>"}, Durable: "work", Start: jetstream.StartAll(), AckWait: 5 * time.Second, MaxAckPending: 100,
	}), func(_ context.Context, m *holdfast.Message[string]) error {
		if left := time.Until(m.Time.Add(parkedFor)); left > 0 {
			fmt.Println("fail", m.Body)
			return holdfast.RetryAfter(errors.New("too young"), left+500*time.Millisecond)
		}
		fmt.Println("done", m.Body)
		return nil
	}, holdfast.Concurrency(8), holdfast.Prefetch(8), holdfast.Retry{Attempts: 20, Backoff: holdfast.Constant(time.Hour)})
	return app.Run(ctx)
}

// TestParkedMessagesSurviveKills: the process is killed again and again while it
// parks messages, and the server while they wait. Each message is handled when it
// is due; only what was in hand at a kill is tried once more before.
func TestParkedMessagesSurviveKills(t *testing.T) {
	t.Parallel()
	node := clusterNode{Name: "alone", Client: natstest.FreePort(t), Dir: t.TempDir()}
	srv := node.start(t)
	kill := func() { _ = srv.Process.Kill(); _ = srv.Wait() }
	t.Cleanup(func() { kill() })
	url := fmt.Sprintf("nats://127.0.0.1:%d", node.Client)
	js, err := jetstream.Connect(t.Context(), url, jetstream.WaitForBroker(), jetstream.WithNATS(natstest.Patient(), nats.ReconnectWait(50*time.Millisecond)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = js.Close(context.Background()) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1024)
	run := func() *process {
		p := start(t, t.TempDir(), []string{parkerVar + "=" + url}, self)
		go readLines(p.stdout, lines)
		return p
	}
	p := run()
	eventually(t, 30*time.Second, "the stream", func() bool { return streams(t, js.Conn(), "WORK") })
	const messages, kills = 2000, 5
	pub := holdfast.NewPublisher[string](js, jetstream.Subject("work.item"))
	for i := range messages {
		pub.PublishAsync(t.Context(), fmt.Sprint("m-", i), holdfast.ID(fmt.Sprint("m-", i)))
	}
	if err := pub.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	fails, done := map[string]int{}, map[string]int{}
	killed, again := 0, false
	deadline := time.After(busy * 3 * time.Minute)
	for len(done) < messages {
		select {
		case line := <-lines:
			what, id, _ := strings.Cut(line, " ")
			if what == "done" {
				done[id]++
				continue
			}
			fails[id]++
		case <-deadline:
			t.Fatalf("%d of %d messages were handled, %d failed before", len(done), messages, len(fails))
		}
		switch {
		case killed < kills && len(fails) >= (killed+1)*messages/(kills+1):
			killed++
			p.kill()
			p = run()
		case !again && len(fails) == messages:
			again = true
			kill()
			srv = node.start(t)
		}
	}
	if err := p.terminate(t, 30*time.Second); err != nil {
		t.Error(err)
	}
	tried, twice := 0, 0
	for id, n := range fails {
		tried += n - 1
		twice += max(done[id]-1, 0)
	}
	if bound := (kills + 1) * parkerWindow; tried > bound || twice > bound {
		t.Errorf("%d messages were tried before they were due once more, %d were handled twice; %d may be", tried, twice, bound)
	}
	// A slow machine comes to some of them when they are due already.
	if len(fails) < messages/2 || len(fails) == messages && !again {
		t.Errorf("%d messages failed first, and the server was killed: %t", len(fails), again)
	}
	t.Logf("%d tried once more, %d handled twice", tried, twice)
}

// readLines passes on what a process says until it ends.
func readLines(from *bufio.Reader, to chan<- string) {
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return
		}
		to <- strings.TrimSpace(line)
	}
}
