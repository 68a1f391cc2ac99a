package transporttest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

// breakage is one way to break a transport and the promise that notices.
type breakage struct {
	promise string
	what    string
	wrap    func(*wrapped)
}

func TestBrokenTransportIsFound(t *testing.T) {
	t.Parallel()
	for _, b := range breakages() {
		t.Run(b.promise+"/"+b.what, func(t *testing.T) {
			t.Parallel()
			if log := outcome(t, b.promise, b.wrap); len(log) == 0 {
				t.Errorf("the promise holds for a transport that is broken")
			} else {
				t.Logf("found: %s", strings.Join(log, "\n"))
			}
		})
	}
}

func TestEveryPromiseCanBeBroken(t *testing.T) {
	t.Parallel()
	broken := map[string]bool{}
	for _, b := range breakages() {
		broken[b.promise] = true
	}
	for _, p := range transporttest.Promises() {
		if !broken[p.Name] {
			t.Errorf("no broken transport shows that %s can fail", p.Name)
		}
	}
}

func breakages() []breakage {
	return slices.Concat(brokenPublishing(), brokenPrescribing(), brokenPipelining(), brokenSettling(), brokenReturning(), brokenReceiving(), brokenStores(), brokenRest())
}

// swallow publishes and does not tell of one kind of error.
func swallow(target error) func(*wrapped) {
	return func(w *wrapped) {
		w.onPublish = func(ctx context.Context, to transport.Address, m *transport.Message) error {
			if err := w.Broker.Publish(ctx, to, m); !errors.Is(err, target) {
				return err
			}
			return nil
		}
	}
}

// onPublished changes a copy of every message that is published.
func onPublished(change func(*transport.Message)) func(*wrapped) {
	return func(w *wrapped) {
		w.onPublish = func(ctx context.Context, to transport.Address, m *transport.Message) error {
			c := *m
			change(&c)
			return w.Broker.Publish(ctx, to, &c)
		}
	}
}

// unheard drops what is published while no receiver is open.
func unheard(w *wrapped) {
	w.onPublish = func(ctx context.Context, to transport.Address, m *transport.Message) error {
		if w.receivers.Load() == 0 {
			return nil
		}
		return w.Broker.Publish(ctx, to, m)
	}
}

// numbered returns a new text each time.
func numbered() func() string {
	var n atomic.Int64
	return func() string { return fmt.Sprintf("number-%d", n.Add(1)) }
}

