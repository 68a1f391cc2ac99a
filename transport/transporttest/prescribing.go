package transporttest

import (
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// prescribing are the promises about what a message asks of its broker, however
// it is sent.
func prescribing() []Promise {
	return []Promise{
		{"ResentIsToldToTheReceiver", resentIsToldToTheReceiver},
		{"ScheduledMessageIsKeptBackOrRefused", scheduledMessageIsKeptBackOrRefused},
		{"ExpiredMessageIsDroppedOrRefused", expiredMessageIsDroppedOrRefused},
		{"HigherPriorityGoesFirstOrIsRefused", higherPriorityGoesFirstOrIsRefused},
	}
}

func resentIsToldToTheReceiver(w *world) {
	rx, to := w.listen("a", 10)
	for _, by := range w.ways() {
		for _, resent := range []bool{false, true} {
			m := w.message("by " + by.name)
			m.Resent = resent
			w.must(by, to, m)
			d := w.receive(rx, by.name)
			w.same(d, m, by.name)
			if got := d.Message().Resent; got != resent {
				w.Errorf("%s: the sender said Resent: %v, and the receiver reads %v", by.name, resent, got)
			}
			w.ack(d)
		}
	}
}

// denied fails unless what m asks is refused, because the capabilities deny it,
// and costs the next message nothing.
func (w *world) denied(rx transport.Receiver, to transport.Address, m transport.Message, what string) {
	w.Helper()
	for _, by := range w.ways() {
		c := m
		c.ID += "-" + by.name
		err := by.send(to, &c)
		w.refused(err, transport.ErrUnsupported, by.name+" of "+what+", which the capabilities deny")
		if transport.KindOf(err) != transport.Permanent {
			w.Errorf("%s of %s: the error is %v, want permanent", by.name, what, transport.KindOf(err))
		}
		next := w.message("after " + what)
		w.must(by, to, next)
		d := w.receive(rx, "the next message")
		w.same(d, next, "the message after "+what)
		w.ack(d)
	}
}

func scheduledMessageIsKeptBackOrRefused(w *world) {
	rx, to := w.listen("a", 10)
	if !w.caps.Schedules {
		m := w.message("never")
		m.NotBefore = time.Now().Add(w.h.Delay)
		w.denied(rx, to, *m, "a scheduled message")
		return
	}
	for _, by := range w.ways() {
		past := w.message("due already")
		past.NotBefore = time.Now().Add(-time.Hour)
		w.must(by, to, past)
		d := w.receive(rx, "a message that is due already")
		w.same(d, past, "a message that is due already")
		w.ack(d)

		later, now := w.message("later"), w.message("now")
		later.NotBefore = time.Now().Add(w.h.Delay).Round(0)
		w.must(by, to, later)
		w.must(by, to, now)
		missing := map[string]bool{later.ID: true, now.ID: true}
		for len(missing) > 0 {
			d := w.receiveWithin(rx, w.back(), by.name+" of a scheduled message and one that is not")
			id := d.Message().ID
			if early := time.Until(later.NotBefore); id == later.ID && early > 0 {
				w.Errorf("%s: a scheduled message came %v early", by.name, early)
			}
			if !missing[id] {
				w.Errorf("%s: message %q came twice", by.name, id)
			}
			delete(missing, id)
			w.ack(d)
		}
	}
}

func expiredMessageIsDroppedOrRefused(w *world) {
	// No broker counts in less than seconds.
	const ttl = time.Second
	if !w.caps.Expires {
		rx, to := w.listen("a", 10)
		m := w.message("never")
		m.TTL = ttl
		w.denied(rx, to, *m, "a message with a time to live")
		return
	}
	src, to := w.source("a")
	want := w.want("a", 10)
	w.provision(src, want)
	var kept []string
	for _, by := range w.ways() {
		brief, long := w.message("brief"), w.message("long")
		brief.TTL, long.TTL = ttl, time.Hour
		w.must(by, to, brief)
		w.must(by, to, long)
		kept = append(kept, long.ID)
	}
	w.pause(ttl + min(w.h.Patience/2, 5*time.Second))
	rx := w.start(src, want)
	for range kept {
		d := w.receive(rx, "a message whose time is not over")
		if string(d.Message().Body) != "long" {
			w.Errorf("message %q was handed out long after its time was over", d.Message().ID)
		}
		w.ack(d)
	}
	w.nothing(rx, w.h.Quiet, "messages whose time is over")
}

func higherPriorityGoesFirstOrIsRefused(w *world) {
	if !w.caps.Priorities {
		rx, to := w.listen("a", 10)
		m := w.message("never")
		m.Priority = 9
		w.denied(rx, to, *m, "a message with a priority")
		return
	}
	src, to := w.h.Source(w, Spec{Name: w.name, Group: "a", Lease: w.h.Lease, Priorities: true})
	want := w.want("a", 1)
	w.provision(src, want)
	for _, by := range w.ways() {
		low, high := w.message("low"), w.message("high")
		high.Priority = 9
		w.must(by, to, low)
		w.must(by, to, high)
		rx := w.start(src, want)
		for _, m := range []*transport.Message{high, low} {
			d := w.receive(rx, by.name+" of a low and a high priority")
			w.same(d, m, by.name+" of a low and a high priority")
			w.ack(d)
		}
		w.shut(rx)
	}
}
