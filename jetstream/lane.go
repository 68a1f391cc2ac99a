package jetstream

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

const (
	pullExpires   = 30 * time.Second
	pullHeartbeat = 5 * time.Second
)

// lane takes the messages of one consumer into its receiver's channel. A
// receiver has one for the source and one for what is redriven to its
// subscription.
type lane struct {
	r        *receiver
	stream   string
	consumer string
	redrive  bool
	park     bool           // the consumer hands out parked copies
	in       chan *nats.Msg // what comes goes there: the receiver's, but for parked copies
	last     *nats.Msg      // what the sorter had in hand when it ended
	early    []uint64       // what the sorter gave back and has not recorded
	window   int64          // how many messages may be asked for, buffered or unsettled
	next     string
	acks     ackLog
	acked    seqSet // confirmed acks above floor
	returned returns
	gaps     *gaps // of a watch of a bucket; nil: nobody asks

	// inUse counts what is asked for, buffered and unsettled.
	inUse   atomic.Int64
	cur     atomic.Pointer[session]
	pulling atomic.Bool // one goroutine pulls at a time
	pulls   atomic.Uint64
	heard   atomic.Uint64 // statuses received
	// replayed: up to this sequence, messages acked before the consumer was made
	// again are skipped. 0 means none.
	replayed atomic.Uint64

	// What is known of how full the consumer is; see crowded.
	pending, nacked, maxPending atomic.Int64

	pinned atomic.Bool // group.pinned

	trouble chan struct{} // capacity 1: look at cause
	cause   atomic.Uint32

	mu      sync.Mutex // guards what follows; nothing else is locked under it
	old     []*nats.Subscription
	created time.Time // of the stream, to know it from one made anew
	made    time.Time // of the consumer
	floor   uint64    // everything up to here was acked, by the server's word
	limits  pullLimits
	paced   bool // the consumer replays at original speed
	paused  bool // it was told so
	group   group
}

// pullLimits are what a consumer allows one pull to ask for; 0 means no limit.
type pullLimits struct {
	batch   int64
	expires time.Duration
}

// session is one inbox for pulls. After a reconnect or a fault the lane begins
// a new one: pulls of the old one can then never be mistaken for open ones.
type session struct {
	sub   *nats.Subscription
	inbox string
	// outstanding counts messages asked for that have not come.
	outstanding atomic.Int64
	broken      atomic.Bool // a pull could not be sent
}

func (l *lane) address() string { return l.stream + "/" + l.consumer }

// learn takes over what the server says of the consumer.
func (l *lane) learn(info *natsjs.ConsumerInfo) {
	l.mu.Lock()
	l.floor = info.AckFloor.Stream
	l.made = info.Created
	l.limits = pullLimits{batch: int64(info.Config.MaxRequestBatch), expires: info.Config.MaxRequestExpires}
	l.paced = info.Config.ReplayPolicy == natsjs.ReplayOriginalPolicy
	l.joins(info.Config)
	l.mu.Unlock()
	l.tellPaused(info)
	l.pending.Store(int64(info.NumAckPending))
	l.nacked.Store(0)
	l.maxPending.Store(int64(info.Config.MaxAckPending))
	if l.park {
		l.r.server.learn(info.TimeStamp)
	}
	l.acked.trim(info.AckFloor.Stream)
	l.returned.learn(info.Config.Metadata, info.AckFloor.Stream)
}

// begin starts a new session and pulls. What the old session still receives is
// delivered as well; it is drained, not dropped.
func (l *lane) begin() error {
	s := &session{inbox: l.r.t.nc().NewInbox() + "."}
	sub, err := l.r.t.nc().ChanSubscribe(s.inbox+"*", l.in)
	if err != nil {
		return err
	}
	s.sub = sub
	if old := l.cur.Swap(s); old != nil {
		l.mu.Lock()
		l.old = append(l.old, old.sub)
		if len(l.old) > 8 {
			l.old = l.old[len(l.old)-8:]
		}
		l.mu.Unlock()
		_ = old.sub.Drain()
		// A message that arrives on the old session from now on finds it below
		// zero and counts itself, see arrived.
		l.inUse.Add(-old.outstanding.Swap(0))
	}
	l.topUp()
	return nil
}

