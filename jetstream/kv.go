package jetstream

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// KV is a key-value bucket whose values are of type T. It is safe for concurrent
// use, and works until its transport is closed.
//
// A call repeats what failed for a reason that passes (a lost connection, the
// election of a leader) until its context ends, so give it one that does. What
// depends on a revision (Create, Update, IfRevision) has happened once when it
// succeeds; a Put that was repeated may be stored as two revisions with one
// value.
//
// Keys are made of letters, digits and - / _ = . ; dots divide them into tokens
// that patterns select: * stands for one token, > for the rest.
type KV[T any] struct {
	b     *bucket
	codec Codec
}

// OpenKV opens the bucket that cfg names, and makes it when it is missing and the
// mode allows. The error wraps a *FindingsError when the bucket is not what cfg
// asks for, or cannot be on this server. What differs and was left as it is
// stands in Findings.
func OpenKV[T any](ctx context.Context, t *Transport, cfg BucketConfig) (*KV[T], error) {
	if faults := cfg.faults(); len(faults) > 0 {
		return nil, transport.Invalid("open", "bucket "+cfg.Bucket, "%s", faults[0])
	}
	s := t.kvStore(cfg)
	info, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	return &KV[T]{b: newBucket(t, cfg, info.Config, s.found), codec: codecOf[T](cfg.Codec)}, nil
}

// bucket is what a KV is made of that does not depend on the type of its values.
type bucket struct {
	t      *Transport
	cfg    BucketConfig
	found  []transport.Finding
	stream string
	pre    string // before a key, as it is stored
	put    string // before a key, to publish to
	direct string // the subject to read the last revision of a key from; "" where only the leader answers
	ttl    bool   // single values may expire
	least  time.Duration
}

func newBucket(t *Transport, cfg BucketConfig, sc natsjs.StreamConfig, found []transport.Finding) *bucket {
	b := &bucket{t: t, cfg: cfg, found: found, stream: sc.Name, pre: kvSubjectPrefix + cfg.Bucket + ".", ttl: sc.AllowMsgTTL}
	if sc.MaxMsgsPerSubject > 1 {
		b.least = sc.SubjectDeleteMarkerTTL
	}
	if m := sc.Mirror; m != nil {
		b.pre = kvSubjectPrefix + strings.TrimPrefix(m.Name, kvStreamPrefix) + "."
	}
	b.put = t.subjectFor(b.pre)
	if m := sc.Mirror; m != nil && m.External != nil && m.External.APIPrefix != "" {
		b.put = m.External.APIPrefix + "." + b.pre
	}
	if sc.AllowDirect {
		b.direct = t.api + "DIRECT.GET." + sc.Name + "."
	}
	return b
}

// subjectFor is where a subject of a stream is published to: a domain or another
// API prefix comes before it.
func (t *Transport) subjectFor(subject string) string {
	if t.api == natsjs.DefaultAPIPrefix {
		return subject
	}
	return t.api + subject
}

// Bucket returns the name of the bucket.
func (kv *KV[T]) Bucket() string { return kv.b.cfg.Bucket }

// Findings returns what was found when the bucket was opened and left as it is.
func (kv *KV[T]) Findings() []transport.Finding { return slices.Clone(kv.b.found) }

// Native returns the client library's own handle on the bucket, which belongs to
// the connection that Transport.Conn returns. Both may be used beside each other.
func (kv *KV[T]) Native(ctx context.Context) (natsjs.KeyValue, error) {
	native, err := kv.b.t.JetStream().KeyValue(ctx, kv.b.cfg.Bucket)
	return native, seamError("open", "bucket "+kv.b.cfg.Bucket, err, false)
}

// Get returns the last revision of a key. A key that is not there, or was
// deleted, is transport.ErrNotFound. In a bucket with replicas any of them may
// answer, and one may be behind: decide by the outcome of Create and Update, not
// by what Get has seen.
func (kv *KV[T]) Get(ctx context.Context, key string) (Entry[T], error) {
	return kv.one(ctx, "get", key, 0)
}

// GetRevision returns one revision of a key, or transport.ErrNotFound when the
// bucket does not hold it any more.
func (kv *KV[T]) GetRevision(ctx context.Context, key string, revision uint64) (Entry[T], error) {
	if revision == 0 {
		return Entry[T]{}, transport.Invalid("get", kv.b.at(key), "revisions begin with 1")
	}
	return kv.one(ctx, "get", key, revision)
}

func (kv *KV[T]) one(ctx context.Context, op, key string, revision uint64) (Entry[T], error) {
	var e Entry[T]
	if err := checkKey(op, kv.b.cfg.Bucket, key); err != nil {
		return e, err
	}
	r, err := kv.b.read(ctx, op, key, revision)
	if err != nil {
		return e, err
	}
	if e, err = kv.entry(op, r); err == nil && e.Operation != OpPut {
		return Entry[T]{}, kv.b.noKey(op, key)
	}
	return e, err
}

// entry decodes what was stored.
func (kv *KV[T]) entry(op string, r stored) (Entry[T], error) {
	e := Entry[T]{Bucket: kv.b.cfg.Bucket, Key: strings.TrimPrefix(r.subject, kv.b.pre), Revision: r.seq, Time: r.time}
	e.Operation, e.Expired = operationOf(r.header)
	if e.Operation != OpPut {
		return e, nil
	}
	if err := kv.codec.Decode(r.data, &e.Value); err != nil {
		return e, &transport.Error{
			Op: op, Address: kv.b.at(e.Key), Kind: transport.Permanent, Err: err,
			Hint: "the value was written by somebody with another codec, or is damaged",
		}
	}
	return e, nil
}

// Put stores a value and returns its revision.
func (kv *KV[T]) Put(ctx context.Context, key string, value T, opts ...PutOption) (revision uint64, err error) {
	return kv.write(ctx, "put", key, value, nil, opts)
}

