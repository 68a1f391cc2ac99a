package transporttest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// Promise is one thing that every transport keeps, or denies in the open.
type Promise struct {
	// Name is the name of its subtest.
	Name string

	check func(w *world)
}

// Run checks every promise as a parallel subtest of t, each with a harness from
// open.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, p := range Promises() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			p.Check(t, open(t))
		})
	}
}

// Promises returns all promises, in the order in which they are best read.
func Promises() []Promise {
	return slices.Concat(publishing(), prescribing(), pipelining(), settling(), returning(), receiving(), leasing(), burying(), asking(), lasting(), restarting())
}

// Check runs the promise on a harness that is used for nothing else. It fails t
// when the promise is broken.
func (p Promise) Check(t testing.TB, h Harness) {
	t.Helper()
	for _, fault := range h.faults() {
		t.Errorf("harness: %s", fault)
	}
	if t.Failed() {
		return
	}
	h = h.filled()
	// A promise is at most a few waits; ten times that is a hang.
	ctx, cancel := context.WithTimeout(t.Context(), 10*(h.Patience+h.RedeliverWithin))
	defer cancel()
	w := &world{TB: t, h: h, caps: h.Transport.Capabilities(), ctx: ctx, tr: h.Transport, name: unique(p.Name)}
	defer w.close()
	p.check(w)
}

// world is what one promise has: a harness, a place and a deadline.
type world struct {
	testing.TB
	h    Harness
	caps transport.Capabilities
	tr   transport.Transport
	ctx  context.Context // ends when the promise takes far too long
	name string          // of the place this promise publishes to
	open []transport.Receiver
	rows []*row
	sent int
}

// close closes what the promise opened and did not close itself.
func (w *world) close() {
	for _, r := range w.rows {
		r.letGo()
	}
	for _, rx := range w.open {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), w.h.Patience)
		_ = rx.Close(ctx) // a promise that cares has closed it already
		cancel()
	}
}

// unique returns a name that no other run uses, made of letters, digits and
// '-'.
func unique(promise string) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // documented never to fail
	return strings.ToLower(promise) + "-" + hex.EncodeToString(b[:])
}

// within returns a context that ends after d.
func (w *world) within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(w.ctx, d)
}

// soon returns a context for what should happen at once.
func (w *world) soon() (context.Context, context.CancelFunc) { return w.within(w.h.Patience) }

// ended returns a context that has ended.
func (w *world) ended() context.Context {
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	return ctx
}

// long is a lease that does not end while a promise runs.
func (w *world) long() time.Duration {
	if w.h.Lease == 0 {
		return 0
	}
	return 10 * time.Minute
}

// source returns the source of a group of this promise's place, with the short
// lease.
func (w *world) source(group string) (transport.Source, transport.Address) {
	return w.h.Source(w, Spec{Name: w.name, Group: group, Lease: w.h.Lease})
}

// leased is source with a lease of d.
func (w *world) leased(group string, d time.Duration) (transport.Source, transport.Address) {
	return w.h.Source(w, Spec{Name: w.name, Group: group, Lease: d})
}

// want is what a subscription of a group asks for: all that the capabilities
// offer.
func (w *world) want(group string, window int) transport.Want {
	want := transport.Want{
		Subscription: w.subscription(group),
		Concurrency:  window,
		Redelivery:   w.caps.Redelivers,
		Delay:        w.caps.Delays,
		DeadLetter:   w.caps.DeadLetters,
		Reject:       w.caps.Rejects,
		Reply:        w.caps.Requests,
	}
	if w.caps.Delays {
		want.MaxDelay = time.Minute
	}
	return want
}

// subscription is the name of a group's subscription.
func (w *world) subscription(group string) string { return w.name + "-" + group }

// provision makes src.
func (w *world) provision(src transport.Source, want transport.Want) transport.Report {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	report, err := w.tr.Provision(ctx, src, want)
	if err != nil {
		w.Fatalf("provision %s: %v", src, err)
	}
	return report
}

// start opens a receiver on src, which is provisioned.
func (w *world) start(src transport.Source, want transport.Want) transport.Receiver {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	rx, err := w.tr.Open(ctx, src, want)
	if err != nil {
		w.Fatalf("open %s: %v", src, err)
	}
	w.open = append(w.open, rx)
	return rx
}

