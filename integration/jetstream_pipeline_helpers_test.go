package integration_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// feeder sends numbered messages through pipelines as a publisher does: what a
// pipeline leaves without an outcome goes first through the next, in order and
// marked as sent before.
type feeder struct {
	*testing.T
	ctx    context.Context
	js     *jetstream.Transport
	to     transport.Address
	window int

	mu      sync.Mutex // guards what follows
	pipe    int        // which pipeline reports
	open    map[uint64]*transport.Message
	stored  map[uint64]bool
	refused map[uint64]error
	news    chan struct{}
	opened  int // pipelines
	resent  int
}

func newFeeder(t *testing.T, ctx context.Context, js *jetstream.Transport, subject string) *feeder {
	return &feeder{
		T: t, ctx: ctx, js: js, to: transport.Address{Name: subject}, window: 256,
		open: map[uint64]*transport.Message{}, stored: map[uint64]bool{}, refused: map[uint64]error{}, news: make(chan struct{}, 1),
	}
}

func numbered(n uint64) *transport.Message {
	return &transport.Message{ID: fmt.Sprintf("m%06d", n), Body: fmt.Appendf(nil, "body %d", n)}
}

// feed sends total messages and returns when each has an outcome.
func (f *feeder) feed(total uint64) {
	f.Helper()
	for next := uint64(0); ; {
		p := f.openPipe()
		next = f.through(p, next, total)
		p.End(false)
		f.mu.Lock()
		left := len(f.open)
		f.mu.Unlock()
		if next == total && left == 0 {
			return
		}
		if f.ctx.Err() != nil {
			f.Fatalf("%d of %d messages sent, %d have no outcome", next, total, left)
		}
	}
}

func (f *feeder) openPipe() transport.Pipeline {
	f.Helper()
	f.mu.Lock()
	f.pipe++
	epoch := f.pipe
	f.opened++
	f.mu.Unlock()
	p, err := f.js.OpenPipeline(f.ctx, func(tag uint64, err error) { f.report(epoch, tag, err) })
	if err != nil {
		f.Fatalf("open a pipeline: %v", err)
	}
	return p
}

func (f *feeder) report(epoch int, tag uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case epoch != f.pipe:
		f.Errorf("message %d: an outcome of a pipeline that had ended: %v", tag, err)
		return
	case f.open[tag] == nil:
		f.Errorf("message %d has a second outcome: %v", tag, err)
		return
	}
	delete(f.open, tag)
	if err != nil {
		f.refused[tag] = err
	} else {
		f.stored[tag] = true
	}
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// through sends what is open and then what is new, until all have an outcome or
// the pipeline is over.
func (f *feeder) through(p transport.Pipeline, next, total uint64) uint64 {
	for _, tag := range f.left(next) {
		f.mu.Lock()
		m := *f.open[tag]
		m.Resent = true
		f.open[tag] = &m
		f.resent++
		f.mu.Unlock()
		if p.Send(f.to, &m, tag) != nil {
			return next
		}
	}
	for ; next < total; next++ {
		if !f.room(p, f.window) {
			return next
		}
		m := numbered(next)
		f.mu.Lock()
		f.open[next] = m
		f.mu.Unlock()
		if err := p.Send(f.to, m, next); err != nil {
			if transport.KindOf(err) == transport.Permanent {
				f.Errorf("message %d: %v", next, err)
			}
			return next + 1
		}
	}
	_ = p.Flush()
	f.room(p, 1)
	return next
}

// left are the messages without an outcome, in order.
func (f *feeder) left(next uint64) []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var tags []uint64
	for tag := range next {
		if f.open[tag] != nil {
			tags = append(tags, tag)
		}
	}
	return tags
}

// room waits until fewer than n messages are open, and reports false when the
// pipeline is over.
func (f *feeder) room(p transport.Pipeline, n int) bool {
	for {
		f.mu.Lock()
		open := len(f.open)
		f.mu.Unlock()
		if open < n {
			return true
		}
		select {
		case <-f.news:
		case <-p.Done():
			return false
		case <-f.ctx.Done():
			return false
		}
	}
}

