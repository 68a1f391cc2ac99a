package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// errNoMessage is the API error for a message that is not there.
func errNoMessage() error {
	return &natsjs.APIError{Code: 404, ErrorCode: codeNoMessage, Description: "no message found"}
}

// scanning says what of a stream is read once.
type scanning struct {
	op, what    string // for errors
	stream      string
	filters     []string
	last        bool // the last message of each subject only
	headersOnly bool
	window      int // how many messages may be on their way; default scanWindow
}

const (
	scanWindow = 1024
	// scanHeartbeat tells a scan whose messages were removed, or whose consumer is
	// gone, from one that is slow.
	scanHeartbeat = time.Second
	// scanInactive is how long the server keeps the consumer of a scan whose
	// reader takes its time. A longer pause costs a consumer more.
	scanInactive = time.Minute
)

// scan yields what matches and is stored, in the order of the stream, until
// nothing is left, the caller stops or an error was yielded. It goes on after a
// lost connection and a lost consumer until ctx ends: nothing comes twice for
// that reason and nothing is left out. It may run dry early when messages are
// removed meanwhile.
func (t *Transport) scan(ctx context.Context, s scanning) iter.Seq2[stored, error] {
	return func(yield func(stored, error) bool) {
		if s.window == 0 {
			s.window = scanWindow
		}
		r := &scanner{t: t, s: s, ctx: ctx, yield: yield}
		err := t.persist(ctx, func() error {
			for {
				before := r.seq
				err := r.session()
				if err == nil || r.seq == before || transport.KindOf(err) == transport.Permanent {
					return err
				}
				// It got on, so the fault is a new one: begin again at once.
			}
		})
		if err != nil {
			yield(stored{}, err)
		}
	}
}

// scanner is one scan over one consumer after another.
type scanner struct {
	t     *Transport
	s     scanning
	ctx   context.Context
	yield func(stored, error) bool
	seq   uint64 // of the last message that was yielded

	consumer string
	sub      *nats.Subscription
	inbox    string
	ch       chan *nats.Msg
	asked    int    // messages asked for that have not come
	pulls    int    // names the pulls
	order    uint64 // of the consumer: the last delivery
}

// session reads with one consumer to the end of the scan, or to a fault.
func (r *scanner) session() error {
	pending, err := r.begin()
	if err != nil {
		return r.fault(err)
	}
	defer r.end()
	if pending == 0 {
		return nil
	}
	timer := time.NewTimer(2 * scanHeartbeat)
	defer timer.Stop()
	for {
		if err := r.pull(); err != nil {
			return r.fault(err)
		}
		var m *nats.Msg
		select {
		case m = <-r.ch:
		default:
			timer.Reset(2 * scanHeartbeat)
			select {
			case m = <-r.ch:
			case <-r.ctx.Done():
				return r.fault(r.ctx.Err())
			case <-timer.C:
				return r.fault(errSilent)
			}
		}
		done, err := r.take(m)
		if done || err != nil {
			return err
		}
	}
}

// errSilent is the cause when the server sends neither messages nor heartbeats.
var errSilent = errors.New("the server went silent")

