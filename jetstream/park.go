package jetstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// A message that waits for its retry inside its consumer counts against the
// consumer's MaxAckPending. One with a long delay is therefore parked: a copy
// goes to the park stream, and when that is confirmed the original is acked.
//
// Each copy has a subject of its own, <namespace>.park.<stream>.<durable>.<mark>,
// where mark stands for the stored message that it continues. The stream keeps
// one message for each subject. So a park that is done twice, because its outcome
// was unknown or the process died before the ack, leaves one copy; and as long as
// there is a copy, its original is not handled, see superseded.
//
// A consumer of the durable's own, without MaxAckPending, hands the copies out.
// The first time that is only to be told for how long to keep the copy; see
// sorter. Servers from 2.9 on do all of this.

// ParkConfig says when retries leave their consumer, and how the stream they wait
// in is made and checked. The zero value is right for one server.
type ParkConfig struct {
	// After is the longest delay that is left to the consumer. A retry with a
	// longer one is parked; so is one of ten seconds or more while the consumer
	// has used half of its MaxAckPending. Less than zero: nothing is parked.
	//
	// Short delays stay, because a parked message costs a second copy and more
	// round trips; long ones go, because a consumer that has MaxAckPending
	// messages waiting hands out nothing new. Default: 5 minutes, at which 50,000
	// messages wait when 160 fail in every second.
	After time.Duration
	// Mode says what may be done with the stream and its consumers. Default:
	// ModeEnsure.
	Mode Mode
	// Replicas of the stream. Default: those of the dead-letter stream.
	Replicas int
	// MaxBytes bounds the stream. When it is full, retries wait in their consumer
	// as if they were short. Default: no bound.
	MaxBytes int64
	// Storage of the stream. Default: file.
	Storage natsjs.StorageType
}

// Parking says when and where retries with long delays wait. Zero fields keep
// their defaults.
func Parking(cfg ParkConfig) Option {
	return func(s *settings) {
		if cfg.After == 0 {
			cfg.After = s.park.After
		}
		s.park = cfg
	}
}

const (
	defaultParkAfter = 5 * time.Minute
	// crowdedAfter is the shortest delay that is parked for want of room.
	crowdedAfter = 10 * time.Second
)

func (t *Transport) parkStream() string { return strings.ToUpper(t.set.namespace) + "_PARK" }
func (t *Transport) parkPrefix() string { return t.set.namespace + ".park." }

// parkConfig is the park stream: nothing ages, a full one refuses, and each
// subject holds one message.
func (t *Transport) parkConfig() natsjs.StreamConfig {
	replicas := t.set.park.Replicas
	if replicas == 0 {
		replicas = t.set.dead.Replicas
	}
	return natsjs.StreamConfig{
		Name:              t.parkStream(),
		Description:       "messages of holdfast that wait for a retry",
		Subjects:          []string{t.parkPrefix() + ">"},
		Retention:         natsjs.WorkQueuePolicy,
		Discard:           natsjs.DiscardNew,
		Storage:           t.set.park.Storage,
		Replicas:          replicas,
		MaxMsgs:           -1,
		MaxBytes:          max(t.set.park.MaxBytes, -1),
		MaxMsgsPerSubject: 1,
		Duplicates:        defaultDuplicates,
	}
}

// parkFilter selects the copies of one durable consumer. The names of streams and
// consumers are single tokens of a subject.
func (s *source) parkFilter() string {
	return s.t.parkPrefix() + s.cfg.Stream + "." + s.cfg.Durable + ".*"
}

// parkName is the consumer of those copies.
func (s *source) parkName() string { return s.cfg.Durable + "@" + s.cfg.Stream }

// parkConsumer hands out the copies of one durable consumer. What it keeps back
// is pending, so there is no bound to that.
func (s *source) parkConsumer() natsjs.ConsumerConfig {
	return natsjs.ConsumerConfig{
		Name:          s.parkName(),
		Durable:       s.parkName(),
		AckPolicy:     natsjs.AckExplicitPolicy,
		AckWait:       s.cfg.AckWait,
		MaxDeliver:    -1,
		MaxAckPending: -1,
		FilterSubject: s.parkFilter(),
	}
}

// parks tells whether retries of a subscription may be parked. What is handled in
// order waits at the head of its key, and is not; nor is what a watch takes, which
// a newer revision replaces, or what an ephemeral consumer does, which begins anew.
func (s *source) parks(want transport.Want) bool {
	after := s.t.set.park.After
	return after > 0 && want.Delay && want.MaxDelay > after && !want.Ordered && s.watch == nil && s.cfg.Durable != ""
}

// mayPark tells whether a retry with this delay goes to the park stream.
func (d *delivery) mayPark(delay time.Duration) bool {
	l := d.lane
	if !l.r.parks || d.parkSubject() == "" {
		return false
	}
	if delay > l.r.t.set.park.After {
		return true
	}
	return !l.park && delay >= crowdedAfter && l.crowded()
}

// crowded tells whether half of what may be pending in the consumer is, as far as
// is known: what the server said last and what was given back here since.
func (l *lane) crowded() bool {
	bound := l.maxPending.Load()
	return bound > 0 && l.pending.Load()+l.nacked.Load() > bound/2
}

