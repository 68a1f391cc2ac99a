package memory

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// letters are the dead letters of a broker, oldest first. Broker.mu guards
// them.
type letters struct {
	byID map[letterID]*letter
	list []*letter
}

// letterID identifies a dead letter: the same failure has the same ID, however
// it was grouped.
type letterID struct{ subscription, id string }

type letter struct {
	key transport.DeadKey
	msg *transport.Message // never handed out itself
}

// store is the dead-letter side of a broker.
type store struct{ b *Broker }

// DeadLetters implements transport.DeadLetterer. It may be used after the
// broker was closed only to be told so.
func (b *Broker) DeadLetters() transport.DeadLetterStore { return store{b} }

// Bury implements transport.DeadLetterStore. A dead letter has no size limit.
func (s store) Bury(ctx context.Context, key transport.DeadKey, m *transport.Message) error {
	if err := validKey(key, m); err != nil {
		return err
	}
	lost, err := s.b.begin(ctx, OpBury, address(key))
	if err != nil {
		return err
	}
	defer s.b.mu.Unlock()
	l := &s.b.letters
	id := letterID{key.Subscription, key.ID}
	if l.byID[id] != nil {
		return lost
	}
	c := s.b.stamp(m, wire.OriginOf(m).Subject)
	l.byID[id] = &letter{key, c}
	l.list = append(l.list, l.byID[id])
	return lost
}

// Letters implements transport.DeadLetterStore. It shows those that are there
// when it starts.
func (s store) Letters(ctx context.Context, f transport.LetterFilter) iter.Seq2[transport.StoredLetter, error] {
	return func(yield func(transport.StoredLetter, error) bool) {
		found, err := s.find(ctx, f)
		if err != nil {
			yield(transport.StoredLetter{}, err)
			return
		}
		for _, l := range found {
			if err := ctx.Err(); err != nil {
				yield(transport.StoredLetter{}, &transport.Error{Op: string(OpLetters), Kind: transport.Temporary, Err: err})
				return
			}
			if !yield(transport.StoredLetter{Key: l.key, Message: clone(l.msg)}, nil) {
				return
			}
		}
	}
}

func (s store) find(ctx context.Context, f transport.LetterFilter) ([]*letter, error) {
	lost, err := s.b.begin(ctx, OpLetters, f.Subscription)
	if err != nil {
		return nil, err
	}
	defer s.b.mu.Unlock()
	var found []*letter
	for _, l := range s.b.letters.list {
		if selects(f, l.key) {
			found = append(found, l)
		}
	}
	return found, lost
}

func selects(f transport.LetterFilter, key transport.DeadKey) bool {
	return (f.Subscription == "" || f.Subscription == key.Subscription) &&
		(f.Fingerprint == "" || f.Fingerprint == key.Fingerprint) &&
		(f.ID == "" || f.ID == key.ID)
}

// Remove implements transport.DeadLetterStore.
func (s store) Remove(ctx context.Context, key transport.DeadKey) error {
	lost, err := s.b.begin(ctx, OpRemove, address(key))
	if err != nil {
		return err
	}
	defer s.b.mu.Unlock()
	l := &s.b.letters
	i := slices.IndexFunc(l.list, func(l *letter) bool { return l.key == key })
	if i < 0 {
		return &transport.Error{Op: string(OpRemove), Address: address(key), Kind: transport.Permanent, Err: transport.ErrNotFound}
	}
	delete(l.byID, letterID{key.Subscription, key.ID})
	l.list = slices.Delete(l.list, i, i+1)
	return lost
}

// Redrive implements transport.DeadLetterStore: the message is stored in the
// queue of the subscription and in no other. The queue is the one with which
// the subscription was provisioned or opened last.
func (s store) Redrive(ctx context.Context, subscription string, m *transport.Message) error {
	if err := s.b.valid(OpRedrive, subscription, m); err != nil {
		return err
	}
	lost, err := s.b.begin(ctx, OpRedrive, subscription)
	if err != nil {
		return err
	}
	defer s.b.mu.Unlock()
	q := s.b.subs[subscription]
	if q == nil {
		return &transport.Error{
			Op: string(OpRedrive), Address: subscription, Kind: transport.Permanent, Err: transport.ErrNotFound,
			Hint: "no subscription of this name has been provisioned here",
		}
	}
	if q.duplicate(dedupKey(m), time.Now()) {
		return lost
	}
	c := s.b.stamp(m, wire.OriginOf(m).Subject)
	q.store(m, c, s.b.seq, nil)
	return lost
}

// Summary implements transport.DeadLetterStore, ordered by subscription and
// fingerprint.
func (s store) Summary(ctx context.Context) ([]transport.LetterCount, error) {
	lost, err := s.b.begin(ctx, OpSummary, "")
	if err != nil {
		return nil, err
	}
	defer s.b.mu.Unlock()
	counts := map[[2]string]int{}
	for _, l := range s.b.letters.list {
		counts[[2]string{l.key.Subscription, l.key.Fingerprint}]++
	}
	out := make([]transport.LetterCount, 0, len(counts))
	for group, n := range counts {
		out = append(out, transport.LetterCount{Subscription: group[0], Fingerprint: group[1], Count: n})
	}
	slices.SortFunc(out, func(a, b transport.LetterCount) int {
		if c := strings.Compare(a.Subscription, b.Subscription); c != 0 {
			return c
		}
		return strings.Compare(a.Fingerprint, b.Fingerprint)
	})
	return out, lost
}

func address(key transport.DeadKey) string {
	return key.Subscription + "." + key.Fingerprint + "." + key.ID
}

// validKey refuses what can never be buried.
func validKey(key transport.DeadKey, m *transport.Message) error {
	if m == nil {
		return transport.Invalid(string(OpBury), address(key), "there is no message")
	}
	for _, part := range []string{key.Subscription, key.Fingerprint, key.ID} {
		if !validKeyPart(part) {
			return transport.Invalid(string(OpBury), address(key), "%q is not made of letters, digits, - and _", part)
		}
	}
	return nil
}

func validKeyPart(part string) bool {
	return validName(part) && !strings.ContainsAny(part, ".:/")
}
