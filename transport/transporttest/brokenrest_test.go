package transporttest_test

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

// store is a dead-letter store with some of its methods replaced.
type store struct {
	transport.DeadLetterStore
	bury    func(context.Context, transport.DeadKey, *transport.Message) error
	letters func(context.Context, transport.LetterFilter) iter.Seq2[transport.StoredLetter, error]
	remove  func(context.Context, transport.DeadKey) error
	redrive func(context.Context, string, *transport.Message) error
	summary func(context.Context) ([]transport.LetterCount, error)
}

func (s *store) Bury(ctx context.Context, key transport.DeadKey, m *transport.Message) error {
	if s.bury != nil {
		return s.bury(ctx, key, m)
	}
	return s.DeadLetterStore.Bury(ctx, key, m)
}

func (s *store) Letters(ctx context.Context, f transport.LetterFilter) iter.Seq2[transport.StoredLetter, error] {
	if s.letters != nil {
		return s.letters(ctx, f)
	}
	return s.DeadLetterStore.Letters(ctx, f)
}

func (s *store) Remove(ctx context.Context, key transport.DeadKey) error {
	if s.remove != nil {
		return s.remove(ctx, key)
	}
	return s.DeadLetterStore.Remove(ctx, key)
}

func (s *store) Redrive(ctx context.Context, subscription string, m *transport.Message) error {
	if s.redrive != nil {
		return s.redrive(ctx, subscription, m)
	}
	return s.DeadLetterStore.Redrive(ctx, subscription, m)
}

func (s *store) Summary(ctx context.Context) ([]transport.LetterCount, error) {
	if s.summary != nil {
		return s.summary(ctx)
	}
	return s.DeadLetterStore.Summary(ctx)
}

// onStores breaks the dead-letter store in one way.
func onStores(change func(*store, *wrapped)) func(*wrapped) {
	return func(w *wrapped) {
		w.onStore = func(inner transport.DeadLetterStore) transport.DeadLetterStore {
			s := &store{DeadLetterStore: inner}
			change(s, w)
			return s
		}
	}
}

// redriving redrives a changed copy.
func redriving(change func(*transport.Message)) func(*wrapped) {
	return onStores(func(s *store, _ *wrapped) {
		s.redrive = func(ctx context.Context, subscription string, m *transport.Message) error {
			c := *m
			c.Header = m.Header.Clone()
			change(&c)
			return s.DeadLetterStore.Redrive(ctx, subscription, &c)
		}
	})
}