// parkSubject is where the copy of this delivery's message lies, or would. It is
// empty when the server did not say which message that is.
func (d *delivery) parkSubject() string {
	if d.lane.park {
		return d.raw.Subject
	}
	info, err := parseAck(d.raw.Reply)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256([]byte(info.position()))
	return strings.TrimSuffix(d.lane.r.src.parkFilter(), "*") + hex.EncodeToString(sum[:16])
}

// parkAway stores a copy that comes back after the delay, and acks the original
// when that is confirmed.
func (d *delivery) parkAway(ctx context.Context, delay time.Duration) error {
	t := d.lane.r.t
	// The lease must not end before the original is acked.
	if d.rescued == nil && t.nc().Publish(d.raw.Reply, progressBody) == nil {
		d.leased.Store(d.lane.r.clock.Load())
	}
	if _, err := t.confirm(ctx, "park", d.parkCopy(delay)); err != nil {
		return err
	}
	// Should the ack be lost, the original is found superseded.
	return d.lane.acks.ack(d)
}

// parkCopy is the message with all that a later delivery is to know. It has no
// deduplication key, since its subject does that: one that the server remembers
// from a copy that is gone would be confirmed and not stored.
func (d *delivery) parkCopy(delay time.Duration) *nats.Msg {
	h := make(nats.Header, len(d.msg.Header)+2)
	for name, values := range d.msg.Header {
		if !brokerHeader(name) {
			h[name] = values
		}
	}
	h[wire.ID] = []string{d.msg.ID}
	h[wire.Parked] = []string{parkNote{
		deliveries: d.deliveries, delay: max(delay, 0), stored: d.msg.Time, position: d.msg.Position, subject: d.msg.Subject,
	}.String()}
	return &nats.Msg{Subject: d.parkSubject(), Header: h, Data: d.msg.Body}
}

// parkNote is what a copy says of the message it continues.
type parkNote struct {
	deliveries uint32        // so far
	delay      time.Duration // from when the copy was stored
	stored     time.Time     // the first copy; zero when that is not known
	position   string
	subject    string
}

// String returns the note as it travels: words without spaces in them.
func (n parkNote) String() string {
	stored := int64(0)
	if !n.stored.IsZero() {
		stored = n.stored.UnixNano()
	}
	word := func(s string) string { return strings.ReplaceAll(wire.Escape(s), " ", "%20") }
	return strconv.FormatUint(uint64(n.deliveries), 10) + " " + strconv.FormatInt(int64(n.delay), 10) + " " +
		strconv.FormatInt(stored, 10) + " " + word(n.position) + " " + word(n.subject)
}

// parseParkNote reads a note; ok is false when it is not one.
func parseParkNote(s string) (n parkNote, ok bool) {
	words := strings.Split(s, " ")
	if len(words) != 5 {
		return n, false
	}
	deliveries, err := strconv.ParseUint(words[0], 10, 32)
	delay, err2 := strconv.ParseInt(words[1], 10, 64)
	stored, err3 := strconv.ParseInt(words[2], 10, 64)
	if err != nil || err2 != nil || err3 != nil || delay < 0 {
		return n, false
	}
	n.deliveries, n.delay = uint32(deliveries), time.Duration(delay)
	if stored != 0 {
		n.stored = time.Unix(0, stored).UTC()
	}
	n.position, n.subject = wire.Unescape(words[3]), wire.Unescape(words[4])
	return n, n.subject != ""
}

// unpark makes of a copy what its original was. The note ends here: a handler or
// a dead letter does not see it.
func (d *delivery) unpark(h transport.Header) {
	note, ok := parseParkNote(h.Get(wire.Parked))
	if !ok {
		return
	}
	delete(h, wire.Parked)
	d.parkedAs = note.deliveries
	d.msg.Subject, d.msg.Position, d.msg.Time = note.subject, note.position, note.stored
}

// charge returns how often the message was handed out, given the server's count
// for this copy of it. The first hand-over of a copy that was parked is never
// one to a handler.
func (d *delivery) charge(counted uint32) uint32 {
	n := d.lane.returned.less(d.seq, counted)
	if !d.lane.park {
		return n
	}
	return d.parkedAs + max(n-1, 1)
}

// superseded tells whether the message of a delivery waits in the park stream,
// parked by somebody whose ack was lost. Only one that was handed out before can.
// If that cannot be found out, the message is handed out: twice is better than
// never.
func (r *receiver) superseded(ctx context.Context, d *delivery) bool {
	if r.parked == nil || !d.again || d.lane.park {
		return false
	}
	subject := d.parkSubject()
	if subject == "" {
		return false
	}
	_, err := r.t.get(ctx, r.t.parkStream(), getRequest{LastFor: subject})
	return err == nil
}

// parkFailed tells once that retries wait in their consumer instead.
func (r *receiver) parkFailed(err error) {
	if !r.crammed.Swap(true) {
		r.emit(transport.Event{Kind: transport.Stalled, Err: err, Detail: "messages cannot be parked: they wait for their retry in the consumer " + r.address})
	}
}

// parkWorks tells that retries are parked again.
func (r *receiver) parkWorks() {
	if r.crammed.Load() && r.crammed.Swap(false) {
		r.emit(transport.Event{Kind: transport.Flowing, Detail: "messages are parked again"})
	}
}
