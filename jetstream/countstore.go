package jetstream

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// CountStoreConfig says where attempts are counted. The zero value works.
type CountStoreConfig struct {
	// Bucket is the name of the key-value bucket. Default: the namespace of the
	// transport and "_attempts", as in "holdfast_attempts".
	Bucket string
	// TTL is how long the bucket keeps a count after its last attempt, on a
	// server before 2.11 and in a bucket that was made on one. Counts that have
	// to be kept for longer are refused then. Later servers keep each count for
	// as long as it asks. Default: 48 hours.
	TTL time.Duration
	// Replicas of the bucket. Default: 1.
	Replicas int
}

// markerTTL is how long the server keeps a marker of a count that expired: it
// has no use here, and the server wants to be told one.
const markerTTL = time.Second

// CountStore counts attempts in a key-value bucket, for holdfast.CountIn. Every
// change is a compare and swap, so that several processes never count one number
// twice. It is safe for concurrent use, and works until its transport is closed.
type CountStore struct {
	t      *Transport
	bucket string
	exact  bool          // the server keeps each count as long as it asks
	ttl    time.Duration // of the bucket, unless exact

	mu     sync.Mutex        // guards what follows
	handle *natsjs.JetStream // on which kv was opened
	kv     natsjs.KeyValue
}

// Interfaces of the seam that a *CountStore implements.
var (
	_ transport.CountStore   = (*CountStore)(nil)
	_ transport.CountLimiter = (*CountStore)(nil)
)

// CountStore opens the bucket that cfg names, and makes it when it is missing. A
// bucket that exists is left as it is; one that keeps counts for ever, or for
// less than cfg.TTL, is refused.
func (t *Transport) CountStore(ctx context.Context, cfg CountStoreConfig) (*CountStore, error) {
	if cfg.Bucket == "" {
		cfg.Bucket = t.set.namespace + "_attempts"
	}
	if cfg.TTL == 0 {
		cfg.TTL = 48 * time.Hour
	}
	if cfg.TTL < time.Second || !validToken(cfg.Bucket) {
		return nil, transport.Invalid("open count store", cfg.Bucket, "a bucket is named with letters, digits, '-' and '_', and keeps counts for a second at least")
	}
	s := &CountStore{t: t, bucket: cfg.Bucket}
	kv, err := t.bucket(ctx, cfg)
	if err != nil {
		return nil, s.fault("open count store", err)
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return nil, s.fault("open count store", err)
	}
	s.exact, s.ttl = status.LimitMarkerTTL() > 0, status.TTL()
	if bounded := s.ttl > 0; s.exact && bounded || !s.exact && s.ttl < cfg.TTL {
		return nil, transport.Invalid("open count store", cfg.Bucket,
			"the bucket exists and keeps counts for %v, 0s being for ever; %v is asked for: name another bucket, or ask for what is there", s.ttl, cfg.TTL)
	}
	return s, nil
}

// bucket opens or makes a bucket. A server that cannot expire single counts gets
// one that expires all alike.
func (t *Transport) bucket(ctx context.Context, cfg CountStoreConfig) (natsjs.KeyValue, error) {
	js := t.JetStream()
	kv, err := js.KeyValue(ctx, cfg.Bucket)
	if !errors.Is(err, natsjs.ErrBucketNotFound) {
		return kv, err
	}
	bucket := natsjs.KeyValueConfig{
		Bucket: cfg.Bucket, Description: "attempts counted by holdfast", Replicas: cfg.Replicas,
		History: 1, Storage: natsjs.FileStorage, LimitMarkerTTL: markerTTL,
	}
	kv, err = js.CreateKeyValue(ctx, bucket)
	if errors.Is(err, natsjs.ErrLimitMarkerTTLNotSupported) {
		bucket.LimitMarkerTTL, bucket.TTL = 0, cfg.TTL
		kv, err = js.CreateKeyValue(ctx, bucket)
	}
	if errors.Is(err, natsjs.ErrBucketExists) { // another process was faster
		return js.KeyValue(ctx, cfg.Bucket)
	}
	return kv, err
}

// MaxExpiry implements transport.CountLimiter.
func (s *CountStore) MaxExpiry() time.Duration {
	if s.exact {
		return 0
	}
	return s.ttl
}

// open returns the bucket on the connection of the moment.
func (s *CountStore) open(ctx context.Context) (natsjs.KeyValue, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	handle := s.t.handle.Load()
	if s.kv != nil && s.handle == handle {
		return s.kv, nil
	}
	kv, err := (*handle).KeyValue(ctx, s.bucket)
	if err != nil {
		return nil, err
	}
	s.kv, s.handle = kv, handle
	return kv, nil
}

