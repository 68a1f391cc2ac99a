package integration

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
)

// visits records the runs of handlers.
type visits struct {
	mu   sync.Mutex
	runs map[string]int // by message ID
}

func newVisits() *visits { return &visits{runs: make(map[string]int)} }

func (v *visits) add(id string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.runs[id]++
	return v.runs[id]
}

func (v *visits) of(id string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.runs[id]
}

func (v *visits) different() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.runs)
}

func (v *visits) total() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, runs := range v.runs {
		n += runs
	}
	return n
}

// dial connects a transport that the test closes.
func dial(t *testing.T, url string) *jetstream.Transport {
	t.Helper()
	js, err := jetstream.Connect(t.Context(), url, jetstream.WithNATS(natstest.Patient()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		js.Close(ctx)
	})
	return js
}

// runApp runs an app until the test ends or stop is called, whichever is first,
// and checks that it ended cleanly.
func runApp(t *testing.T, app *holdfast.App) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the app did not end cleanly: %v", err)
			}
		case <-time.After(busy * time.Minute):
			t.Error("the app did not end in time")
		}
	})
	t.Cleanup(stop)
	eventually(t, 30*time.Second, "the app to run", func() bool {
		select {
		case err := <-done:
			t.Fatalf("the app ended at once: %v", err)
		default:
		}
		return app.Health().Healthy
	})
	return stop
}

// testLog shows an app's log lines in a test that fails.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// graves lists the dead letters of a transport.
func graves(t *testing.T, js *jetstream.Transport) []deadletter.Letter {
	t.Helper()
	letters, err := deadletter.Open(js.DeadLetters()).ListAll(t.Context(), deadletter.Query{})
	if err != nil {
		t.Fatal(err)
	}
	return letters
}
