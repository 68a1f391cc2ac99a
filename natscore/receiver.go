package natscore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// reportPause is how long drops are added up before they are reported.
const reportPause = 250 * time.Millisecond

// receiver is a subscription and the bounded queue between it and the handlers.
// The client library drops in silence when its own queue is full, so that one
// is left without a bound and emptied at once into ours, which counts.
type receiver struct {
	t            *Transport
	subject      string
	subscription string
	sub          *nats.Subscription
	replies      bool      // what comes is requests: somebody waits for each
	endpoint     *endpoint // of a service; may be nil

	queue    chan *nats.Msg
	bytes    atomic.Int64 // size of what is in queue
	maxBytes int64
	dropped  atomic.Int64 // dropped and not reported yet
	late     atomic.Int64 // came after Close began
	pending  atomic.Bool  // report is armed

	closing context.Context // ends when Close begins
	close   context.CancelFunc
	alive   context.Context // ends with the cause when the subscription is of no more use
	kill    context.CancelCauseFunc
	drained chan struct{} // closed by the client library when nothing more comes

	mu      sync.Mutex // guards report; a leaf
	report  *time.Timer
	reports sync.WaitGroup // one count while report is armed or runs
	once    sync.Once
	err     error // of Close
	cleanup []func()
}

// Open implements transport.Transport. It returns after the server has taken
// the subscription: what is published from then on is received.
func (t *Transport) Open(ctx context.Context, src transport.Source, want transport.Want) (transport.Receiver, error) {
	s, err := t.own("open", src)
	if err != nil {
		return nil, err
	}
	if err := s.refuse("open", want); err != nil {
		return nil, err
	}
	if err := t.ready(ctx, "open", s.cfg.Subject); err != nil {
		return nil, err
	}
	r := newReceiver(ctx, s, want)
	if err := r.subscribe(ctx, s.cfg.Group); err != nil {
		r.abandon()
		return nil, err
	}
	if err := r.serve(s); err != nil {
		r.abandon()
		return nil, t.openError(s.cfg.Subject, err)
	}
	return r, nil
}

func newReceiver(ctx context.Context, s *source, want transport.Want) *receiver {
	r := &receiver{
		t: s.t, subject: s.cfg.Subject, subscription: want.Subscription,
		queue:    make(chan *nats.Msg, s.pendingMessages()),
		maxBytes: s.pendingBytes(),
		drained:  make(chan struct{}),
		replies:  want.Reply,
	}
	// A receiver lives until Close, not until the context of Open ends.
	ctx = context.WithoutCancel(ctx)
	r.closing, r.close = context.WithCancel(ctx)
	guarded, stop := s.t.conn.GuardSubscription(ctx, "receive", s.cfg.Subject)
	r.alive, r.kill = context.WithCancelCause(guarded)
	r.cleanup = []func(){stop, func() { r.kill(nil) }, s.t.conn.Observe(r.observe)}
	return r
}

// serve makes the receiver an endpoint of its service.
func (r *receiver) serve(s *source) error {
	if s.cfg.Service == nil {
		return nil
	}
	r.endpoint = &endpoint{name: s.endpoint(), subject: s.cfg.Subject, group: s.cfg.Group}
	leave, err := s.cfg.Service.join(r.endpoint)
	if err == nil {
		r.cleanup = append(r.cleanup, leave)
	}
	return err
}

// declined is what the reply header of a decline says. It tells one that came from
// a listener, of which there may be others, from the word of the server.
const declined = "declined"

// decline tells whoever sent a request that nobody here will handle it, as the
// server does where nobody listens. It does not wait.
func (r *receiver) decline(m *nats.Msg) bool {
	if !r.replies || m.Reply == "" {
		return false
	}
	no := &nats.Msg{Subject: m.Reply, Header: nats.Header{"Status": {"503"}, wire.Reply: {declined}}}
	return r.t.conn.NATS().PublishMsg(no) == nil
}

// observe ends the receiver when its connection is closed for good. A new
// receiver gets the connection that was made anew.
func (r *receiver) observe(e transport.Event) {
	if e.Kind == transport.ConnectionLost {
		r.kill(r.t.downError("receive", r.subject))
	}
}

// subscribe returns after the server has taken the subscription or refused it.
func (r *receiver) subscribe(ctx context.Context, group string) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	mark := r.t.conn.Mark()
	sub, err := r.t.conn.NATS().QueueSubscribe(r.subject, group, r.take)
	if err != nil {
		return r.t.openError(r.subject, err)
	}
	r.sub = sub
	sub.SetClosedHandler(func(string) { close(r.drained) })
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return r.t.openError(r.subject, err)
	}
	if err := r.t.conn.Flush(ctx); err != nil {
		return r.t.openError(r.subject, err)
	}
	return r.t.conn.DeniedSince(mark, "open", natsconn.Subscribe, r.subject)
}

func (t *Transport) openError(subject string, err error) error {
	if !t.conn.Connected() {
		return t.downError("open", subject)
	}
	return &transport.Error{Op: "open", Address: subject, Kind: transport.Temporary, Err: err}
}

// abandon undoes an Open that failed.
func (r *receiver) abandon() {
	r.close()
	if r.sub != nil {
		// A failure means that the connection is gone, and the subscription
		// with it.
		_ = r.sub.Unsubscribe()
	}
	r.release()
}

