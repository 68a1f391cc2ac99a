package transporttest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// row is a pipeline under test, what was sent through it and what it reported.
type row struct {
	w       *world
	telling atomic.Bool // report runs
	news    chan struct{}

	mu     sync.Mutex // guards what follows
	pipe   transport.Pipeline
	sent   []*transport.Message // in the order of Send; the place of each is its tag
	first  uint64               // the tag of the first
	told   map[uint64][]error
	count  int      // outcomes
	faults []string // what report noticed
}

// pipelines tells whether the transport has pipelines. They are optional, and
// one that has none promises nothing of them.
func (w *world) pipelines() bool {
	_, ok := w.tr.(transport.PipelinedPublisher)
	return ok
}

// row opens a pipeline.
func (w *world) row() *row {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	r, err := w.openRow(ctx)
	if err != nil {
		w.Fatalf("open a pipeline: %v", err)
	}
	return r
}

func (w *world) openRow(ctx context.Context) (*row, error) {
	// Tags are the caller's: any number is one.
	r := &row{w: w, news: make(chan struct{}, 1), first: 1<<63 - 2, told: map[uint64][]error{}}
	pipe, err := w.tr.(transport.PipelinedPublisher).OpenPipeline(ctx, r.report)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pipe = pipe
	w.rows = append(w.rows, r)
	return r, nil
}

// report is what the pipeline reports to.
func (r *row) report(tag uint64, err error) {
	if !r.telling.CompareAndSwap(false, true) {
		r.note("two outcomes were reported at once")
		return
	}
	defer r.telling.Store(false)
	runtime.Gosched() // lets another report run, if there is one
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	r.told[tag] = append(r.told[tag], err)
	if withinSend() {
		r.faults = append(r.faults, "an outcome was reported from within Send")
	}
	if r.pipe != nil && isClosed(r.pipe.Done()) {
		r.faults = append(r.faults, "an outcome was reported after Done was closed")
	}
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *row) note(fault string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fault)
}

// withinSend tells whether this goroutine is in a Send of try.
func withinSend() bool {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.Function, "(*row).try") {
			return true
		}
		if !more {
			return false
		}
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// try sends m and returns its tag and what Send said.
func (r *row) try(to transport.Address, m *transport.Message) (uint64, error) {
	r.mu.Lock()
	tag := r.first + uint64(len(r.sent))
	r.sent = append(r.sent, m)
	r.mu.Unlock()
	err := r.pipe.Send(to, m, tag)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sent[tag-r.first] = nil
	}
	return tag, err
}

// send sends m, which is good.
func (r *row) send(to transport.Address, m *transport.Message) {
	r.w.Helper()
	if _, err := r.try(to, m); err != nil {
		r.w.Fatalf("send %q through a pipeline: %v", m.ID, err)
	}
}

// flush says that nothing follows at once.
func (r *row) flush() {
	r.w.Helper()
	if err := r.pipe.Flush(); err != nil {
		r.w.Fatalf("flush a pipeline: %v", err)
	}
}

// outcomes waits for n outcomes in all.
func (r *row) outcomes(n int) {
	r.w.Helper()
	ctx, cancel := r.w.soon()
	defer cancel()
	for {
		got := r.counted()
		if got >= n {
			return
		}
		select {
		case <-r.news:
		case <-ctx.Done():
			r.sound()
			r.w.Fatalf("%d of %d messages have an outcome %v after they were sent; the pipeline says %v", got, n, r.w.h.Patience, r.pipe.Err())
		}
	}
}

// all waits until everything sent has an outcome.
func (r *row) all() {
	r.w.Helper()
	r.outcomes(r.pending())
}

// pending is how many messages were handed over.
func (r *row) pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, m := range r.sent {
		if m != nil {
			n++
		}
	}
	return n
}

func (r *row) counted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// outcome sends m alone and returns what became of it.
func (r *row) outcome(to transport.Address, m *transport.Message) error {
	r.w.Helper()
	tag, err := r.try(to, m)
	if err != nil {
		return err
	}
	r.flush()
	r.all()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.told[tag]) == 0 {
		r.w.Fatalf("there is an outcome, and not of the one message that was sent")
	}
	return r.told[tag][0]
}

