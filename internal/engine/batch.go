package engine

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// Batch makes each worker take many messages and run one attempt for all of them.
// What a batch costs beside its messages, such as its context, its timer and the
// locks around the attempt, is paid once.
//
// That is the way of messages with which nothing is wrong. One that must not run
// beside others, or whose verdict is anything else than an ack, goes to a worker
// of its own, which has no slot and ends with it: a settlement that takes long
// holds up no other message. When such a worker runs an attempt, the task is one
// of Config.NewTask.
type Batch struct {
	// Messages and Bytes of bodies are what a batch has at most, Wait is how long
	// its first message waits for others. All are positive.
	Messages int
	Bytes    int
	Wait     time.Duration
	// Room has a place for each batch that is handled at once. Whoever runs a task
	// of NewTask in Config waits for a place by himself.
	Room chan struct{}
	// NewTask makes the task of an attempt at all of these messages. It may keep
	// the slice.
	NewTask func([]Attempt) BatchTask
}

// BatchTask is one attempt at many messages.
type BatchTask interface {
	Task
	// Outcome is how the attempt at one message ended, by its place among those
	// the task was made from, when Run returned err or panicked with it.
	Outcome(i int, err error) error
}

// item is a message in the hand of a worker that gathers a batch.
type item struct {
	c    judgement // the worker's own
	lost bool      // its lease is; guarded by worker.mu
}

// runBatches is the life of a worker of a subscription with batches.
func (w *worker) runBatches(b *Batch) {
	for w.gather(b) {
		if !w.runBatch(b) {
			return
		}
	}
}

// gather takes messages until there is a batch and a place for it to be handled.
// Workers take turns, or each would have a part of it. It returns false at the
// stop when there is nothing in hand.
func (w *worker) gather(b *Batch) bool {
	if !w.p.takeTurn() {
		return false
	}
	bytes := 0
	for len(w.items) == 0 {
		d := w.p.receive()
		if d == nil {
			w.p.endTurn()
			return false
		}
		bytes = w.take(b, d, bytes)
	}
	w.mu.Lock()
	w.since = time.Now() // what waits for a place is kept as well
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(w.s.recvCtx)
	var due sync.WaitGroup
	due.Go(func() { w.awaitDue(ctx, cancel, b) })
	for len(w.items) < b.Messages && bytes < b.Bytes {
		d := w.p.receiveNow(ctx)
		if d == nil {
			break
		}
		bytes = w.take(b, d, bytes)
	}
	cancel()
	w.p.endTurn()
	due.Wait()
	return true
}

// awaitDue ends the gathering when the first message has waited for long enough
// and there is a place to handle it. Until then others may join.
func (w *worker) awaitDue(ctx context.Context, end context.CancelFunc, b *Batch) {
	defer end()
	wait := time.NewTimer(b.Wait)
	defer wait.Stop()
	select {
	case <-wait.C:
		w.enter(ctx.Done(), b)
	case <-ctx.Done():
	}
}

// enter waits for a place until stop is closed, or for as long as messages may be
// kept.
func (w *worker) enter(stop <-chan struct{}, b *Batch) bool {
	w.mu.Lock()
	most := time.NewTimer(w.s.cfg.MaxLease - time.Since(w.since))
	w.mu.Unlock()
	defer most.Stop()
	select {
	case b.Room <- struct{}{}:
		w.mu.Lock()
		w.inRoom = true
		w.mu.Unlock()
		return true
	case <-stop:
		return false
	case <-most.C:
		return false
	}
}

// leaveRoom gives the place back, if the worker has one.
func (w *worker) leaveRoom() {
	w.mu.Lock()
	had := w.inRoom
	w.inRoom = false
	w.mu.Unlock()
	if had {
		<-w.s.cfg.Batch.Room
	}
}

// takeTurn waits until no other worker gathers. It returns false at the stop.
func (p *pool) takeTurn() bool {
	select {
	case p.turn <- struct{}{}:
		return true
	default:
	}
	p.park() // it has nothing in hand
	defer p.parked.Add(-1)
	select {
	case p.turn <- struct{}{}:
		return true
	case <-p.s.recvCtx.Done():
		return false
	}
}

func (p *pool) endTurn() { <-p.turn }

// take adds a message to the batch and returns how many bytes it has now. What
// does not fit, or cannot be handled beside others, goes elsewhere.
func (w *worker) take(b *Batch, d transport.Delivery, bytes int) int {
	w.counts.received.Add(1)
	c := &w.own
	w.s.consider(c, d)
	size := len(c.message.Body)
	if c.verdict.Action != recovery.Handle || c.verdict.Alone || len(w.items) > 0 && bytes+size > b.Bytes {
		w.p.handOver(*c, false)
		return bytes
	}
	w.mu.Lock()
	w.items = append(w.items, item{c: *c})
	w.mu.Unlock()
	return bytes + size
}

// handOver gives a message to a worker of its own, which does what its verdict
// says.
func (p *pool) handOver(c judgement, lost bool) {
	p.spawn(&estate{c: c, lost: lost, extra: true})
}

