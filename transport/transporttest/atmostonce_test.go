package transporttest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

// atMostOnce makes the broker one that stores nothing and redelivers nothing,
// as core NATS is, and that says so.
func atMostOnce(w *wrapped) {
	w.caps = transport.Capabilities{Name: "at most once", Requests: true}
	w.lease = 0
	w.onStore = func(transport.DeadLetterStore) transport.DeadLetterStore { return nil }
	w.onWant = func(want *transport.Want) { want.Concurrency = 1000 }
	onPipelines(func(p *pipe) {
		p.tell = func(tag uint64, err error) {
			if errors.Is(err, transport.ErrUnroutable) {
				err = nil
			}
			p.report(tag, err)
		}
		p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
			if err := prescribed(m); err != nil {
				return err
			}
			return p.Pipeline.Send(to, m, tag)
		}
	})(w)
	w.onPublish = func(ctx context.Context, to transport.Address, m *transport.Message) error {
		if err := prescribed(m); err != nil {
			return err
		}
		c := *m
		if w.receivers.Load() == 0 {
			to = transport.Address{Name: to.Name + ".nobody", Key: to.Key} // still validated
		}
		if err := w.Broker.Publish(ctx, to, &c); !errors.Is(err, transport.ErrUnroutable) {
			return err
		}
		return nil
	}
	w.onCheck = denying(w)
	w.onDelivery = func(d transport.Delivery) transport.Delivery {
		return &single{d: d.(full)}
	}
}

// prescribed refuses what a broker without storage cannot do.
func prescribed(m *transport.Message) error {
	if m.NotBefore.IsZero() && m.TTL == 0 && m.Priority == 0 {
		return nil
	}
	return transport.Unsupported("publish", "", "use a broker that stores")
}

// denying finds everything that the capabilities deny.
func denying(w *wrapped) func(transport.Source, transport.Want, []transport.Finding) []transport.Finding {
	return func(_ transport.Source, want transport.Want, found []transport.Finding) []transport.Finding {
		deny := func(wanted, has bool, code transport.Code) {
			if wanted && !has {
				found = append(found, transport.Finding{
					Code: code, Level: transport.LevelError, Fact: "this broker cannot", Fix: "use another source",
				})
			}
		}
		deny(want.Redelivery || want.Delay, w.caps.Redelivers, transport.CodeNoRedelivery)
		deny(want.DeadLetter, w.caps.DeadLetters, transport.CodeNoDeadLetters)
		deny(want.Reject, w.caps.Rejects, transport.CodeNoReject)
		deny(want.Reply, w.caps.Requests, transport.CodeNoReply)
		return found
	}
}

// single is a delivery that is gone once it was handed out.
type single struct{ d full }

func (s *single) Message() *transport.Message   { return s.d.Message() }
func (s *single) Deliveries() int               { return 1 }
func (s *single) Ack(ctx context.Context) error { return s.d.Ack(ctx) }
func (s *single) WantsReply() bool              { return s.d.WantsReply() }

func (s *single) Nack(context.Context, time.Duration) error {
	return transport.Unsupported("nack", "", "use a source that redelivers")
}

func (s *single) Respond(ctx context.Context, m *transport.Message) error {
	return s.d.Respond(ctx, m)
}

// mute is atMostOnce without requests.
func mute(w *wrapped) {
	atMostOnce(w)
	w.caps.Requests = false
	w.onRequest = func(context.Context, transport.Address, *transport.Message) (*transport.Message, error) {
		return nil, transport.Unsupported("request", "", "use another broker")
	}
	w.onDelivery = func(d transport.Delivery) transport.Delivery {
		return struct{ transport.Delivery }{&single{d: d.(full)}}
	}
}

func TestSuiteAcceptsATransportThatDenies(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(*wrapped){"at most once": atMostOnce, "without requests": mute} {
		for _, p := range transporttest.Promises() {
			t.Run(name+"/"+p.Name, func(t *testing.T) {
				t.Parallel()
				if log := outcome(t, p.Name, wrap); len(log) > 0 {
					t.Errorf("a transport that keeps its word fails:\n%s", strings.Join(log, "\n"))
				}
			})
		}
	}
}

// TestDeniedAbilityMustBeDenied breaks the transport that denies: one that does
// in silence what it said it cannot do, or says nothing.
func TestDeniedAbilityMustBeDenied(t *testing.T) {
	t.Parallel()
	quiet := func(w *wrapped) {
		atMostOnce(w)
		w.onDelivery = func(d transport.Delivery) transport.Delivery {
			return &delivery{full: d.(full), nack: func(context.Context, time.Duration) error { return nil }}
		}
	}
	for _, b := range []breakage{
		{"NackWaitsThenRaisesDeliveries", "a nack that does nothing", quiet},
		{"NackReturnsOnlyToItsSubscription", "a nack that does nothing", quiet},
		{"ScheduledMessageIsKeptBackOrRefused", "it is sent at once", obeying},
		{"ExpiredMessageIsDroppedOrRefused", "it never expires", obeying},
		{"HigherPriorityGoesFirstOrIsRefused", "it waits for its turn", obeying},
		{"PublishWithoutRouteIsUnroutable", "unroutable where nothing is stored", func(w *wrapped) { atMostOnce(w); w.onPublish = nil }},
		{"PublishWaitsForAReceiverOrIsGone", "stored where nothing is stored", func(w *wrapped) { atMostOnce(w); w.onPublish = nil }},
		{"ImpossibleWantsAreFound", "nothing is found", func(w *wrapped) { atMostOnce(w); w.onCheck = nil }},
		{"RequestIsAnswered", "requests work although they are denied", func(w *wrapped) { mute(w); w.onRequest = nil }},
		{"BurialIsIdempotent", "burial works although it is denied", func(w *wrapped) { atMostOnce(w); w.onStore = nil }},
		{"LeaseIsExtended", "a lease where there is none", func(w *wrapped) { atMostOnce(w); w.leaseOff = time.Second }},
	} {
		t.Run(b.promise+"/"+b.what, func(t *testing.T) {
			t.Parallel()
			if log := outcome(t, b.promise, b.wrap); len(log) == 0 {
				t.Errorf("the promise holds for a transport that is broken")
			}
		})
	}
}

// obeying takes what it said it cannot do and does something else.
func obeying(w *wrapped) {
	atMostOnce(w)
	publish := w.onPublish
	w.onPublish = func(ctx context.Context, to transport.Address, m *transport.Message) error {
		c := *m
		c.NotBefore, c.TTL, c.Priority = time.Time{}, 0, 0
		return publish(ctx, to, &c)
	}
}

func TestIncompleteHarnessIsRefused(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(*transporttest.Harness){
		"Transport":       func(h *transporttest.Harness) { h.Transport = nil },
		"Source":          func(h *transporttest.Harness) { h.Source = nil },
		"RedeliverWithin": func(h *transporttest.Harness) { h.RedeliverWithin = h.Lease },
		"Lease":           func(h *transporttest.Harness) { h.Lease = time.Millisecond },
		"MaxSize":         func(h *transporttest.Harness) { h.MaxSize = 0 },
		"Restart":         func(h *transporttest.Harness) { h.Restart = nil },
		"Second":          func(h *transporttest.Harness) { h.Transport.(*wrapped).caps.Durable = true },
	} {
		h := harness(t, nil)
		spoil(&h)
		r := &recorder{TB: t}
		transporttest.Promises()[0].Check(r, h)
		if len(r.log) != 1 || !strings.Contains(r.log[0], "harness: "+what) {
			t.Errorf("without %s: %q", what, r.log)
		}
	}
}
