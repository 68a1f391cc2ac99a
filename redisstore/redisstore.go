// Package redisstore counts attempts at messages in Redis, for
// holdfast.CountIn:
//
//	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
//	holdfast.Handle(app, orders, charge, holdfast.CountIn(redisstore.New(rdb)))
//
// It works with Redis from version 5 on, with what speaks its protocol, with
// sentinels and with clusters: the attempts at one message are one set, changed
// by one transaction.
//
// A store that loses what it was told gives messages their attempts again. So
// let Redis write to disk (appendonly yes), and do not let it evict these keys
// (maxmemory-policy noeviction, or volatile-ttl with enough memory): they expire
// by themselves.
package redisstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/holdfast-go/holdfast/transport"
)

// DefaultPrefix starts the names of keys.
const DefaultPrefix = "holdfast:attempts:"

// longestID is the longest message ID that is part of a key as it is.
const longestID = 200

// Store counts attempts in Redis. It is safe for concurrent use, by many
// processes too. The client stays the caller's: Store does not close it.
type Store struct {
	client redis.UniversalClient
	prefix string
}

var _ transport.CountStore = (*Store)(nil)

// Option changes where a Store keeps its counts.
type Option func(*Store)

// WithPrefix sets what the names of keys start with. Default: DefaultPrefix.
func WithPrefix(prefix string) Option { return func(s *Store) { s.prefix = prefix } }

// New returns a store on the client's server. It does no I/O. Give the client
// timeouts that suit a handler that waits for it: each call is bounded by its
// context as well, by five seconds at most when holdfast calls.
func New(client redis.UniversalClient, opts ...Option) *Store {
	s := &Store{client: client, prefix: DefaultPrefix}
	for _, o := range opts {
		o(s)
	}
	return s
}

// key is the name of the set with the attempts of one message.
func (s *Store) key(key transport.CountKey) string {
	id := key.Message
	if len(id) > longestID {
		sum := sha256.Sum256([]byte(id))
		id = "sha256-" + hex.EncodeToString(sum[:])
	}
	return s.prefix + key.Subscription + ":" + id
}

// Add implements transport.CountStore: SADD, PEXPIRE and SCARD in one
// transaction.
func (s *Store) Add(ctx context.Context, key transport.CountKey, attempt string, expiry time.Duration) (int, error) {
	if expiry < time.Millisecond {
		return 0, transport.Invalid("count attempt", s.key(key), "expiry %v is shorter than a millisecond", expiry)
	}
	var count *redis.IntCmd
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.SAdd(ctx, s.key(key), attempt)
		p.PExpire(ctx, s.key(key), expiry)
		count = p.SCard(ctx, s.key(key))
		return nil
	})
	if err != nil {
		return 0, s.fault("count attempt", key, err)
	}
	return int(count.Val()), nil
}

// Count implements transport.CountStore.
func (s *Store) Count(ctx context.Context, key transport.CountKey) (int, error) {
	n, err := s.client.SCard(ctx, s.key(key)).Result()
	return int(n), s.fault("read count", key, err)
}

// Remove implements transport.CountStore.
func (s *Store) Remove(ctx context.Context, key transport.CountKey, attempt string) error {
	return s.fault("take attempt back", key, s.client.SRem(ctx, s.key(key), attempt).Err())
}

// Forget implements transport.CountStore.
func (s *Store) Forget(ctx context.Context, key transport.CountKey) error {
	return s.fault("forget count", key, s.client.Del(ctx, s.key(key)).Err())
}

// fault is an error of the client as one of the seam. Nobody knows whether a
// call that failed was carried out: each may be made again.
func (s *Store) fault(op string, key transport.CountKey, err error) error {
	if err == nil {
		return nil
	}
	e := &transport.Error{Op: op, Address: s.key(key), Kind: transport.Unknown, Err: fmt.Errorf("redis: %w", err)}
	switch {
	case errors.Is(err, redis.ErrClosed):
		e.Kind, e.Hint = transport.Permanent, "the client was closed: close it after the app has ended"
	case hasPrefix(err, "NOAUTH", "WRONGPASS", "NOPERM"):
		e.Kind, e.Err = transport.Permanent, fmt.Errorf("%w: %w", transport.ErrPermission, e.Err)
		e.Hint = "grant the user SADD, SREM, SCARD, PEXPIRE, DEL, MULTI and EXEC on keys " + s.prefix + "*"
	case hasPrefix(err, "WRONGTYPE"):
		e.Kind, e.Hint = transport.Permanent, "somebody else uses this key: give the store another prefix"
	case hasPrefix(err, "OOM", "MISCONF", "READONLY", "LOADING"):
		e.Kind, e.Hint = transport.Temporary, "the server takes no writes now"
	}
	return e
}

// hasPrefix tells whether the server's answer starts with one of these words.
func hasPrefix(err error, words ...string) bool {
	for _, word := range words {
		if strings.HasPrefix(err.Error(), word) {
			return true
		}
	}
	return false
}
