package jetstream

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// Mode says what may be done about a stream or consumer that is missing or
// differs from what the program asks for.
type Mode uint8

const (
	// ModeEnsure creates what is missing. What differs is reported as a finding
	// and left as it is. One thing is added: a stream that this transport has
	// created itself takes the subjects of every later source on it as well.
	ModeEnsure Mode = iota
	// ModeVerify changes nothing: what is missing is an error. Messages that a
	// stop gives back unseen are counted as delivered then, since the consumer's
	// metadata, where holdfast remembers that they were not, stays untouched.
	ModeVerify
	// ModeUpdate creates what is missing and changes what differs, as far as the
	// server allows. It never removes a subject from a stream.
	ModeUpdate
)

// String returns the name of the mode.
func (m Mode) String() string {
	switch m {
	case ModeVerify:
		return "verify"
	case ModeUpdate:
		return "update"
	default:
		return "ensure"
	}
}

// StartPolicy says where a consumer begins when it is made. A durable consumer
// that exists goes on where it stood; its start is never applied again. The
// zero value says nothing, and is refused where a consumer is to be made.
type StartPolicy struct {
	set    bool
	policy natsjs.DeliverPolicy
	seq    uint64
	time   time.Time
}

// StartAll begins with the first message the stream holds.
func StartAll() StartPolicy { return StartPolicy{set: true, policy: natsjs.DeliverAllPolicy} }

// StartNew begins with the first message stored after the consumer was made.
func StartNew() StartPolicy { return StartPolicy{set: true, policy: natsjs.DeliverNewPolicy} }

// StartLast begins with the last message the stream holds.
func StartLast() StartPolicy { return StartPolicy{set: true, policy: natsjs.DeliverLastPolicy} }

// StartSequence begins with the message of this stream sequence, or the first
// one after it.
func StartSequence(seq uint64) StartPolicy {
	return StartPolicy{set: true, policy: natsjs.DeliverByStartSequencePolicy, seq: seq}
}

// StartTime begins with the first message stored at t or later.
func StartTime(t time.Time) StartPolicy {
	return StartPolicy{set: true, policy: natsjs.DeliverByStartTimePolicy, time: t}
}

// IsZero reports whether no start was chosen.
func (p StartPolicy) IsZero() bool { return !p.set }

func (p StartPolicy) apply(cfg *natsjs.ConsumerConfig) {
	cfg.DeliverPolicy = p.policy
	if p.policy == natsjs.DeliverByStartSequencePolicy {
		cfg.OptStartSeq = max(p.seq, 1)
	}
	if p.policy == natsjs.DeliverByStartTimePolicy {
		t := p.time
		cfg.OptStartTime = &t
	}
}

