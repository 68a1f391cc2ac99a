package jetstream

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// receiver implements transport.Receiver and transport.Leased.
//
// Messages go from the connection's read loop into ch, and from there to a
// worker in Receive: one hop. Every tick the keeper moves what waits in ch into
// held and extends its leases; Receive prefers held, so the order stays.
type receiver struct {
	t       *Transport
	src     *source
	want    transport.Want
	address string
	lanes   []*lane // the source first, then what is redriven
	lease   time.Duration
	tick    time.Duration
	ch      chan *nats.Msg
	nudge   *nats.Msg   // comes through ch to make a worker look around
	nudged  atomic.Bool // nudge is in ch
	held    held
	clock   atomic.Int64 // nanoseconds since epoch, set every tick
	epoch   time.Time
	dirty   chan struct{} // capacity 1: an ack waits for its confirmation

	halted     chan struct{} // closed once nothing more is received
	halting    sync.Once
	reason     error         // why, written before halted is closed
	settled    chan struct{} // closed once all acks are confirmed or given up
	ctx        context.Context
	cancel     context.CancelFunc // ends ctx, which background calls use
	wg         sync.WaitGroup     // supervisors and keeper
	confirming sync.WaitGroup     // the confirming goroutine
	closing    sync.Once
	closed     chan struct{}
	result     error // of Close, written before closed is closed

	parks   bool        // long delays go to the park stream
	parked  *lane       // brings back what was parked; nil when nothing can have been
	crammed atomic.Bool // parking failed, and that was told
	server  serverClock // of the park stream
}

var (
	_ transport.Receiver = (*receiver)(nil)
	_ transport.Leased   = (*receiver)(nil)
)

// Lease implements transport.Leased.
func (r *receiver) Lease() time.Duration { return r.lease }

// Receive implements transport.Receiver.
func (r *receiver) Receive(ctx context.Context) (transport.Delivery, error) {
	for {
		if r.isHalted() {
			return nil, r.reason
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if r.held.busy.Load() != 0 {
			if d := r.held.pop(); d != nil {
				if d = r.handOut(ctx, d); d != nil {
					return d, nil
				}
				continue
			}
		}
		m, err := r.wait(ctx)
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue
		}
		d := r.arrive(m)
		if d == nil {
			continue
		}
		if d.marker {
			r.skip(d)
			continue
		}
		if r.held.busy.Load() != 0 {
			d = r.held.swap(d)
		}
		if d = r.handOut(ctx, d); d != nil {
			return d, nil
		}
	}
}

