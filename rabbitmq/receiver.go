package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// errCancelled is the cause when the broker has ended a consumer: its queue was
// deleted, its node went down, or a delivery was unsettled for too long.
var errCancelled = errors.New("the broker has cancelled the consumer")

// receiver implements transport.Receiver. It has one lane at a time that gives
// deliveries, and may have older ones whose deliveries are still being handled.
type receiver struct {
	t        *Transport
	src      *source
	want     transport.Want
	rungs    []rung
	prefetch int
	movable  bool // a message that is given back may be moved

	cur     atomic.Pointer[lane]
	trouble chan struct{} // capacity 1: look at failed
	held    atomic.Int64  // given back with a delay so short that they wait here

	recounted sync.Map // of copies made to be counted: name to a channel that is closed with the outcome

	halted  chan struct{} // closed once nothing more is received
	halting sync.Once
	cancel  context.CancelFunc
	wg      sync.WaitGroup // supervisor and mender
	closing sync.Once
	closed  chan struct{}
	result  error // of Close, written before closed is closed

	mu     sync.Mutex // guards what follows; nothing else is locked under it
	lanes  map[*lane]struct{}
	shut   bool // Close is done: the receiver is forgotten with its last lane
	failed []*parked
	copies int // without an outcome
	idle   chan struct{}
}

var _ transport.Receiver = (*receiver)(nil)

// Open implements transport.Transport.
func (t *Transport) Open(ctx context.Context, src transport.Source, want transport.Want) (transport.Receiver, error) {
	s, err := t.sourceOf("open consumer", src)
	if err != nil {
		return nil, err
	}
	if faults := s.faults(); len(faults) > 0 {
		return nil, transport.Invalid("open consumer", s.cfg.Name, "%s", faults[0])
	}
	r := &receiver{
		t: t, src: s, want: want, prefetch: min(want.Window(), math.MaxUint16),
		trouble: make(chan struct{}, 1), halted: make(chan struct{}), closed: make(chan struct{}),
		lanes: map[*lane]struct{}{},
	}
	if !s.stream() {
		r.rungs = ladder(s.cfg.Name, want)
	}
	r.movable = s.movable(want)
	if err := t.register(r); err != nil {
		return nil, err
	}
	session, _, why := t.consuming.session()
	if session == nil {
		err = down(why)
	} else {
		err = r.subscribe(ctx, session)
	}
	if err != nil {
		t.unregister(r)
		return nil, openError(s, err)
	}
	t.dead.register(want.Subscription, s.cfg.Name)
	// The receiver outlives the context of its opening; Close ends it.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	r.wg.Go(func() { r.supervise(background) })
	r.wg.Go(func() { r.mend(background) })
	return r, nil
}

func openError(s *source, err error) error {
	err = seamError("open consumer", s.cfg.Name, err, false)
	if e, ok := errors.AsType[*transport.Error](err); ok && e.Hint == "" && errors.Is(err, transport.ErrNotFound) {
		e.Hint = "the queue does not exist: Provision declares it where it may"
	}
	return err
}

// subscribe opens a lane on the session and makes it the current one.
func (r *receiver) subscribe(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.t.set.rpc, errTimeout)
	defer cancel()
	var mu sync.Mutex // guards late and made
	var late bool
	var made *lane
	err := within(ctx, func() error {
		l, err := r.openLane(s)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if late {
			_ = l.ch.Close() // nobody waits for it any more
			return nil
		}
		made = l
		return nil
	})
	mu.Lock()
	late = true
	l := made
	mu.Unlock()
	if err == nil && l == nil {
		err = errTimeout
	}
	if err != nil {
		if l != nil {
			_ = l.ch.Close() // it answers, for it has just done so
		}
		return err
	}
	r.mu.Lock()
	r.lanes[l] = struct{}{}
	r.mu.Unlock()
	if old := r.cur.Swap(l); old != nil {
		close(old.next)
	}
	return nil
}

