package transporttest_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

// These tests check the suite: they break a working transport in one way and
// show that the promise which should notice does, and that no promise fails on
// the transport as it is.

const lease = time.Second

// harness returns a harness on a broker of its own, seen through wrap.
func harness(t *testing.T, wrap func(*wrapped)) transporttest.Harness {
	b := memory.New()
	tr := &wrapped{Broker: b, caps: b.Capabilities(), ended: make(chan struct{}), lease: lease}
	t.Cleanup(func() {
		close(tr.ended)
		_ = b.Close(t.Context())
	})
	tr.onRestart = func() { b.Disconnect(nil); b.Reconnect() }
	tr.onFailing = func() func() { b.Disconnect(nil); return b.Reconnect }
	h := transporttest.Harness{
		Transport:       tr,
		RedeliverWithin: 2 * lease,
		Restart:         func(testing.TB) { tr.onRestart() },
		FailSettles:     func(testing.TB) func() { return tr.onFailing() },
		MaxSize:         memory.DefaultMaxSize,
		Deduplicates:    true,
	}
	if wrap != nil {
		wrap(tr)
	}
	h.Lease = tr.lease
	h.Source = func(_ testing.TB, spec transporttest.Spec) (transport.Source, transport.Address) {
		cfg := memory.QueueConfig{Name: spec.Name + "." + spec.Group, Subjects: []string{"t." + spec.Name}, Lease: spec.Lease}
		if tr.oneGroup {
			cfg.Name = spec.Name
		}
		return &source{Source: b.Queue(cfg), tr: tr}, transport.Address{Name: "t." + spec.Name}
	}
	return h
}

// wrapped is a broker of package memory that can be broken.
type wrapped struct {
	*memory.Broker
	caps      transport.Capabilities
	oneGroup  bool // all groups are one
	ownQueues bool // no receiver shares with another
	noPrefix  bool // WithPrefix does nothing
	lenient   bool // foreign sources are accepted
	receivers atomic.Int32
	ended     chan struct{} // closed when the test ends
	lease     time.Duration // of the harness
	leaseOff  time.Duration // how much longer the receiver says it is
	onRestart func()
	onFailing func() (restore func())

	onCheck     func(transport.Source, transport.Want, []transport.Finding) []transport.Finding
	onProvision func(*transport.Report)
	onWant      func(*transport.Want)
	onPublish   func(context.Context, transport.Address, *transport.Message) error
	onPipeline  func(context.Context, func(uint64, error)) (transport.Pipeline, error)
	onReceiver  func(transport.Receiver) transport.Receiver
	onDelivery  func(transport.Delivery) transport.Delivery
	onRequest   func(context.Context, transport.Address, *transport.Message) (*transport.Message, error)
	onStore     func(transport.DeadLetterStore) transport.DeadLetterStore
	onClose     func() error
}

type source struct {
	transport.Source
	tr *wrapped
}

func (s *source) Transport() transport.Transport { return s.tr }

func (s *source) WithPrefix(prefix string) transport.Source {
	if s.tr.noPrefix {
		return s
	}
	return &source{Source: s.Source.(transport.Prefixer).WithPrefix(prefix), tr: s.tr}
}

func inner(src transport.Source) transport.Source {
	if s, ok := src.(*source); ok {
		return s.Source
	}
	return src
}

func (w *wrapped) Capabilities() transport.Capabilities { return w.caps }

func (w *wrapped) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	found, err := w.Broker.Check(ctx, inner(src), want)
	if w.onCheck != nil {
		found = w.onCheck(inner(src), want, found)
	}
	if w.lenient {
		return nil, nil
	}
	return found, err
}

func (w *wrapped) Provision(ctx context.Context, src transport.Source, want transport.Want) (transport.Report, error) {
	report, err := w.Broker.Provision(ctx, inner(src), want)
	if w.onProvision != nil {
		w.onProvision(&report)
	}
	return report, err
}

func (w *wrapped) Publish(ctx context.Context, to transport.Address, m *transport.Message) error {
	if w.onPublish != nil {
		return w.onPublish(ctx, to, m)
	}
	return w.Broker.Publish(ctx, to, m)
}

func (w *wrapped) OpenPipeline(ctx context.Context, report func(uint64, error)) (transport.Pipeline, error) {
	if w.onPipeline != nil {
		return w.onPipeline(ctx, report)
	}
	return w.Broker.OpenPipeline(ctx, report)
}

func (w *wrapped) Request(ctx context.Context, to transport.Address, m *transport.Message) (*transport.Message, error) {
	if w.onRequest != nil {
		return w.onRequest(ctx, to, m)
	}
	return w.Broker.Request(ctx, to, m)
}

func (w *wrapped) Open(ctx context.Context, src transport.Source, want transport.Want) (transport.Receiver, error) {
	if w.onWant != nil {
		w.onWant(&want)
	}
	if _, own := src.(*source); !own && w.lenient {
		return nil, nil
	}
	if w.ownQueues {
		src = w.Broker.Queue(memory.QueueConfig{Name: fmt.Sprintf("own-%d", w.receivers.Load()), Subjects: []string{"t.>"}})
		if _, err := w.Broker.Provision(ctx, src, want); err != nil {
			return nil, err
		}
	}
	rx, err := w.Broker.Open(ctx, inner(src), want)
	if err != nil {
		return nil, err
	}
	if w.onReceiver != nil {
		rx = w.onReceiver(rx)
	}
	w.receivers.Add(1)
	return &receiver{Receiver: rx, tr: w}, nil
}

func (w *wrapped) DeadLetters() transport.DeadLetterStore {
	if w.onStore != nil {
		return w.onStore(w.Broker.DeadLetters())
	}
	return w.Broker.DeadLetters()
}

