package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// Open implements transport.Transport. The consumer must be there: Provision
// makes it. A source without a Durable name gets a consumer of its own, which
// ends with the receiver.
//
// With want.DeadLetter the receiver takes messages that were redriven to
// want.Subscription as well. Those have a window of their own, an eighth of
// want.Window() and at least one message. What was parked comes back in the same
// way, also when the policy parks nothing any more, with a window of a quarter.
func (t *Transport) Open(ctx context.Context, src transport.Source, want transport.Want) (transport.Receiver, error) {
	s, err := t.sourceOf("open consumer", src)
	if err != nil {
		return nil, err
	}
	if t.isClosed() {
		return nil, &transport.Error{Op: "open consumer", Address: s.address(), Err: transport.ErrClosed}
	}
	if s.cfg.Ordered {
		return t.openOrdered(ctx, s, want)
	}
	r := newReceiver(t, s, want)
	if err := r.takeParked(ctx); err != nil {
		r.cancel()
		return nil, openError(t.parkStream(), err)
	}
	info, err := r.prepare(ctx)
	if err != nil {
		return nil, err
	}
	r.setLease(info.Config.AckWait)
	if err := t.register(r); err != nil {
		return nil, err
	}
	if err := r.start(); err != nil {
		r.halt(err)
		_ = r.Close(ctx)
		return nil, seamError("open consumer", s.address(), t.sendError(err), false)
	}
	return r, nil
}

func newReceiver(t *Transport, s *source, want transport.Want) *receiver {
	r := &receiver{
		t: t, src: s, want: want, address: s.address(), epoch: time.Now(),
		dirty: make(chan struct{}, 1), nudge: &nats.Msg{},
		halted: make(chan struct{}), settled: make(chan struct{}), closed: make(chan struct{}),
	}
	// Background calls outlive the context of Open and end with the receiver.
	r.ctx, r.cancel = context.WithCancel(context.Background())
	name := s.cfg.Durable
	if name == "" {
		name = "holdfast_" + rand.Text()
	}
	window := want.Window()
	r.lanes = []*lane{newLane(r, s.cfg.Stream, name, window)}
	if s.watch != nil {
		r.lanes[0].gaps = s.watch.newGaps()
	}
	if want.DeadLetter {
		back := newLane(r, t.redriveStream(), want.Subscription, max(window/8, 1))
		back.redrive = true
		r.lanes = append(r.lanes, back)
	}
	// Room for every lane's window twice, since a session that was replaced may
	// still deliver, for statuses between two ticks, and for parked copies.
	room := 256 + max(window/2, 4)
	for _, l := range r.lanes {
		room += 2 * int(l.window)
	}
	r.ch = make(chan *nats.Msg, room)
	for _, l := range r.lanes {
		l.in = r.ch
	}
	return r
}

// takeParked adds the lane of what was parked: where messages may be, and where
// some may have been left by a policy of before. That it cannot be known is no
// error where the account may not ask: then it never parked.
func (r *receiver) takeParked(ctx context.Context) error {
	s := r.src
	r.parks = s.parks(r.want)
	if !r.parks {
		if s.watch != nil || s.cfg.Durable == "" {
			return nil
		}
		switch _, err := r.t.consumerInfo(ctx, r.t.parkStream(), s.parkName()); {
		case err == nil:
		case streamMissing(err), consumerMissing(err), errors.Is(err, transport.ErrPermission), errors.Is(err, nats.ErrNoResponders):
			return nil
		default:
			return err
		}
	}
	l := newLane(r, r.t.parkStream(), s.parkName(), max(r.want.Window()/4, 2))
	l.park = true
	l.in = make(chan *nats.Msg, 64+2*l.window)
	r.lanes, r.parked = append(r.lanes, l), l
	return nil
}

func newLane(r *receiver, stream, consumer string, window int) *lane {
	l := &lane{
		r: r, stream: stream, consumer: consumer, window: int64(window),
		next:    r.t.api + "CONSUMER.MSG.NEXT." + stream + "." + consumer,
		trouble: make(chan struct{}, 1),
	}
	l.acks.lane = l
	l.returned.turn = make(chan struct{}, 1)
	return l
}

// prepare looks the consumers up, and makes the one of an ephemeral source.
func (r *receiver) prepare(ctx context.Context) (*natsjs.ConsumerInfo, error) {
	main := r.lanes[0]
	var info *natsjs.ConsumerInfo
	var err error
	if r.src.cfg.Durable == "" {
		if r.src.cfg.Start.IsZero() {
			return nil, errNoStart("open consumer", r.address)
		}
		info, err = r.t.putConsumer(ctx, main.stream, actionCreate, r.src.remembering(ctx, r.src.consumerConfig(main.consumer)))
	} else {
		info, err = r.t.consumerInfo(ctx, main.stream, main.consumer)
	}
	if err != nil {
		return nil, openError(r.address, err)
	}
	if info.Config.DeliverSubject != "" || info.Config.AckPolicy != natsjs.AckExplicitPolicy {
		return nil, transport.Invalid("open consumer", r.address, "it is not a pull consumer with explicit acks; use another durable name")
	}
	if fault := r.src.cfg.Priority.fault(info.Config); fault != "" {
		return nil, transport.Invalid("open consumer", r.address, "%s", fault)
	}
	main.learn(info)
	main.gaps.begin(info, main.began(ctx, info))
	main.lookBack(ctx, info)
	for _, l := range r.lanes[1:] {
		back, err := r.t.consumerInfo(ctx, l.stream, l.consumer)
		if err != nil {
			return nil, openError(l.address(), err)
		}
		l.learn(back)
		if wait := back.Config.AckWait; wait > 0 && wait < info.Config.AckWait {
			info.Config.AckWait = wait // the lease is one for all lanes
		}
	}
	return info, nil
}