func (r *receiver) release() {
	for _, f := range r.cleanup {
		f()
	}
	r.reports.Wait()
}

// take is called by the client library for each message, one at a time. It
// never waits.
func (r *receiver) take(m *nats.Msg) {
	if r.closing.Err() != nil {
		if !r.decline(m) {
			r.late.Add(1)
		}
		return
	}
	size := int64(m.Size())
	if total := r.bytes.Add(size); total > r.maxBytes && total > size {
		r.bytes.Add(-size)
		r.drop(m)
		return
	}
	select {
	case r.queue <- m:
	default:
		r.bytes.Add(-size)
		r.drop(m)
	}
}

// drop counts a message that found no room. Drops are reported together, soon.
// Whoever waits for its answer is told at once.
func (r *receiver) drop(m *nats.Msg) {
	r.decline(m)
	r.dropped.Add(1)
	if r.pending.Swap(true) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reports.Add(1)
	r.report = time.AfterFunc(reportPause, func() {
		defer r.reports.Done()
		r.pending.Store(false)
		r.reportDrops()
	})
}

// reportDrops reports what was dropped since the last report.
func (r *receiver) reportDrops() {
	n := int(r.dropped.Swap(0))
	if n == 0 {
		return
	}
	r.t.conn.Emit(transport.Event{
		Kind: transport.Dropped, Subscription: r.subscription, Count: n,
		Detail: fmt.Sprintf("handlers of %s are slower than messages arrive: %d messages were dropped", r.subject, n),
	})
}

// Receive implements transport.Receiver. What was buffered when the connection
// was lost is still handed out.
func (r *receiver) Receive(ctx context.Context) (transport.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return nil, r.ended(err)
	}
	if r.over() {
		return nil, closedError("receive", r.subject)
	}
	select {
	case m := <-r.queue:
		return r.handOut(m), nil
	default:
	}
	select {
	case m := <-r.queue:
		return r.handOut(m), nil
	case <-r.closing.Done():
		return nil, closedError("receive", r.subject)
	case <-r.t.done:
		return nil, closedError("receive", r.subject)
	case <-r.alive.Done():
		return nil, r.causeOfDeath()
	case <-ctx.Done():
		return nil, r.ended(ctx.Err())
	}
}

// over tells whether the receiver or its transport is closed.
func (r *receiver) over() bool {
	select {
	case <-r.t.done:
		return true
	default:
		return r.closing.Err() != nil
	}
}

func (r *receiver) handOut(m *nats.Msg) *delivery {
	r.bytes.Add(-int64(m.Size()))
	return newDelivery(r, m)
}

func (r *receiver) ended(err error) error {
	return &transport.Error{Op: "receive", Address: r.subject, Kind: transport.Temporary, Err: err}
}

func (r *receiver) causeOfDeath() error {
	if e, ok := errors.AsType[*transport.Error](context.Cause(r.alive)); ok {
		return e
	}
	return closedError("receive", r.subject)
}

// Close implements transport.Receiver. Nothing can be handed back on NATS core:
// what was buffered and never handed out is counted and reported as a Dropped
// event, with what the server sent before it knew. Requests are declined: whoever
// sent them is told at once that nobody listens, and may ask another.
func (r *receiver) Close(ctx context.Context) error {
	r.once.Do(func() { r.err = r.stop(ctx) })
	return r.err
}

func (r *receiver) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	r.close()
	err := r.awaitLast(ctx)
	r.stopReport()
	r.release()
	r.reportDrops()
	n := r.unhandled()
	if r.replies && r.t.conn.Connected() {
		err = errors.Join(err, r.t.conn.Flush(ctx)) // what was declined
	}
	if n > 0 {
		r.t.conn.Emit(transport.Event{
			Kind: transport.Dropped, Subscription: r.subscription, Count: n,
			Detail: fmt.Sprintf("the subscription to %s was closed with %d messages that no handler saw", r.subject, n),
		})
	}
	return err
}

// awaitLast ends the subscription and returns when nothing more can come.
func (r *receiver) awaitLast(ctx context.Context) error {
	end := r.sub.Unsubscribe
	if r.t.conn.Connected() {
		end = r.sub.Drain
	}
	if err := end(); err != nil {
		// The connection is closed, and the subscription with it.
		return nil
	}
	select {
	case <-r.drained:
		return nil
	case <-ctx.Done():
		_ = r.sub.Unsubscribe() // fails only when the subscription is gone
		return &transport.Error{
			Op: "close receiver", Address: r.subject, Kind: transport.Unknown, Err: ctx.Err(),
			Hint: "the server did not confirm the end of the subscription; more messages may have been dropped than were counted",
		}
	}
}

// stopReport keeps a report from running later. One that runs is waited for by
// release.
func (r *receiver) stopReport() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.report != nil && r.report.Stop() {
		r.reports.Done()
	}
}

// unhandled empties the queue and counts what was in it.
func (r *receiver) unhandled() int {
	n := int(r.late.Load())
	for {
		select {
		case m := <-r.queue:
			if !r.decline(m) {
				n++
			}
		default:
			return n
		}
	}
}