func brokenPublishing() []breakage {
	next := numbered()
	return []breakage{
		{"PublishedMessageArrivesWhole", "the body is cut", onMessages(func(m *transport.Message) { m.Body = m.Body[:len(m.Body)/2] })},
		{"PublishedMessageArrivesWhole", "one value of a header stays", onMessages(func(m *transport.Message) {
			for name := range m.Header {
				m.Header.Set(name, m.Header.Get(name))
			}
		})},
		{"PublishedMessageArrivesWhole", "header names are changed", onMessages(func(m *transport.Message) {
			m.Header.Set("Lower-Case", m.Header.Get("lower-case"))
			m.Header.Del("lower-case")
		})},
		{"PublishedMessageArrivesWhole", "the content type is lost", onMessages(func(m *transport.Message) { m.ContentType = "" })},
		{"PublishedMessageArrivesWhole", "the key is lost", onMessages(func(m *transport.Message) { m.Key = "" })},
		{"PublishedMessageArrivesWhole", "the ID is lost", onMessages(func(m *transport.Message) { m.ID = m.Position })},
		{"PublishedMessageArrivesWhole", "the subject is lost", onMessages(func(m *transport.Message) { m.Subject = "" })},
		{"PublishedMessageArrivesWhole", "the time is lost", onMessages(func(m *transport.Message) { m.Time = time.Time{} })},
		{"PublishTakesACopy", "the message is shared", shared},
		{"BytesInHeadersArriveOrAreRefused", "headers become text", onMessages(func(m *transport.Message) {
			for _, values := range m.Header {
				for i := range values {
					values[i] = strings.ToValidUTF8(values[i], "?")
				}
			}
		})},
		{"StatusHeaderDoesNotHideAMessage", "it is hidden", func(w *wrapped) {
			w.onPublish = func(ctx context.Context, to transport.Address, m *transport.Message) error {
				if m.Header.Get("Status") != "" {
					return nil
				}
				return w.Broker.Publish(ctx, to, m)
			}
		}},
		{"MessageWithoutIDGetsAStableOne", "none", onMessages(func(m *transport.Message) { m.ID = "" })},
		{"MessageWithoutIDGetsAStableOne", "a new one each time", onMessages(func(m *transport.Message) { m.ID = next() })},
		{"MessageWithoutIDGetsAStableOne", "one for all", onMessages(func(m *transport.Message) { m.ID = "same" })},
		{"PositionsAreUnique", "one for all", onMessages(func(m *transport.Message) { m.Position = "same" })},
		{"PositionsAreUnique", "none", onMessages(func(m *transport.Message) { m.Position = "" })},
		{"PublishWithoutRouteIsUnroutable", "it is confirmed", swallow(transport.ErrUnroutable)},
		{"PublishWaitsForAReceiverOrIsGone", "it is gone", unheard},
		{"InvalidAddressIsRefused", "it is confirmed", swallow(transport.ErrInvalid)},
		{"OversizeIsRefused", "it is confirmed", swallow(transport.ErrTooLarge)},
		{"PublishHonoursContext", "it is ignored", func(w *wrapped) {
			w.onPublish = func(ctx context.Context, to transport.Address, m *transport.Message) error {
				return w.Broker.Publish(context.WithoutCancel(ctx), to, m)
			}
		}},
		{"DedupStoresOneCopy", "it stores two", onPublished(func(m *transport.Message) { m.DedupID = next() })},
		{"DifferentDedupIDArrives", "the ID alone counts", onPublished(func(m *transport.Message) { m.DedupID = "" })},
	}
}

// shared delivers the very bytes that were published.
func shared(w *wrapped) {
	var sent sync.Map
	w.onPublish = func(ctx context.Context, to transport.Address, m *transport.Message) error {
		sent.Store(m.ID, m)
		return w.Broker.Publish(ctx, to, m)
	}
	onMessages(func(m *transport.Message) {
		if original, ok := sent.Load(m.ID); ok {
			m.Body = original.(*transport.Message).Body
		}
	})(w)
}

func brokenReturning() []breakage {
	counted := func(ctx context.Context, d *delivery) error { return d.full.Nack(ctx, 0) }
	return []breakage{
		{"ReturnedDeliveryIsNotCounted", "it is counted", onDeliveries(func(d *delivery) {
			d.giveBack = func(ctx context.Context) error { return counted(ctx, d) }
		})},
		{"ReturnedDeliveryIsNotCounted", "the message is lost", onDeliveries(func(d *delivery) {
			d.giveBack = func(ctx context.Context) error { return d.full.Ack(ctx) }
		})},
		{"ReturnedDeliveryIsNotCounted", "it can be returned twice", onDeliveries(func(d *delivery) {
			d.giveBack = func(ctx context.Context) error {
				if err := d.full.Return(ctx); !errors.Is(err, transport.ErrSettled) {
					return err
				}
				return nil
			}
		})},
		{"UnseenMessagesAreNotCounted", "each stop counts", func(w *wrapped) {
			var opened atomic.Int64
			w.onReceiver = func(rx transport.Receiver) transport.Receiver { opened.Add(1); return rx }
			onDeliveries(func(d *delivery) { d.count = func() int { return int(opened.Load()) } })(w)
		}},
	}
}