// one sends a message and returns its outcome, the refusal of Send among them.
func one(t *testing.T, ctx context.Context, js *jetstream.Transport, to transport.Address, m *transport.Message) error {
	t.Helper()
	told := make(chan error, 1)
	p, err := js.OpenPipeline(ctx, func(_ uint64, err error) { told <- err })
	if err != nil {
		t.Fatalf("open a pipeline: %v", err)
	}
	defer p.End(false)
	if err := p.Send(to, m, 7); err != nil {
		return err
	}
	select {
	case err := <-told:
		return err
	case <-ctx.Done():
		t.Fatalf("no outcome: %v, the pipeline: %v", ctx.Err(), p.Err())
		return nil
	}
}

// storedInOrder asserts that the stream holds the messages 0 to total-1, each
// once and in order, and returns how many are marked as sent before.
func (w *jsWorld) storedInOrder(stream string, total uint64, missing ...uint64) (resent int) {
	w.Helper()
	gone := map[uint64]bool{}
	for _, n := range missing {
		gone[n] = true
	}
	s, err := w.js.JetStream().Stream(w.ctx, stream)
	if err != nil {
		w.Fatal(err)
	}
	seq := s.CachedInfo().State.FirstSeq
	for n := range total {
		if gone[n] {
			continue
		}
		m, err := s.GetMsg(w.ctx, seq)
		if err != nil {
			w.Fatalf("message %d, sequence %d: %v", n, seq, err)
		}
		seq++
		if got := m.Header.Get("Nats-Msg-Id"); got != numbered(n).ID {
			w.Fatalf("sequence %d holds %s instead of %s", seq-1, got, numbered(n).ID)
		}
		if m.Header.Get("Holdfast-Resent") != "" {
			resent++
		}
	}
	if last := s.CachedInfo().State.LastSeq; last != seq-1 {
		w.Fatalf("the stream goes on to sequence %d behind %d", last, seq-1)
	}
	return resent
}

// kickPublishing makes the server close the connections for publishing.
func (w *jsWorld) kickPublishing() int {
	w.Helper()
	clients, err := w.server.Server().Connz(nil)
	if err != nil {
		w.Fatal(err)
	}
	n := 0
	for _, c := range clients.Conns {
		if strings.HasSuffix(c.Name, "(publishing)") {
			n++
			_ = w.server.Server().DisconnectClientByID(c.Cid) // it may be gone
		}
	}
	return n
}

// feedOverCuts sends total messages, none of which may be refused, while the
// connection for publishing is cut again and again, each time when some have got
// through.
func (w *jsWorld) feedOverCuts(f *feeder, total uint64) {
	w.Helper()
	fed := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(30 * time.Millisecond)
		defer tick.Stop()
		for before := 0; ; {
			select {
			case <-fed:
				return
			case <-tick.C:
			}
			if n := f.outcomes(); n > before+50 {
				before = n
				w.kickPublishing()
			}
		}
	})
	f.feed(total)
	close(fed)
	wg.Wait()
	if len(f.refused) > 0 {
		w.Fatalf("%d messages were refused: %v", len(f.refused), f.refused)
	}
}

// outcomes is how many messages have one.
func (f *feeder) outcomes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.stored) + len(f.refused)
}

// impatient makes reconnects of the test's own connection quick.
func impatient() jetstream.Option {
	return jetstream.WithNATS(natstest.Patient(), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
}

// batched counts the messages of the stream that came in an atomic batch, and
// the batches.
func (w *jsWorld) batched(stream string) (messages, batches int) {
	w.Helper()
	s, err := w.js.JetStream().Stream(w.ctx, stream)
	if err != nil {
		w.Fatal(err)
	}
	state := s.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(w.ctx, seq)
		if err != nil {
			w.Fatal(err)
		}
		if m.Header.Get("Nats-Batch-Id") != "" {
			messages++
		}
		if m.Header.Get("Nats-Batch-Commit") != "" {
			batches++
		}
	}
	return messages, batches
}
