package deadletter_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

var day = time.Date(2026, 2, 3, 0, 0, 0, 0, time.UTC)

// world is a broker with a subscription named billing and another beside it.
type world struct {
	*memory.Broker
	t      *testing.T
	dead   *deadletter.Store
	events []deadletter.Event
	rx     transport.Receiver
}

func newWorld(t *testing.T, opts ...deadletter.Option) *world {
	t.Helper()
	w := &world{Broker: memory.New(), t: t}
	t.Cleanup(func() { _ = w.Close(context.Background()) })
	for _, sub := range []string{"billing", "shipping"} {
		src := w.Queue(memory.QueueConfig{Name: sub, Subjects: []string{"orders.>"}})
		want := transport.Want{Subscription: sub, Concurrency: 100}
		_, err := w.Provision(t.Context(), src, want)
		check.NoError(t, err)
		if sub == "billing" {
			w.rx, err = w.Open(t.Context(), src, want)
			check.NoError(t, err)
		}
	}
	opts = append(opts, deadletter.WithAudit(func(_ context.Context, e deadletter.Event) { w.events = append(w.events, e) }))
	w.dead = deadletter.Open(w.DeadLetters(), opts...)
	return w
}

// letter is a message that failed, hour hours after the day began.
type letter struct {
	id, sub, err, reason string
	hour                 int
}

// bury buries a letter and returns its dead ID.
func (w *world) bury(l letter) string {
	w.t.Helper()
	if l.sub == "" {
		l.sub = "billing"
	}
	if l.reason == "" {
		l.reason = "attempts-exhausted"
	}
	orig := &transport.Message{
		ID: l.id, Subject: "orders.placed", Key: "k", ContentType: "application/json", Position: "P/" + l.id, Time: day,
		Header: transport.Header{"Tenant": {"a", "b"}, "Nats-Rollup": {"all"}}, Body: []byte(`{"id":"` + l.id + `"}`),
	}
	e := wire.Complete(orig, wire.Envelope{
		Subscription: l.sub, Reason: l.reason, Class: "transient", ErrorText: l.err, ErrorType: "*errors.errorString",
		Attempts: 3, Deliveries: 3, Failed: day.Add(time.Duration(l.hour) * time.Hour),
	})
	check.NoError(w.t, w.DeadLetters().Bury(w.t.Context(), e.DeadKey(), wire.BuryMessage(orig, e)))
	return e.DeadID
}

// received is the messages that reach billing now, acked.
func (w *world) received() []*transport.Message {
	w.t.Helper()
	var got []*transport.Message
	for w.Len("billing") > 0 {
		d, err := w.rx.Receive(w.t.Context())
		check.NoError(w.t, err)
		got = append(got, d.Message())
		check.NoError(w.t, d.Ack(w.t.Context()))
	}
	return got
}

func (w *world) list(q deadletter.Query) []string {
	w.t.Helper()
	letters, err := w.dead.ListAll(w.t.Context(), q)
	check.NoError(w.t, err)
	return messageIDs(letters)
}

func messageIDs(letters []deadletter.Letter) []string {
	ids := []string{}
	for _, l := range letters {
		ids = append(ids, l.MessageID)
	}
	return ids
}

// shelf is a store that holds whatever a test puts on it, in the way of one
// that was filled by strangers.
type shelf struct {
	stored   []transport.StoredLetter
	redriven []*transport.Message
	redrive  func(n int) error // n counts the calls from 1
	remove   func(key transport.DeadKey) error
	calls    int
}

func (s *shelf) Bury(context.Context, transport.DeadKey, *transport.Message) error {
	return errors.New("not in this test")
}

func (s *shelf) Letters(_ context.Context, f transport.LetterFilter) iter.Seq2[transport.StoredLetter, error] {
	return func(yield func(transport.StoredLetter, error) bool) {
		for _, l := range slices.Clone(s.stored) {
			if f.Subscription != "" && f.Subscription != l.Key.Subscription ||
				f.Fingerprint != "" && f.Fingerprint != l.Key.Fingerprint || f.ID != "" && f.ID != l.Key.ID {
				continue
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

func (s *shelf) Remove(_ context.Context, key transport.DeadKey) error {
	if s.remove != nil {
		if err := s.remove(key); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(s.stored, func(l transport.StoredLetter) bool { return l.Key == key })
	if i < 0 {
		return transport.ErrNotFound
	}
	s.stored = slices.Delete(s.stored, i, i+1)
	return nil
}

func (s *shelf) Redrive(_ context.Context, _ string, m *transport.Message) error {
	s.calls++
	if s.redrive != nil {
		if err := s.redrive(s.calls); err != nil {
			return err
		}
	}
	s.redriven = append(s.redriven, m)
	return nil
}

func (s *shelf) Summary(context.Context) ([]transport.LetterCount, error) { return nil, nil }

// put files a message under sub, fingerprint and id.
func (s *shelf) put(key string, m *transport.Message) {
	parts := strings.Split(key, "/")
	s.stored = append(s.stored, transport.StoredLetter{
		Key: transport.DeadKey{Subscription: parts[0], Fingerprint: parts[1], ID: parts[2]}, Message: m,
	})
}