func brokenSettling() []breakage {
	nothing := func(d *delivery) { d.ack = func(context.Context) error { return nil } }
	return []breakage{
		{"AckedMessageIsGone", "ack does nothing", onDeliveries(nothing)},
		{"AckedLaterMessageIsGoneAfterClose", "ack does nothing", onDeliveries(func(d *delivery) { d.ackLater = func() error { return nil } })},
		{"AckedLaterMessageIsGoneAfterClose", "acks are never confirmed", func(w *wrapped) { w.Fail(memory.OpConfirm, errors.New("lost"), 3) }},
		{"HeldDeliverySettlesAfterClose", "it does not", func(w *wrapped) {
			w.onDelivery = func(d transport.Delivery) transport.Delivery {
				return &delivery{full: d.(full), ack: func(ctx context.Context) error {
					if w.receivers.Load() == 0 {
						return transport.ErrClosed
					}
					return d.Ack(ctx)
				}}
			}
		}},
		{"NackWaitsThenRaisesDeliveries", "it does not wait", onDeliveries(func(d *delivery) {
			d.nack = func(ctx context.Context, _ time.Duration) error { return d.full.Nack(ctx, 0) }
		})},
		{"NackWaitsThenRaisesDeliveries", "it does not count", onDeliveries(func(d *delivery) { d.count = func() int { return 1 } })},
		{"NackWaitsThenRaisesDeliveries", "the message is lost", onDeliveries(func(d *delivery) {
			d.nack = func(ctx context.Context, _ time.Duration) error { return d.full.Ack(ctx) }
		})},
		{"NackHoldsBackNothingElse", "all wait with it", func(w *wrapped) {
			onDeliveries(func(d *delivery) {
				d.nack = func(ctx context.Context, delay time.Duration) error {
					w.Pause()
					return d.full.Nack(ctx, delay)
				}
			})(w)
		}},
		{"NackReturnsOnlyToItsSubscription", "it is published again", func(w *wrapped) {
			onDeliveries(func(d *delivery) {
				d.nack = func(ctx context.Context, _ time.Duration) error {
					c := *d.full.Message()
					c.DedupID = c.ID + "-again"
					return errors.Join(w.Broker.Publish(ctx, transport.Address{Name: c.Subject}, &c), d.full.Ack(ctx))
				}
			})(w)
		}},
		{"SecondSettleIsRefused", "it succeeds", onDeliveries(func(d *delivery) {
			d.ack = func(ctx context.Context) error { _ = d.full.Ack(ctx); return nil }
		})},
		{"FailedSettleCanBeRetried", "it counts as settled", onDeliveries(func(d *delivery) {
			failed := false
			d.ack = func(ctx context.Context) error {
				if failed {
					return &transport.Error{Op: "ack", Err: transport.ErrSettled}
				}
				err := d.full.Ack(ctx)
				failed = err != nil
				return err
			}
		})},
		{"FailedSettleCanBeRetried", "a failed one is reported as done", onDeliveries(func(d *delivery) {
			d.ack = func(ctx context.Context) error {
				if err := d.full.Ack(ctx); errors.Is(err, transport.ErrSettled) {
					return err
				}
				return nil
			}
		})},
		{"RejectIsTerminal", "it comes back", onDeliveries(func(d *delivery) {
			d.reject = func(ctx context.Context, _ string) error { return d.full.Nack(ctx, 0) }
		})},
		{"RejectIsTerminal", "there is none", func(w *wrapped) {
			w.onDelivery = func(d transport.Delivery) transport.Delivery { return struct{ transport.Delivery }{d} }
		}},
		{"RejectIsTerminal", "it works although it is denied", func(w *wrapped) { w.caps.Rejects = false }},
	}
}

// broken is a receiver that does one thing otherwise.
type broken struct {
	transport.Receiver
	receive func(context.Context) (transport.Delivery, error)
	close   func(context.Context) error
}

func (r *broken) Receive(ctx context.Context) (transport.Delivery, error) {
	if r.receive != nil {
		return r.receive(ctx)
	}
	return r.Receiver.Receive(ctx)
}

func (r *broken) Close(ctx context.Context) error {
	if r.close != nil {
		return r.close(ctx)
	}
	return r.Receiver.Close(ctx)
}

// onReceivers breaks every receiver in one way.
func onReceivers(change func(*broken)) func(*wrapped) {
	return func(w *wrapped) {
		w.onReceiver = func(rx transport.Receiver) transport.Receiver {
			r := &broken{Receiver: rx}
			change(r)
			return r
		}
	}
}

