package jetstream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// A message that is to be sent later is stored in the stream of its address, under
// a subject of its own that no consumer takes:
//
//	<namespace>.schedule.<stream>.<id>.<digest of the address>
//
// The server publishes it to its address when it is due, and removes it. Storing it
// again under the same subject replaces it; so it has no deduplication key, which
// the server would remember after a cancellation, and confirm without storing.

// Headers of a schedule, and what its absence of an age limit is called.
const (
	scheduleHeader     = natsjs.ScheduleHeader
	scheduleTarget     = natsjs.ScheduleTargetHeader
	scheduleTTL        = natsjs.ScheduleTTLHeader
	scheduleZone       = natsjs.ScheduleTimeZoneHeader
	ttlNever           = "never"
	schedulesKnownFor  = 30 * time.Second
	maxScheduleStreams = 256
)

// schedules remembers which streams keep messages for later. It is safe for
// concurrent use.
type schedules struct {
	mu      sync.Mutex // guards streams; nothing else is locked under it
	streams []scheduleStream
}

// scheduleStream is a stream that keeps messages for later.
type scheduleStream struct {
	name     string
	subjects []string
	maxAge   time.Duration
	ttl      bool // it takes a time to live
	asked    time.Time
}

// find returns the stream that stores subject, if that was asked for lately.
func (s *schedules) find(subject string, now time.Time) (scheduleStream, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		if now.Sub(st.asked) < schedulesKnownFor && coveredBy(subject, st.subjects) {
			return st, true
		}
	}
	return scheduleStream{}, false
}

// keep remembers a stream, and forgets what is old.
func (s *schedules) keep(st scheduleStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := []scheduleStream{st}
	for _, o := range s.streams {
		if o.name != st.name && st.asked.Sub(o.asked) < schedulesKnownFor && len(fresh) < maxScheduleStreams {
			fresh = append(fresh, o)
		}
	}
	s.streams = fresh
}

// ScheduleSubjects is the subject, with a wildcard, under which a stream keeps
// messages for later. A stream whose configuration is written by hand needs it
// among its subjects, beside AllowMsgSchedules; EnableSchedules adds both.
func (t *Transport) ScheduleSubjects(stream string) string {
	return t.set.namespace + ".schedule." + stream + ".>"
}

// scheduleSubject is where the message with this key waits.
func (t *Transport) scheduleSubject(stream, to, key string) string {
	token := key
	if !validToken(key) || len(key) > 64 {
		sum := sha256.Sum256([]byte(key))
		token = "x-" + hex.EncodeToString(sum[:16])
	}
	sum := sha256.Sum256([]byte(to))
	return strings.TrimSuffix(t.ScheduleSubjects(stream), ">") + token + "." + hex.EncodeToString(sum[:8])
}

// scheduled returns what is to be published, and where, so that m comes to subject
// when it is due. What is due already is published at once.
func (t *Transport) scheduled(ctx context.Context, op, subject string, m *transport.Message) (string, *transport.Message, error) {
	plain := *m
	plain.NotBefore = time.Time{}
	if err := checkAsked(t.nc(), op, subject, &plain); err != nil {
		return "", nil, err
	}
	if !m.NotBefore.After(time.Now()) {
		return subject, &plain, nil
	}
	st, err := t.scheduling(ctx, op, subject)
	if err != nil {
		return "", nil, err
	}
	if wait := time.Until(m.NotBefore); st.maxAge > 0 && !st.ttl && wait > st.maxAge/2 {
		return "", nil, transport.Unsupported(op, subject, fmt.Sprintf(
			"the stream %s removes messages after %s, those that wait included: set allow_msg_ttl on it, which exempts them, or raise max_age", st.name, st.maxAge))
	}
	key := dedupKey(m)
	later := t.schedule(st, subject, atTime(m.NotBefore), &plain)
	later.Header[wire.ID] = []string{key.id}
	return t.scheduleSubject(st.name, subject, key.dedup), later, nil
}