// owns tells whether sub is or was a subscription of this lane.
func (l *lane) owns(sub *nats.Subscription) bool {
	if s := l.cur.Load(); s != nil && s.sub == sub {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.old {
		if o == sub {
			return true
		}
	}
	return false
}

// arrived counts one message of sub: it was asked for and is buffered now.
func (l *lane) arrived(sub *nats.Subscription) {
	if s := l.cur.Load(); s != nil && s.sub == sub {
		if s.outstanding.Add(-1) >= 0 {
			return
		}
		if l.cur.Load() == s {
			s.outstanding.Add(1)
		}
	}
	// Nobody counts it: its pull was written off.
	l.inUse.Add(1)
}

// free gives back the place of one settled message.
func (l *lane) free() {
	l.inUse.Add(-1)
	l.topUp()
}

// short returns how many messages to ask for now; 0 means none.
func (l *lane) short(s *session) int64 {
	free := l.window - l.inUse.Load()
	if free <= 0 || s.broken.Load() {
		return 0
	}
	// With messages still to come, ask in large lots; with none, ask at once.
	if s.outstanding.Load() > 0 && free < max(l.window/2, 1) {
		return 0
	}
	return free
}

// topUp pulls as much as can be held.
func (l *lane) topUp() {
	for {
		s := l.cur.Load()
		if s == nil || l.short(s) == 0 || l.r.isHalted() || !l.pulling.CompareAndSwap(false, true) {
			return
		}
		l.pull(s)
		// Whoever settled while we pulled found us pulling: look again.
		l.pulling.Store(false)
	}
}

// pull asks the server for what is short. l.pulling is held.
func (l *lane) pull(s *session) {
	n := l.short(s)
	l.mu.Lock()
	limits, asks := l.limits, l.group.pulls()
	l.mu.Unlock()
	if limits.batch > 0 {
		n = min(n, limits.batch)
	}
	if n <= 0 {
		return
	}
	expires := pullExpires
	if limits.expires > 0 {
		expires = min(expires, limits.expires)
	}
	l.inUse.Add(n)
	s.outstanding.Add(n)
	l.pulls.Add(1)
	if err := l.r.t.nc().PublishRequest(l.next, s.inbox+strconv.FormatInt(n, 10), pullBody(n, expires, asks)); err != nil {
		s.broken.Store(true)
		l.release(s, n)
		l.wake(troublePull)
	}
	if l.cur.Load() != s {
		// begin wrote the session off before this pull was counted in it.
		l.inUse.Add(-s.outstanding.Swap(0))
	}
}

// pullBody is the request for n messages, with what it asks besides. The heartbeat tells a quiet stream
// from a dead consumer; it may take half of the expiry at most.
func pullBody(n int64, expires time.Duration, asks string) []byte {
	b := make([]byte, 0, 96)
	b = append(b, `{"batch":`...)
	b = strconv.AppendInt(b, n, 10)
	b = append(b, `,"expires":`...)
	b = strconv.AppendInt(b, int64(expires), 10)
	b = append(b, `,"idle_heartbeat":`...)
	b = strconv.AppendInt(b, int64(min(pullHeartbeat, expires/2)), 10)
	b = append(b, asks...)
	return append(b, '}')
}

// status handles what the server says in place of a message.
func (l *lane) status(m *nats.Msg) {
	l.heard.Add(1)
	s := l.cur.Load()
	if s == nil || s.sub != m.Sub {
		return
	}
	switch m.Header.Get("Status") {
	case "100": // heartbeat
	case "408": // the pull has expired
		pending, err := strconv.ParseInt(m.Header.Get("Nats-Pending-Messages"), 10, 64)
		if err != nil {
			l.wake(troubleStatus)
			return
		}
		l.release(s, pending)
	case "423": // another member is pinned
		l.unpinned(s, m)
	default: // 404, 409, 503 and whatever comes: find out
		l.wake(troubleStatus)
	}
}

// release writes off n messages that were asked for and will not come.
func (l *lane) release(s *session, n int64) {
	for {
		out := s.outstanding.Load()
		n = min(n, out)
		if n <= 0 {
			return
		}
		if s.outstanding.CompareAndSwap(out, out-n) {
			l.inUse.Add(-n)
			return
		}
	}
}