// ConsumerConfig describes a place to take messages from: a stream and a pull
// consumer on it. Only Stream is always needed; a consumer that does not exist
// yet needs Start as well.
type ConsumerConfig struct {
	// Stream is the name of the stream.
	Stream string
	// Subjects are the filters of the consumer, and the subjects of the stream
	// when it is missing and StreamConfig is nil. Empty means no filter. Besides
	// the wildcards * and >, {name} stands for one token, and a last {name...} for
	// one or more: a handler finds what they stand for in the Param of its message.
	Subjects []string
	// Durable is the name of the consumer. It remembers where it stands for as
	// long as it exists, and all processes that name it share its messages.
	// Empty means a consumer of this receiver's own that is gone with it.
	Durable string
	// Start is where a consumer begins when it is made. There is no default:
	// replaying a stream, or skipping what it holds, is asked for by name.
	Start StartPolicy
	// Mode says what may be created or changed. Default: ModeEnsure.
	Mode Mode
	// StreamConfig is the whole configuration of the stream, for everything
	// that Subjects alone does not say. Its Name may be left empty.
	StreamConfig *natsjs.StreamConfig
	// Ordered reads the stream in order and without acks, for replays and read
	// models. The consumer is this program's own: every start of the program reads
	// from Start again, and Durable stays empty. While it runs nothing comes twice
	// and nothing is left out, over reconnects, restarts of the server and a consumer
	// that is gone. A message that failed is handed out again in this process, before
	// anything later; dead letters, rejects and several handlers at once, except by
	// key, are refused.
	Ordered bool
	// Consumer is for every setting of a consumer that the other fields do not say:
	// replay speed, pull limits, metadata, a priority policy, headers only. What the
	// other fields say, and what would break a promise (MaxDeliver, BackOff, another
	// ack policy), is refused in it.
	Consumer *natsjs.ConsumerConfig
	// Priority says how to pull from a consumer with a priority policy.
	Priority PriorityConfig
	// AckWait is the lease of a delivery: one neither settled nor extended
	// within it is handed to somebody else. Default: 30 s.
	AckWait time.Duration
	// MaxAckPending is how many deliveries of all processes together may be
	// unsettled. Messages that wait for a delayed retry count, and a consumer
	// that reached it hands out nothing new. Default: 50,000, so that thousands
	// of parked retries do not stop fresh messages; what one process takes is
	// bounded by its own window, far below.
	MaxAckPending int
	// Replicas of the consumer, and of the stream when it is made without
	// StreamConfig. Default: those of the stream; 1 for a new stream.
	Replicas int
	// Storage of a stream made without StreamConfig. Default: file.
	Storage natsjs.StorageType
	// InactiveThreshold is how long a consumer without a Durable name outlives
	// its receiver when it could not be deleted. Default: 5 minutes.
	InactiveThreshold time.Duration
}

const (
	defaultAckWait       = 30 * time.Second
	minAckWait           = time.Second
	defaultMaxAckPending = 50_000
	defaultInactive      = 5 * time.Minute
	defaultDuplicates    = 2 * time.Minute
)

// source is a ConsumerConfig bound to its transport, defaults filled in.
type source struct {
	t   *Transport
	cfg ConsumerConfig // its Subjects are patterns

	transport.Templates // what the Subjects were made of
	unread              []string

	// watch is set where the source is a watch of a bucket or an object store.
	watch *watch
	// left is what receivers of an ordered source that failed have not handed out.
	left leftRows
	// plan is what the last check found that the stream does not store yet and
	// Provision is to make it store; nil when there is nothing.
	plan atomic.Pointer[[]string]
}

var (
	_ natsconn.Keeper      = (*source)(nil)
	_ transport.Neighbour  = (*source)(nil)
	_ transport.Source     = (*source)(nil)
	_ transport.Prefixer   = (*source)(nil)
	_ transport.Identified = (*source)(nil)
)

// Consumer returns a source for subscriptions. It does no I/O: what cfg asks
// for is checked by Check and made by Provision.
func (t *Transport) Consumer(cfg ConsumerConfig) transport.Source {
	cfg.Subjects = slices.Clone(cfg.Subjects)
	if cfg.StreamConfig != nil {
		sc := *cfg.StreamConfig
		sc.Subjects = slices.Clone(sc.Subjects)
		cfg.StreamConfig = &sc
		if cfg.Stream == "" {
			cfg.Stream = sc.Name
		}
	}
	if cfg.Consumer != nil {
		c := *cfg.Consumer
		cfg.Consumer = &c
	}
	if !cfg.Ordered {
		fill(&cfg.AckWait, defaultAckWait)
		fill(&cfg.MaxAckPending, defaultMaxAckPending)
	}
	if cfg.Durable == "" {
		fill(&cfg.InactiveThreshold, defaultInactive)
	}
	return t.source(cfg)
}

func (t *Transport) source(cfg ConsumerConfig) *source {
	s := &source{t: t, cfg: cfg}
	s.Templates, s.unread = transport.ParseTemplates(cfg.Subjects)
	if len(cfg.Subjects) > 0 {
		s.cfg.Subjects = s.Patterns("*", ">")
	}
	return s
}

// Transport implements transport.Source.
func (s *source) Transport() transport.Transport { return s.t }

// Name implements transport.Source.
func (s *source) Name() string { return s.cfg.Durable }

// Identity implements transport.Identified: the durable consumer, which divides
// its messages among its users.
func (s *source) Identity() string {
	if s.cfg.Durable == "" {
		return ""
	}
	return s.address()
}

