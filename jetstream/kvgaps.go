package jetstream

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// gaps finds out how many revisions of a bucket were removed before a watch saw
// them: newer ones took their place, their time was over, or somebody purged
// them. The methods of a nil *gaps do nothing.
//
// Of a watch of all keys this is known: every sequence of the stream was a
// revision, and what the consumer skipped is gone. A watch of some keys skips
// the others as well, so there it is known only that something was removed.
type gaps struct {
	all bool

	mu      sync.Mutex // guards what follows; nothing else is locked under it
	from    uint64     // what is missing up to here was gone before the watch began
	seq     uint64     // of the last first delivery
	order   uint64     // of that delivery in the consumer
	high    uint64     // up to where it was counted
	missed  int        // counted and not told
	perhaps int        // the same, where it may have been none of the watch's
	looked  uint64     // up to where lookBack has counted
}

func (w *watch) newGaps() *gaps {
	if w.objects != nil {
		return nil // only the last version of an object is ever kept
	}
	return &gaps{all: w.all}
}

// begin takes over where the consumer stands. from is the last sequence that was
// stored before it was made.
func (g *gaps) begin(info *natsjs.ConsumerInfo, from uint64) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.from = from
	g.seq, g.order, g.high = info.Delivered.Stream, info.Delivered.Consumer, info.Delivered.Stream
}

// again takes over where a consumer stands that was made again.
func (g *gaps) again(info *natsjs.ConsumerInfo) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seq, g.order = info.Delivered.Stream, info.Delivered.Consumer
}

// saw counts what was skipped before a delivery. Both numbers of a delivery rise
// together: where the stream's rose further than the consumer's, something is
// gone. It holds for one of several members of a durable, too, and in any order
// of calls; other members' redeliveries make it count too little.
func (g *gaps) saw(d *delivery) {
	if g == nil || d.order == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if d.order <= g.order {
		return
	}
	if d.seq <= g.seq || d.order != g.order+1 && redelivered(d) {
		g.order++ // a redelivery raises the consumer's number alone
		return
	}
	skipped := int64(d.seq-g.seq) - int64(d.order-g.order)
	if g.all && skipped > 0 && g.seq >= g.from && d.seq > g.high {
		g.missed += int(skipped)
	}
	g.seq, g.order, g.high = d.seq, d.order, max(g.high, d.seq)
}

// redelivered tells whether the server has handed out a message before, returned
// or not.
func redelivered(d *delivery) bool {
	counted, err := parseAck(d.raw.Reply)
	return err != nil || counted.deliveries > 1
}

// tell reports what was counted since the last time.
func (g *gaps) tell(r *receiver) {
	if g == nil {
		return
	}
	g.mu.Lock()
	missed, perhaps := g.missed, g.perhaps
	g.missed, g.perhaps = 0, 0
	g.mu.Unlock()
	what := r.src.watch.what()
	if missed > 0 {
		r.emit(transport.Event{Kind: transport.Compacted, Count: missed, Detail: fmt.Sprintf(
			"%d revisions of the %s were removed before the watch %s saw them: newer ones took their place, or their time was over", missed, what, r.address)})
	}
	if perhaps > 0 {
		r.emit(transport.Event{Kind: transport.Compacted, Count: perhaps, Detail: fmt.Sprintf(
			"keys of the watch %s changed while it was away, and %d revisions of the %s from that time were removed; which keys they were of is not known", r.address, perhaps, what)})
	}
}

// lookBehind counts what was removed behind the last delivery, when nothing is
// left to come. The stream is asked first, so that what is stored between the
// two questions is not taken for removed.
func (l *lane) lookBehind() {
	g := l.gaps
	if g == nil || !g.all || !l.r.t.nc().IsConnected() {
		return
	}
	stream, err := l.r.t.streamInfo(l.r.ctx, l.stream)
	if err != nil {
		return
	}
	info, err := l.r.t.consumerInfo(l.r.ctx, l.stream, l.consumer)
	if err != nil || info.NumPending > 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	last, seen := stream.State.LastSeq, max(g.high, info.Delivered.Stream)
	if last <= seen {
		return
	}
	if seen >= g.from {
		g.missed += int(last - seen)
	}
	g.seq, g.order, g.high = last, max(g.order, info.Delivered.Consumer), last
}

// lookBack counts what was removed while a watch of some keys was away. All that
// can be said then is that it was removed, and it is said only when one of the
// keys has changed. info is from before anything was asked for.
func (l *lane) lookBack(ctx context.Context, info *natsjs.ConsumerInfo) {
	g := l.gaps
	if g == nil || g.all || info.NumPending == 0 || info.Delivered.Consumer == 0 {
		return
	}
	stream, err := l.r.t.streamInfo(ctx, l.stream)
	if err != nil {
		return
	}
	from := info.Delivered.Stream
	rest, err := l.r.t.look(ctx, l.stream, StartSequence(from+1))
	if err != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if gone := int64(stream.State.LastSeq-from) - int64(rest.NumPending); gone > 0 && from >= max(g.looked, g.from) {
		g.perhaps += int(gone)
	}
	g.looked = max(g.looked, stream.State.LastSeq)
}

// begunKey is where the metadata of a consumer says which sequence was the last
// of the stream when it was made.
const begunKey = "holdfast.begun"

// remembering adds to a consumer that is to be made what its watch needs to know
// later: what was in the bucket before.
func (s *source) remembering(ctx context.Context, cfg natsjs.ConsumerConfig) natsjs.ConsumerConfig {
	if s.watch == nil || s.watch.objects != nil || !serverAtLeast(s.t.nc(), 2, 10, 0) {
		return cfg
	}
	if stream, err := s.t.streamInfo(ctx, s.cfg.Stream); err == nil {
		cfg.Metadata = map[string]string{begunKey: strconv.FormatUint(stream.State.LastSeq, 10)}
	}
	return cfg
}

// began returns the last sequence that was stored before a consumer was made. On
// a server that does not remember it, it may be later than it was: too little is
// told then, never what did not happen.
func (l *lane) began(ctx context.Context, info *natsjs.ConsumerInfo) uint64 {
	if l.gaps == nil || info.Config.DeliverPolicy == natsjs.DeliverNewPolicy {
		return 0
	}
	if info.Config.DeliverPolicy == natsjs.DeliverByStartSequencePolicy {
		return max(info.Config.OptStartSeq, 1) - 1
	}
	if seq, err := strconv.ParseUint(info.Config.Metadata[begunKey], 10, 64); err == nil {
		return seq
	}
	first, err := l.r.t.look(ctx, l.stream, StartTime(info.Created))
	if err != nil {
		return math.MaxUint64
	}
	return first.Delivered.Stream
}

// look returns where a consumer would stand that starts so: it is never pulled
// from.
func (t *Transport) look(ctx context.Context, stream string, start StartPolicy) (*natsjs.ConsumerInfo, error) {
	cfg := natsjs.ConsumerConfig{
		Name: "holdfast_" + rand.Text(), AckPolicy: natsjs.AckNonePolicy, Replicas: 1, MemoryStorage: true,
		InactiveThreshold: 5 * time.Second, Description: "holdfast, counting",
	}
	start.apply(&cfg)
	info, err := t.putConsumer(ctx, stream, actionCreate, cfg)
	if err != nil {
		return nil, err
	}
	_ = t.deleteConsumer(ctx, stream, cfg.Name) // it goes by itself otherwise
	return info, nil
}
