package transporttest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

func pipelining() []Promise {
	return []Promise{
		{"PipelinedMessageHasOneOutcome", pipelinedMessageHasOneOutcome},
		{"PipelinedMessageArrivesWhole", pipelinedMessageArrivesWhole},
		{"PipelinedMessagesArriveInOrder", pipelinedMessagesArriveInOrder},
		{"RefusedMessageCostsNoOtherOfItsPipeline", refusedMessageCostsNoOther},
		{"SendDoesNotWaitForTheBroker", sendDoesNotWaitForTheBroker},
		{"EndedPipelineReportsNothing", endedPipelineReportsNothing},
		{"StuckPipelineIsReplaced", stuckPipelineIsReplaced},
		{"OpenPipelineHonoursContext", openPipelineHonoursContext},
		{"PipelinesAreIndependent", pipelinesAreIndependent},
		{"PipelinesShareDeduplication", pipelinesShareDeduplication},
		{"ClosedTransportEndsItsPipelines", closedTransportEndsItsPipelines},
		{"BrokenPipelineEndsAndLosesNothingStored", brokenPipelineEndsAndLosesNothingStored},
	}
}

func pipelinedMessageHasOneOutcome(w *world) {
	if !w.pipelines() {
		return
	}
	const n = 200
	rx, to := w.listen("a", n)
	p := w.row()
	p.alive("a pipeline that was just opened")
	for range n {
		p.send(to, w.message("in a row"))
	}
	p.flush()
	p.all()
	w.pause(w.h.Quiet) // for outcomes that are too many
	p.sound()
	p.alive("a pipeline whose messages have their outcomes")
	ids := p.stored()
	if len(ids) != n {
		w.Fatalf("%d of %d good messages were reported as stored", len(ids), n)
	}
	w.arrive(rx, ids, "through a pipeline")
	last := w.message("after a pause")
	if err := p.outcome(to, last); err != nil {
		w.Errorf("a message after a pause: %v", err)
	}
	w.arrive(rx, []string{last.ID}, "after a pause")
}

func pipelinedMessageArrivesWhole(w *world) {
	if !w.pipelines() {
		return
	}
	rx, to := w.listen("a", 10)
	p := w.row()
	for name, body := range map[string][]byte{"no body": nil, "a body": []byte("body"), "full size": full(w.h.MaxSize - headerRoom)} {
		m := w.message("")
		m.Body, m.Key, m.ContentType = body, "customer-7", "application/vnd.test+json"
		m.Header = transport.Header{"Plain": {"one"}, "Repeated": {"c", "a", "a"}, "lower-case": {"kept"}}
		sent := *m
		sent.Body, sent.Header = append([]byte(nil), body...), m.Header.Clone()
		before := time.Now()
		if err := p.outcome(to, &sent); err != nil {
			w.Fatalf("%s: %v", name, err)
		}
		// From its outcome on the message is the caller's again.
		clear(sent.Body)
		sent.Header.Set("Plain", "overwritten")
		d := w.receive(rx, name)
		w.whole(d, m, name)
		w.stamped(d.Message(), to, before, name)
		w.ack(d)
	}
}

func pipelinedMessagesArriveInOrder(w *world) {
	if !w.pipelines() {
		return
	}
	const n = 100
	rx, to := w.listen("a", n)
	p := w.row()
	for i := range n {
		p.send(to, w.message("in order"))
		if i%7 == 0 {
			p.flush()
		}
	}
	p.flush()
	p.all()
	for _, m := range p.sent {
		d := w.receive(rx, "a message")
		w.same(d, m, "the order of Send")
		w.ack(d)
	}
}

// bad is a message that is refused, and why.
type bad struct {
	what   string
	to     transport.Address
	body   []byte
	target error
}

// refusals are the messages that to's broker refuses.
func (w *world) refusals(to transport.Address) []bad {
	var out []bad
	if w.caps.Stores {
		// Nobody has provisioned this place.
		_, nowhere := w.h.Source(w, Spec{Name: w.name + "-none", Group: "a", Lease: w.h.Lease})
		out = append(out, bad{"a message to nobody", nowhere, []byte("to nobody"), transport.ErrUnroutable})
	}
	for _, invalid := range w.h.InvalidAddresses {
		out = append(out, bad{"a message to " + quote(invalid), invalid, nil, transport.ErrInvalid})
	}
	return append(out, bad{"a message that is too large", to, full(w.h.MaxSize + 1), transport.ErrTooLarge})
}