// countKeyOf is the key of the attempts at one message: an ID that can stand in
// a subject as it is, or the hash of one that cannot.
func countKeyOf(key transport.CountKey) string {
	id := "id." + key.Message
	if !validToken(key.Message) || len(key.Message) > 100 {
		sum := sha256.Sum256([]byte(key.Message))
		id = "sha256." + base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return key.Subscription + "." + id
}

// Add implements transport.CountStore.
func (s *CountStore) Add(ctx context.Context, key transport.CountKey, attempt string, expiry time.Duration) (n int, err error) {
	const op = "count attempt"
	if expiry <= 0 || s.MaxExpiry() > 0 && expiry > s.MaxExpiry() {
		return 0, transport.Invalid(op, s.bucket, "a count cannot be kept for %v: the bucket keeps it for %v", expiry, s.ttl)
	}
	err = s.change(ctx, op, key, expiry, func(attempts []string) []string {
		if !slices.Contains(attempts, attempt) {
			attempts = append(attempts, attempt)
		}
		n = len(attempts)
		return attempts
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// Count implements transport.CountStore.
func (s *CountStore) Count(ctx context.Context, key transport.CountKey) (int, error) {
	kv, err := s.open(ctx)
	if err != nil {
		return 0, s.fault("read count", err)
	}
	attempts, _, err := read(ctx, kv, countKeyOf(key))
	return len(attempts), s.fault("read count", err)
}

// Remove implements transport.CountStore.
func (s *CountStore) Remove(ctx context.Context, key transport.CountKey, attempt string) error {
	return s.change(ctx, "take attempt back", key, 0, func(attempts []string) []string {
		if !slices.Contains(attempts, attempt) {
			return nil
		}
		return slices.DeleteFunc(attempts, func(a string) bool { return a == attempt })
	})
}

// Forget implements transport.CountStore. The count is purged from the stream of
// the bucket, which leaves no marker.
func (s *CountStore) Forget(ctx context.Context, key transport.CountKey) error {
	const op = "forget count"
	stream, err := s.t.JetStream().Stream(ctx, "KV_"+s.bucket)
	if err != nil {
		return s.fault(op, err)
	}
	return s.fault(op, stream.Purge(ctx, natsjs.WithPurgeSubject("$KV."+s.bucket+"."+countKeyOf(key))))
}

// read returns the attempts under a key and the revision they have, 0 if there
// is none.
func read(ctx context.Context, kv natsjs.KeyValue, key string) (attempts []string, revision uint64, err error) {
	entry, err := kv.Get(ctx, key)
	if errors.Is(err, natsjs.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return strings.Fields(string(entry.Value())), entry.Revision(), nil
}

// change reads the attempts at a message, and writes what edit makes of them
// unless somebody else did so meanwhile; then it begins anew. Nothing is written
// when edit returns nil.
func (s *CountStore) change(ctx context.Context, op string, key transport.CountKey, expiry time.Duration, edit func([]string) []string) error {
	kv, err := s.open(ctx)
	if err != nil {
		return s.fault(op, err)
	}
	name := countKeyOf(key)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		attempts, revision, err := read(ctx, kv, name)
		if err != nil {
			return s.fault(op, err)
		}
		attempts = edit(attempts)
		if attempts == nil {
			return nil
		}
		err = s.write(ctx, kv, name, attempts, revision, expiry)
		if !errors.Is(err, natsjs.ErrKeyExists) && !isCode(err, natsjs.JSErrCodeStreamWrongLastSequence) {
			return s.fault(op, err)
		}
		select { // somebody else was faster, or a replica lags behind
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return s.fault(op, ctx.Err())
		}
	}
}

// write stores the attempts if the key still has this revision.
func (s *CountStore) write(ctx context.Context, kv natsjs.KeyValue, key string, attempts []string, revision uint64, expiry time.Duration) error {
	value := []byte(strings.Join(attempts, " "))
	var ttl time.Duration // none: the bucket's own
	if s.exact {
		ttl = expiry
		if ttl == 0 {
			ttl = remaining
		}
		ttl = max((ttl + time.Second - 1).Truncate(time.Second), time.Second) // the server counts seconds
	}
	switch {
	case revision == 0 && ttl > 0:
		_, err := kv.Create(ctx, key, value, natsjs.KeyTTL(ttl))
		return err
	case revision == 0:
		_, err := kv.Create(ctx, key, value)
		return err
	case ttl == 0:
		_, err := kv.Update(ctx, key, value, revision)
		return err
	}
	// The client library's Update takes no time to live.
	m := &nats.Msg{Subject: s.address(key), Data: value, Header: nats.Header{}}
	_, err := s.t.JetStream().PublishMsg(ctx, m, natsjs.WithExpectLastSequencePerSubject(revision), natsjs.WithMsgTTL(ttl))
	return err
}

// remaining is how long the attempts are kept that are left when one was taken
// back: what holdfast asks for at least.
const remaining = 24 * time.Hour

// address is the subject of a key, which a domain or another API prefix comes
// before.
func (s *CountStore) address(key string) string {
	subject := "$KV." + s.bucket + "." + key
	if s.t.api == natsjs.DefaultAPIPrefix {
		return subject
	}
	return s.t.api + subject
}

// fault is an error of the client as one of the seam. Whether a call that failed
// was carried out is unknown: each may be made again.
func (s *CountStore) fault(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, natsjs.ErrBucketNotFound) || errors.Is(err, natsjs.ErrStreamNotFound) {
		return &transport.Error{
			Op: op, Address: s.bucket, Kind: transport.Temporary, Err: fmt.Errorf("%w: %w", transport.ErrNotFound, err),
			Hint: "the bucket was deleted: start the program anew to make it",
		}
	}
	return seamError(op, s.bucket, err, true)
}