// atTime is the pattern of a single time, to the nanosecond: the client library
// cuts it to seconds, and that would be early.
func atTime(t time.Time) string { return "@at " + t.UTC().Format(time.RFC3339Nano) }

// messageKeys are the ID of a message and the key that tells its copies apart.
type messageKeys struct{ id, dedup string }

func dedupKey(m *transport.Message) messageKeys {
	k := messageKeys{id: m.ID, dedup: m.DedupID}
	if k.id == "" {
		k.id = rand.Text()
	}
	if k.dedup == "" {
		k.dedup = k.id
	}
	return k
}

// schedule is m as it waits, without an ID.
func (t *Transport) schedule(st scheduleStream, to, pattern string, m *transport.Message) *transport.Message {
	later := *m
	later.ID, later.DedupID, later.NotBefore, later.TTL = "", "", time.Time{}, 0
	later.Header = m.Header.Clone()
	later.Header[scheduleHeader] = []string{pattern}
	later.Header[scheduleTarget] = []string{to}
	if m.TTL > 0 {
		later.Header[scheduleTTL] = []string{ttlValue(m.TTL)}
	}
	if st.maxAge > 0 && st.ttl {
		later.Header[ttlHeader] = []string{ttlNever}
	}
	return &later
}

// scheduling returns the stream that stores subject, if it keeps messages for
// later.
func (t *Transport) scheduling(ctx context.Context, op, subject string) (st scheduleStream, err error) {
	now := time.Now()
	if st, ok := t.later.find(subject, now); ok {
		return st, nil
	}
	if !serverAtLeast(t.nc(), 2, 12, 0) {
		return st, transport.Unsupported(op, subject, "the server "+t.nc().ConnectedServerVersion()+" would ignore the time and send at once; schedules need nats-server 2.12 or later")
	}
	names, err := t.streamsFor(ctx, subject)
	if err != nil {
		return st, seamError(op, subject, err, false)
	}
	if len(names) == 0 {
		return st, unroutable(op, subject, natsjs.ErrNoStreamResponse)
	}
	info, err := t.streamInfo(ctx, names[0])
	if err != nil {
		return st, seamError(op, subject, err, false)
	}
	if why := t.cannotSchedule(info.Config); why != "" {
		return st, transport.Unsupported(op, subject, why)
	}
	st = scheduleStream{name: names[0], subjects: info.Config.Subjects, maxAge: info.Config.MaxAge, ttl: info.Config.AllowMsgTTL, asked: now}
	t.later.keep(st)
	return st, nil
}

// cannotSchedule says why a stream does not keep messages for later, or "".
func (t *Transport) cannotSchedule(cfg natsjs.StreamConfig) string {
	if !cfg.AllowMsgSchedules || !coveredBy(t.ScheduleSubjects(cfg.Name), cfg.Subjects) {
		return fmt.Sprintf("the stream %s does not keep messages for later: set allow_msg_schedules on it and add the subject %s (EnableSchedules does both)",
			cfg.Name, t.ScheduleSubjects(cfg.Name))
	}
	if full := waitingIsLost(cfg); full != "" {
		return full
	}
	return ""
}

// waitingIsLost says how a stream throws away what waits, or "".
func waitingIsLost(cfg natsjs.StreamConfig) string {
	if cfg.Discard == natsjs.DiscardOld && (cfg.MaxMsgs > 0 || cfg.MaxBytes > 0) {
		return fmt.Sprintf("the stream %s discards its oldest messages when it is full, and those that wait are the oldest: remove max_msgs and max_bytes, for the server does not let a stream with schedules refuse new messages instead", cfg.Name)
	}
	return ""
}