func refusedMessageCostsNoOther(w *world) {
	if !w.pipelines() {
		return
	}
	rx, to := w.listen("a", 100)
	p := w.row()
	type tried struct {
		bad
		tag uint64
		err error
	}
	var refused []tried
	for _, b := range w.refusals(to) {
		p.send(to, w.message("before "+b.what))
		m := w.message("")
		m.Body = b.body
		tag, err := p.try(b.to, m)
		if err != nil && transport.KindOf(err) != transport.Permanent {
			w.Fatalf("%s: a refusal of Send that is not permanent ends the pipeline: %v", b.what, err)
		}
		refused = append(refused, tried{b, tag, err})
		p.send(to, w.message("after "+b.what))
	}
	p.flush()
	p.all()
	p.sound()
	p.alive("after messages that were refused")
	for _, r := range refused {
		err := r.err
		if err == nil {
			err = p.take(r.tag)
		}
		w.refused(err, r.target, r.what)
		// Somebody may take an address a moment later.
		if !errors.Is(r.target, transport.ErrUnroutable) && transport.KindOf(err) != transport.Permanent {
			w.Errorf("%s: the outcome is %v, want permanent", r.what, transport.KindOf(err))
		}
	}
	ids := p.stored()
	if len(ids) != 2*len(refused) {
		w.Fatalf("%d of %d good messages between bad ones were stored", len(ids), 2*len(refused))
	}
	w.arrive(rx, ids, "between bad messages")
}

// take returns the outcome of a message and forgets that it was sent.
func (r *row) take(tag uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	outcomes := r.told[tag]
	if len(outcomes) == 0 {
		return nil
	}
	delete(r.told, tag)
	r.sent[tag-r.first] = nil
	return outcomes[0]
}

// sendDoesNotWaitForTheBroker wants more than one message under way at least
// once in many tries: nobody can say how soon a broker answers.
func sendDoesNotWaitForTheBroker(w *world) {
	if !w.pipelines() {
		return
	}
	_, to := w.listen("a", 10)
	p := w.row()
	for range 20 {
		for range 100 {
			p.send(to, w.message("one of many"))
			if p.pending()-p.counted() > 1 {
				return
			}
		}
		p.flush()
		p.all()
	}
	w.Errorf("of 2000 messages in a row none was sent while two others had no outcome")
}

func endedPipelineReportsNothing(w *world) {
	if !w.pipelines() {
		return
	}
	const n = 200
	rx, to := w.listen("a", n)
	p := w.row()
	for range n {
		p.send(to, w.message("in flight"))
	}
	p.flush()
	p.outcomes(1)
	ended := make(chan struct{}, 2)
	for range 2 {
		go func() {
			p.pipe.End(false)
			ended <- struct{}{}
		}()
	}
	await(w, ended, "End with messages in flight")
	told := p.counted()
	await(w, ended, "a second End at the same time")
	p.over("after End")
	p.end(false, "End of a pipeline that is over")
	w.pause(w.h.Quiet)
	if late := p.counted() - told; late > 0 {
		w.Errorf("%d outcomes were reported after End had returned", late)
	}
	p.sound()
	w.arrive(rx, p.stored(), "before End")
}

func openPipelineHonoursContext(w *world) {
	if !w.pipelines() {
		return
	}
	_, to := w.listen("a", 10)
	if _, err := w.openRow(w.ended()); err == nil {
		w.Errorf("a pipeline was opened with a context that had ended")
	}
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	p, err := w.openRow(ctx)
	if err != nil {
		w.Fatalf("open a pipeline: %v", err)
	}
	cancel()
	w.pause(w.h.Quiet)
	p.alive("after the end of the context that bounded its opening")
	if err := p.outcome(to, w.message("after that")); err != nil {
		w.Errorf("a message after the end of the context that bounded the opening: %v", err)
	}
}

func pipelinesAreIndependent(w *world) {
	if !w.pipelines() {
		return
	}
	const n = 50
	rx, to := w.listen("a", 4*n)
	p, q := w.row(), w.row() // both use the same tags
	for range n {
		p.send(to, w.message("through the one"))
		q.send(to, w.message("through the other"))
	}
	p.flush()
	q.flush()
	p.all()
	q.all()
	p.end(false, "End of one of two pipelines")
	q.alive("after the end of another pipeline")
	for range n {
		q.send(to, w.message("after the end of the one"))
	}
	q.flush()
	q.all()
	p.sound()
	q.sound()
	w.arrive(rx, append(p.stored(), q.stored()...), "through two pipelines")
}

