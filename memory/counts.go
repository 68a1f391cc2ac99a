package memory

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// CountStore counts attempts in memory; see holdfast.CountIn. It is for tests:
// what it counts ends with the process, so that it bounds nothing that ends the
// process. It is safe for concurrent use.
type CountStore struct {
	mu     sync.Mutex // guards what follows
	counts map[transport.CountKey]*counted
	down   error
}

// counted are the attempts at one message.
type counted struct {
	attempts map[string]struct{}
	until    time.Time
}

var _ transport.CountStore = (*CountStore)(nil)

// NewCountStore returns a store that counts nothing yet.
func NewCountStore() *CountStore {
	return &CountStore{counts: map[transport.CountKey]*counted{}}
}

// Break makes every call fail with err, as a store that is out of reach does,
// until it is called with nil.
func (s *CountStore) Break(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
}

// Len is how many messages have attempts that are not forgotten.
func (s *CountStore) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for key := range s.counts {
		if s.live(key) != nil {
			n++
		}
	}
	return n
}

// Add implements transport.CountStore.
func (s *CountStore) Add(ctx context.Context, key transport.CountKey, attempt string, expiry time.Duration) (n int, err error) {
	err = s.do(ctx, "count attempt", key, func() {
		c := s.live(key)
		if c == nil {
			c = &counted{attempts: map[string]struct{}{}}
			s.counts[key] = c
		}
		c.attempts[attempt] = struct{}{}
		c.until = time.Now().Add(expiry)
		n = len(c.attempts)
	})
	return n, err
}

// Count implements transport.CountStore.
func (s *CountStore) Count(ctx context.Context, key transport.CountKey) (n int, err error) {
	err = s.do(ctx, "read count", key, func() {
		if c := s.live(key); c != nil {
			n = len(c.attempts)
		}
	})
	return n, err
}

// Remove implements transport.CountStore.
func (s *CountStore) Remove(ctx context.Context, key transport.CountKey, attempt string) error {
	return s.do(ctx, "take attempt back", key, func() {
		if c := s.live(key); c != nil {
			delete(c.attempts, attempt)
			if len(c.attempts) == 0 {
				delete(s.counts, key)
			}
		}
	})
}

// Forget implements transport.CountStore.
func (s *CountStore) Forget(ctx context.Context, key transport.CountKey) error {
	return s.do(ctx, "forget count", key, func() { delete(s.counts, key) })
}

// live returns what is counted under key, and drops it when its time is over.
func (s *CountStore) live(key transport.CountKey) *counted {
	c := s.counts[key]
	if c != nil && !c.until.After(time.Now()) {
		delete(s.counts, key)
		return nil
	}
	return c
}

// do runs one operation, unless the store is out of reach.
func (s *CountStore) do(ctx context.Context, op string, key transport.CountKey, do func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := ctx.Err()
	if err == nil {
		err = s.down
	}
	if err != nil {
		return &transport.Error{Op: op, Address: key.Subscription + " " + key.Message, Kind: transport.Temporary, Err: err}
	}
	do()
	return nil
}