// hoarding fills a buffer that it neither keeps up nor hands back.
func hoarding(r *broken) {
	var mu sync.Mutex
	var buffer []transport.Delivery
	r.receive = func(ctx context.Context) (transport.Delivery, error) {
		mu.Lock()
		defer mu.Unlock()
		for len(buffer) < 100 {
			wait, cancel := context.WithTimeout(ctx, time.Millisecond)
			d, err := r.Receiver.Receive(wait)
			cancel()
			if err != nil {
				break
			}
			buffer = append(buffer, d)
		}
		if len(buffer) == 0 {
			return r.Receiver.Receive(ctx)
		}
		d := buffer[0]
		buffer = buffer[1:]
		return d, nil
	}
}

// swapping hands out the second message first.
func swapping(r *broken) {
	var held transport.Delivery
	r.receive = func(ctx context.Context) (transport.Delivery, error) {
		if d := held; d != nil {
			held = nil
			return d, nil
		}
		first, err := r.Receiver.Receive(ctx)
		if err != nil {
			return nil, err
		}
		second, err := r.Receiver.Receive(ctx)
		if err != nil {
			return first, nil
		}
		held = first
		return second, nil
	}
}

// stuttering hands out each delivery twice.
func stuttering(r *broken) {
	var mu sync.Mutex
	var last transport.Delivery
	r.receive = func(ctx context.Context) (transport.Delivery, error) {
		mu.Lock()
		if d := last; d != nil {
			last = nil
			mu.Unlock()
			return struct{ transport.Delivery }{&delivery{full: d.(full), ack: func(context.Context) error { return nil }}}, nil
		}
		mu.Unlock()
		d, err := r.Receiver.Receive(ctx)
		mu.Lock()
		defer mu.Unlock()
		last = d
		return d, err
	}
}

func brokenReceiving() []breakage {
	deaf := onReceivers(func(r *broken) {
		r.receive = func(ctx context.Context) (transport.Delivery, error) {
			return r.Receiver.Receive(context.WithoutCancel(ctx))
		}
	})
	open := onReceivers(func(r *broken) { r.close = func(context.Context) error { return nil } })
	atMostOnce := func(w *wrapped) {
		w.onDelivery = func(d transport.Delivery) transport.Delivery {
			_ = d.Ack(context.Background()) // a test has no better one here
			return d
		}
	}
	uncounted := onDeliveries(func(d *delivery) { d.count = func() int { return 1 } })
	hoarder := func(w *wrapped) {
		onReceivers(hoarding)(w)
		w.onWant = func(want *transport.Want) { want.Concurrency = 100 }
	}
	return []breakage{
		{"ReceiveHonoursContext", "it is ignored", deaf},
		{"ReceiveInOrder", "the second comes first", onReceivers(swapping)},
		{"ClosedReceiverRefuses", "close does nothing", open},
		{"ClosedTransportRefuses", "close does nothing", func(w *wrapped) { w.onClose = func() error { return nil } }},
		{"GroupSharesAndGroupsCopy", "all groups share", func(w *wrapped) { w.oneGroup = true }},
		{"GroupSharesAndGroupsCopy", "nobody shares", func(w *wrapped) { w.ownQueues = true }},
		{"ConcurrentReceiveGivesEachDeliveryOnce", "each comes twice", onReceivers(stuttering)},
		{"WindowBoundsWhatIsHeld", "it does not", func(w *wrapped) { w.onWant = func(want *transport.Want) { want.Concurrency = 100 } }},
		{"WindowBoundsWhatIsHeld", "a buffer takes all", hoarder},
		{"UnseenMessagesComeBackPromptly", "they are kept until the lease ends", hoarder},
		{"AbandonedMessageComesBack", "it was acked on receipt", atMostOnce},
		{"AbandonedMessageComesBack", "it is not counted", uncounted},
		{"LeaseIsExtended", "it is not", onDeliveries(func(d *delivery) { d.extend = func() error { return nil } })},
		{"LeaseThatEndsReturnsTheMessage", "it never ends", atMostOnce},
		{"LeaseThatEndsReturnsTheMessage", "it is not counted", uncounted},
		{"BufferedLeaseIsKept", "it is not", hoarder},
	}
}
