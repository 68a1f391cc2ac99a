package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// ordered implements transport.Receiver for a source that is read in order and
// without acks, for replays and read models. It has a consumer of its own, kept
// in memory by the server. Where that is lost, or what comes has a gap, another
// one is made that begins after the last message taken: nothing comes twice and
// nothing is left out.
//
// Its only goroutine runs one session after another. A failed message is kept
// here and handed out again before anything later.
type ordered struct {
	t    *Transport
	src  *source
	want transport.Want
	*orderedRow

	trouble chan struct{} // capacity 1: the connection came or went
	session atomic.Pointer[orderedSession]
	behind  time.Time // since when the stream ends before what was read; of the goroutine alone

	halted  chan struct{}
	halting sync.Once
	reason  error // written before halted is closed
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

var _ transport.Receiver = (*ordered)(nil)

// minOrderedWindow is how much is taken ahead at least: no lease runs out, and
// nothing is charged that is never handed out.
const minOrderedWindow = 64

// catchUp is how long a stream may end before what was read from it, as that of
// a leader that was elected a moment ago.
const catchUp = 30 * time.Second

// errBehind is the cause meanwhile.
var errBehind = errors.New("the stream ends before what was read from it")

// errSession ends a session that is to be followed by another.
var errSession = errors.New("the consumer is made again")

func (t *Transport) openOrdered(ctx context.Context, s *source, want transport.Want) (transport.Receiver, error) {
	r := &ordered{
		t: t, src: s, want: want, orderedRow: s.left.take(want.Subscription),
		trouble: make(chan struct{}, 1), halted: make(chan struct{}),
	}
	if r.orderedRow == nil {
		r.orderedRow = newOrderedRow(s.address(), max(want.Window(), minOrderedWindow))
	}
	// Sessions outlive the context of Open and end with the receiver.
	r.ctx, r.cancel = context.WithCancel(context.Background())
	first, err := r.begin(ctx)
	if err != nil {
		r.cancel()
		s.left.put(want.Subscription, r.orderedRow)
		return nil, openError(s.address(), err)
	}
	if err := t.register(r); err != nil {
		r.cancel()
		first.end(ctx)
		return nil, err
	}
	r.wg.Go(func() { r.run(first) })
	return r, nil
}

// orderedConfig is the consumer of the next session.
func (r *ordered) orderedConfig() natsjs.ConsumerConfig {
	cfg := r.src.consumerConfig("holdfast_" + rand.Text())
	cfg.AckPolicy, cfg.AckWait, cfg.MaxAckPending = natsjs.AckNonePolicy, 0, 0
	cfg.MemoryStorage, cfg.Replicas = true, 1
	if r.begun && (r.last > 0 || r.src.cfg.Start.policy != natsjs.DeliverLastPerSubjectPolicy) {
		cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = natsjs.DeliverByStartSequencePolicy, r.last+1, nil
	}
	return cfg
}

// orderedSession is one consumer and the inbox its messages come to.
type orderedSession struct {
	r           *ordered
	name        string
	inbox       string
	sub         *nats.Subscription
	ch          chan *nats.Msg
	lane        *lane // what deliveries are made of
	order       uint64
	outstanding int64
	limits      pullLimits
	paced       bool
}

// begin makes a consumer and subscribes to its inbox.
func (r *ordered) begin(ctx context.Context) (*orderedSession, error) {
	if err := r.sameStream(ctx); err != nil {
		return nil, err
	}
	cfg := r.orderedConfig()
	info, err := r.t.putConsumer(ctx, r.src.cfg.Stream, actionCreate, cfg)
	if err != nil {
		return nil, err
	}
	if !r.begun && r.src.cfg.Start.policy != natsjs.DeliverLastPerSubjectPolicy {
		r.last = info.Delivered.Stream // before the start: what is stored from now on is not missed
	}
	r.begun = true
	s := &orderedSession{
		r: r, name: cfg.Name, inbox: r.t.nc().NewInbox() + ".", ch: make(chan *nats.Msg, 2*r.window+256),
		limits: pullLimits{batch: int64(info.Config.MaxRequestBatch), expires: info.Config.MaxRequestExpires},
		paced:  info.Config.ReplayPolicy == natsjs.ReplayOriginalPolicy,
		lane:   &lane{stream: r.src.cfg.Stream, consumer: cfg.Name},
	}
	r.session.Store(s)
	if s.sub, err = r.t.nc().ChanSubscribe(s.inbox+"*", s.ch); err != nil {
		return nil, r.t.sendError(err)
	}
	return s, nil
}

// sameStream notices a stream that is gone or was made anew: of a new one
// nothing was seen.
func (r *ordered) sameStream(ctx context.Context) error {
	info, err := r.t.streamInfo(ctx, r.src.cfg.Stream)
	if streamMissing(err) && r.begun && r.src.cfg.Mode != ModeVerify {
		info, err = r.t.createStream(ctx, r.src.streamConfig())
	}
	if err != nil {
		return err
	}
	anew := r.begun && !info.Created.Equal(r.created)
	if info.State.LastSeq >= r.last {
		r.behind = time.Time{}
	} else if !anew {
		if r.behind.IsZero() {
			r.behind = time.Now()
		}
		if time.Since(r.behind) < catchUp {
			return errBehind
		}
		anew = true // what it lost is written again under the same sequences
	}
	if anew {
		r.last = 0
		r.emit(transport.Event{Kind: transport.Recreated, Detail: "stream " + r.src.cfg.Stream + " was made anew and is read from its beginning"})
	}
	r.created = info.Created
	return nil
}

// run is the goroutine of the receiver: it begins another session whenever one
// ends. It ends when the receiver is halted.
func (r *ordered) run(s *orderedSession) {
	told := false
	for pause := reviveMin; ; pause = min(2*pause, reviveMax) {
		var err error
		if s == nil {
			s, err = r.begin(r.ctx)
		}
		if err == nil {
			if told {
				told = false
				r.emit(transport.Event{Kind: transport.Flowing, Detail: "consumer " + r.address})
			}
			taken := r.last
			err = s.run()
			s.end(r.ctx)
			s = nil
			if r.last > taken {
				pause = reviveMin / 2 // it worked
			}
		}
		if r.isHalted() {
			return
		}
		failed := !errors.Is(err, errSession)
		if failed && transport.KindOf(seamError("receive", r.address, err, false)) == transport.Permanent && !streamMissing(err) || streamMissing(err) && r.src.cfg.Mode == ModeVerify {
			err = seamError("receive", r.address, err, false)
			r.emit(transport.Event{Kind: transport.Stalled, Err: err, Detail: "consumer " + r.address})
			r.halt(err)
			return
		}
		if failed && !told && r.t.nc().IsConnected() {
			told = true
			r.emit(transport.Event{Kind: transport.Stalled, Err: err, Detail: "consumer " + r.address})
		}
		r.pause(pause)
	}
}

// pause waits, until the connection came back at the latest.
func (r *ordered) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-r.halted:
	case <-r.trouble:
	case <-timer.C:
	}
}