// Create stores the first value of a key, or the first one since it was deleted.
// A *ConflictError tells that the key exists.
func (kv *KV[T]) Create(ctx context.Context, key string, value T, opts ...PutOption) (revision uint64, err error) {
	none := uint64(0)
	return kv.write(ctx, "create", key, value, &none, opts)
}

// Update stores a value if the last revision of the key is this one. A
// *ConflictError tells that it is not.
func (kv *KV[T]) Update(ctx context.Context, key string, value T, last uint64, opts ...PutOption) (revision uint64, err error) {
	if last == 0 {
		return 0, transport.Invalid("update", kv.b.at(key), "revisions begin with 1; Create makes a key that must not exist")
	}
	return kv.write(ctx, "update", key, value, &last, opts)
}

func (kv *KV[T]) write(ctx context.Context, op, key string, value T, expect *uint64, opts []PutOption) (uint64, error) {
	if err := checkKey(op, kv.b.cfg.Bucket, key); err != nil {
		return 0, err
	}
	data, err := kv.codec.Encode(value)
	if err != nil {
		return 0, &transport.Error{Op: op, Address: kv.b.at(key), Kind: transport.Permanent, Err: err, Hint: "the codec of the bucket does not take this value"}
	}
	w := write{op: op, key: key, data: data, expect: expect}
	for _, o := range opts {
		o(&w)
	}
	return kv.b.write(ctx, w)
}

// Delete marks a key as deleted; its history stays. To delete a key that is not
// there is no error. With IfRevision a *ConflictError tells that the key has
// another revision.
func (kv *KV[T]) Delete(ctx context.Context, key string, opts ...DeleteOption) error {
	return kv.remove(ctx, "delete", key, kvDelete, opts)
}

// Purge removes a key with its history and leaves a mark, by which watches see
// it. With IfRevision a *ConflictError tells that the key has another revision.
func (kv *KV[T]) Purge(ctx context.Context, key string, opts ...DeleteOption) error {
	return kv.remove(ctx, "purge", key, kvPurge, opts)
}

func (kv *KV[T]) remove(ctx context.Context, op, key, operation string, opts []DeleteOption) error {
	if err := checkKey(op, kv.b.cfg.Bucket, key); err != nil {
		return err
	}
	w := write{op: op, key: key, operation: operation}
	for _, o := range opts {
		o(&w)
	}
	_, err := kv.b.write(ctx, w)
	return err
}

// History yields what the bucket holds of a key, oldest first, deletions
// included, until the caller stops or an error was yielded. It yields nothing for
// a key the bucket does not know.
func (kv *KV[T]) History(ctx context.Context, key string) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		const op = "read history"
		if err := checkKey(op, kv.b.cfg.Bucket, key); err != nil {
			yield(Entry[T]{}, err)
			return
		}
		kv.scan(ctx, op, scanning{filters: []string{kv.b.pre + key}}, yield)
	}
}

// Entries yields the current value of every key that matches one of the patterns,
// or of all keys when there are none. Deleted keys are left out. They come in
// the order of their revisions; a key that is written meanwhile may come twice.
func (kv *KV[T]) Entries(ctx context.Context, patterns ...string) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		const op = "list entries"
		filters, err := kv.b.filters(op, patterns)
		if err != nil {
			yield(Entry[T]{}, err)
			return
		}
		kv.scan(ctx, op, scanning{filters: filters, last: true}, func(e Entry[T], err error) bool {
			return err == nil && e.Operation != OpPut || yield(e, err)
		})
	}
}

func (kv *KV[T]) scan(ctx context.Context, op string, s scanning, yield func(Entry[T], error) bool) {
	s.op, s.stream, s.what = op, kv.b.stream, "bucket "+kv.b.cfg.Bucket
	for r, err := range kv.b.t.scan(ctx, s) {
		var e Entry[T]
		if err == nil {
			e, err = kv.entry(op, r)
		}
		if !yield(e, err) || err != nil {
			return
		}
	}
}

// Keys yields every key that matches one of the patterns, or all keys when there
// are none, without reading their values. Deleted keys are left out. They come
// as they are read, a million of them in flat memory; a key that is written
// meanwhile may come twice.
func (kv *KV[T]) Keys(ctx context.Context, patterns ...string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		const op = "list keys"
		filters, err := kv.b.filters(op, patterns)
		if err != nil {
			yield("", err)
			return
		}
		s := scanning{op: op, what: "bucket " + kv.b.cfg.Bucket, stream: kv.b.stream, filters: filters, last: true, headersOnly: true}
		for r, err := range kv.b.t.scan(ctx, s) {
			if err != nil {
				yield("", err)
				return
			}
			if o, _ := operationOf(r.header); o == OpPut && !yield(strings.TrimPrefix(r.subject, kv.b.pre), nil) {
				return
			}
		}
	}
}

// filters are the subjects that patterns of keys select.
func (b *bucket) filters(op string, patterns []string) ([]string, error) {
	if len(patterns) == 0 {
		return []string{b.pre + ">"}, nil
	}
	filters := make([]string, 0, len(patterns))
	for _, p := range patterns {
		if fault := keyFault(p, "*>"); fault != "" {
			return nil, transport.Invalid(op, b.cfg.Bucket+"/"+short(p), "the pattern %s", fault)
		}
		filters = append(filters, b.pre+p)
	}
	return filters, nil
}

// at is how errors call a key.
func (b *bucket) at(key string) string { return b.cfg.Bucket + "/" + short(key) }

func (b *bucket) noKey(op, key string) error {
	return &transport.Error{Op: op, Address: b.at(key), Kind: transport.Permanent, Err: transport.ErrNotFound}
}