// sound fails unless all that was reported could be: each message once at most,
// nothing that was not sent, one after the other.
func (r *row) sound() {
	r.w.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.faults) > 0 {
		r.w.Errorf("%s, and %d faults more", r.faults[0], len(r.faults)-1)
	}
	for tag, outcomes := range r.told {
		place := tag - r.first
		if place >= uint64(len(r.sent)) || r.sent[place] == nil {
			r.w.Errorf("an outcome of tag %d, under which nothing was sent: %v", tag, outcomes[0])
		} else if len(outcomes) > 1 {
			r.w.Errorf("%d outcomes of one message: %v", len(outcomes), outcomes)
		}
	}
}

// stored returns the IDs of all messages that were reported as stored, and fails
// when one was refused for good.
func (r *row) stored() []string {
	r.w.Helper()
	ids, _ := r.split()
	return ids
}

// split returns the IDs of what was stored, and the messages that have no
// outcome or may be sent again, both in the order of Send.
func (r *row) split() (ids []string, left []*transport.Message) {
	r.w.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, m := range r.sent {
		outcomes := r.told[r.first+uint64(i)]
		switch {
		case m == nil: // it never went out
		case len(outcomes) > 0 && outcomes[0] == nil:
			ids = append(ids, m.ID)
		case len(outcomes) > 0 && transport.KindOf(outcomes[0]) == transport.Permanent:
			r.w.Errorf("message %q was refused: %v", m.ID, outcomes[0])
		default:
			left = append(left, m)
		}
	}
	return ids, left
}

// alive fails when the pipeline is over.
func (r *row) alive(what string) {
	r.w.Helper()
	if isClosed(r.pipe.Done()) {
		r.w.Errorf("%s: Done of the pipeline is closed", what)
	}
	if err := r.pipe.Err(); err != nil {
		r.w.Errorf("%s: the pipeline is over: %v", what, err)
	}
	if err := r.pipe.Waiting(); err != nil {
		r.w.Errorf("%s: a broker without an alarm waits: %v", what, err)
	}
}

// end ends the pipeline, and fails when that takes for ever.
func (r *row) end(stuck bool, what string) {
	r.w.Helper()
	done := make(chan struct{}, 1)
	go func() {
		r.pipe.End(stuck)
		done <- struct{}{}
	}()
	await(r.w, done, what)
}

// letGo ends the pipeline and does not hang with one that does.
func (r *row) letGo() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.pipe.End(false)
	}()
	late := time.NewTimer(r.w.h.Patience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C: // a promise that cares has said so
	}
}

// doneWithin fails unless the pipeline is over before d has passed.
func (r *row) doneWithin(d time.Duration, what string) {
	r.w.Helper()
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-r.pipe.Done():
	case <-late.C:
		r.w.Fatalf("%s, and the pipeline goes on %v later", what, d)
	}
}

// over fails unless the pipeline is over and says so.
func (r *row) over(what string) {
	r.w.Helper()
	if !isClosed(r.pipe.Done()) {
		r.w.Errorf("%s: Done of the pipeline is open", what)
	}
	if r.pipe.Err() == nil {
		r.w.Errorf("%s: the pipeline is over, and Err is nil", what)
	}
	_, to := r.w.source("a")
	_, err := r.try(to, r.w.message("too late"))
	if err == nil {
		r.w.Errorf("%s: the pipeline is over, and Send takes another message", what)
	} else if transport.KindOf(err) == transport.Permanent {
		r.w.Errorf("%s: Send says that the message is at fault, and not the pipeline: %v", what, err)
	}
}

// way is one of the ways to send a message.
type way struct {
	name string
	send func(to transport.Address, m *transport.Message) error
}

// ways are all there are.
func (w *world) ways() []way {
	w.Helper()
	out := []way{{"publish", func(to transport.Address, m *transport.Message) error {
		ctx, cancel := w.soon()
		defer cancel()
		return w.tr.Publish(ctx, to, m)
	}}}
	if w.pipelines() {
		out = append(out, way{"pipeline", w.row().outcome})
	}
	return out
}

// must sends m, which is good.
func (w *world) must(by way, to transport.Address, m *transport.Message) {
	w.Helper()
	if err := by.send(to, m); err != nil {
		w.Fatalf("%s of %q: %v", by.name, m.Body, err)
	}
}

// arrive receives and acks until all of ids were there.
func (w *world) arrive(rx transport.Receiver, ids []string, what string) {
	w.Helper()
	missing := map[string]bool{}
	for _, id := range ids {
		missing[id] = true
	}
	for len(missing) > 0 {
		d := w.receiveWithin(rx, w.back(), fmt.Sprintf("%s: one of %d messages that were reported as stored", what, len(missing)))
		delete(missing, d.Message().ID)
		w.ack(d)
	}
}
