package transporttest

import (
	"errors"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

func settling() []Promise {
	return []Promise{
		{"AckedMessageIsGone", ackedMessageIsGone},
		{"AckedLaterMessageIsGoneAfterClose", ackedLaterMessageIsGoneAfterClose},
		{"HeldDeliverySettlesAfterClose", heldDeliverySettlesAfterClose},
		{"NackWaitsThenRaisesDeliveries", nackWaitsThenRaisesDeliveries},
		{"NackHoldsBackNothingElse", nackHoldsBackNothingElse},
		{"NackReturnsOnlyToItsSubscription", nackReturnsOnlyToItsSubscription},
		{"SecondSettleIsRefused", secondSettleIsRefused},
		{"FailedSettleCanBeRetried", failedSettleCanBeRetried},
		{"RejectIsTerminal", rejectIsTerminal},
	}
}

func ackedMessageIsGone(w *world) {
	rx, to := w.listen("a", 10)
	w.publish(to, w.message("acked"))
	w.ack(w.receive(rx, "the message"))
	w.nothing(rx, w.h.RedeliverWithin, "to the same receiver, after the ack")
	w.shut(rx)
	w.nothing(w.again("a", 10), w.h.Quiet, "to the next receiver, after the ack")
}

func ackedLaterMessageIsGoneAfterClose(w *world) {
	const n = 20
	rx, to := w.listen("a", n)
	for range n {
		w.publish(to, w.message("acked"))
	}
	var last transport.Delivery
	for range n {
		last = w.receive(rx, "a message")
		if err := ackLater(w, last); err != nil {
			w.Fatalf("ack later: %v", err)
		}
	}
	w.refused(last.Ack(w.ctx), transport.ErrSettled, "ack after a pipelined ack")
	w.shut(rx)
	w.nothing(w.again("a", n), w.h.RedeliverWithin, "after Close had confirmed the acks")
}

// ackLater acks in the fastest way the delivery has.
func ackLater(w *world, d transport.Delivery) error {
	if p, ok := d.(transport.PipelinedAcker); ok {
		return p.AckLater()
	}
	ctx, cancel := w.soon()
	defer cancel()
	return d.Ack(ctx)
}

func heldDeliverySettlesAfterClose(w *world) {
	src, to := w.leased("a", w.long())
	want := w.want("a", 10)
	w.provision(src, want)
	rx := w.start(src, want)
	w.publish(to, w.message("held"))
	d := w.receive(rx, "the message")
	w.shut(rx)
	w.ack(d)
	w.refused(d.Ack(w.ctx), transport.ErrSettled, "a second ack")
	w.nothing(w.start(src, want), w.h.RedeliverWithin, "a delivery that was acked after its receiver was closed")
}

func nackWaitsThenRaisesDeliveries(w *world) {
	rx, to := w.listen("a", 10)
	m := w.message("given back")
	w.publish(to, m)
	d := w.receive(rx, "the message")
	if d.Deliveries() < 1 {
		w.Errorf("the first delivery is counted %d", d.Deliveries())
	}
	if !w.caps.Redelivers {
		w.deniesNack(rx, d)
		return
	}
	delay, counted := w.h.Delay, d.Deliveries()
	if !w.caps.Delays {
		w.refused(d.Nack(w.ctx, delay), transport.ErrUnsupported, "a nack with a delay")
		delay = 0
	}
	for round := range 3 {
		start := time.Now()
		w.nack(d, delay)
		d = w.receiveWithin(rx, delay+w.back(), "a message that was given back")
		w.same(d, m, "a message that was given back")
		if waited := time.Since(start); waited < delay {
			w.Errorf("round %d: it was back after %v, before its delay of %v", round, waited, delay)
		}
		if d.Deliveries() <= counted {
			w.Errorf("round %d: counted %d, was %d the last time", round, d.Deliveries(), counted)
		}
		counted = d.Deliveries()
	}
	w.ack(d)
}

// deniesNack asserts what a broker without redelivery answers.
func (w *world) deniesNack(rx transport.Receiver, d transport.Delivery) {
	w.Helper()
	w.refused(d.Nack(w.ctx, 0), transport.ErrUnsupported, "nack")
	w.refused(d.Nack(w.ctx, w.h.Delay), transport.ErrUnsupported, "nack with a delay")
	w.ack(d)
	w.nothing(rx, w.h.Quiet, "after a nack that was denied")
}

func nackHoldsBackNothingElse(w *world) {
	rx, to := w.listen("a", 10)
	slow, fresh := w.message("slow"), w.message("fresh")
	w.publish(to, slow)
	d := w.receive(rx, "the message")
	if !w.caps.Delays {
		w.refused(d.Nack(w.ctx, time.Minute), transport.ErrUnsupported, "a nack with a delay")
		w.ack(d)
		return
	}
	w.nack(d, time.Minute)
	for range 3 {
		w.publish(to, fresh)
		next := w.receive(rx, "a message behind one that waits for a minute")
		w.same(next, fresh, "a message behind one that waits for a minute")
		w.ack(next)
		fresh = w.message("fresh")
	}
}

func nackReturnsOnlyToItsSubscription(w *world) {
	a, to := w.listen("a", 10)
	b, _ := w.listen("b", 10)
	m := w.message("for both")
	w.publish(to, m)
	one, other := w.receive(a, "group a"), w.receive(b, "group b")
	w.same(one, m, "group a")
	w.same(other, m, "group b")
	w.ack(other)
	if !w.caps.Redelivers {
		w.deniesNack(a, one)
		w.nothing(b, w.h.Quiet, "group b after a nack that was denied")
		return
	}
	w.nack(one, 0)
	again := w.receiveWithin(a, w.back(), "group a again")
	w.same(again, m, "group a again")
	w.ack(again)
	w.nothing(b, w.h.RedeliverWithin, "group b, which had acked")
}

func secondSettleIsRefused(w *world) {
	rx, to := w.listen("a", 10)
	w.publish(to, w.message("acked"))
	d := w.receive(rx, "the message")
	w.ack(d)
	w.settled(d, "after an ack")
	if !w.caps.Redelivers {
		return
	}
	w.publish(to, w.message("given back"))
	d = w.receive(rx, "the next message")
	w.nack(d, 0)
	w.settled(d, "after a nack")
	w.ack(w.receiveWithin(rx, w.back(), "the message that was given back"))
}

// settled asserts that every settlement of d is refused.
func (w *world) settled(d transport.Delivery, when string) {
	w.Helper()
	w.refused(d.Ack(w.ctx), transport.ErrSettled, "ack "+when)
	if p, ok := d.(transport.PipelinedAcker); ok {
		w.refused(p.AckLater(), transport.ErrSettled, "ack later "+when)
	}
	if w.caps.Redelivers {
		w.refused(d.Nack(w.ctx, 0), transport.ErrSettled, "nack "+when)
	}
	if r, ok := d.(transport.Returner); ok && w.caps.Redelivers {
		w.refused(r.Return(w.ctx), transport.ErrSettled, "return "+when)
	}
	if r, ok := d.(transport.Rejecter); ok && w.caps.Rejects {
		w.refused(r.Reject(w.ctx, "again"), transport.ErrSettled, "reject "+when)
	}
	if l, ok := d.(transport.LeaseExtender); ok && w.h.Lease > 0 && l.ExtendLease() == nil {
		w.Errorf("the lease of a delivery was extended %s", when)
	}
}

func failedSettleCanBeRetried(w *world) {
	src, to := w.leased("a", w.long())
	want := w.want("a", 10)
	w.provision(src, want)
	rx := w.start(src, want)
	w.publish(to, w.message("ended context"))
	d := w.receive(rx, "the message")
	// The ack may have reached the broker all the same; what must not be is a
	// delivery that nobody can settle any more.
	if err := d.Ack(w.ended()); err == nil {
		w.refused(d.Ack(w.ctx), transport.ErrSettled, "ack after an ack")
	} else {
		w.ack(d)
	}
	if w.h.FailSettles != nil {
		w.settlesAfterAFailure(rx, to)
	}
	w.shut(rx)
	w.nothing(w.start(src, want), w.h.RedeliverWithin, "after acks that were tried again")
}

// settlesAfterAFailure settles while the harness makes settlements fail, and
// again when they work.
func (w *world) settlesAfterAFailure(rx transport.Receiver, to transport.Address) {
	w.Helper()
	w.publish(to, w.message("failed ack"))
	d := w.receive(rx, "the message")
	restore := w.h.FailSettles(w)
	ctx, cancel := w.soon()
	err := d.Ack(ctx)
	cancel()
	restore()
	if err == nil {
		w.Fatalf("the harness made settlements fail, and an ack succeeded")
	}
	if errors.Is(err, transport.ErrSettled) {
		w.Fatalf("the first ack failed with %v", err)
	}
	w.ack(d)
	w.refused(d.Ack(w.ctx), transport.ErrSettled, "ack after it succeeded")
}

func rejectIsTerminal(w *world) {
	rx, to := w.listen("a", 10)
	w.publish(to, w.message("rejected"))
	d := w.receive(rx, "the message")
	r, ok := d.(transport.Rejecter)
	if !w.caps.Rejects {
		if ok {
			w.refused(r.Reject(w.ctx, "no good"), transport.ErrUnsupported, "reject")
		}
		w.ack(d)
		return
	}
	if !ok {
		w.Fatalf("Capabilities say Rejects, and the delivery is no Rejecter")
	}
	if err := r.Reject(w.ctx, "no good"); err != nil {
		w.Fatalf("reject: %v", err)
	}
	w.settled(d, "after a reject")
	w.nothing(rx, w.h.RedeliverWithin, "after the message was rejected")
	w.shut(rx)
	w.nothing(w.again("a", 10), w.h.Quiet, "to the next receiver, after the message was rejected")
}
