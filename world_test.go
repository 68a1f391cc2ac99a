package holdfast_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// world is a broker and an app on it, in virtual time.
type world struct {
	t     *testing.T
	b     *memory.Broker
	app   *holdfast.App
	start time.Time

	logs   *logbook
	diary  *diary
	visits *visits

	cancel context.CancelFunc
	done   chan error // the result of Run
}

// promise runs f in a world of its own. Everything is stopped when it returns.
func promise(t *testing.T, f func(t *testing.T, w *world), change ...func(*holdfast.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memory.New(), change...)
		defer w.close()
		f(t, w)
	})
}

func newWorld(t *testing.T, b *memory.Broker, change ...func(*holdfast.Config)) *world {
	w := &world{t: t, b: b, start: time.Now(), logs: &logbook{}, diary: &diary{}, visits: &visits{}}
	cfg := holdfast.Config{Name: "test", Logger: slog.New(w.logs), Observers: []observe.Observer{w.diary}}
	for _, f := range change {
		f(&cfg)
	}
	w.app = holdfast.New(cfg)
	return w
}

// queue is a source that takes subjects below name.
func (w *world) queue(name string) transport.Source {
	return w.b.Queue(memory.QueueConfig{Name: name, Subjects: []string{name + ".>"}})
}

// run starts the app and waits until it takes messages.
func (w *world) run() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	w.cancel, w.done = cancel, make(chan error, 1)
	go func() { w.done <- w.app.Run(ctx) }()
	synctest.Wait()
	select {
	case err := <-w.done:
		w.done <- err
		w.t.Fatalf("Run ended at once: %v", err)
	default:
	}
}

// end stops the app and returns what Run returned.
func (w *world) end() error {
	if w.cancel == nil {
		return nil
	}
	w.cancel()
	w.cancel = nil
	return <-w.done
}

// close stops everything. A test that expects an error of Run calls end itself.
func (w *world) close() {
	w.t.Helper()
	if err := w.end(); err != nil {
		w.t.Errorf("Run returned %v, want a clean stop", err)
	}
	check.NoError(w.t, w.b.Close(w.t.Context()))
}

// pass lets virtual time go by, and everything come to rest.
func (w *world) pass(d time.Duration) {
	time.Sleep(d) // virtual: every world lives in a synctest bubble
	synctest.Wait()
}

// publish sends messages with these IDs to orders.placed; the body is the ID.
func (w *world) publish(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		w.send("orders.placed", &transport.Message{ID: id, Body: []byte(id)})
	}
}

// publishKeyed sends messages "key/id" under their key.
func (w *world) publishKeyed(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		key, _, _ := strings.Cut(id, "/")
		w.send("orders.placed", &transport.Message{ID: id, Key: key, Body: []byte(id)})
	}
}

func (w *world) send(subject string, m *transport.Message) {
	w.t.Helper()
	check.NoError(w.t, w.b.Publish(w.t.Context(), transport.Address{Name: subject}, m), "publish "+m.ID)
}

// letters returns all dead letters.
func (w *world) letters() []deadletter.Letter {
	w.t.Helper()
	all, err := deadletter.Open(w.b.DeadLetters()).ListAll(w.t.Context(), deadletter.Query{})
	check.NoError(w.t, err, "list dead letters")
	return all
}

// letter returns the only dead letter.
func (w *world) letter() deadletter.Letter {
	w.t.Helper()
	all := w.letters()
	if len(all) != 1 {
		w.t.Fatalf("there are %d dead letters, want one", len(all))
	}
	return all[0]
}

// counts are those of the first subscription.
func (w *world) counts() observe.Counts { return w.health().Counts }

func (w *world) health() observe.Health { return w.app.Health().Subscriptions[0] }

// idle fails unless the broker holds nothing any more.
func (w *world) idle() {
	w.t.Helper()
	if !w.b.Idle() {
		w.t.Errorf("the broker still holds messages: %+v", w.b.Stats("orders"))
	}
}