func (w *wrapped) Close(ctx context.Context) error {
	if w.onClose != nil {
		return w.onClose()
	}
	return w.Broker.Close(ctx)
}

type receiver struct {
	transport.Receiver
	tr     *wrapped
	closed atomic.Bool
}

func (r *receiver) Lease() time.Duration { return r.tr.lease + r.tr.leaseOff }

func (r *receiver) Close(ctx context.Context) error {
	if r.closed.CompareAndSwap(false, true) {
		r.tr.receivers.Add(-1)
	}
	return r.Receiver.Close(ctx)
}

func (r *receiver) Receive(ctx context.Context) (transport.Delivery, error) {
	d, err := r.Receiver.Receive(ctx)
	if err == nil && r.tr.onDelivery != nil {
		d = r.tr.onDelivery(d)
	}
	return d, err
}

// full is every interface of a delivery.
type full interface {
	transport.Delivery
	transport.PipelinedAcker
	transport.Rejecter
	transport.LeaseExtender
	transport.Responder
	transport.Returner
}

// delivery is a delivery with some of its methods replaced.
type delivery struct {
	full
	ack      func(context.Context) error
	ackLater func() error
	nack     func(context.Context, time.Duration) error
	reject   func(context.Context, string) error
	giveBack func(context.Context) error
	extend   func() error
	count    func() int
	message  func() *transport.Message
	respond  func(context.Context, *transport.Message) error
	wants    func() bool
}

func (d *delivery) Ack(ctx context.Context) error {
	if d.ack != nil {
		return d.ack(ctx)
	}
	return d.full.Ack(ctx)
}

func (d *delivery) AckLater() error {
	if d.ackLater != nil {
		return d.ackLater()
	}
	return d.full.AckLater()
}

func (d *delivery) Nack(ctx context.Context, delay time.Duration) error {
	if d.nack != nil {
		return d.nack(ctx, delay)
	}
	return d.full.Nack(ctx, delay)
}

func (d *delivery) Reject(ctx context.Context, reason string) error {
	if d.reject != nil {
		return d.reject(ctx, reason)
	}
	return d.full.Reject(ctx, reason)
}

func (d *delivery) Return(ctx context.Context) error {
	if d.giveBack != nil {
		return d.giveBack(ctx)
	}
	return d.full.Return(ctx)
}

func (d *delivery) ExtendLease() error {
	if d.extend != nil {
		return d.extend()
	}
	return d.full.ExtendLease()
}

func (d *delivery) Deliveries() int {
	if d.count != nil {
		return d.count()
	}
	return d.full.Deliveries()
}

func (d *delivery) Message() *transport.Message {
	if d.message != nil {
		return d.message()
	}
	return d.full.Message()
}

func (d *delivery) Respond(ctx context.Context, m *transport.Message) error {
	if d.respond != nil {
		return d.respond(ctx, m)
	}
	return d.full.Respond(ctx, m)
}

func (d *delivery) WantsReply() bool {
	if d.wants != nil {
		return d.wants()
	}
	return d.full.WantsReply()
}

// onDeliveries breaks every delivery in one way.
func onDeliveries(change func(*delivery)) func(*wrapped) {
	return func(w *wrapped) {
		w.onDelivery = func(d transport.Delivery) transport.Delivery {
			c := &delivery{full: d.(full)}
			change(c)
			return c
		}
	}
}

// onMessages changes every received message.
func onMessages(change func(*transport.Message)) func(*wrapped) {
	return onDeliveries(func(d *delivery) { change(d.full.Message()) })
}

// recorder is a testing.TB whose failures fail nothing.
type recorder struct {
	testing.TB

	mu     sync.Mutex // guards what follows
	failed bool
	log    []string
}

func (r *recorder) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
	r.log = append(r.log, text)
}

func (r *recorder) Helper()                      {}
func (r *recorder) Error(args ...any)            { r.note(fmt.Sprint(args...)) }
func (r *recorder) Errorf(f string, args ...any) { r.note(fmt.Sprintf(f, args...)) }
func (r *recorder) Fail()                        { r.note("failed") }
func (r *recorder) FailNow()                     { r.note("failed"); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)            { r.note(fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Fatalf(f string, args ...any) { r.note(fmt.Sprintf(f, args...)); runtime.Goexit() }

func (r *recorder) Failed() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.failed }

func (r *recorder) Skip(args ...any)               { r.note("skipped: " + fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Skipf(f string, args ...any)    { r.Skip(fmt.Sprintf(f, args...)) }
func (r *recorder) SkipNow()                       { r.Skip() }
func (r *recorder) Log(args ...any)                {}
func (r *recorder) Logf(format string, arg ...any) {}

// outcome runs one promise in virtual time and returns what it complained of.
func outcome(t *testing.T, name string, wrap func(*wrapped)) []string {
	t.Helper()
	var log []string
	ran := false
	for _, p := range transporttest.Promises() {
		if p.Name != name {
			continue
		}
		ran = true
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{TB: t}
			var wg sync.WaitGroup
			wg.Go(func() { p.Check(r, harness(t, wrap)) })
			wg.Wait()
			log = r.log
		})
	}
	if !ran {
		t.Fatalf("there is no promise %s", name)
	}
	return log
}

func TestSuiteAcceptsASoundTransport(t *testing.T) {
	t.Parallel()
	for _, p := range transporttest.Promises() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			if log := outcome(t, p.Name, nil); len(log) > 0 {
				t.Errorf("a sound transport fails:\n%s", strings.Join(log, "\n"))
			}
		})
	}
}
