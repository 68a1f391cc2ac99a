package jetstream

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// pipeline is a row of publishes on a connection for publishing. Answers come to
// an inbox of its own, where each is told by its number.
//
// Two locks, never one under the other the wrong way: reporting is held while
// report is called, and flight.mu, a leaf, guards what is under way. Send takes
// only the leaf, since whoever sends may hold what report waits for.
type pipeline struct {
	t      *Transport
	conn   *pubConn
	report func(tag uint64, err error)
	prefix string // of reply subjects
	sub    *nats.Subscription
	done   chan struct{}
	why    atomic.Pointer[error] // why it is over
	lied   atomic.Bool           // somebody answered who is no stream

	// Of the goroutine that sends.
	msg     nats.Msg
	own     headers
	replies replies
	checked string   // the subject that was found valid last
	batches *batcher // nil unless atomic batches were asked for

	flight flight

	reporting sync.Mutex // held while report is called
	over      bool       // nothing is reported any more; guarded by reporting
}

var (
	_ transport.PipelinedPublisher = (*Transport)(nil)
	_ transport.Pipeline           = (*pipeline)(nil)
)

// OpenPipeline implements transport.PipelinedPublisher. Pipelines share a
// connection of their own, like the transport's in address, credentials and TLS,
// which is made for the first of them and closed with the transport. It is never
// restored: when it is lost its pipelines are over, and the next one to be opened
// makes it anew. A server that refuses the credentials is an error at once.
//
// What a message asks for is checked and refused as Publish does. A stream that
// is full is ErrFull and one with too much under way ErrBusy, both Temporary, as
// is ErrUnroutable. A permission that is missing is Permanent for everything
// that is under way to its subject.
func (t *Transport) OpenPipeline(ctx context.Context, report func(tag uint64, err error)) (transport.Pipeline, error) {
	if report == nil {
		return nil, transport.Invalid("open pipeline", "", "there is nobody to report to")
	}
	for pause := pubFirstPause; ; pause = min(2*pause, pubLongestPause) {
		c, err := t.pubs.open(ctx)
		if err != nil {
			return nil, err
		}
		p, err := c.pipeline(ctx, report, t.set.batches)
		if err == nil {
			p.t = t
			return p, nil
		}
		if transport.KindOf(err) == transport.Permanent || !sleep(ctx, jittered(pause)) {
			return nil, err
		}
	}
}

// pipeline makes a pipeline whose inbox the server knows.
func (c *pubConn) pipeline(ctx context.Context, report func(uint64, error), batches bool) (*pipeline, error) {
	p := &pipeline{conn: c, report: report, prefix: c.nc.NewInbox() + ".", done: make(chan struct{})}
	if batches {
		p.batches = newBatcher(p)
	}
	if !c.add(p) {
		return nil, lostError(false, nil)
	}
	if err := p.subscribe(ctx); err != nil {
		p.finish(err)
		return nil, err
	}
	return p, nil
}

func (p *pipeline) subscribe(ctx context.Context) error {
	nc := p.conn.nc
	sub, err := nc.Subscribe(p.prefix+"*", p.receive)
	if err != nil {
		return lostError(false, err)
	}
	p.sub = sub
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return lostError(false, err)
	}
	asking, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if err := nc.FlushWithContext(asking); err != nil {
		if ctx.Err() == nil {
			p.conn.wire.Close() // it does not answer
		}
		return lostError(false, err)
	}
	if d, ok := natsconn.ParseDenial(nc.LastError()); ok && strings.HasPrefix(d.Subject, p.prefix) {
		return deniedError(d, d.Subject)
	}
	return nil
}

// Send implements transport.Pipeline.
func (p *pipeline) Send(to transport.Address, m *transport.Message, tag uint64) error {
	if err := p.Err(); err != nil {
		return notSent(to.Name, err)
	}
	if err := p.check(to, m); err != nil {
		return err
	}
	if !m.NotBefore.IsZero() {
		return p.sendLater(to.Name, m, tag)
	}
	if p.batches != nil {
		return p.batches.send(to.Name, m, tag)
	}
	return p.publish(to.Name, m, tag)
}

// sendLater stores a message until it is due. The server is asked about the
// stream of its subject, on the connection of the transport, unless that was done
// lately. When there is no answer, or no stream, the message goes where no stream
// takes it: what the server says to that is its outcome, and it is sent again.
func (p *pipeline) sendLater(subject string, m *transport.Message, tag uint64) error {
	ctx, cancel := backgroundFor(apiTimeout)
	defer cancel()
	to, later, err := p.t.scheduled(ctx, "publish", subject, m)
	if err != nil {
		if transport.KindOf(err) == transport.Permanent {
			return err
		}
		to, later = p.t.scheduleSubject(noStream, subject, m.ID), p.t.schedule(scheduleStream{}, subject, atTime(m.NotBefore), m)
	}
	if p.batches != nil {
		return p.batches.send(to, later, tag)
	}
	return p.publish(to, later, tag)
}