// visit is one run of a handler.
type visit struct {
	ID                  string
	Attempt, Deliveries int
	At                  time.Duration
}

// visits are the runs of handlers, in order.
type visits struct {
	mu   sync.Mutex // guards list
	list []visit
}

// see notes a run of a handler and returns its number among those of the same
// message.
func (w *world) see(m *holdfast.Meta) int {
	w.visits.mu.Lock()
	defer w.visits.mu.Unlock()
	n := 1
	for _, v := range w.visits.list {
		if v.ID == m.ID {
			n++
		}
	}
	w.visits.list = append(w.visits.list, visit{m.ID, m.Attempt, m.Deliveries, time.Since(w.start)})
	return n
}

func (w *world) seen() []visit {
	w.visits.mu.Lock()
	defer w.visits.mu.Unlock()
	return append([]visit(nil), w.visits.list...)
}

// ids are the messages that were handled, in order.
func (w *world) ids() []string {
	var ids []string
	for _, v := range w.seen() {
		ids = append(ids, v.ID)
	}
	return ids
}

// attempts are the numbers of the runs, in order.
func (w *world) attempts() []int {
	var n []int
	for _, v := range w.seen() {
		n = append(n, v.Attempt)
	}
	return n
}

// gaps are the times between the runs, the first from the start of the world.
func (w *world) gaps() []time.Duration {
	var gaps []time.Duration
	last := time.Duration(0)
	for _, v := range w.seen() {
		gaps = append(gaps, v.At-last)
		last = v.At
	}
	return gaps
}

// fails is a handler that notes its run and returns err.
func (w *world) fails(err error) func(context.Context, *holdfast.Message[string]) error {
	return func(_ context.Context, m *holdfast.Message[string]) error {
		w.see(&m.Meta)
		return err
	}
}

// failsTimes is a handler that fails the first n runs of each message.
func (w *world) failsTimes(n int, err error) func(context.Context, *holdfast.Message[string]) error {
	return func(_ context.Context, m *holdfast.Message[string]) error {
		if w.see(&m.Meta) <= n {
			return err
		}
		return nil
	}
}

// diary keeps the events.
type diary struct {
	mu     sync.Mutex // guards events
	events []observe.Event
}

func (d *diary) Observe(e observe.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
}

func (d *diary) all() []observe.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]observe.Event(nil), d.events...)
}

// of returns the events of a kind.
func (d *diary) of(kind observe.EventKind) []observe.Event {
	var some []observe.Event
	for _, e := range d.all() {
		if e.Kind == kind {
			some = append(some, e)
		}
	}
	return some
}

// logbook is a slog.Handler that keeps lines "LEVEL message key=value ...".
type logbook struct {
	mu    *sync.Mutex
	lines *[]string
	attrs []slog.Attr
	once  sync.Once
}

func (l *logbook) init() {
	l.once.Do(func() {
		if l.mu == nil {
			l.mu, l.lines = &sync.Mutex{}, &[]string{}
		}
	})
}

func (l *logbook) Enabled(context.Context, slog.Level) bool { return true }

func (l *logbook) Handle(_ context.Context, r slog.Record) error {
	l.init()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", r.Level, r.Message)
	for _, a := range l.attrs {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
	}
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.lines = append(*l.lines, b.String())
	return nil
}

func (l *logbook) WithAttrs(attrs []slog.Attr) slog.Handler {
	l.init()
	return &logbook{mu: l.mu, lines: l.lines, attrs: append(append([]slog.Attr(nil), l.attrs...), attrs...)}
}

func (l *logbook) WithGroup(string) slog.Handler { return l }

// with returns the lines that contain all of parts.
func (l *logbook) with(parts ...string) []string {
	l.init()
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
next:
	for _, line := range *l.lines {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// transportWant is what a bare subscription asks for.
func transportWant(name string) transport.Want {
	return transport.Want{Subscription: name, Concurrency: 1}
}
