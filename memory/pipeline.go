package memory

import (
	"context"
	"fmt"

	"github.com/holdfast-go/holdfast/transport"
)

// pipeline is a row of publishes. Broker.mu guards everything below done.
type pipeline struct {
	b      *Broker
	report func(tag uint64, err error)
	wake   chan struct{} // told that something was sent
	ended  chan struct{} // closed once err is set
	done   chan struct{} // closed when run has returned

	waiting []sent // sent, and not seen by the broker yet
	err     error  // why it is over; nil while it is not
}

// sent is a message on its way through a pipeline.
type sent struct {
	to  string
	m   *transport.Message
	tag uint64
}

var (
	_ transport.PipelinedPublisher = (*Broker)(nil)
	_ transport.Pipeline           = (*pipeline)(nil)
)

// OpenPipeline implements transport.PipelinedPublisher. While the connection is
// cut it waits for it to come back. Outcomes are reported in the order of Send.
//
// What a test sets for OpPublish is met by every message of a pipeline: Fail is
// an outcome of one message, LoseAnswer stores the message and ends the
// pipeline without an outcome, and Stall holds up everything sent and not
// reported, for as long as it lasts. Disconnect ends every pipeline; see also
// BreakPipelines and Alarm.
func (b *Broker) OpenPipeline(ctx context.Context, report func(tag uint64, err error)) (transport.Pipeline, error) {
	if report == nil {
		return nil, transport.Invalid(string(OpOpenPipeline), "", "there is nobody to report to")
	}
	if err := b.connected(ctx); err != nil {
		return nil, &transport.Error{
			Op: string(OpOpenPipeline), Kind: transport.Temporary, Err: err,
			Hint: "the connection is cut; try again when it is back",
		}
	}
	lost, err := b.begin(ctx, OpOpenPipeline, "")
	if err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	if lost != nil {
		return nil, lost
	}
	p := &pipeline{
		b: b, report: report,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), done: make(chan struct{}),
	}
	b.pipelines[p] = struct{}{}
	b.running.Go(p.run)
	return p, nil
}