// notSent is the answer of a pipeline that is over.
func notSent(subject string, why error) error {
	return &transport.Error{Op: "publish", Address: subject, Kind: transport.Temporary, Err: why}
}

// check refuses a message that can never be stored.
func (p *pipeline) check(to transport.Address, m *transport.Message) error {
	if to.Key != "" {
		return transport.Invalid("publish", to.String(), "NATS has no routing key; the address is the subject alone")
	}
	if to.Name != p.checked {
		if err := natsconn.CheckSubject("publish", to.Name); err != nil {
			return err
		}
		p.checked = to.Name
	}
	if err := checkUserHeader("publish", to.Name, m.Header); err != nil {
		return err
	}
	if !m.NotBefore.IsZero() {
		return nil // looked at when it is scheduled
	}
	return checkAsked(p.conn.nc, "publish", to.Name, m)
}

// publish sends one message that was checked.
func (p *pipeline) publish(subject string, m *transport.Message, tag uint64) error {
	p.msg.Subject, p.msg.Header, p.msg.Data = subject, p.own.encode(m), m.Body
	if err := p.own.check("publish", subject, m); err != nil {
		return err
	}
	n := p.flight.add(tag, subject)
	p.msg.Reply = p.reply(n)
	if err := p.conn.nc.PublishMsg(&p.msg); err != nil {
		return p.sendFailed(n, subject, err)
	}
	return nil
}

// reply returns the subject for the answer to number n. Subjects are made many
// at once, in one piece of memory.
func (p *pipeline) reply(n uint64) string {
	if p.replies.first > n || n >= p.replies.first+replyBlock || p.replies.text == "" {
		p.replies = makeReplies(p.prefix, n)
	}
	i := n - p.replies.first
	return p.replies.text[p.replies.ends[i]:p.replies.ends[i+1]]
}

// replyBlock is how many reply subjects are made at once.
const replyBlock = 64

// replies are the reply subjects of numbers that follow one another.
type replies struct {
	first uint64
	text  string
	ends  [replyBlock + 1]int32 // subject i is text[ends[i]:ends[i+1]]
}

func makeReplies(prefix string, first uint64) replies {
	r := replies{first: first}
	buf := make([]byte, 0, 4096)
	for i := range uint64(replyBlock) {
		buf = append(buf, prefix...)
		buf = strconv.AppendUint(buf, first+i, 36)
		r.ends[i+1] = int32(len(buf))
	}
	r.text = string(buf)
	return r
}

// sendFailed decides what an error of the client library means for the message
// with number n.
func (p *pipeline) sendFailed(n uint64, subject string, err error) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		p.flight.take(n, nil)
		return tooLarge("publish", subject, int64(len(p.msg.Data))+headerSize(p.msg.Header), p.conn.nc.MaxPayload())
	case errors.Is(err, nats.ErrBadHeaderMsg), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrHeadersNotSupported):
		p.flight.take(n, nil)
		return transport.Invalid("publish", subject, "%v", err)
	}
	p.fail(lostError(false, err))
	p.conn.wire.Close()
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining) {
		p.flight.take(n, nil)
		return notSent(subject, err)
	}
	// The write failed, and a part of it may have arrived: this message has no
	// outcome, as all others.
	return nil
}

// Flush implements transport.Pipeline. The client library writes by itself; a
// batch waits no longer for more messages, though still for the one before it.
func (p *pipeline) Flush() error {
	if err := p.Err(); err != nil {
		return notSent("", err)
	}
	if p.batches != nil {
		p.batches.flush()
	}
	return nil
}

// Done implements transport.Pipeline.
func (p *pipeline) Done() <-chan struct{} { return p.done }

// Waiting implements transport.Pipeline. The server never says that it waits.
func (p *pipeline) Waiting() error { return nil }

// Err implements transport.Pipeline.
func (p *pipeline) Err() error {
	if why := p.why.Load(); why != nil {
		return *why
	}
	return nil
}

// End implements transport.Pipeline.
func (p *pipeline) End(stuck bool) {
	if stuck && p.Err() == nil {
		p.fail(p.stuckError())
		p.conn.wire.Close()
		<-p.conn.gone
		return
	}
	p.finish(&transport.Error{Op: "publish", Kind: transport.Temporary, Err: transport.ErrClosed})
}

// stuckError says why there were no answers, as far as it can be known.
func (p *pipeline) stuckError() error {
	e := &transport.Error{Op: "publish", Kind: transport.Temporary, Err: nats.ErrTimeout}
	if p.lied.Load() {
		e.Err = errBadAnswer
		e.Hint = "a subscriber of this subject answered in place of the stream; it must not reply or nak there"
	}
	return e
}

