package integration_test

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// rabbitRow sends numbered messages through pipelines, one after another, and
// sends again in their order those that a pipeline has ended without an outcome
// for. It keeps the books.
type rabbitRow struct {
	*rabbitWorld
	to     func(tag uint64) transport.Address
	change func(tag uint64, m *transport.Message)
	window int
	stop   chan struct{} // closed: send nothing new
	news   chan struct{} // capacity 1: there is an outcome
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	sent    []uint64   // in order
	out     map[uint64]error
	resent  map[uint64]bool
	opened  int
	current transport.Pipeline
	stored  int
}

func (w *rabbitWorld) row(to func(uint64) transport.Address) *rabbitRow {
	return &rabbitRow{
		rabbitWorld: w, to: to, window: 256, stop: make(chan struct{}), news: make(chan struct{}, 1),
		out: map[uint64]error{}, resent: map[uint64]bool{},
	}
}

// toQueue is the address of the test's queue, for every message.
func (w *rabbitWorld) toQueue(uint64) transport.Address { return rabbitmq.QueueAddress(w.name) }

// start sends in the background until finish is called, n messages at most.
func (r *rabbitRow) start(n uint64) {
	r.wg.Go(func() { r.run(n) })
}

// finish sends nothing new and waits until every message has its outcome.
func (r *rabbitRow) finish() {
	r.Helper()
	close(r.stop)
	r.wg.Wait()
}

// all sends n messages and returns when each has its outcome.
func (r *rabbitRow) all(n uint64) {
	r.Helper()
	r.run(n)
}

func (r *rabbitRow) run(n uint64) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*rabbitPatience)
	defer cancel()
	next := uint64(0)
	for {
		p, err := r.rmq.OpenPipeline(ctx, r.reporter())
		if err != nil {
			r.Errorf("open: %v", err)
			return
		}
		r.mu.Lock()
		r.opened++
		r.current = p
		again := slices.DeleteFunc(slices.Clone(r.sent), func(tag uint64) bool { _, known := r.out[tag]; return known })
		r.mu.Unlock()
		if r.feed(ctx, p, again, &next, n) {
			p.End(false)
			return
		}
		p.End(false)
		r.Logf("pipeline %d ended with %d to send again: %v", r.opens(), r.pending(), p.Err())
	}
}

// reporter returns what one pipeline reports to.
func (r *rabbitRow) reporter() func(uint64, error) {
	return func(tag uint64, err error) {
		r.mu.Lock()
		if was, twice := r.out[tag]; twice {
			r.Errorf("%d has two outcomes: %v and %v", tag, was, err)
		}
		r.out[tag] = err
		if err == nil {
			r.stored++
		}
		r.mu.Unlock()
		select {
		case r.news <- struct{}{}:
		default:
		}
	}
}

// feed sends into p until it ends, or until everything is sent and has its
// outcome: then it is true.
func (r *rabbitRow) feed(ctx context.Context, p transport.Pipeline, again []uint64, next *uint64, n uint64) bool {
	for {
		var tag uint64
		stopped := *next >= n || isDone(r.stop)
		switch {
		case len(again) > 0:
			tag, again = again[0], again[1:]
		case !stopped && r.pending() < r.window:
			tag = *next
			*next++
			r.mu.Lock()
			r.sent = append(r.sent, tag)
			r.mu.Unlock()
		case stopped && r.pending() == 0:
			return true
		default:
			select {
			case <-r.news:
				continue
			case <-p.Done():
				return false
			case <-ctx.Done():
				r.Errorf("%d messages without an outcome: %v", r.pending(), ctx.Err())
				return true
			}
		}
		if !r.send(p, tag) {
			return false
		}
	}
}

// send tells whether the pipeline goes on.
func (r *rabbitRow) send(p transport.Pipeline, tag uint64) bool {
	m := &transport.Message{ID: strconv.FormatUint(tag, 10), Body: []byte(strconv.FormatUint(tag, 10))}
	if r.change != nil {
		r.change(tag, m)
	}
	r.mu.Lock()
	m.Resent = r.resent[tag]
	r.resent[tag] = true
	r.mu.Unlock()
	err := p.Send(r.to(tag), m, tag)
	if err == nil {
		return true
	}
	if transport.KindOf(err) != transport.Permanent {
		return false
	}
	r.reporter()(tag, err)
	return true
}

func (r *rabbitRow) pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sent) - len(r.out)
}

func (r *rabbitRow) outcome(tag uint64) (err error, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err, known = r.out[tag]
	return err, known
}

func (r *rabbitRow) opens() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opened
}

// pipe is the current pipeline.
func (r *rabbitRow) pipe() transport.Pipeline {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// progress waits until so many more messages are stored.
func (r *rabbitRow) progress(n int) {
	r.Helper()
	count := func() int { r.mu.Lock(); defer r.mu.Unlock(); return r.stored }
	before := count()
	r.eventually("messages are stored", func() bool { return count() >= before+n })
}

// check empties the queue and compares it with what was reported: what is stored
// is there, in order, and what is there twice says so.
func (r *rabbitRow) check(queue string) (duplicates int) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[uint64]bool{}
	last := int64(-1)
	for _, d := range r.empty(queue) {
		tag, err := strconv.ParseUint(string(d.Body), 10, 64)
		if err != nil {
			r.Fatal(err)
		}
		again, _ := d.Headers["Holdfast-Resent"].(string)
		switch {
		case seen[tag]:
			duplicates++
			if again == "" {
				r.Errorf("the second copy of %d does not say that it may be one", tag)
			}
		case int64(tag) < last:
			r.Errorf("%d comes after %d", tag, last)
		default:
			last = int64(tag)
		}
		seen[tag] = true
	}
	lost := 0
	for tag, err := range r.out {
		if err == nil && r.to(tag) == rabbitmq.QueueAddress(queue) && !seen[tag] {
			lost++
		}
	}
	if lost > 0 {
		r.Errorf("%d of %d messages that were reported as stored are not there", lost, r.stored)
	}
	return duplicates
}

// empty takes everything out of a queue.
func (w *rabbitWorld) empty(queue string) []amqp.Delivery {
	w.Helper()
	ch := w.raw()
	in, err := ch.Consume(queue, "check", true, false, false, false, nil)
	if err != nil {
		w.Fatal(err)
	}
	var all []amqp.Delivery
	for {
		select {
		case d, ok := <-in:
			if !ok {
				w.Fatal("the consumer ended")
			}
			all = append(all, d)
		case <-time.After(time.Second):
			if w.depth(w.raw(), queue) > 0 {
				continue
			}
			// What is still on its way comes before the answer to this.
			if err := ch.Cancel("check", false); err != nil {
				w.Fatal(err)
			}
			for d := range in {
				all = append(all, d)
			}
			_ = ch.Close()
			return all
		}
	}
}

func isDone(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
