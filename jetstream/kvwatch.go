package jetstream

import (
	"encoding/base64"
	"slices"
	"strings"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// WatchConfig describes a watch: a subscription to the changes of a bucket.
type WatchConfig struct {
	// Bucket is what is watched. KV.Watch fills it in.
	Bucket BucketConfig
	// Keys are patterns: * stands for one token, > for the rest. Empty means all.
	// Several patterns need a server of version 2.10.
	Keys []string
	// Durable names the watch. It remembers where it stands for as long as it
	// exists: a restart of the program goes on there. All processes that name it
	// share its changes. Empty means a watch of this subscription's own, which is
	// forgotten with it; such a subscription needs a holdfast.Name.
	Durable string
	// Start is where a watch begins when it is made: StartNew with what changes
	// from now on, StartLastPerSubject with the current value of each key, StartAll
	// with all revisions that the bucket holds. There is no default.
	Start StartPolicy
	// AckWait and MaxAckPending are as in ConsumerConfig.
	AckWait       time.Duration
	MaxAckPending int
}

// StartLastPerSubject begins with the last message of each subject the stream
// holds, such as the current value of each key of a bucket, and goes on with
// what is stored from then on. A server that is restarted before a consumer has
// got all of them hands out the older messages of the others as well.
func StartLastPerSubject() StartPolicy {
	return StartPolicy{set: true, policy: natsjs.DeliverLastPerSubjectPolicy}
}

// Watch returns the changes of the bucket as a source for subscriptions: with
// retries, dead letters, order and concurrency as for any other. Bodies are
// entries:
//
//	holdfast.Handle(app, prices.Watch(jetstream.WatchConfig{Durable: "shop", Start: jetstream.StartLastPerSubject()}),
//		func(ctx context.Context, m *holdfast.Message[jetstream.Entry[Price]]) error { ... },
//		holdfast.OrderByKey())
//
// The key of each message is the key of its entry, so holdfast.OrderByKey keeps
// the revisions of one key in sequence. Without it a revision that waits for a
// retry is overtaken by newer ones, and is never retried when the bucket removes
// it for them.
//
// A watch misses nothing that the bucket still holds. What was removed before it
// was seen, since a newer revision took its place or its time was over, is told
// as a Compacted event and a line in the log.
func (kv *KV[T]) Watch(cfg WatchConfig) transport.Source {
	cfg.Bucket = kv.b.cfg
	return kv.b.t.WatchKV(cfg)
}

// WatchKV returns the changes of a bucket as a source; see KV.Watch. It does no
// I/O: the bucket is checked and made with the subscription.
func (t *Transport) WatchKV(cfg WatchConfig) transport.Source {
	cfg.Keys = slices.Clone(cfg.Keys)
	pre := kvSubjectPrefix + cfg.Bucket.Bucket + "."
	if c := cfg.Bucket.Config; c != nil && c.Mirror != nil {
		pre = kvSubjectPrefix + strings.TrimPrefix(c.Mirror.Name, kvStreamPrefix) + "."
	}
	w := &watch{kv: cfg, stream: kvStream(cfg.Bucket), pre: pre, all: len(cfg.Keys) == 0 || slices.Contains(cfg.Keys, ">")}
	return t.watchSource(w, ConsumerConfig{
		Subjects: watched(pre, cfg.Keys), Durable: cfg.Durable, Start: cfg.Start,
		Mode: cfg.Bucket.Mode, AckWait: cfg.AckWait, MaxAckPending: cfg.MaxAckPending,
	}, cfg.Bucket.Config != nil)
}

// watched are the subjects of patterns.
func watched(pre string, patterns []string) []string {
	if len(patterns) == 0 {
		return []string{pre + ">"}
	}
	out := make([]string, 0, len(patterns))
	for _, p := range patterns {
		out = append(out, pre+p)
	}
	return out
}

// watchSource is a consumer source over the stream of a watch. full tells that
// the stream is to be compared in whole.
func (t *Transport) watchSource(w *watch, cfg ConsumerConfig, full bool) transport.Source {
	cfg.Stream = w.stream.Name
	if full {
		cfg.StreamConfig = &w.stream
	}
	s := t.Consumer(cfg).(*source)
	s.watch = w
	return s
}

// watch is what is peculiar to a source that watches a bucket or, with objects
// set, an object store.
type watch struct {
	kv      WatchConfig
	objects *ObjectWatchConfig
	stream  natsjs.StreamConfig // as it is made when it is missing
	pre     string              // before a key or an encoded name
	all     bool                // nothing of a bucket is left out
}

// what is how people are told of what is watched.
func (w *watch) what() string {
	if w.objects != nil {
		return "object store " + w.objects.Store.Bucket
	}
	return "bucket " + w.kv.Bucket.Bucket
}

func (w *watch) isOne(cfg natsjs.StreamConfig) bool {
	if w.objects != nil {
		return isObjects(cfg)
	}
	return isKV(cfg)
}

// faults lists what can never work, besides what never works for any consumer.
func (w *watch) faults() []string {
	if w.objects != nil {
		return w.objects.Store.faults()
	}
	faults := w.kv.Bucket.faults()
	for _, k := range w.kv.Keys {
		if fault := keyFault(k, "*>"); fault != "" {
			faults = append(faults, "the pattern "+quote(short(k))+" "+fault)
		}
	}
	return faults
}

// withPrefix puts prefix before the names of the bucket and the durable. Keys
// stay: they are the bucket's own.
func (w *watch) withPrefix(s *source, prefix string) transport.Source {
	name := strings.ReplaceAll(prefix, ".", "_")
	if w.objects != nil {
		cfg := *w.objects
		cfg.Store.Bucket = name + cfg.Store.Bucket
		if c := cfg.Store.Config; c != nil {
			renamed := *c
			renamed.Bucket = cfg.Store.Bucket
			cfg.Store.Config = &renamed
		}
		if cfg.Durable != "" {
			cfg.Durable = name + cfg.Durable
		}
		return s.t.WatchObjects(cfg)
	}
	cfg := w.kv
	cfg.Bucket.Bucket = name + cfg.Bucket.Bucket
	if c := cfg.Bucket.Config; c != nil {
		renamed := *c
		renamed.Bucket = cfg.Bucket.Bucket
		cfg.Bucket.Config = &renamed
	}
	if cfg.Durable != "" {
		cfg.Durable = name + cfg.Durable
	}
	return s.t.WatchKV(cfg)
}

// took completes a delivery of the watch: its key, and what a mark of the server
// says in the words of a client, since handlers shall see it.
func (w *watch) took(l *lane, d *delivery) {
	if d.marker {
		d.marker = false
		d.msg.Header = markedHeader(d.msg.Header)
	}
	if !l.redrive {
		l.gaps.saw(d)
	}
	key, ok := strings.CutPrefix(d.msg.Subject, w.pre)
	if !ok {
		return
	}
	if w.objects == nil {
		d.msg.Key = key
		return
	}
	if name, err := base64.URLEncoding.DecodeString(key); err == nil {
		d.msg.Key = string(name)
	}
}

// watchable checks that the stream of a watch is what it is taken for.
func (c *checker) watchable(have natsjs.StreamConfig) {
	if w := c.s.watch; w != nil && !w.isOne(have) {
		c.fail(transport.CodeNotABucket, "the stream "+have.Name+" is there and cannot be the "+w.what(), "use another name, or remove the stream")
	}
}

// watched checks what is peculiar to a watch.
func (c *checker) watched() {
	if c.want.Delay && !c.want.Ordered && c.s.watch.objects == nil {
		c.add(transport.CodeUnorderedWatch, transport.LevelInfo,
			"a revision that waits for a retry is overtaken by newer ones of its key, and is never retried when the bucket removes it for them",
			"keep the revisions of a key in sequence: holdfast.OrderByKey() (order_by: key)")
	}
}
