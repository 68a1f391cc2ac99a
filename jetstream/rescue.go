package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// A consumer with a delivery limit, made by somebody else, leaves messages
// behind: they stay stored and are handed out to nobody. The server says so
// once, to whoever listens at that moment. The rescuer listens, and looks
// through work queues, where what was left behind can still be seen later. It
// reads such messages from the stream and hands them to this receiver, whose
// policy decides: a nack is kept here, an ack removes them from a work queue.
const (
	sweepEvery   = time.Minute
	sweepSettles = 2 * time.Second // an ack may take that long to remove a message
	rescueGroup  = "holdfast"      // one member of the group takes each notice
)

// rescuer brings messages back that a delivery limit left behind. It belongs to
// the first lane of a receiver.
type rescuer struct {
	lane    *lane
	notices chan *nats.Msg
	again   chan struct{} // capacity 1: something was parked

	mu     sync.Mutex // guards what follows; nothing else is locked under it
	taken  map[uint64]bool
	parked []parked
}

// parked is a rescued delivery that was nacked. The server keeps no delay for
// it.
type parked struct {
	due time.Time
	raw *nats.Msg
	seq uint64
	n   int // deliveries so far
}

// maxDeliverNotice is the server's advisory.
type maxDeliverNotice struct {
	Seq        uint64 `json:"stream_seq"`
	Deliveries int    `json:"deliveries"`
}

func newRescuer(l *lane) *rescuer {
	return &rescuer{lane: l, notices: make(chan *nats.Msg, 4096), again: make(chan struct{}, 1), taken: map[uint64]bool{}}
}

// run is a goroutine of the receiver. It ends when the receiver is halted, or
// at once when nothing can be left behind.
func (s *rescuer) run() {
	r := s.lane.r
	limited, queue := s.situation()
	if !limited && !queue {
		return
	}
	subject := "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + s.lane.stream + "." + s.lane.consumer
	sub, err := r.t.nc().ChanQueueSubscribe(subject, rescueGroup, s.notices)
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }()
	}
	if queue {
		s.sweep(r.ctx)
	}
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	for {
		select {
		case <-r.halted:
			return
		case m := <-s.notices:
			var n maxDeliverNotice
			if json.Unmarshal(m.Data, &n) == nil && n.Seq > 0 {
				s.tell(1)
				s.rescue(r.ctx, n.Seq, n.Deliveries)
			}
		case <-ticker.C:
			if queue {
				s.sweep(r.ctx)
			}
		case <-s.again:
		case <-due.C:
		}
		if next, ok := s.release(time.Now()); ok {
			due.Reset(time.Until(next))
		}
	}
}

// situation tells whether the consumer has a delivery limit, and whether its stream
// is a work queue. It asks until there is an answer, or the account may not ask.
func (s *rescuer) situation() (limited, queue bool) {
	r := s.lane.r
	for pause := reviveMin; ; pause = min(2*pause, reviveMax) {
		info, err := r.t.consumerInfo(r.ctx, s.lane.stream, s.lane.consumer)
		if err == nil {
			var stream *natsjs.StreamInfo
			if stream, err = r.t.streamInfo(r.ctx, s.lane.stream); err == nil {
				return info.Config.MaxDeliver > 0, stream.Config.Retention == natsjs.WorkQueuePolicy
			}
		}
		if errors.Is(err, transport.ErrPermission) || !sleep(r.ctx, pause) {
			return false, false
		}
	}
}

// tell reports messages that were left behind.
func (s *rescuer) tell(n int) {
	s.lane.r.emit(transport.Event{
		Kind: transport.Stranded, Count: n,
		Detail: "the consumer " + s.lane.address() + " gave up on messages after its max_deliver; they are handed to this subscription",
	})
}

// sweep looks through a work queue for messages that nobody will be handed. It
// looks twice, since an ack may still be on its way to the store.
func (s *rescuer) sweep(ctx context.Context) {
	first := s.look(ctx)
	if len(first) == 0 {
		return
	}
	timer := time.NewTimer(sweepSettles)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	second := map[uint64]bool{}
	for _, seq := range s.look(ctx) {
		second[seq] = true
	}
	left := 0
	for _, seq := range first {
		if second[seq] && s.rescue(ctx, seq, 1) {
			left++
		}
	}
	if left > 0 {
		s.tell(left)
	}
}

func (s *rescuer) look(ctx context.Context) []uint64 {
	t := s.lane.r.t
	info, err := t.consumerInfo(ctx, s.lane.stream, s.lane.consumer)
	if err != nil {
		return nil
	}
	stream, err := t.streamInfo(ctx, s.lane.stream)
	if err != nil {
		return nil
	}
	seqs, _ := t.below(ctx, stream, info, strandedPage)
	return seqs
}

// rescue reads one message from the stream and hands it to the receiver. It
// returns false when the message is gone or was rescued before.
func (s *rescuer) rescue(ctx context.Context, seq uint64, deliveries int) bool {
	s.mu.Lock()
	known := s.taken[seq]
	s.taken[seq] = true
	s.mu.Unlock()
	if known {
		return false
	}
	stored, err := s.lane.r.t.get(ctx, s.lane.stream, getRequest{Seq: seq})
	if err != nil {
		s.mu.Lock()
		delete(s.taken, seq)
		s.mu.Unlock()
		return false
	}
	raw := &nats.Msg{Subject: stored.Subject, Data: stored.Data}
	if len(stored.Header) > 0 {
		raw.Header, _ = nats.DecodeHeadersMsg(stored.Header)
	}
	at, _ := time.Parse(time.RFC3339Nano, stored.Time)
	// The server takes the ack of a delivery it has given up on.
	raw.Reply = fmt.Sprintf("%s%s.%s.%d.%d.%d.%d.0", ackPrefix, s.lane.stream, s.lane.consumer, deliveries, seq, 0, at.UnixNano())
	s.handOver(raw, max(deliveries, 1))
	return true
}

// handOver puts a rescued message among what Receive returns next.
func (s *rescuer) handOver(raw *nats.Msg, deliveries int) {
	r := s.lane.r
	d := newDelivery(s.lane, raw)
	d.rescued, d.deliveries = s, uint32(deliveries)
	d.leased.Store(r.clock.Load())
	s.lane.inUse.Add(1)
	r.held.fill(func(add func(*delivery)) { add(d) })
	r.wakeOne()
}

// park keeps a nacked message for the delay. It was delivered so often.
func (s *rescuer) park(d *delivery, delay time.Duration, deliveries int) {
	s.mu.Lock()
	s.parked = append(s.parked, parked{due: time.Now().Add(delay), raw: d.raw, seq: d.seq, n: deliveries})
	s.mu.Unlock()
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// release hands over what is due, and returns when the next one is.
func (s *rescuer) release(now time.Time) (next time.Time, more bool) {
	s.mu.Lock()
	var due, rest []parked
	for _, p := range s.parked {
		if !p.due.After(now) {
			due = append(due, p)
			continue
		}
		if !more || p.due.Before(next) {
			next, more = p.due, true
		}
		rest = append(rest, p)
	}
	s.parked = rest
	s.mu.Unlock()
	for _, p := range due {
		s.handOver(p.raw, p.n+1)
	}
	return next, more
}