// openLane opens a channel and starts consuming.
func (r *receiver) openLane(s *session) (*lane, error) {
	ch, err := s.conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.Qos(r.prefetch, 0, false); err != nil {
		return nil, err
	}
	tag := r.t.prefix + r.want.Subscription + "-" + strconv.FormatUint(r.t.copies.Add(1), 36)
	if len(tag) > maxShort {
		tag = tag[len(tag)-maxShort:]
	}
	l := newLane(r, ch, tag)
	l.in, err = ch.Consume(r.src.cfg.Name, tag, false, r.src.cfg.Exclusive, false, false, r.src.consumerArgs())
	if err != nil {
		_ = ch.Close() // an exception has done so already
		return nil, err
	}
	return l, nil
}

// consumerArgs are the arguments of a consumer.
func (s *source) consumerArgs() amqp.Table {
	args := amqp.Table{}
	if s.cfg.ConsumerPriority != 0 {
		args["x-priority"] = int32(s.cfg.ConsumerPriority)
	}
	if s.cfg.Offset != nil {
		args["x-stream-offset"] = s.cfg.Offset
	}
	for name, v := range s.cfg.ConsumerArguments {
		args[name] = v
	}
	return args
}

// Receive implements transport.Receiver.
func (r *receiver) Receive(ctx context.Context) (transport.Delivery, error) {
	for {
		if r.isHalted() {
			return nil, r.refusal()
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l := r.cur.Load()
		raw, ok, err := r.next(ctx, l)
		if err != nil {
			return nil, err
		}
		if !ok {
			if err := r.changed(ctx, l); err != nil {
				return nil, err
			}
			continue
		}
		if l.ch.IsClosed() {
			continue // it belongs to the broker again, and comes on another lane
		}
		l.take()
		d := newDelivery(l, raw)
		if r.isHalted() {
			r.handBack(ctx, d)
			return nil, r.refusal()
		}
		if !r.divert(ctx, d) {
			r.awaitOriginal(ctx, d)
			return r.handOut(d), nil
		}
	}
}

// next returns what the lane has; ok is false when it has nothing more.
func (r *receiver) next(ctx context.Context, l *lane) (raw amqp.Delivery, ok bool, err error) {
	select {
	case raw, ok = <-l.in:
		return raw, ok, nil
	default:
	}
	if l.waiting.Load() > 0 {
		// The client library hands over one at a time: the next one is there once
		// its goroutine has run. Only if it is not, nothing is left to do.
		runtime.Gosched()
		select {
		case raw, ok = <-l.in:
			return raw, ok, nil
		default:
		}
		l.send()
	}
	select {
	case raw, ok = <-l.in:
		return raw, ok, nil
	case <-ctx.Done():
		return raw, false, ctx.Err()
	case <-r.halted:
		return raw, false, r.refusal()
	}
}

// changed waits for a lane after this one.
func (r *receiver) changed(ctx context.Context, l *lane) error {
	select {
	case <-l.next:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.halted:
		return r.refusal()
	}
}

// divert takes what is not to be handed out now: what is not due yet, and what
// must be counted first. It tells whether it did.
func (r *receiver) divert(ctx context.Context, d *delivery) bool {
	var err error
	switch {
	case !d.due.IsZero() && len(r.rungs) > 0 && time.Until(d.due) > 0:
		err = d.settle(ctx, "put back", func() error { return r.putBack(ctx, d, time.Until(d.due)) })
	case d.uncounted && r.recounts(), r.wears(d):
		err = d.settle(ctx, "count", func() error { return r.recount(ctx, d) })
	default:
		return false
	}
	switch {
	case err == nil:
	case errors.Is(err, transport.ErrTooLarge) || errors.Is(err, transport.ErrInvalid):
		// No copy of it can be made, now or later. Nobody waits for it again, and
		// what is not due is handed out early rather than going round for ever.
		return false
	default:
		// It cannot be published now; the broker hands it out again.
		_ = d.lane.returnUnseen(d.raw.DeliveryTag, r.serverVersion())
	}
	return true
}

// recounts tells whether what was handed out before may be moved to the end of
// the queue to be counted. In an ordered subscription it may not.
func (r *receiver) recounts() bool {
	c := &r.src.cfg
	return (c.Type == Classic || c.Type == "") && r.src.unordered(r.want)
}

func (r *receiver) isHalted() bool {
	select {
	case <-r.halted:
		return true
	default:
		return false
	}
}

func (r *receiver) halt() { r.halting.Do(func() { close(r.halted) }) }

func (r *receiver) refusal() error {
	return &transport.Error{Op: "receive", Address: r.src.cfg.Name, Kind: transport.Permanent, Err: transport.ErrClosed}
}

func (r *receiver) event(kind transport.EventKind, err error, detail string) {
	r.t.events.emit(transport.Event{Kind: kind, Subscription: r.want.Subscription, Err: err, Detail: detail})
}

// dropLane forgets a lane that has ended, and the receiver with its last one.
func (r *receiver) dropLane(l *lane) {
	r.mu.Lock()
	delete(r.lanes, l)
	last := r.shut && len(r.lanes) == 0
	r.mu.Unlock()
	if last {
		r.t.unregister(r)
	}
}

// Close implements transport.Receiver: it cancels the consumer, waits until the
// broker has done so, hands back what was buffered, and sends what is gathered.
// The channel stays for the deliveries that are still being handled.
func (r *receiver) Close(ctx context.Context) error {
	r.closing.Do(func() {
		r.result = r.close(ctx)
		close(r.closed)
	})
	select {
	case <-r.closed:
		return r.result
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *receiver) close(ctx context.Context) error {
	r.halt()
	l := r.cur.Load()
	err := r.stopLane(ctx, l)
	select {
	case <-r.landed():
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	}
	r.cancel()
	r.wg.Wait()
	if late := r.cur.Load(); late != l { // opened while the other one was stopped
		err = errors.Join(err, r.stopLane(ctx, late))
	}
	r.mu.Lock()
	r.shut = true
	lanes := make([]*lane, 0, len(r.lanes))
	for l := range r.lanes {
		lanes = append(lanes, l)
	}
	r.mu.Unlock()
	if len(lanes) == 0 {
		r.t.unregister(r)
	}
	for _, l := range lanes {
		l.retire()
	}
	if err != nil {
		return seamError("close receiver", r.src.cfg.Name, err, true)
	}
	return nil
}

// stopLane cancels the consumer and hands back what it had buffered.
func (r *receiver) stopLane(ctx context.Context, l *lane) error {
	if l.ch.IsClosed() {
		return nil
	}
	err := l.endConsumer(ctx)
	if err != nil && !l.ch.IsClosed() {
		return fmt.Errorf("cancel the consumer: %w", err)
	}
	var unseen []*delivery
	for {
		select {
		case raw, ok := <-l.in:
			if !ok {
				r.giveBackAll(ctx, l, unseen)
				return nil
			}
			l.take()
			if d := newDelivery(l, raw); r.src.stream() {
				r.handBack(ctx, d)
			} else {
				unseen = append(unseen, d)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// abandonLanes is for a transport that closes: what is unsettled goes back when
// the connection does.
func (r *receiver) abandonLanes() {
	r.mu.Lock()
	lanes := make([]*lane, 0, len(r.lanes))
	for l := range r.lanes {
		lanes = append(lanes, l)
	}
	r.mu.Unlock()
	for _, l := range lanes {
		l.send()
	}
}

// Abandon stops receiving without settling or handing back anything, as the end
// of the process would. It is for tests of what happens then; Close still has to
// be called.
func (r *receiver) Abandon() {
	r.halt()
	r.cancel()
	r.wg.Wait()
	r.mu.Lock()
	lanes := make([]*lane, 0, len(r.lanes))
	for l := range r.lanes {
		lanes = append(lanes, l)
	}
	r.mu.Unlock()
	for _, l := range lanes {
		_ = l.ch.Close()
		l.dead()
	}
}