// connected waits until the connection is not cut, or the broker is closed.
func (b *Broker) connected(ctx context.Context) error {
	for {
		b.mu.Lock()
		down, up := b.down != nil, b.up
		b.mu.Unlock()
		if !down {
			return nil
		}
		select {
		case <-up:
		case <-b.done:
			return nil // the next step says that it is closed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// BreakPipelines breaks the connection of every open pipeline, which ends them.
// It is for tests.
//
// The next messages of pipelines, as many as after says, are still stored, and
// their outcomes are lost with the connection; with zero it breaks at once.
// What was sent and not stored by then is lost. New pipelines can be opened
// right away.
func (b *Broker) BreakPipelines(after int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unanswered = max(after, 0)
	if b.unanswered == 0 {
		b.endPipelines(b.brokenError(errCut))
	}
}

// Alarm makes the broker hold up every publish, as one does that is short of
// memory or disk, until release is called: Publish waits as with Stall, and
// pipelines wait and say cause in Waiting. It is for tests. A nil cause stands
// for a plain one.
func (b *Broker) Alarm(cause error) (release func()) {
	if cause == nil {
		cause = errAlarm
	}
	resume := b.Stall(OpPublish)
	b.setAlarm(cause)
	return func() {
		b.setAlarm(nil)
		resume()
	}
}

func (b *Broker) setAlarm(cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.alarm = cause
}

// endPipelines ends every pipeline and waits for none. b.mu is held.
func (b *Broker) endPipelines(cause error) {
	for p := range b.pipelines {
		p.end(cause)
	}
}

func (b *Broker) brokenError(cause error) error {
	return &transport.Error{
		Op: string(OpPublish), Kind: transport.Temporary, Err: cause,
		Hint: "the connection broke; open another pipeline and send again what has no outcome",
	}
}

// Send implements transport.Pipeline.
func (p *pipeline) Send(to transport.Address, m *transport.Message, tag uint64) error {
	if err := p.Err(); err != nil {
		return overError(to.Name, err)
	}
	if err := p.b.validTo(OpPublish, to, m); err != nil {
		return err
	}
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if p.err != nil {
		return overError(to.Name, p.err)
	}
	p.waiting = append(p.waiting, sent{to.Name, m, tag})
	select {
	case p.wake <- struct{}{}:
	default: // it is awake
	}
	return nil
}

// overError says that the pipeline is over. It is Temporary whatever the cause,
// for a Permanent error would say that the message is at fault.
func overError(address string, cause error) error {
	return &transport.Error{
		Op: string(OpPublish), Address: address, Kind: transport.Temporary,
		Hint: "open another pipeline", Err: fmt.Errorf("the pipeline is over: %w", cause),
	}
}

// Flush implements transport.Pipeline. Nothing is gathered here.
func (p *pipeline) Flush() error {
	if err := p.Err(); err != nil {
		return overError("", err)
	}
	return nil
}

// Done implements transport.Pipeline.
func (p *pipeline) Done() <-chan struct{} { return p.done }

// Err implements transport.Pipeline.
func (p *pipeline) Err() error {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	return p.err
}

// Waiting implements transport.Pipeline; see Broker.Alarm.
func (p *pipeline) Waiting() error {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	return p.b.alarm
}

// End implements transport.Pipeline.
func (p *pipeline) End(stuck bool) {
	cause := closedError("pipeline", "")
	if stuck {
		cause = p.b.brokenError(errStuck)
	}
	p.b.mu.Lock()
	p.end(cause)
	p.b.mu.Unlock()
	<-p.done
}

// end makes the pipeline be over, unless it is. Broker.mu is held.
func (p *pipeline) end(cause error) {
	if p.err != nil {
		return
	}
	p.err, p.waiting = cause, nil
	delete(p.b.pipelines, p)
	close(p.ended)
}

// run is the broker's side: it takes one message after the other and reports
// what became of each.
func (p *pipeline) run() {
	defer close(p.done)
	for {
		step := p.step()
		switch {
		case step.over:
			return
		case step.told:
			p.report(step.tag, step.err)
		case step.wait != nil:
			select {
			case <-step.wait:
			case <-p.ended:
			}
		}
	}
}

// step is what run does next.
type step struct {
	over bool            // the pipeline is over
	wait <-chan struct{} // nothing can be done before this
	told bool            // tag has the outcome err
	tag  uint64
	err  error
}

// step takes the first message that waits.
func (p *pipeline) step() step {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if p.err != nil {
		return step{over: true}
	}
	if len(p.waiting) == 0 {
		p.waiting = nil // a long row is not kept for ever
		return step{wait: p.wake}
	}
	if stall := p.b.stalls[OpPublish]; stall != nil {
		return step{wait: stall}
	}
	first := p.waiting[0]
	p.waiting[0] = sent{}
	p.waiting = p.waiting[1:]
	err, told := p.store(first)
	return step{told: told, tag: first.tag, err: err}
}

// store does what the broker does with a message, faults included. When told is
// false, nobody hears of it.
func (p *pipeline) store(s sent) (outcome error, told bool) {
	b := p.b
	if b.unanswered > 0 {
		_ = b.route(OpPublish, s.to, s.m, nil) // the answer is lost, whatever it is
		b.unanswered--
		if b.unanswered == 0 {
			b.endPipelines(b.brokenError(errCut))
		}
		return nil, false
	}
	f := b.fault(OpPublish)
	if f != nil && !f.after {
		return f.err(string(OpPublish), s.to), true
	}
	if err := b.route(OpPublish, s.to, s.m, nil); err != nil {
		return err, true
	}
	if f != nil {
		p.end(f.err(string(OpPublish), s.to))
		return nil, false
	}
	return nil, true
}