func openError(address string, err error) error {
	wrapped := seamError("open consumer", address, err, false)
	if e, ok := wrapped.(*transport.Error); ok && (streamMissing(err) || consumerMissing(err)) {
		e.Hint = "Provision makes it, unless the source is in verify mode"
	}
	return wrapped
}

func errNoStart(op, address string) error {
	return transport.Invalid(op, address, "a new consumer needs a start: all that the stream holds (StartAll), what comes from now on (StartNew), the last message (StartLast), a sequence (StartSequence) or a time (StartTime)")
}

// setLease takes the lease from the consumer as it is, which may differ from
// what the program asked for.
func (r *receiver) setLease(ackWait time.Duration) {
	if ackWait <= 0 {
		ackWait = defaultAckWait
	}
	r.lease = ackWait
	r.tick = max(ackWait/3, 10*time.Millisecond)
}

// start subscribes, pulls, and starts the goroutines, for which Close waits.
func (r *receiver) start() error {
	r.confirming.Go(r.confirm)
	r.wg.Go(r.keep)
	for _, l := range r.lanes {
		r.wg.Go(l.supervise)
	}
	if r.parked != nil {
		r.wg.Go(r.parked.sorter)
	}
	if r.src.cfg.Durable != "" {
		r.wg.Go(newRescuer(r.lanes[0]).run)
	}
	for _, l := range r.lanes {
		if err := l.begin(); err != nil {
			return err
		}
	}
	return nil
}

// Close implements transport.Receiver.
func (r *receiver) Close(ctx context.Context) error {
	r.halt(&transport.Error{Op: "receive", Address: r.address, Err: transport.ErrClosed})
	r.closing.Do(func() {
		r.result = r.close(ctx)
		close(r.closed)
	})
	<-r.closed
	return r.result
}

func (r *receiver) close(ctx context.Context) error {
	r.wg.Wait()
	r.handBack(ctx)
	r.lanes[0].gaps.tell(r)
	unconfirmed := r.awaitConfirmed(ctx)
	close(r.settled)
	r.confirming.Wait()
	for _, l := range r.lanes {
		l.acks.close()
	}
	r.endEphemeral(ctx)
	r.t.unregister(r)
	if unconfirmed > 0 {
		return &transport.Error{
			Op: "close receiver", Address: r.address, Kind: transport.Unknown,
			Err: fmt.Errorf("%d acks were not confirmed: those messages may be delivered again", unconfirmed),
		}
	}
	return nil
}

// handBack gives everything that was buffered and never handed out to the other
// members of the group at once, instead of after the lease.
func (r *receiver) handBack(ctx context.Context) {
	for _, l := range r.lanes {
		if s := l.cur.Load(); s != nil {
			// Drain tells the server first and takes what it had sent by then.
			_ = s.sub.Drain()
		}
	}
	if r.t.nc().IsConnected() {
		_ = r.t.flush(ctx)
	}
	if r.parked != nil {
		r.parked.sortRest()
	}
	r.gather()
	unseen := r.held.drain()
	r.recordUnseen(ctx, unseen)
	for _, d := range unseen {
		_ = d.settle("hand back", func() error { return r.t.nc().Publish(d.raw.Reply, nakBody) })
	}
	if r.t.nc().IsConnected() {
		_ = r.t.flush(ctx)
	}
}

// recordUnseen remembers, with one write for each consumer, that nobody has seen
// these hand-overs.
func (r *receiver) recordUnseen(ctx context.Context, unseen []*delivery) {
	for _, l := range r.lanes {
		var seqs []uint64
		for _, d := range unseen {
			if d.lane == l && d.rescued == nil {
				seqs = append(seqs, d.seq)
			}
		}
		l.recordReturned(ctx, seqs...)
	}
}

// awaitConfirmed waits until no ack is unconfirmed, and returns how many are
// when ctx or its own timeout ends first.
func (r *receiver) awaitConfirmed(ctx context.Context) int {
	deadline := time.NewTimer(apiTimeout)
	defer deadline.Stop()
	for {
		left := 0
		for _, l := range r.lanes {
			left += l.acks.unconfirmed()
		}
		if left == 0 {
			return 0
		}
		poll := time.NewTimer(time.Millisecond)
		select {
		case <-poll.C:
			continue
		case <-ctx.Done():
		case <-deadline.C:
		}
		poll.Stop()
		return left
	}
}

// endEphemeral deletes the consumer of a source without a durable name, unless
// deliveries are still out: those stay settleable, and the server deletes it.
func (r *receiver) endEphemeral(ctx context.Context) {
	main := r.lanes[0]
	if r.src.cfg.Durable != "" || !r.t.nc().IsConnected() {
		return
	}
	held := main.inUse.Load()
	if s := main.cur.Load(); s != nil {
		held -= s.outstanding.Load()
	}
	if held > 0 {
		return
	}
	_ = r.t.deleteConsumer(ctx, main.stream, main.consumer)
}

// backgroundFor is a context for work that has no caller to bound it and must
// finish all the same: the timeout is the bound.
func backgroundFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// connections grows whenever the connection was restored or made anew.
func (t *Transport) connections() uint64 { return t.conn.Epoch() }
