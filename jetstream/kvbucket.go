package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// BucketConfig names a key-value bucket and says what may be done about it.
type BucketConfig struct {
	// Bucket is the name: letters, digits, '-' and '_'.
	Bucket string
	// Mode says what may be created or changed. Default: ModeEnsure.
	Mode Mode
	// Config is the whole configuration of the bucket; its Bucket may be left
	// empty. A bucket that exists is compared with it. Nil takes a bucket as it
	// is, and makes one that is missing with the client library's defaults: one
	// revision a key, in files, kept for ever.
	Config *natsjs.KeyValueConfig
	// Codec turns values into bytes and back. Default: []byte and string as they
	// are, everything else as JSON.
	Codec Codec
}

// FindingsError is the cause when a bucket or an object store is not what the
// program asks for.
type FindingsError struct{ Findings []transport.Finding }

// Error returns all findings with their differences.
func (e *FindingsError) Error() string {
	parts := make([]string, 0, len(e.Findings))
	for _, f := range e.Findings {
		s := fmt.Sprintf("%s: %s", f.Code, f.Fact)
		if len(f.Diff) > 0 {
			s += " (" + strings.Join(f.Diff, "; ") + ")"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}

// Names of what lies behind buckets and object stores.
const (
	kvStreamPrefix     = "KV_"
	kvSubjectPrefix    = "$KV."
	objectStreamPrefix = "OBJ_"
	objectPrefix       = "$O."
	maxHistory         = 64
)

// store is the stream behind a bucket or an object store.
type store struct {
	t     *Transport
	what  string // as people are told: "bucket prices"
	mode  Mode
	want  natsjs.StreamConfig
	full  bool // want is compared in whole
	needs []need
	// isOne tells whether a stream can be what it is taken for.
	isOne func(natsjs.StreamConfig) bool

	found   []transport.Finding
	created bool
}

// need is a setting that a server has from a version on.
type need struct {
	setting  string
	asked    bool
	versions []int // major, minor, patch
}

// kvFaults lists what can never work about a bucket.
func (c BucketConfig) faults() []string {
	var faults []string
	if !validToken(c.Bucket) {
		faults = append(faults, "the bucket name "+quote(c.Bucket)+" is not made of letters, digits, '-' and '_'")
	}
	if c.Config == nil {
		return faults
	}
	if c.Config.Bucket != "" && c.Config.Bucket != c.Bucket {
		faults = append(faults, "Config names the bucket "+quote(c.Config.Bucket)+" and Bucket "+quote(c.Bucket))
	}
	if c.Config.History > maxHistory {
		faults = append(faults, fmt.Sprintf("a history of %d is asked for; a bucket keeps %d revisions of a key at most", c.Config.History, maxHistory))
	}
	if m := c.Config.LimitMarkerTTL; m < 0 || m > 0 && m < time.Second {
		faults = append(faults, "LimitMarkerTTL is below a second, which the server does not take")
	}
	return faults
}

// kvStore is the stream of a bucket.
func (t *Transport) kvStore(cfg BucketConfig) *store {
	s := &store{t: t, what: "bucket " + cfg.Bucket, mode: cfg.Mode, want: kvStream(cfg), full: cfg.Config != nil, isOne: isKV}
	if c := cfg.Config; c != nil {
		s.needs = []need{
			{"LimitMarkerTTL", c.LimitMarkerTTL > 0, []int{2, 11, 0}},
			{"Compression", c.Compression, []int{2, 10, 0}},
			{"Metadata", len(c.Metadata) > 0, []int{2, 10, 0}},
			{"Sources", len(c.Sources) > 0, []int{2, 10, 0}},
		}
	}
	return s
}

// isKV tells whether a stream keeps revisions of keys.
func isKV(cfg natsjs.StreamConfig) bool {
	return strings.HasPrefix(cfg.Name, kvStreamPrefix) && cfg.MaxMsgsPerSubject > 0 && cfg.Retention == natsjs.LimitsPolicy
}

// kvStream is the stream of a bucket as other clients would make it.
func kvStream(cfg BucketConfig) natsjs.StreamConfig {
	var c natsjs.KeyValueConfig
	if cfg.Config != nil {
		c = *cfg.Config
	}
	sc := natsjs.StreamConfig{
		Name:              kvStreamPrefix + cfg.Bucket,
		Description:       c.Description,
		MaxMsgsPerSubject: max(int64(c.History), 1),
		MaxBytes:          orUnlimited(c.MaxBytes),
		MaxAge:            c.TTL,
		MaxMsgSize:        orUnlimited(c.MaxValueSize),
		Storage:           c.Storage,
		Replicas:          max(c.Replicas, 1),
		Placement:         c.Placement,
		RePublish:         c.RePublish,
		Metadata:          c.Metadata,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
		Discard:           natsjs.DiscardNew,
		Duplicates:        defaultDuplicates,
		MaxMsgs:           -1,
		MaxConsumers:      -1,
	}
	if c.TTL > 0 {
		sc.Duplicates = min(sc.Duplicates, c.TTL)
	}
	if c.Compression {
		sc.Compression = natsjs.S2Compression
	}
	if c.LimitMarkerTTL > 0 {
		sc.AllowMsgTTL, sc.SubjectDeleteMarkerTTL = true, c.LimitMarkerTTL
	}
	if c.Mirror != nil {
		m := *c.Mirror
		m.Name = kvStreamPrefix + strings.TrimPrefix(m.Name, kvStreamPrefix)
		sc.Mirror, sc.MirrorDirect = &m, true
		return sc
	}
	sc.Subjects = []string{kvSubjectPrefix + cfg.Bucket + ".>"}
	for _, src := range c.Sources {
		sc.Sources = append(sc.Sources, kvSource(*src, cfg.Bucket))
	}
	return sc
}

// kvSource moves the keys of another bucket into this one. A source with
// transforms of its own is taken as it is.
func kvSource(src natsjs.StreamSource, bucket string) *natsjs.StreamSource {
	if len(src.SubjectTransforms) > 0 {
		return &src
	}
	from := strings.TrimPrefix(src.Name, kvStreamPrefix)
	src.Name = kvStreamPrefix + from
	if src.External == nil || from != bucket {
		src.SubjectTransforms = []natsjs.SubjectTransformConfig{{
			Source: kvSubjectPrefix + from + ".>", Destination: kvSubjectPrefix + bucket + ".>",
		}}
	}
	return &src
}

func orUnlimited[T int32 | int64](n T) T {
	if n == 0 {
		return -1
	}
	return n
}

// open makes sure that the stream is there and is what it should be, as far as
// the mode allows.
func (s *store) open(ctx context.Context) (*natsjs.StreamInfo, error) {
	const op = "open"
	if err := s.supported(); err != nil {
		return nil, err
	}
	info, err := s.t.streamInfo(ctx, s.want.Name)
	switch {
	case streamMissing(err) && s.mode == ModeVerify:
		return nil, s.refuse(transport.CodeStreamMissing, "the "+s.what+" is missing, in verify mode", "make it, or "+letMake, transport.ErrNotFound)
	case streamMissing(err):
		return s.make(ctx)
	case err != nil:
		return nil, seamError(op, s.what, err, false)
	case !s.isOne(info.Config):
		return nil, s.refuse(transport.CodeNotABucket, "the stream "+s.want.Name+" is there and cannot be the "+s.what, "use another name, or remove the stream", transport.ErrInvalid)
	}
	diff := s.diff(info.Config)
	switch {
	case len(diff) == 0:
		return info, nil
	case s.mode == ModeUpdate:
		return s.update(ctx, info.Config)
	case s.mode == ModeVerify:
		return nil, s.refuse(transport.CodeStreamDrift, "the "+s.what+" differs from what the program asks for", "change the program or the bucket, or "+letChange, transport.ErrInvalid, diff...)
	}
	s.note(transport.CodeStreamDrift, transport.LevelWarning, "the "+s.what+" differs from what the program asks for", "change the program or the bucket, or "+letChange, diff...)
	return info, nil
}

// supported refuses what the connected server would drop in silence.
func (s *store) supported() error {
	for _, n := range s.needs {
		if n.asked && !serverAtLeast(s.t.nc(), n.versions[0], n.versions[1], n.versions[2]) {
			fact := fmt.Sprintf("%s of the %s needs a server of version %d.%d or later, and this one is %s",
				n.setting, s.what, n.versions[0], n.versions[1], s.t.nc().ConnectedServerVersion())
			return s.refuse(transport.CodeServerTooOld, fact, "upgrade the server, or do not ask for it", transport.ErrUnsupported)
		}
	}
	return nil
}

func (s *store) make(ctx context.Context) (*natsjs.StreamInfo, error) {
	info, err := s.t.createStream(ctx, s.want)
	if isCode(err, natsjs.JSErrCodeStreamNameInUse) {
		// Somebody else made it in this moment, with settings of their own.
		info, err = s.t.streamInfo(ctx, s.want.Name)
		return info, seamError("open", s.what, err, false)
	}
	if err != nil {
		return nil, seamError("open", s.what, err, true)
	}
	if diff := diffStream(s.want, info.Config); len(diff) > 0 {
		// Nothing is in it yet: what is not as it was asked for is not left behind.
		_ = s.t.manage(ctx, "STREAM.DELETE."+s.want.Name, nil, nil)
		return nil, s.dropped(diff)
	}
	s.created = true
	return info, nil
}

func (s *store) update(ctx context.Context, have natsjs.StreamConfig) (*natsjs.StreamInfo, error) {
	next := wantedStream(have, s.want, nil, true)
	info, err := s.t.updateStream(ctx, next)
	if err != nil {
		return nil, seamError("open", s.what, err, true)
	}
	if diff := diffStream(next, info.Config); len(diff) > 0 {
		return nil, s.dropped(diff)
	}
	return info, nil
}

// dropped fails when the server did not take all that was asked for.
func (s *store) dropped(diff []string) error {
	return s.refuse(transport.CodeFieldsDropped, "server "+s.t.nc().ConnectedServerVersion()+" did not take all settings of the "+s.what,
		"upgrade the server, or do not ask for these settings", transport.ErrUnsupported, diff...)
}

// diff compares a stream that exists with what is asked for, if anything is.
func (s *store) diff(have natsjs.StreamConfig) []string {
	if !s.full {
		return nil
	}
	return diffStream(s.want, have)
}

func (s *store) note(code transport.Code, level transport.Level, fact, fix string, diff ...string) {
	s.found = append(s.found, transport.Finding{Code: code, Level: level, Fact: fact, Fix: fix, Diff: diff})
}

// refuse notes an error and returns it.
func (s *store) refuse(code transport.Code, fact, fix string, cause error, diff ...string) error {
	s.note(code, transport.LevelError, fact, fix, diff...)
	return &transport.Error{
		Op: "open", Address: s.what, Kind: transport.Permanent, Hint: fix,
		Err: errors.Join(cause, &FindingsError{Findings: slices.Clone(s.found)}),
	}
}
