package transporttest

import "github.com/holdfast-go/holdfast/transport"

func returning() []Promise {
	return []Promise{
		{"ReturnedDeliveryIsNotCounted", returnedDeliveryIsNotCounted},
		{"UnseenMessagesAreNotCounted", unseenMessagesAreNotCounted},
	}
}

// recount is how often d was handed out, by the best count there is.
func (w *world) recount(d transport.Delivery) int {
	w.Helper()
	r, ok := d.(transport.Recounter)
	if !ok {
		return d.Deliveries()
	}
	ctx, cancel := w.soon()
	defer cancel()
	n, err := r.Recount(ctx)
	if err != nil {
		w.Fatalf("recount %q: %v", d.Message().ID, err)
	}
	return n
}

func returnedDeliveryIsNotCounted(w *world) {
	src, to := w.leased("a", w.long())
	want := w.want("a", 10)
	w.provision(src, want)
	rx := w.start(src, want)
	m := w.message("returned")
	w.publish(to, m)
	d := w.receive(rx, "the message")
	if !isReturner(d) {
		w.ack(d) // whatever comes back is counted, and the type says so
		return
	}
	if !w.caps.Redelivers {
		w.refused(d.(transport.Returner).Return(w.ctx), transport.ErrUnsupported, "return")
		w.ack(d)
		return
	}
	counted := w.recount(d)
	for range 3 {
		// One that is open already knows no more than the broker tells it.
		other := w.start(src, want)
		if err := d.(transport.Returner).Return(w.ctx); err != nil {
			w.Fatalf("return %q: %v", m.ID, err)
		}
		w.settled(d, "after it was returned")
		w.shut(rx)
		rx = other
		d = w.receive(rx, "a message that was returned")
		w.same(d, m, "a message that was returned")
		if n := w.recount(d); n != counted {
			w.Errorf("a message that was returned is counted %d, was %d before", n, counted)
		}
		if d.Deliveries() < counted {
			w.Errorf("a message that was returned says delivery %d, was %d before", d.Deliveries(), counted)
		}
	}
	w.nack(d, 0)
	d = w.receiveWithin(rx, w.back(), "a message that was given back")
	if n := w.recount(d); n != counted+1 {
		w.Errorf("a message that was given back is counted %d, want %d", n, counted+1)
	}
	w.ack(d)
}

func unseenMessagesAreNotCounted(w *world) {
	const n, stops = 10, 3
	src, to := w.leased("a", w.long())
	want := w.want("a", 1)
	want.Prefetch = n
	w.provision(src, want)
	rx := w.start(src, want)
	for range n {
		w.publish(to, w.message("never seen"))
	}
	d := w.receive(rx, "the first message")
	returns := isReturner(d)
	w.ack(d)
	if !returns || !w.caps.Redelivers {
		return // whatever was buffered is counted, or gone
	}
	for range stops {
		w.pause(w.h.Quiet) // to have them buffered
		w.shut(rx)
		rx = w.start(src, want)
	}
	for range n - 1 {
		d := w.receive(rx, "a message that nobody has seen")
		if count := d.Deliveries(); count != 1 {
			w.Errorf("%q is counted %d after %d stops, and nobody has seen it", d.Message().ID, count, stops)
		}
		w.ack(d)
	}
}

func isReturner(d transport.Delivery) bool {
	_, ok := d.(transport.Returner)
	return ok
}
