package memory

import (
	"context"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// keptRejected is how many rejected messages a queue keeps, the newest ones.
const keptRejected = 1000

// Rejected is a message that was rejected.
type Rejected struct {
	Message *transport.Message
	// Reason is what Reject was given.
	Reason string
	// Deliveries is how often it had been handed out.
	Deliveries int
	// Time is when it was rejected.
	Time time.Time
}

func (q *queue) reject(r Rejected) {
	if len(q.rejected) == keptRejected {
		q.rejected = append(q.rejected[:0], q.rejected[1:]...)
	}
	q.rejected = append(q.rejected, r)
}

// Rejected returns the messages rejected from a queue, oldest first; the newest
// 1000 are kept. It is empty for a queue that does not exist.
func (b *Broker) Rejected(queue string) []Rejected {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[queue]
	if q == nil {
		return nil
	}
	out := make([]Rejected, 0, len(q.rejected))
	for _, r := range q.rejected {
		r.Message = clone(r.Message)
		out = append(out, r)
	}
	return out
}

// Stats says what a queue holds at one moment.
type Stats struct {
	// Waiting messages may be handed out now.
	Waiting int
	// Delayed messages were given back, or are scheduled, and are not due yet.
	Delayed int
	// Leased messages were handed out and are not settled.
	Leased int
	// Rejected messages can be seen with Broker.Rejected.
	Rejected int
	// Receivers are open on the queue.
	Receivers int
}

// Stats returns what a queue holds; all zero for one that does not exist.
func (b *Broker) Stats(queue string) Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[queue]
	if q == nil {
		return Stats{}
	}
	return Stats{
		Waiting:   len(q.ready.list),
		Delayed:   len(q.timed.list) - q.leased,
		Leased:    q.leased,
		Rejected:  len(q.rejected),
		Receivers: len(q.receivers),
	}
}

// Len returns how many messages a queue holds: waiting, delayed and leased.
func (b *Broker) Len(queue string) int {
	s := b.Stats(queue)
	return s.Waiting + s.Delayed + s.Leased
}

// Idle tells whether no queue holds a message: everything published was acked
// or rejected.
func (b *Broker) Idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stored == 0
}

// WaitIdle waits until the broker is idle and returns nil, or the error of ctx
// when that ends first. A closed broker is idle.
func (b *Broker) WaitIdle(ctx context.Context) error {
	b.mu.Lock()
	if b.stored == 0 {
		b.mu.Unlock()
		return nil
	}
	ch := make(chan struct{})
	b.idle = append(b.idle, ch)
	b.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		b.dropIdle(ch)
		return ctx.Err()
	}
}

func (b *Broker) dropIdle(ch chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, other := range b.idle {
		if other == ch {
			b.idle = append(b.idle[:i], b.idle[i+1:]...)
			return
		}
	}
}