// runBatch runs the handler for what was gathered, and settles each message. It
// returns false when the worker was left behind.
func (w *worker) runBatch(b *Batch) bool {
	defer w.leaveRoom() // also when the handler ends the goroutine
	if !w.hasRoom() && !w.enter(w.s.grace.cut, b) || w.s.stopping.Load() {
		w.returnItems() // nobody has seen them
		return true
	}
	if w.lost.Load() && !w.dropLost() {
		return true
	}
	started := w.s.clock()
	task := b.NewTask(w.attemptsAt(started))
	ctx := task.Context()
	w.begin(ctx, nil, started)
	err := invoke(ctx, task)
	timedOut, mine := w.end(ctx)
	if !mine {
		return false
	}
	var took time.Duration
	if w.s.cfg.Observe != nil {
		took = time.Since(started)
	}
	w.settleItems(task, err, timedOut, took)
	return true
}

func (w *worker) hasRoom() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.inRoom
}

// attemptsAt starts an attempt at each message of the batch.
func (w *worker) attemptsAt(started time.Time) []Attempt {
	all := make([]Attempt, len(w.items))
	for i := range w.items {
		c := &w.items[i].c
		if c.from == 0 {
			c.began, c.from = started, c.attempt
		}
		all[i] = Attempt{Delivery: c.delivery, Number: c.attempt, Deliveries: c.deliveries}
	}
	return all
}

// settleItems judges each message by itself. One that was handled is acked here,
// which neither waits nor takes a goroutine.
func (w *worker) settleItems(task BatchTask, err error, timedOut bool, took time.Duration) {
	held := w.heldTooLong()
	for i := range w.items {
		c := &w.items[i].c
		failed := task.Outcome(i, err)
		if failed != nil && timedOut {
			failed = w.timeoutOf(failed)
		}
		w.ended(c, failed, took)
		if c.verdict.Action == recovery.RetryNow && held {
			w.s.notNow(c, 0)
		}
		lost := w.isLost(i)
		if lost || c.verdict.Action != recovery.Ack || w.ackLater(c, &w.counts.handled) != nil {
			w.p.handOver(*c, lost)
		}
	}
	w.emptyHand()
}

// isLost reports whether the lease of a message of the batch is lost.
func (w *worker) isLost(i int) bool {
	if !w.lost.Load() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.items[i].lost
}

// dropLost takes those out of the batch whose leases were lost before it began,
// and reports whether others are left.
func (w *worker) dropLost() bool {
	w.mu.Lock()
	kept := w.items[:0]
	var lost []judgement
	for _, it := range w.items {
		if it.lost {
			lost = append(lost, it.c)
		} else {
			kept = append(kept, it)
		}
	}
	clear(w.items[len(kept):])
	w.items = kept
	w.turn++
	w.lost.Store(false)
	w.mu.Unlock()
	for _, c := range lost {
		w.p.handOver(c, true)
	}
	return len(kept) > 0
}

// returnItems gives everything in hand back uncharged.
func (w *worker) returnItems() {
	for i := range w.items {
		c := &w.items[i].c
		c.verdict = recovery.Verdict{Action: recovery.Return}
		w.p.handOver(*c, w.isLost(i))
	}
	w.emptyHand()
}

// emptyHand is for a worker whose messages are settled, or somebody else's.
func (w *worker) emptyHand() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.items)
	w.items = w.items[:0]
	w.turn++
	w.since = time.Time{}
	w.lost.Store(false)
}

// keepItems extends the leases of a batch. No lock is held meanwhile, so the
// worker may have another one in hand afterwards.
func (w *worker) keepItems() {
	w.mu.Lock()
	turn := w.turn
	held := make([]transport.Delivery, len(w.items))
	for i := range w.items {
		if !w.items[i].lost {
			held[i] = w.items[i].c.delivery
		}
	}
	w.mu.Unlock()
	for i, d := range held {
		if d == nil {
			continue
		}
		if err := extend(d); err != nil && !w.loseItem(i, turn, err) {
			return
		}
	}
}

// loseItem notes that the message may be somebody else's now. The handler goes on
// for the others, and is cancelled when there are none. It returns false when the
// batch is not in hand any more.
func (w *worker) loseItem(i int, turn uint64, err error) bool {
	w.mu.Lock()
	if w.turn != turn || i >= len(w.items) {
		w.mu.Unlock()
		return false
	}
	w.items[i].lost = true
	w.lost.Store(true)
	d, ctx := w.items[i].c.delivery, w.ctx
	for _, it := range w.items {
		if !it.lost {
			ctx = nil
			break
		}
	}
	if ctx != nil {
		w.leaveLocked() // and its timer finds out if it hangs
	}
	w.mu.Unlock()
	w.s.tellLeaseLost(d, "lease lost: the message is not settled, whatever comes of its batch", err)
	if ctx != nil {
		ctx.end(context.Canceled)
	}
	return true
}
