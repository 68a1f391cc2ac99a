package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
)

// books records what the handler saw, in a process that survives the kills.
type books struct {
	mu      sync.Mutex
	handled map[string]int
	refused map[string]int
	running int
	runs    int
}

// ServeHTTP handles a message: one in a hundred is poison, one in ten fails the
// first time it is seen.
func (b *books) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil { // the caller was killed in the middle of its request
		return
	}
	b.mu.Lock()
	b.running++
	b.runs++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.running--
		b.mu.Unlock()
	}()
	kind, id, _ := strings.Cut(string(body), " ")
	// Long enough for a kill to hit the middle of it.
	<-time.After(2 * time.Millisecond)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case kind == "poison":
		b.refused[id]++
		w.WriteHeader(http.StatusUnprocessableEntity)
	case kind == "flaky" && b.refused[id] == 0:
		b.refused[id]++
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		b.handled[id]++
	}
}

func (b *books) count() (handled, running, runs int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.handled), b.running, b.runs
}

// TestKillInMidHandlerLosesNothing: holdfast run is killed ten times while its
// handlers run, over 10,000 messages. Every message is handled or dead in the
// end, each dead letter is buried once, and duplicates stay within what was in
// flight at the kills.
func TestKillInMidHandlerLosesNothing(t *testing.T) {
	t.Parallel()
	const messages, kills, width = 10_000, 10, 8
	srv := natstest.Start(t)
	js, err := jetstream.New(srv.Conn(), jetstream.WithDefaultTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	publishBacklog(t, js, messages)
	b := &books{handled: make(map[string]int), refused: make(map[string]int)}
	web := httptest.NewServer(b)
	t.Cleanup(web.Close)
	yaml := fmt.Sprintf(`
broker: %s
subscriptions:
  - name: work
    from: {stream: WORK, subjects: ["work.>"], durable: work, start: all}
    handler: {http: {url: %q}}
    concurrency: %d
    retry: {attempts: 5, backoff: [20ms]}
    dead_letter: true
`, srv.URL(), web.URL, width)
	dir := t.TempDir()

	for kill := 1; kill <= kills; kill++ {
		p := run(t, dir, yaml)
		_, _, before := b.count()
		target := messages * kill / (kills + 2)
		eventually(t, time.Minute, "work to be under way", func() bool {
			handled, running, runs := b.count()
			return running > 0 && runs > before+20 && handled >= min(target, messages-1)
		})
		p.kill()
	}
	p := run(t, dir, yaml)
	eventually(t, 3*time.Minute, "every message to be handled or dead", func() bool {
		handled, _, _ := b.count()
		return handled == messages-messages/100 && pending(t, js) == 0
	})
	if err := p.terminate(t, 40*time.Second); err != nil {
		t.Errorf("holdfast run did not end cleanly: %v", err)
	}
	checkBooks(t, b, deadLetters(t, srv.URL()), messages, kills*(2*width+width))
}

// publishBacklog stores n messages before anybody consumes.
func publishBacklog(t *testing.T, js jetstream.JetStream, n int) {
	t.Helper()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "WORK", Subjects: []string{"work.>"}}); err != nil {
		t.Fatal(err)
	}
	natstest.Fill(t, js, n, func(i int) *nats.Msg {
		kind := "ok"
		switch {
		case (i+1)%100 == 0:
			kind = "poison"
		case (i+1)%10 == 0:
			kind = "flaky"
		}
		id := fmt.Sprintf("w-%d", i+1)
		m := nats.NewMsg("work.item")
		m.Data = []byte(kind + " " + id)
		m.Header.Set(nats.MsgIdHdr, id)
		return m
	})
}

// pending is what the consumer has still to be done with.
func pending(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	c, err := js.Consumer(t.Context(), "WORK", "work")
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.NumPending + uint64(info.NumAckPending)
}

// streams reports whether all these streams exist.
func streams(t *testing.T, nc *nats.Conn, names ...string) bool {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := js.Stream(t.Context(), name); err != nil {
			return false
		}
	}
	return true
}

// checkBooks compares what was published, handled and buried.
func checkBooks(t *testing.T, b *books, letters []letter, messages, mostDuplicates int) {
	t.Helper()
	buried := make(map[string]int)
	for _, l := range letters {
		buried[l.ID]++
	}
	lost, twice, duplicates := 0, 0, 0
	for i := 1; i <= messages; i++ {
		id := fmt.Sprintf("w-%d", i)
		poison := i%100 == 0
		switch {
		case poison && buried[id] == 0, !poison && b.handled[id] == 0:
			lost++
		case buried[id] > 1:
			twice++
		case !poison && buried[id] > 0:
			t.Errorf("%s is good and was buried", id)
		}
		duplicates += max(b.handled[id]-1, 0)
	}
	t.Logf("published=%d handled=%d dead=%d lost=%d buried_twice=%d duplicates=%d", messages, len(b.handled), len(letters), lost, twice, duplicates)
	if lost > 0 || twice > 0 || len(letters) != messages/100 {
		t.Errorf("lost=%d buried_twice=%d dead=%d, want 0, 0, %d", lost, twice, len(letters), messages/100)
	}
	if duplicates > mostDuplicates {
		t.Errorf("%d duplicates are more than the %d that can have been in flight", duplicates, mostDuplicates)
	}
}
