package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// deadStore implements transport.DeadLetterStore on one queue for each work
// queue, <queue>.dead. AMQP cannot list queues: the store knows those of the
// subscriptions that were provisioned, opened or given to DeadLettersOf, and
// takes any other subscription's name for the name of its queue.
type deadStore struct {
	t     *Transport
	turns turns

	mu     sync.Mutex        // guards queues
	queues map[string]string // the work queue of each subscription
}

var (
	_ transport.PreparedStore = (*deadStore)(nil)
	_ transport.LetterSweeper = (*deadStore)(nil)
)

func newDeadStore(t *Transport) *deadStore {
	return &deadStore{t: t, turns: newTurns(), queues: map[string]string{}}
}

// DeadLetters implements transport.DeadLetterer: the store of the subscriptions
// that this transport has provisioned or opened.
//
// A queue has no index: to list, to count and to remove reads its letters and
// puts them back where they were. That does not wear them out, for the queue has no
// delivery limit; a small part of them lies in memory at a time. Meanwhile others
// see an empty queue and wait. To change many, sweep: package deadletter does. The
// broker does not suppress duplicates: a letter that was buried twice is listed
// once, and removed with its duplicates.
func (t *Transport) DeadLetters() transport.DeadLetterStore { return t.dead }

// DeadLettersOf returns the store of the given subscriptions, each with the name
// of its queue, for tools that open none of them.
func (t *Transport) DeadLettersOf(queues map[string]string) transport.DeadLetterStore {
	s := newDeadStore(t)
	s.queues = maps.Clone(queues)
	if s.queues == nil {
		s.queues = map[string]string{}
	}
	return s
}

// register notes the queue of a subscription.
func (s *deadStore) register(subscription, queue string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queues[subscription] = queue
}

// queueOf returns the work queue of a subscription.
func (s *deadStore) queueOf(subscription string) (queue string, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q, ok := s.queues[subscription]; ok {
		return q, true
	}
	return subscription, false
}

// work returns the work queues that may hold letters of f, each with the
// subscription that the broker's own dead letters of it are filed under.
func (s *deadStore) work(f transport.LetterFilter) map[string]string {
	if f.Subscription != "" {
		queue, _ := s.queueOf(f.Subscription)
		return map[string]string{queue: f.Subscription}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	queues := map[string]string{}
	for _, subscription := range slices.Sorted(maps.Keys(s.queues)) {
		if _, ok := queues[s.queues[subscription]]; !ok {
			queues[s.queues[subscription]] = subscription
		}
	}
	return queues
}

// validToken tells whether a part of a dead letter's key is one.
func validToken(s string) bool {
	if s == "" || len(s) > 200 {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) < 0
}

func checkKey(op string, parts ...string) error {
	for _, part := range parts {
		if !validToken(part) {
			return transport.Invalid(op, part, "a part of a dead letter's key is made of letters, digits, '-' and '_'")
		}
	}
	return nil
}

// Bury implements transport.DeadLetterStore.
func (s *deadStore) Bury(ctx context.Context, key transport.DeadKey, m *transport.Message) error {
	if err := checkKey("bury", key.Subscription, key.Fingerprint, key.ID); err != nil {
		return err
	}
	queue, known := s.queueOf(key.Subscription)
	if !known {
		if err := s.adopt(ctx, key.Subscription); err != nil {
			return err
		}
	}
	letter := *m
	letter.Header = m.Header.Clone()
	letter.Header.Set(wire.DeadKey, key.Subscription+"."+key.Fingerprint+"."+key.ID)
	letter.Header.Set(wire.Buried, strconv.FormatInt(time.Now().UnixNano(), 10))
	err := s.t.publish(ctx, "bury", QueueAddress(deadName(queue)), &letter, true)
	if e, ok := errors.AsType[*transport.Error](err); ok && errors.Is(err, transport.ErrUnroutable) {
		e.Hint = "the queue " + deadName(queue) + " is missing: Provision makes it for a subscription with dead letters"
	}
	return err
}

// adopt makes the dead-letter queue of a subscription that was never provisioned.
func (s *deadStore) adopt(ctx context.Context, subscription string) error {
	err := s.t.admin(ctx, "bury", deadName(subscription), func(a *admin) error {
		return a.declare(deadQueue(subscription, a.s.version))
	})
	if err == nil {
		s.register(subscription, subscription)
	}
	return err
}

func (l letter) matches(f transport.LetterFilter) bool {
	return (f.Subscription == "" || f.Subscription == l.Key.Subscription) &&
		(f.Fingerprint == "" || f.Fingerprint == l.Key.Fingerprint) && (f.ID == "" || f.ID == l.Key.ID)
}

// Remove implements transport.DeadLetterStore.
func (s *deadStore) Remove(ctx context.Context, key transport.DeadKey) error {
	if err := checkKey("remove dead letter", key.Subscription, key.Fingerprint, key.ID); err != nil {
		return err
	}
	queue, _ := s.queueOf(key.Subscription)
	removed := 0
	err := s.each(ctx, "remove dead letter", queue, key.Subscription, func(l letter) (bool, error) {
		if l.Key == key {
			removed++ // with its duplicates
		}
		return l.Key == key, nil
	})
	if err == nil && removed == 0 {
		err = &transport.Error{
			Op: "remove dead letter", Address: deadName(queue) + " " + key.ID, Kind: transport.Permanent, Err: transport.ErrNotFound,
		}
	}
	return err
}

// Redrive implements transport.DeadLetterStore: the message goes to the queue of
// the subscription, through the default exchange, and to no other.
func (s *deadStore) Redrive(ctx context.Context, subscription string, m *transport.Message) error {
	if err := checkKey("redrive", subscription); err != nil {
		return err
	}
	queue, _ := s.queueOf(subscription)
	again := *m
	again.Header = m.Header.Clone()
	if again.Header[Timestamp] == nil && again.Header[wire.Time] != nil {
		again.Header[Timestamp] = again.Header[wire.Time]
	}
	if strings.HasPrefix(again.Header.Get(ReplyTo), replyQueue) {
		again.Header.Del(ReplyTo) // whoever asked has long gone
	}
	err := s.t.publish(ctx, "redrive", QueueAddress(queue), &again, true)
	if e, ok := errors.AsType[*transport.Error](err); ok && errors.Is(err, transport.ErrUnroutable) {
		e.Hint = fmt.Sprintf("the queue %s of the subscription does not exist", queue)
	}
	return err
}

// Summary implements transport.DeadLetterStore. A queue cannot count by group:
// its letters are read.
func (s *deadStore) Summary(ctx context.Context) ([]transport.LetterCount, error) {
	counts := map[transport.LetterCount]int{}
	for l, err := range s.Letters(ctx, transport.LetterFilter{}) {
		if err != nil {
			return nil, err
		}
		counts[transport.LetterCount{Subscription: l.Key.Subscription, Fingerprint: l.Key.Fingerprint}]++
	}
	out := make([]transport.LetterCount, 0, len(counts))
	for c, n := range counts {
		c.Count = n
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b transport.LetterCount) int {
		return strings.Compare(a.Subscription+"."+a.Fingerprint, b.Subscription+"."+b.Fingerprint)
	})
	return out, nil
}