func brokenStores() []breakage {
	next := numbered()
	return []breakage{
		{"BurialIsIdempotent", "each burial is another letter", onStores(func(s *store, _ *wrapped) {
			s.bury = func(ctx context.Context, key transport.DeadKey, m *transport.Message) error {
				key.ID += "-" + next()
				return s.DeadLetterStore.Bury(ctx, key, m)
			}
		})},
		{"BurialIsIdempotent", "burial does nothing", onStores(func(s *store, _ *wrapped) {
			s.bury = func(context.Context, transport.DeadKey, *transport.Message) error { return nil }
		})},
		{"LettersAreReadWithoutWear", "a look removes", onStores(wearing)},
		{"LettersAreReadWithoutWear", "the body is changed", onStores(func(s *store, _ *wrapped) {
			s.bury = func(ctx context.Context, key transport.DeadKey, m *transport.Message) error {
				c := *m
				c.Body = append([]byte("envelope:"), m.Body...)
				return s.DeadLetterStore.Bury(ctx, key, &c)
			}
		})},
		{"LettersAreReadWithoutWear", "headers of the envelope are lost", onStores(func(s *store, _ *wrapped) {
			s.bury = func(ctx context.Context, key transport.DeadKey, m *transport.Message) error {
				c := *m
				c.Header = m.Header.Clone()
				c.Header.Del(wire.Position)
				return s.DeadLetterStore.Bury(ctx, key, &c)
			}
		})},
		{"LettersAreFiltered", "by subscription only", onStores(func(s *store, _ *wrapped) {
			s.letters = func(ctx context.Context, f transport.LetterFilter) iter.Seq2[transport.StoredLetter, error] {
				return s.DeadLetterStore.Letters(ctx, transport.LetterFilter{Subscription: f.Subscription})
			}
		})},
		{"SummaryCounts", "groups and not letters", onStores(func(s *store, _ *wrapped) {
			s.summary = func(ctx context.Context) ([]transport.LetterCount, error) {
				counts, err := s.DeadLetterStore.Summary(ctx)
				for i := range counts {
					counts[i].Count = 1
				}
				return counts, err
			}
		})},
		{"RemoveDeletesOne", "it does nothing", onStores(func(s *store, _ *wrapped) {
			s.remove = func(context.Context, transport.DeadKey) error { return nil }
		})},
		{"RemoveDeletesOne", "what is not there is no error", onStores(func(s *store, _ *wrapped) {
			s.remove = func(ctx context.Context, key transport.DeadKey) error {
				_ = s.DeadLetterStore.Remove(ctx, key)
				return nil
			}
		})},
		{"RedriveReachesOnlyItsSubscription", "it reaches all", onStores(func(s *store, w *wrapped) {
			s.redrive = func(ctx context.Context, _ string, m *transport.Message) error {
				return w.Broker.Publish(ctx, transport.Address{Name: m.Header.Get(wire.Subject)}, m)
			}
		})},
		{"RedriveReachesOnlyItsSubscription", "the ID suppresses it", redriving(func(m *transport.Message) { m.DedupID = m.ID })},
		{"RedriveReachesOnlyItsSubscription", "the subject is lost", redriving(func(m *transport.Message) { m.Header.Del(wire.Subject) })},
		{"RepeatedRedriveArrivesOnce", "it arrives twice", redriving(func(m *transport.Message) { m.DedupID = next() })},
		{"RedriveToNobodyIsRefusedOrKept", "it is confirmed and lost", onStores(func(s *store, _ *wrapped) {
			s.redrive = func(ctx context.Context, subscription string, m *transport.Message) error {
				_ = s.DeadLetterStore.Redrive(ctx, subscription, m)
				return nil
			}
		})},
	}
}

// wearing removes the letters that were looked at.
func wearing(s *store, _ *wrapped) {
	s.letters = func(ctx context.Context, f transport.LetterFilter) iter.Seq2[transport.StoredLetter, error] {
		return func(yield func(transport.StoredLetter, error) bool) {
			for l, err := range s.DeadLetterStore.Letters(ctx, f) {
				_ = s.DeadLetterStore.Remove(ctx, l.Key)
				if !yield(l, err) {
					return
				}
			}
		}
	}
}