// listen provisions the source of a group and opens a receiver on it.
func (w *world) listen(group string, window int) (transport.Receiver, transport.Address) {
	w.Helper()
	src, to := w.source(group)
	want := w.want(group, window)
	w.provision(src, want)
	return w.start(src, want), to
}

// again opens another receiver for a group that listened before.
func (w *world) again(group string, window int) transport.Receiver {
	w.Helper()
	src, _ := w.source(group)
	return w.start(src, w.want(group, window))
}

// shut closes rx.
func (w *world) shut(rx transport.Receiver) {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	if err := rx.Close(ctx); err != nil {
		w.Fatalf("close receiver: %v", err)
	}
}

// message returns a message with an ID of its own.
func (w *world) message(text string) *transport.Message {
	w.sent++
	return &transport.Message{ID: fmt.Sprintf("%s-%d", w.name, w.sent), Body: []byte(text)}
}

// publish publishes m.
func (w *world) publish(to transport.Address, m *transport.Message) {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	if err := w.tr.Publish(ctx, to, m); err != nil {
		w.Fatalf("publish %q to %s: %v", m.ID, to, err)
	}
}

// receive returns the next delivery, which should come at once.
func (w *world) receive(rx transport.Receiver, what string) transport.Delivery {
	w.Helper()
	return w.receiveWithin(rx, w.h.Patience, what)
}

// receiveWithin returns the next delivery, which should come within d.
func (w *world) receiveWithin(rx transport.Receiver, d time.Duration, what string) transport.Delivery {
	w.Helper()
	got, err := w.next(rx, d)
	if err != nil {
		w.Fatalf("%s: nothing within %v: %v", what, d, err)
	}
	return got
}

// handed is what a call of Receive returned.
type handed struct {
	d   transport.Delivery
	err error
}

// next is one Receive with a context that ends after d. It does not hang with a
// receiver that ignores its context.
func (w *world) next(rx transport.Receiver, d time.Duration) (transport.Delivery, error) {
	w.Helper()
	ctx, cancel := w.within(d)
	defer cancel()
	out := make(chan handed, 1)
	go func() {
		got, err := rx.Receive(ctx)
		out <- handed{got, err}
	}()
	late := time.NewTimer(d + w.h.Patience)
	defer late.Stop()
	select {
	case got := <-out:
		return got.d, got.err
	case <-late.C:
		w.Fatalf("a Receive has not returned %v after its context ended", w.h.Patience)
		return nil, nil
	}
}

// back returns how long to wait for an abandoned message: as long as it takes,
// and patience for a machine that is busy.
func (w *world) back() time.Duration { return w.h.RedeliverWithin + w.h.Patience }

// nothing watches for d that rx gets nothing.
func (w *world) nothing(rx transport.Receiver, d time.Duration, what string) {
	w.Helper()
	got, err := w.next(rx, d)
	if err == nil {
		w.Fatalf("%s: got message %q, delivery %d", what, got.Message().ID, got.Deliveries())
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		w.Fatalf("%s: receive: %v", what, err)
	}
}

// ack settles d as done.
func (w *world) ack(d transport.Delivery) {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	if err := d.Ack(ctx); err != nil {
		w.Fatalf("ack %q: %v", d.Message().ID, err)
	}
}

// nack gives d back.
func (w *world) nack(d transport.Delivery, delay time.Duration) {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	if err := d.Nack(ctx, delay); err != nil {
		w.Fatalf("nack %q: %v", d.Message().ID, err)
	}
}

// refused fails unless err is target, wrapped in a transport.Error.
func (w *world) refused(err, target error, what string) {
	w.Helper()
	if !errors.Is(err, target) {
		w.Errorf("%s: got %v, want an error that is %q", what, err, target)
		return
	}
	if _, ok := errors.AsType[*transport.Error](err); !ok {
		w.Errorf("%s: %v is not wrapped in a *transport.Error", what, err)
	}
}

// same fails unless got is the message want.
func (w *world) same(got transport.Delivery, want *transport.Message, what string) {
	w.Helper()
	if got.Message().ID != want.ID {
		w.Fatalf("%s: got message %q, want %q", what, got.Message().ID, want.ID)
	}
	if string(got.Message().Body) != string(want.Body) {
		w.Errorf("%s: the body of %q is %d bytes and not the %d that were sent", what, want.ID, len(got.Message().Body), len(want.Body))
	}
}
