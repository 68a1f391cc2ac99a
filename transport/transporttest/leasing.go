package transporttest

import (
	"context"

	"github.com/holdfast-go/holdfast/transport"
)

func leasing() []Promise {
	return []Promise{
		{"LeaseIsExtended", leaseIsExtended},
		{"LeaseThatEndsReturnsTheMessage", leaseThatEndsReturnsTheMessage},
		{"BufferedLeaseIsKept", bufferedLeaseIsKept},
	}
}

// leaseless asserts what a transport without leases looks like.
func (w *world) leaseless(rx transport.Receiver, d transport.Delivery) {
	w.Helper()
	if l, ok := rx.(transport.Leased); ok && l.Lease() != 0 {
		w.Errorf("the harness says that nothing is leased, and the receiver says %v", l.Lease())
	}
	if l, ok := d.(transport.LeaseExtender); ok {
		w.refused(l.ExtendLease(), transport.ErrUnsupported, "extend a lease that there is not")
	}
	w.ack(d)
}

func leaseIsExtended(w *world) {
	rx, to := w.listen("a", 10)
	w.publish(to, w.message("slow"))
	d := w.receive(rx, "the message")
	if w.h.Lease == 0 {
		w.leaseless(rx, d)
		return
	}
	l, ok := d.(transport.LeaseExtender)
	if !ok {
		w.Fatalf("the harness says that deliveries are leased, and they are no LeaseExtender")
	}
	other := w.again("a", 10)
	stolen := make(chan error, 1)
	ctx, cancel := w.within(w.h.Lease * 7 / 2)
	defer cancel()
	go func() {
		_, err := other.Receive(ctx)
		stolen <- err
	}()
	for ctx.Err() == nil {
		if err := l.ExtendLease(); err != nil {
			w.Fatalf("extend a lease in time: %v", err)
		}
		w.pause(w.h.Lease / 4)
	}
	if err := await(w, stolen, "a Receive whose context ended"); err == nil {
		w.Fatalf("the message was handed to somebody else while its lease was extended")
	}
	w.ack(d)
	w.nothing(other, w.h.RedeliverWithin, "after an ack under an extended lease")
}

func leaseThatEndsReturnsTheMessage(w *world) {
	rx, to := w.listen("a", 10)
	m := w.message("held too long")
	w.publish(to, m)
	d := w.receive(rx, "the message")
	if w.h.Lease == 0 {
		w.leaseless(rx, d)
		return
	}
	// The receiver lives and goes on: only the lease is over.
	again := w.receiveWithin(rx, w.back(), "a message whose lease ended")
	w.same(again, m, "a message whose lease ended")
	if again.Deliveries() <= d.Deliveries() {
		w.Errorf("counted %d after it was counted %d", again.Deliveries(), d.Deliveries())
	}
	w.ack(again)
}

func bufferedLeaseIsKept(w *world) {
	const n = 5
	src, to := w.source("a")
	want := w.want("a", 1)
	want.Prefetch = n - 1
	w.provision(src, want)
	rx := w.start(src, want)
	for range n {
		w.publish(to, w.message("maybe buffered"))
	}
	d := w.receive(rx, "the first message")
	if w.h.Lease == 0 {
		w.leaseless(rx, d)
		return
	}
	ctx, cancel := w.within(w.h.Lease * 7 / 2)
	defer cancel()
	w.hold(ctx, d)
	w.ack(d)
	for range n - 1 {
		d = w.receive(rx, "a message that may have been buffered")
		if d.Deliveries() != 1 {
			w.Errorf("%q is delivery %d: its lease ended in the receiver's buffer", d.Message().ID, d.Deliveries())
		}
		w.ack(d)
	}
	w.nothing(rx, w.h.RedeliverWithin, "after all messages were acked once")
}

// hold extends the lease of d until ctx ends.
func (w *world) hold(ctx context.Context, d transport.Delivery) {
	w.Helper()
	l, ok := d.(transport.LeaseExtender)
	if !ok {
		w.Fatalf("the harness says that deliveries are leased, and they are no LeaseExtender")
	}
	for ctx.Err() == nil {
		if err := l.ExtendLease(); err != nil {
			w.Fatalf("extend a lease in time: %v", err)
		}
		w.pause(w.h.Lease / 4)
	}
}