// String implements transport.Source.
func (s *source) String() string {
	name := s.cfg.Durable
	if name == "" {
		name = "(ephemeral)"
	}
	if s.watch != nil {
		return "jetstream " + s.watch.what() + "/" + name
	}
	return "jetstream " + s.cfg.Stream + "/" + name
}

// address is how errors and findings call the source.
func (s *source) address() string {
	if s.cfg.Durable == "" {
		return s.cfg.Stream
	}
	return s.cfg.Stream + "/" + s.cfg.Durable
}

// WithPrefix implements transport.Prefixer. The prefix is put before the
// subjects as it is; in the names of the stream and the consumer, which have no
// dots, each dot of it becomes '_'.
func (s *source) WithPrefix(prefix string) transport.Source {
	if s.watch != nil {
		return s.watch.withPrefix(s, prefix)
	}
	cfg := s.cfg
	name := strings.ReplaceAll(prefix, ".", "_")
	cfg.Stream = name + cfg.Stream
	if cfg.Durable != "" {
		cfg.Durable = name + cfg.Durable
	}
	cfg.Subjects = prefixed(prefix, s.written())
	var fault string
	if cfg.StreamConfig != nil {
		sc := *cfg.StreamConfig
		sc.Name = cfg.Stream
		sc.Subjects = prefixed(prefix, sc.Subjects)
		cfg.StreamConfig = &sc
		if sc.Mirror != nil || len(sc.Sources) > 0 || sc.SubjectTransform != nil || sc.RePublish != nil {
			fault = "a stream with a mirror, sources, a subject transform or republishing cannot be put under the prefix " + quote(prefix) + ": what they name stays as it is"
		}
	}
	moved := s.t.source(cfg)
	if fault != "" {
		moved.unread = append(moved.unread, fault)
	}
	return moved
}

// written are the subjects as they were written, parameters included.
func (s *source) written() []string {
	var texts []string
	for _, t := range s.Templates {
		texts = append(texts, t.String())
	}
	return texts
}

func prefixed(prefix string, subjects []string) []string {
	out := make([]string, len(subjects))
	for i, s := range subjects {
		out[i] = prefix + s
	}
	return out
}

// sourceOf returns src as a source of this transport.
func (t *Transport) sourceOf(op string, src transport.Source) (*source, error) {
	s, ok := src.(*source)
	if !ok || s.t != t {
		return nil, transport.Invalid(op, src.String(), "the source was made by another transport")
	}
	return s, nil
}

// faults lists what can never work about the source, whatever the broker has.
func (s *source) faults() []string {
	var faults []string
	add := func(fault string) { faults = append(faults, fault) }
	if s.watch != nil {
		faults = s.watch.faults()
	}
	faults = append(faults, s.unread...)
	if !validName(s.cfg.Stream) {
		add("the stream name " + quote(s.cfg.Stream) + " is empty or has a space, '.', '*', '>', '/' or '\\'")
	}
	if s.cfg.Durable != "" && !validName(s.cfg.Durable) {
		add("the durable name " + quote(s.cfg.Durable) + " has a space, '.', '*', '>', '/' or '\\'")
	}
	for _, f := range s.cfg.Subjects {
		if err := natsconn.CheckFilter("configure source", f); err != nil {
			add(err.Error())
		}
	}
	for i, a := range s.cfg.Subjects {
		if b := firstOverlap([]string{a}, s.cfg.Subjects[i+1:]); b != "" {
			add("the subjects " + quote(a) + " and " + quote(b) + " overlap")
		}
	}
	if s.cfg.StreamConfig != nil && s.cfg.StreamConfig.Name != "" && s.cfg.StreamConfig.Name != s.cfg.Stream {
		add("StreamConfig names the stream " + quote(s.cfg.StreamConfig.Name) + " and Stream " + quote(s.cfg.Stream))
	}
	if sc := s.cfg.StreamConfig; sc != nil {
		for _, from := range append([]*natsjs.StreamSource{sc.Mirror}, sc.Sources...) {
			if from != nil && from.Domain != "" && from.External != nil {
				add("the mirror or source " + quote(from.Name) + " has a Domain and External")
			}
		}
	}
	if s.cfg.AckWait < 0 || s.cfg.MaxAckPending < -1 || s.cfg.Replicas < 0 || s.cfg.InactiveThreshold < 0 {
		add("AckWait, MaxAckPending, Replicas and InactiveThreshold cannot be negative")
	}
	return append(faults, s.ignored()...)
}