func pipelinesShareDeduplication(w *world) {
	if !w.pipelines() {
		return
	}
	rx, to := w.listen("a", 10)
	m := w.message("once")
	m.DedupID = m.ID + "-key"
	for range 2 {
		p := w.row()
		if err := p.outcome(to, m); err != nil {
			w.Fatalf("a message under one key through two pipelines: %v", err)
		}
	}
	w.copies(rx, 1)
}

func closedTransportEndsItsPipelines(w *world) {
	if !w.pipelines() {
		return
	}
	_, to := w.listen("a", 10)
	p, idle := w.row(), w.row()
	if err := p.outcome(to, w.message("before")); err != nil {
		w.Fatalf("a message before Close: %v", err)
	}
	w.disconnect()
	for _, r := range []*row{p, idle} {
		r.doneWithin(w.h.Patience, "the transport was closed")
		r.over("after Close of the transport")
	}
	p.end(false, "End after Close of the transport")
	ctx, cancel := w.soon()
	defer cancel()
	_, err := w.openRow(ctx)
	w.refused(err, transport.ErrClosed, "a pipeline of a closed transport")
}

// stream sends one message after the other until the pipeline is over or n were
// sent.
func (r *row) stream(to transport.Address, messages []*transport.Message) {
	for i, m := range messages {
		if _, err := r.try(to, m); err != nil {
			if transport.KindOf(err) == transport.Permanent {
				r.note("a good message was refused: " + err.Error())
			}
			return
		}
		if i%5 == 0 {
			if r.pipe.Flush() != nil {
				return
			}
			r.w.pause(time.Millisecond)
		}
	}
	_ = r.pipe.Flush() // it fails when the pipeline is over, which is what the promise waits for
}

func brokenPipelineEndsAndLosesNothingStored(w *world) {
	if !w.pipelines() || w.h.Restart == nil {
		return
	}
	src, to := w.leased("a", w.long())
	want := w.want("a", 10)
	w.provision(src, want)
	var messages []*transport.Message
	for range 2000 {
		messages = append(messages, w.message("around a break"))
	}
	p := w.row()
	var wg sync.WaitGroup
	wg.Go(func() { p.stream(to, messages) })
	defer wg.Wait()
	defer p.letGo()
	p.outcomes(50)
	w.h.Restart(w)
	p.doneWithin(w.back(), "the connection broke")
	wg.Wait()
	p.over("after the connection broke")
	p.sound()
	w.publishUntilTaken(to, w.message("the broker is back"))
	n := p.sendAgain(to)
	if w.caps.Stores {
		w.inOrder(w.start(src, want), messages[:n])
	}
}

// sendAgain sends through another pipeline what has no outcome, and returns how
// many messages are stored by then in all.
func (r *row) sendAgain(to transport.Address) int {
	r.w.Helper()
	stored, left := r.split()
	q := r.w.row()
	for _, m := range left {
		m.Resent = true
		q.send(to, m)
	}
	q.flush()
	q.all()
	q.sound()
	if again := q.stored(); len(again) != len(left) {
		r.w.Fatalf("%d of the %d messages that were left were stored by the next pipeline", len(again), len(left))
	}
	return len(stored) + len(left)
}

func stuckPipelineIsReplaced(w *world) {
	if !w.pipelines() {
		return
	}
	const n = 50
	rx, to := w.listen("a", n)
	p := w.row()
	var ids []string
	for range n {
		m := w.message("in flight")
		ids = append(ids, m.ID)
		p.send(to, m)
	}
	p.flush()
	p.end(true, "End of a stuck pipeline")
	p.over("after End of a stuck pipeline")
	p.sendAgain(to)
	p.sound()
	w.arrive(rx, ids, "around the end of a stuck pipeline")
}

// inOrder fails unless the first copies of messages arrive in that order. Other
// messages may be between.
func (w *world) inOrder(rx transport.Receiver, messages []*transport.Message) {
	w.Helper()
	place := map[string]int{}
	for i, m := range messages {
		place[m.ID] = i
	}
	for next := 0; next < len(messages); {
		d := w.receiveWithin(rx, w.back(), "a message that was reported as stored")
		at, ours := place[d.Message().ID]
		if ours && at > next {
			w.Fatalf("message %q came, and %q, which was sent before it, has not", d.Message().ID, messages[next].ID)
		}
		if ours && at == next {
			next++
		}
		w.ack(d)
	}
}