// CancelScheduled takes back a message that waits to be sent to an address: one
// that was published with At or After, or with Recur. id is the message's ID (its
// DedupID where it was given one). It returns ErrNotFound when no such message
// waits any more: it was sent, or cancelled, or never published.
//
// A cancellation and the moment at which the message is due may pass each other:
// nil means that the message was removed before it was sent.
func (t *Transport) CancelScheduled(ctx context.Context, to transport.Address, id string) error {
	const op = "cancel scheduled"
	if err := natsconn.CheckSubject(op, to.Name); err != nil {
		return err
	}
	if id == "" {
		return transport.Invalid(op, to.Name, "the ID of the message is missing")
	}
	st, err := t.scheduling(ctx, op, to.Name)
	if err != nil {
		return err
	}
	subject := t.scheduleSubject(st.name, to.Name, id)
	var out struct {
		Purged uint64 `json:"purged"`
	}
	in := struct {
		Filter string `json:"filter"`
	}{subject}
	if err := t.manage(ctx, "STREAM.PURGE."+st.name, in, &out); err != nil {
		return seamError(op, subject, err, true)
	}
	if out.Purged == 0 {
		return &transport.Error{
			Op: op, Address: to.Name, Kind: transport.Permanent, Err: fmt.Errorf("%w: no message %s waits", transport.ErrNotFound, quote(id)),
			Hint: "it was sent already, or cancelled, or published under another ID or to another address",
		}
	}
	return nil
}

// Recurrence says when a message is sent again and again.
type Recurrence struct {
	// Spec is "@every 90s" (a second at least), one of "@hourly", "@daily",
	// "@weekly", "@monthly", "@yearly", or six fields as in cron: second, minute,
	// hour, day of the month, month, day of the week.
	Spec string
	// TimeZone is the name of the zone that the fields are meant in, such as
	// "Europe/Berlin". Default: UTC. It is refused with @every.
	TimeZone string
}

// Recur makes the server send m to an address at the times of r, until it is
// cancelled with CancelScheduled. m.ID names the recurrence and is required; a
// second call with it replaces the first. The messages that are sent have IDs of
// their own. Times that passed while the server was down are made up for by one
// message.
//
// It needs nats-server 2.14 or later, and a stream that EnableSchedules was called
// for; otherwise it returns ErrUnsupported. A Spec that the server cannot read is
// ErrInvalid. NotBefore has no meaning here and is refused.
func (t *Transport) Recur(ctx context.Context, to transport.Address, r Recurrence, m *transport.Message) error {
	const op = "recur"
	switch {
	case to.Key != "":
		return transport.Invalid(op, to.String(), "NATS has no routing key; the address is the subject alone")
	case m.ID == "":
		return transport.Invalid(op, to.Name, "the ID of the message, which names the recurrence, is missing")
	case !m.NotBefore.IsZero():
		return transport.Invalid(op, to.Name, "a message that recurs has no NotBefore")
	case r.Spec == "" || strings.HasPrefix(r.Spec, "@at"):
		return transport.Invalid(op, to.Name, "%q is no recurrence: use @every or the fields of cron", r.Spec)
	case r.TimeZone != "" && strings.HasPrefix(r.Spec, "@every"):
		return transport.Invalid(op, to.Name, "%q has no time of day that the time zone %q could be for: leave it out", r.Spec, r.TimeZone)
	case !serverAtLeast(t.nc(), 2, 14, 0):
		return transport.Unsupported(op, to.Name, "the server "+t.nc().ConnectedServerVersion()+" knows no recurrence; it needs nats-server 2.14 or later")
	}
	if err := natsconn.CheckSubject(op, to.Name); err != nil {
		return err
	}
	if err := checkUserHeader(op, to.Name, m.Header); err != nil {
		return err
	}
	if err := checkAsked(t.nc(), op, to.Name, m); err != nil {
		return err
	}
	st, err := t.scheduling(ctx, op, to.Name)
	if err != nil {
		return err
	}
	later := t.schedule(st, to.Name, r.Spec, m)
	if r.TimeZone != "" {
		later.Header[scheduleZone] = []string{r.TimeZone}
	}
	_, err = t.store(ctx, op, t.scheduleSubject(st.name, to.Name, dedupKey(m).dedup), later, nil)
	return err
}