// ignored lists what would have no effect.
func (s *source) ignored() []string {
	var faults []string
	if s.cfg.Ordered && (s.cfg.AckWait != 0 || s.cfg.MaxAckPending != 0) {
		faults = append(faults, "an ordered consumer has no acks: AckWait and MaxAckPending are not for it")
	}
	if s.cfg.Durable != "" && s.cfg.InactiveThreshold != 0 {
		faults = append(faults, "InactiveThreshold is for a consumer without a durable name, and Durable is "+quote(s.cfg.Durable))
	}
	if sc := s.cfg.StreamConfig; sc != nil && s.cfg.Storage != natsjs.FileStorage && s.cfg.Storage != sc.Storage {
		faults = append(faults, "Storage is for a stream without a StreamConfig, and the StreamConfig says "+sc.Storage.String())
	}
	return faults
}

func quote(s string) string { return `"` + s + `"` }

// streamConfig is the stream as the source asks for it.
func (s *source) streamConfig() natsjs.StreamConfig {
	if s.cfg.StreamConfig != nil {
		cfg := *s.cfg.StreamConfig
		cfg.Name = s.cfg.Stream
		return cfg
	}
	if s.watch != nil {
		return s.watch.stream
	}
	return natsjs.StreamConfig{
		Name:     s.cfg.Stream,
		Subjects: s.cfg.Subjects,
		Storage:  s.cfg.Storage,
		Replicas: max(s.cfg.Replicas, 1),
		// Without limits nothing is discarded. Should somebody add a limit,
		// publishers are told instead of work being deleted unseen.
		Discard:    natsjs.DiscardNew,
		MaxMsgs:    -1,
		MaxBytes:   -1,
		Duplicates: defaultDuplicates,
		// Publishers may ask for a time to live, where the server knows it.
		AllowMsgTTL: serverAtLeast(s.t.nc(), 2, 11, 0),
	}
}

// consumerConfig is the consumer as the source asks for it, under this name.
func (s *source) consumerConfig(name string) natsjs.ConsumerConfig {
	var cfg natsjs.ConsumerConfig
	if s.cfg.Consumer != nil {
		cfg = *s.cfg.Consumer
	}
	cfg.Name, cfg.Durable = name, s.cfg.Durable
	cfg.AckPolicy, cfg.AckWait, cfg.MaxDeliver = natsjs.AckExplicitPolicy, s.cfg.AckWait, -1
	cfg.MaxAckPending, cfg.Replicas = s.cfg.MaxAckPending, s.cfg.Replicas
	s.cfg.Start.apply(&cfg)
	setFilters(&cfg, s.cfg.Subjects)
	if cfg.DeliverPolicy == natsjs.DeliverLastPerSubjectPolicy && len(s.cfg.Subjects) == 0 {
		cfg.FilterSubject = ">" // the server asks for one
	}
	if s.cfg.Durable == "" {
		cfg.InactiveThreshold = s.cfg.InactiveThreshold
		fill(&cfg.Description, "holdfast, without a durable name")
	}
	return cfg
}

// setFilters uses the single form where it suffices: servers before 2.10 know
// no other.
func setFilters(cfg *natsjs.ConsumerConfig, subjects []string) {
	if len(subjects) == 1 {
		cfg.FilterSubject = subjects[0]
		return
	}
	cfg.FilterSubjects = slices.Clone(subjects)
}

// filtersOf returns the filters of a consumer in either form.
func filtersOf(cfg natsjs.ConsumerConfig) []string {
	if cfg.FilterSubject != "" {
		return []string{cfg.FilterSubject}
	}
	return cfg.FilterSubjects
}