// begin makes a consumer and returns how much it has to read.
func (r *scanner) begin() (pending uint64, err error) {
	cfg := natsjs.ConsumerConfig{
		Name: "holdfast_" + rand.Text(), AckPolicy: natsjs.AckNonePolicy, DeliverPolicy: natsjs.DeliverAllPolicy,
		InactiveThreshold: scanInactive, MemoryStorage: true, Replicas: 1, HeadersOnly: r.s.headersOnly,
		Description: "holdfast, reading once",
	}
	switch {
	case r.s.last:
		cfg.DeliverPolicy = natsjs.DeliverLastPerSubjectPolicy
	case r.seq > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = natsjs.DeliverByStartSequencePolicy, r.seq+1
	}
	setFilters(&cfg, r.s.filters)
	if len(r.s.filters) > 1 && !serverAtLeast(r.t.nc(), 2, 10, 0) {
		return 0, transport.Unsupported(r.s.op, r.s.what, "several patterns need a server of version 2.10 or later; ask for one at a time")
	}
	info, err := r.t.putConsumer(r.ctx, r.s.stream, actionCreate, cfg)
	if err != nil {
		return 0, err
	}
	r.consumer, r.asked, r.order = cfg.Name, 0, 0
	// Room for everything asked for and for heartbeats that nobody reads while
	// the caller is busy.
	r.ch = make(chan *nats.Msg, r.s.window+256)
	r.inbox = r.t.nc().NewInbox() + "."
	r.sub, err = r.t.nc().ChanSubscribe(r.inbox+"*", r.ch)
	return info.NumPending, err
}

// end removes what begin made. The server forgets the consumer by itself when it
// cannot be told.
func (r *scanner) end() {
	_ = r.sub.Unsubscribe()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), apiTimeout)
	defer cancel()
	if r.t.nc().IsConnected() {
		_ = r.t.deleteConsumer(ctx, r.s.stream, r.consumer)
	}
}

// pull asks for more when a quarter of the window is free.
func (r *scanner) pull() error {
	if r.asked > r.s.window*3/4 {
		return nil
	}
	n := r.s.window - r.asked
	r.pulls++
	body := fmt.Appendf(nil, `{"batch":%d,"expires":%d,"idle_heartbeat":%d}`, n, int64(pullExpires), int64(scanHeartbeat))
	err := r.t.nc().PublishRequest(r.t.api+"CONSUMER.MSG.NEXT."+r.s.stream+"."+r.consumer, r.inbox+strconv.Itoa(r.pulls), body)
	if err == nil {
		r.asked += n
	}
	return err
}

// take handles what came: done means that nothing is left to read.
func (r *scanner) take(m *nats.Msg) (done bool, err error) {
	info, err := parseAck(m.Reply)
	if err != nil {
		return r.status(m)
	}
	r.asked--
	if info.consumerSeq != r.order+1 {
		return false, r.fault(errSilent) // one was lost on the way
	}
	r.order = info.consumerSeq
	pending, _ := pendingIn(m.Reply)
	if info.streamSeq > r.seq {
		r.seq = info.streamSeq
		out := stored{subject: m.Subject, header: transport.Header(m.Header), data: m.Data, seq: r.seq, time: info.time(), pending: pending}
		if !r.yield(out, nil) {
			return true, nil
		}
	}
	return pending == 0, nil
}

// status handles what the server says in place of a message. While messages are
// asked for it says something every second: then what was to come may be gone.
func (r *scanner) status(m *nats.Msg) (done bool, err error) {
	switch m.Header.Get("Status") {
	case "100":
		if len(r.ch) > 0 {
			return false, nil
		}
		info, err := r.t.consumerInfo(r.ctx, r.s.stream, r.consumer)
		if err != nil {
			return false, r.fault(err)
		}
		// What is under way when it answers is behind the heartbeat.
		return info.NumPending == 0 && info.Delivered.Consumer <= r.order, nil
	case "408":
		n, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
		if err != nil {
			return false, r.fault(errSilent)
		}
		r.asked = max(r.asked-n, 0)
		return false, nil
	default:
		return false, r.fault(errSilent)
	}
}

// fault is an error of the seam. What a scan asks changes nothing, so all that
// may pass is Temporary.
func (r *scanner) fault(err error) error {
	if streamMissing(err) {
		return &transport.Error{Op: r.s.op, Address: r.s.what, Kind: transport.Permanent, Err: fmt.Errorf("%w: %w", transport.ErrNotFound, err), Hint: "it was deleted; open it again to make it"}
	}
	if consumerMissing(err) {
		err = errSilent
	}
	return seamError(r.s.op, r.s.what, r.t.sendError(err), false)
}