// run pulls and takes until the session is of no more use.
func (s *orderedSession) run() error {
	ticker := time.NewTicker(pullHeartbeat)
	defer ticker.Stop()
	quiet := 0
	for {
		if err := s.pull(); err != nil {
			return err
		}
		select {
		case <-s.r.halted:
			return nil
		case <-s.r.trouble:
			if s.r.t.nc().IsClosed() {
				return s.r.t.notConnected()
			}
			return errSession
		case <-s.r.freed:
		case m := <-s.ch:
			quiet = 0
			if err := s.arrive(m); err != nil {
				return err
			}
		case <-ticker.C:
			if s.outstanding == 0 {
				quiet = 0
			} else if quiet++; quiet > 2 && !s.pacing() {
				return errSession
			}
		}
	}
}

// pacing is lane.pacing of an ordered consumer.
func (s *orderedSession) pacing() bool {
	if !s.paced {
		return false
	}
	_, err := s.r.t.consumerInfo(s.r.ctx, s.r.src.cfg.Stream, s.name)
	return err == nil
}

// pull asks for what there is room for, in large lots.
func (s *orderedSession) pull() error {
	free := s.r.window - s.r.inUse.Load()
	if free <= 0 || s.outstanding > 0 && free < max(s.r.window/2, 1) {
		return nil
	}
	if s.limits.batch > 0 {
		free = min(free, s.limits.batch)
	}
	expires := pullExpires
	if s.limits.expires > 0 {
		expires = min(expires, s.limits.expires)
	}
	s.r.inUse.Add(free)
	s.outstanding += free
	next := s.r.t.api + "CONSUMER.MSG.NEXT." + s.r.src.cfg.Stream + "." + s.name
	return s.r.t.sendError(s.r.t.nc().PublishRequest(next, s.inbox+strconv.FormatInt(free, 10), pullBody(free, expires, "")))
}