func brokenRest() []breakage {
	return []breakage{
		{"RequestIsAnswered", "the answer loses its headers", onDeliveries(func(d *delivery) {
			d.respond = func(ctx context.Context, m *transport.Message) error {
				c := *m
				c.Header = nil
				return d.full.Respond(ctx, &c)
			}
		})},
		{"RequestIsAnswered", "the answer is never sent", onDeliveries(func(d *delivery) {
			d.respond = func(context.Context, *transport.Message) error { return nil }
		})},
		{"RequestIsAnswered", "requests look like any message", onDeliveries(func(d *delivery) { d.wants = func() bool { return false } })},
		{"PublishedMessageWantsNoReply", "every message looks like a request", onDeliveries(func(d *delivery) { d.wants = func() bool { return true } })},
		{"RequestWithoutListenerIsUnroutable", "it waits", func(w *wrapped) {
			w.onRequest = func(ctx context.Context, to transport.Address, m *transport.Message) (*transport.Message, error) {
				answer, err := w.Broker.Request(ctx, to, m)
				if errors.Is(err, transport.ErrUnroutable) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return answer, err
			}
		}},
		{"RequestHonoursContext", "it is ignored", func(w *wrapped) {
			w.onRequest = func(ctx context.Context, to transport.Address, m *transport.Message) (*transport.Message, error) {
				return w.Broker.Request(context.WithoutCancel(ctx), to, m)
			}
		}},
		{"ProvisionIsIdempotent", "it makes it each time", func(w *wrapped) {
			w.onProvision = func(r *transport.Report) { r.Created = []string{"queue"} }
		}},
		{"CheckChangesNothing", "it provisions", func(w *wrapped) {
			w.onCheck = func(src transport.Source, want transport.Want, found []transport.Finding) []transport.Finding {
				_, _ = w.Broker.Provision(context.Background(), src, want) // a test has no better one here
				return found
			}
		}},
		{"ImpossibleWantsAreFound", "a denied ability is not", func(w *wrapped) { w.caps.Rejects = false }},
		{"ImpossibleWantsAreFound", "an offered ability is refused", func(w *wrapped) {
			w.onCheck = func(_ transport.Source, want transport.Want, found []transport.Finding) []transport.Finding {
				if want.Delay {
					found = append(found, transport.Finding{Code: "HF0000", Level: transport.LevelError, Fact: "no", Fix: "none"})
				}
				return found
			}
		}},
		{"ForeignSourceIsRefused", "it is accepted", func(w *wrapped) { w.lenient = true }},
		{"CapabilitiesMatchInterfaces", "an interface is missing", func(w *wrapped) {
			w.onDelivery = func(d transport.Delivery) transport.Delivery { return struct{ transport.Delivery }{d} }
		}},
		{"CapabilitiesMatchInterfaces", "a denied store works", func(w *wrapped) { w.caps.DeadLetters = false }},
		{"CapabilitiesMatchInterfaces", "there is no store", func(w *wrapped) {
			w.onStore = func(transport.DeadLetterStore) transport.DeadLetterStore { return nil }
		}},
		{"CapabilitiesMatchInterfaces", "the lease is another", func(w *wrapped) { w.leaseOff = time.Second }},
		{"SurvivesRestart", "the receiver does not", func(w *wrapped) {
			w.onRestart = func() { w.Fail(memory.OpReceive, errors.New("gone"), 1) }
		}},
		{"SurvivesRestart", "the connection does not", func(w *wrapped) {
			w.onRestart = func() { w.Disconnect(nil) }
		}},
		{"NothingConfirmedIsLostInARestart", "what is published meanwhile is confirmed and lost", losing},
		{"NothingConfirmedIsLostInARestart", "it cannot be published again", func(w *wrapped) {
			w.onRestart = func() { w.Disconnect(nil) }
		}},
		{"RestartIsObserved", "nothing is told", func(w *wrapped) { w.onRestart = func() {} }},
		{"RestartIsObserved", "the end is not told", func(w *wrapped) { w.onRestart = func() { w.Disconnect(nil) } }},
		{"PrefixLeavesTheSourceAlone", "the prefix is dropped", func(w *wrapped) { w.noPrefix = true }},
		{"StoredMessagesSurviveTheirReader", "they are gone", unheard},
		{"CloseLeavesNoGoroutine", "it leaves one", func(w *wrapped) {
			w.onReceiver = func(rx transport.Receiver) transport.Receiver {
				go func() { <-w.ended }()
				return rx
			}
		}},
		{"CloseLeavesNoGoroutine", "it leaves a slow one", func(w *wrapped) {
			w.onReceiver = func(rx transport.Receiver) transport.Receiver {
				go func() {
					select {
					case <-w.ended:
					case <-time.After(time.Hour):
					}
				}()
				return rx
			}
		}},
	}
}

// losing confirms what is published during a restart without storing it.
func losing(w *wrapped) {
	var down atomic.Bool
	w.onRestart = func() {
		down.Store(true)
		<-time.After(time.Second)
		down.Store(false)
	}
	w.onPublish = func(ctx context.Context, to transport.Address, m *transport.Message) error {
		if down.Load() {
			return nil
		}
		return w.Broker.Publish(ctx, to, m)
	}
}