// wait returns the next message of the channel, or nil when there is a reason
// to look around: something is held, or the receiver is halted. Both reasons
// come through the channel as well, since a select over more channels costs
// more than all else that is done here per message.
func (r *receiver) wait(ctx context.Context) (*nats.Msg, error) {
	var m *nats.Msg
	select {
	case m = <-r.ch:
	default:
		select {
		case m = <-r.ch:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if m != r.nudge {
		return m, nil
	}
	r.nudged.Store(false)
	if r.isHalted() {
		r.wakeOne() // the next worker that waits
	}
	return nil, nil
}

// wakeOne makes one waiting worker look around. A full channel does the same.
func (r *receiver) wakeOne() {
	if !r.nudged.CompareAndSwap(false, true) {
		return
	}
	select {
	case r.ch <- r.nudge:
	default:
		r.nudged.Store(false)
	}
}

// handOut gives d to a worker, unless its message waits elsewhere.
func (r *receiver) handOut(ctx context.Context, d *delivery) *delivery {
	if r.held.any() {
		r.wakeOne() // whoever takes one wakes the next
	}
	if r.superseded(ctx, d) {
		r.skip(d)
		return nil
	}
	return d
}

// arrive turns what came into a delivery, or handles it and returns nil when it
// is a status of the server.
func (r *receiver) arrive(m *nats.Msg) *delivery {
	l := r.laneOf(m)
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		l.status(m)
		l.topUp()
		return nil
	}
	l.arrived(m.Sub)
	l.noticePin(m)
	d := newDelivery(l, m)
	if r.src.watch != nil {
		r.src.watch.took(l, d)
	}
	d.leased.Store(r.clock.Load())
	if until := l.replayed.Load(); d.seq <= until && l.acked.has(d.seq) {
		// It was acked before the consumer was lost and made again.
		d.marker = true
	}
	return d
}

// laneOf tells which lane m came by.
func (r *receiver) laneOf(m *nats.Msg) *lane {
	for _, l := range r.lanes {
		if s := l.cur.Load(); s != nil && s.sub == m.Sub {
			return l
		}
	}
	for _, l := range r.lanes[1:] {
		if l.owns(m.Sub) {
			return l
		}
	}
	return r.lanes[0]
}

// skip acks what no handler should see.
func (r *receiver) skip(d *delivery) {
	// A failure brings it back, to be skipped again.
	_ = d.AckLater()
}

func (r *receiver) isHalted() bool {
	select {
	case <-r.halted:
		return true
	default:
		return false
	}
}

// halt ends receiving. The first reason is what Receive returns from then on.
func (r *receiver) halt(reason error) {
	r.halting.Do(func() {
		r.reason = reason
		close(r.halted)
		r.cancel()
		r.wakeOne()
	})
}

// Abandon stops receiving without handing anything back and without confirming
// pipelined acks, as the end of the process would. It is for tests of what
// happens then; Close still has to be called.
func (r *receiver) Abandon() {
	r.halt(&transport.Error{Op: "receive", Address: r.address, Err: transport.ErrClosed})
	r.wg.Wait()
	for _, l := range r.lanes {
		if s := l.cur.Load(); s != nil {
			_ = s.sub.Unsubscribe()
		}
	}
	for {
		select {
		case m := <-r.ch:
			if m == r.nudge {
				r.nudged.Store(false)
			}
		default:
			r.held.drain()
			r.wakeOne()
			return
		}
	}
}

// denied fails the receiver when the account may not do what it lives by.
func (r *receiver) denied(subject string, cause error) {
	for _, l := range r.lanes {
		mine := subject == l.next || strings.HasPrefix(subject, ackPrefix+l.stream+"."+l.consumer+".")
		if s := l.cur.Load(); s != nil && subject == s.inbox+"*" {
			mine = true
		}
		if mine {
			r.halt(&transport.Error{
				Op: "receive", Address: l.address(), Kind: transport.Permanent, Err: cause,
				Hint: "grant the account this permission",
			})
		}
	}
}

// dropped implements opened.
func (r *receiver) dropped(sub *nats.Subscription) (subscription string, missing bool) {
	return r.want.Subscription, slices.ContainsFunc(r.lanes, func(l *lane) bool { return l.owns(sub) })
}

func (r *receiver) wakeSupervisor(cause uint32) {
	for _, l := range r.lanes {
		l.wake(cause)
	}
}

// keep is a goroutine of the receiver: every tick it extends the leases of what
// is buffered. It ends when the receiver is halted.
func (r *receiver) keep() {
	ticker := time.NewTicker(r.tick)
	defer ticker.Stop()
	for {
		select {
		case <-r.halted:
			return
		case <-ticker.C:
		}
		r.clock.Store(int64(time.Since(r.epoch)))
		r.gather()
		now := r.clock.Load()
		r.held.each(func(d *delivery) {
			// When it cannot be sent the connection is down, and nobody else gets
			// the message before the lease ends.
			if r.t.nc().Publish(d.raw.Reply, progressBody) == nil {
				d.leased.Store(now)
			}
		})
		if r.held.any() {
			r.wakeOne()
		}
		r.lanes[0].gaps.tell(r)
	}
}

// gather moves what waits in the channel into held.
func (r *receiver) gather() {
	var skipped []*delivery
	r.held.fill(func(add func(*delivery)) {
		for range len(r.ch) {
			select {
			case m := <-r.ch:
				if m == r.nudge {
					r.nudged.Store(false)
					continue
				}
				d := r.arriveHeld(m)
				switch {
				case d == nil:
				case d.marker:
					skipped = append(skipped, d)
				default:
					add(d)
				}
			default:
				return
			}
		}
	})
	for _, d := range skipped {
		r.skip(d)
	}
	for _, l := range r.lanes {
		l.topUp()
	}
	if r.isHalted() {
		r.wakeOne()
	}
}

// arriveHeld is arrive without pulling, which must not happen under a lock.
func (r *receiver) arriveHeld(m *nats.Msg) *delivery {
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		r.laneOf(m).status(m)
		return nil
	}
	return r.arrive(m)
}