// arrive takes what came, in order or not at all.
func (s *orderedSession) arrive(m *nats.Msg) error {
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		return s.status(m)
	}
	d := newDelivery(s.lane, m)
	if d.order != s.order+1 || d.seq <= s.r.last {
		return errSession // something was lost on the way
	}
	if !d.marker {
		select {
		case s.r.out <- &orderedDelivery{d: d, r: s.r.orderedRow, deliveries: 1}:
		default:
			return errSession // more than was asked for
		}
	}
	s.order, s.r.last = d.order, d.seq
	s.outstanding--
	if d.marker {
		s.r.inUse.Add(-1)
	}
	return nil
}

func (s *orderedSession) status(m *nats.Msg) error {
	switch m.Header.Get("Status") {
	case "100":
		return nil
	case "408":
		n, err := strconv.ParseInt(m.Header.Get("Nats-Pending-Messages"), 10, 64)
		if err != nil {
			return errSession
		}
		n = min(n, s.outstanding)
		s.outstanding -= n
		s.r.inUse.Add(-n)
		return nil
	default:
		return errSession
	}
}

// end gives up the consumer and what was asked of it.
func (s *orderedSession) end(ctx context.Context) {
	_ = s.sub.Unsubscribe() // a failure means that the connection is gone
	s.r.inUse.Add(-s.outstanding)
	s.outstanding = 0
	if s.r.t.nc().IsConnected() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = s.r.t.deleteConsumer(ctx, s.r.src.cfg.Stream, s.name) // it goes by itself otherwise
	}
}

// Receive implements transport.Receiver.
func (r *ordered) Receive(ctx context.Context) (transport.Delivery, error) {
	for {
		if r.isHalted() {
			return nil, r.reason
		}
		d, wait := r.takeBack()
		if d != nil {
			return d, nil
		}
		if d, err := r.wait(ctx, wait); d != nil || err != nil {
			return d, err
		}
	}
}

// wait returns the next message of the stream, or nil when there is a reason to
// look around. While one that was given back waits, nothing later overtakes it.
func (r *ordered) wait(ctx context.Context, back time.Duration) (transport.Delivery, error) {
	out := r.out
	var due <-chan time.Time
	if back > 0 {
		timer := time.NewTimer(back)
		defer timer.Stop()
		out, due = nil, timer.C
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case d := <-out:
		return d, nil
	case <-r.halted:
	case <-due:
	case <-r.returned:
	}
	return nil, nil
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Close implements transport.Receiver. There is nothing to hand back: the server
// keeps no count of what was taken. What a receiver that failed has not handed out
// is left to the next one of its subscription.
func (r *ordered) Close(context.Context) error {
	r.halt(&transport.Error{Op: "receive", Address: r.address, Err: transport.ErrClosed})
	r.wg.Wait()
	r.t.unregister(r)
	if !errors.Is(r.reason, transport.ErrClosed) {
		r.src.left.put(r.want.Subscription, r.orderedRow)
	}
	return nil
}

func (r *ordered) halt(reason error) {
	r.halting.Do(func() {
		r.reason = reason
		close(r.halted)
		r.cancel()
	})
}

func (r *ordered) isHalted() bool {
	select {
	case <-r.halted:
		return true
	default:
		return false
	}
}

func (r *ordered) emit(e transport.Event) {
	e.Subscription = r.want.Subscription
	r.t.conn.Emit(e)
}

// wakeSupervisor implements opened.
func (r *ordered) wakeSupervisor(uint32) { signal(r.trouble) }

// denied implements opened.
func (r *ordered) denied(subject string, cause error) {
	s := r.session.Load()
	if subject == r.t.api+"CONSUMER.MSG.NEXT."+r.src.cfg.Stream+"."+s.name || subject == s.inbox+"*" {
		r.halt(&transport.Error{Op: "receive", Address: r.address, Kind: transport.Permanent, Err: cause, Hint: "grant the account this permission"})
	}
}

// dropped implements opened: what the client library dropped leaves a gap, which
// the next message shows, and comes again.
func (r *ordered) dropped(*nats.Subscription) (string, bool) { return "", false }