// fail notes why the pipeline is over, unless it is known. Who calls it sees to
// it that the pipeline is finished.
func (p *pipeline) fail(err error) { p.why.CompareAndSwap(nil, &err) }

// finish ends the pipeline: nothing is reported once it has returned.
func (p *pipeline) finish(err error) {
	p.fail(err)
	p.reporting.Lock()
	over := p.over
	p.over = true
	p.reporting.Unlock()
	if over {
		<-p.done
		return
	}
	p.conn.remove(p)
	if p.batches != nil {
		p.batches.stop()
	}
	if p.sub != nil {
		_ = p.sub.Unsubscribe() // fails where the connection is gone, and the subscription with it
	}
	close(p.done)
}

// receive takes an answer. It runs on the goroutine of the inbox.
func (p *pipeline) receive(m *nats.Msg) {
	n, err := strconv.ParseUint(m.Subject[len(p.prefix):], 36, 64)
	if err != nil {
		return
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		p.answered(n, nil, nats.ErrNoResponders)
		return
	}
	ack, err := parsePubAck(m.Data)
	if errors.Is(err, errBadAnswer) {
		// That of the stream may still come.
		p.lied.Store(true)
		return
	}
	p.answered(n, ack, err)
}

// answered reports what the server said to number n. ack is not nil where it
// said more than "stored".
func (p *pipeline) answered(n uint64, ack *pubAck, err error) {
	p.reporting.Lock()
	defer p.reporting.Unlock()
	if p.over {
		return
	}
	if p.batches != nil && p.batches.answered(n, ack, err) {
		return
	}
	p.flight.take(n, func(tag uint64, subject string) { p.report(tag, outcome(subject, err)) })
}

// outcome is what the server's answer means for a message.
func outcome(subject string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrNoResponders):
		return unroutable("publish", subject, err)
	default:
		return seamError("publish", subject, err, true)
	}
}

// denied reports what the server did not allow. It does not say which message
// it means, so it is all that are under way to the subject.
func (p *pipeline) denied(d natsconn.Denial) {
	if strings.HasPrefix(d.Subject, p.prefix) {
		p.finish(deniedError(d, d.Subject))
		return
	}
	if d.Verb != natsconn.Publish {
		return
	}
	p.reporting.Lock()
	defer p.reporting.Unlock()
	if p.over {
		return
	}
	if p.batches != nil {
		p.batches.denied(d.Subject)
	}
	p.flight.takeAll(d.Subject, func(tag uint64, subject string) { p.report(tag, deniedError(d, subject)) })
}

func deniedError(d natsconn.Denial, subject string) error {
	return &transport.Error{
		Op: "publish", Address: subject, Kind: transport.Permanent, Err: d.Cause(),
		Hint: "allow this user to " + string(d.Verb) + " " + strconv.Quote(d.Subject) + " in the permissions of the server",
	}
}

// flight is what is under way, by numbers that rise. It is safe for concurrent
// use.
type flight struct {
	mu   sync.Mutex
	ring []flying // of a length that is a power of two
	head uint64   // the oldest number under way
	next uint64
}

type flying struct {
	tag     uint64
	subject string
	open    bool
}

// add enters a message and returns its number.
func (f *flight) add(tag uint64, subject string) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next-f.head == uint64(len(f.ring)) {
		f.grow()
	}
	n := f.next
	f.next++
	*f.at(n) = flying{tag: tag, subject: subject, open: true}
	return n
}

func (f *flight) at(n uint64) *flying { return &f.ring[n&uint64(len(f.ring)-1)] }

func (f *flight) grow() {
	old, mask := f.ring, uint64(len(f.ring)-1)
	f.ring = make([]flying, max(2*len(old), 64))
	for n := f.head; n < f.next; n++ {
		*f.at(n) = old[n&mask]
	}
}

// take ends number n and calls do with it, unless it was not under way. do is
// called without the lock.
func (f *flight) take(n uint64, do func(tag uint64, subject string)) {
	f.mu.Lock()
	e, ok := f.takeLocked(n)
	f.mu.Unlock()
	if ok && do != nil {
		do(e.tag, e.subject)
	}
}

func (f *flight) takeLocked(n uint64) (flying, bool) {
	if n < f.head || n >= f.next || !f.at(n).open {
		return flying{}, false
	}
	e := *f.at(n)
	*f.at(n) = flying{}
	for f.head < f.next && !f.at(f.head).open {
		f.head++
	}
	return e, true
}

// takeAll ends everything under way to a subject.
func (f *flight) takeAll(subject string, do func(tag uint64, subject string)) {
	f.mu.Lock()
	var all []flying
	for n := f.head; n < f.next; n++ {
		if e := *f.at(n); e.open && e.subject == subject {
			all = append(all, e)
			f.takeLocked(n)
		}
	}
	f.mu.Unlock()
	for _, e := range all {
		do(e.tag, e.subject)
	}
}
