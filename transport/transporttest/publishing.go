package transporttest

import (
	"bytes"
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

func publishing() []Promise {
	return []Promise{
		{"PublishedMessageArrivesWhole", publishedMessageArrivesWhole},
		{"PublishTakesACopy", publishTakesACopy},
		{"BytesInHeadersArriveOrAreRefused", bytesInHeadersArriveOrAreRefused},
		{"StatusHeaderDoesNotHideAMessage", statusHeaderDoesNotHideAMessage},
		{"MessageWithoutIDGetsAStableOne", messageWithoutIDGetsAStableOne},
		{"PositionsAreUnique", positionsAreUnique},
		{"PublishWithoutRouteIsUnroutable", publishWithoutRouteIsUnroutable},
		{"PublishWaitsForAReceiverOrIsGone", publishWaitsForAReceiverOrIsGone},
		{"InvalidAddressIsRefused", invalidAddressIsRefused},
		{"OversizeIsRefused", oversizeIsRefused},
		{"PublishHonoursContext", publishHonoursContext},
		{"DedupStoresOneCopy", dedupStoresOneCopy},
		{"DifferentDedupIDArrives", differentDedupIDArrives},
	}
}

// headerRoom is what the suite leaves for headers in a message of full size.
const headerRoom = 8 << 10

func publishedMessageArrivesWhole(w *world) {
	rx, to := w.listen("a", 10)
	var binary [256]byte
	for i := range binary {
		binary[i] = byte(i)
	}
	for name, body := range map[string][]byte{
		"nil body": nil, "empty body": {}, "every byte": binary[:], "full size": full(w.h.MaxSize - headerRoom),
	} {
		m := w.message("")
		m.Body, m.Key, m.ContentType = body, "customer-7", "application/vnd.test+json; v=2"
		m.Header = transport.Header{
			"Plain":       {"one"},
			"Repeated":    {"c", "a", "b", "a"},
			"lower-case":  {"kept"},
			"Empty":       {""},
			"Punctuation": {`"quoted"; k=v, 50% (x) {y}: z`},
		}
		before := time.Now()
		w.publish(to, m)
		d := w.receive(rx, name)
		w.whole(d, m, name)
		w.stamped(d.Message(), to, before, name)
		w.ack(d)
	}
}

// full returns n bytes that are not all the same.
func full(n int) []byte {
	return bytes.Repeat([]byte("holdfast"), n/8+1)[:n]
}

// whole fails unless all that was sent of m is there.
func (w *world) whole(d transport.Delivery, m *transport.Message, what string) {
	w.Helper()
	w.same(d, m, what)
	got := d.Message()
	if got.Key != m.Key || got.ContentType != m.ContentType {
		w.Errorf("%s: key %q and content type %q, want %q and %q", what, got.Key, got.ContentType, m.Key, m.ContentType)
	}
	w.headers(got.Header, m.Header, what)
}

// headers fails unless got has every header of want, values in order.
func (w *world) headers(got, want transport.Header, what string) {
	w.Helper()
	for name, values := range want {
		if !slices.Equal(got[name], values) {
			w.Errorf("%s: header %q is %q, want %q", what, name, got[name], values)
		}
	}
}

// stamped fails unless the broker's own fields are set.
func (w *world) stamped(m *transport.Message, to transport.Address, before time.Time, what string) {
	w.Helper()
	subject := to.Name
	if to.Key != "" {
		subject = to.Key
	}
	if m.Subject != subject {
		w.Errorf("%s: subject %q, want %q", what, m.Subject, subject)
	}
	if m.Time.IsZero() && !w.caps.Stores {
		return
	}
	// The clock of a broker may be off; a minute tells a time from a wrong unit.
	if m.Time.Before(before.Add(-time.Minute)) || m.Time.After(time.Now().Add(time.Minute)) {
		w.Errorf("%s: time %v, and it was published at %v", what, m.Time, before)
	}
}

func publishTakesACopy(w *world) {
	rx, to := w.listen("a", 1)
	m := w.message("as published")
	m.Header = transport.Header{"Plain": {"as published"}}
	w.publish(to, m)
	copy(m.Body, "overwritten!")
	m.Header.Set("Plain", "overwritten")
	got := w.receive(rx, "the message").Message()
	if string(got.Body) != "as published" || got.Header.Get("Plain") != "as published" {
		w.Errorf("what the caller did after Publish is in the message: body %q, header %q", got.Body, got.Header.Get("Plain"))
	}
}

func bytesInHeadersArriveOrAreRefused(w *world) {
	rx, to := w.listen("a", 1)
	m := w.message("body")
	m.Header = transport.Header{"Bytes": {"caf\xe9", "\xff\xfe"}}
	if w.h.TextHeaders {
		w.refused(w.tr.Publish(w.ctx, to, m), transport.ErrInvalid, "a header that is not UTF-8")
		return
	}
	w.publish(to, m)
	d := w.receive(rx, "the message")
	w.whole(d, m, "the message")
	w.ack(d)
}

func statusHeaderDoesNotHideAMessage(w *world) {
	rx, to := w.listen("a", 1)
	m := w.message("")
	m.Header = transport.Header{"Status": {"404"}}
	ctx, cancel := w.soon()
	defer cancel()
	if err := w.tr.Publish(ctx, to, m); err != nil {
		w.refused(err, transport.ErrInvalid, "an empty message with a Status header")
		return
	}
	d := w.receive(rx, "an empty message with a Status header that was accepted")
	w.whole(d, m, "an empty message with a Status header")
}

func messageWithoutIDGetsAStableOne(w *world) {
	rx, to := w.listen("a", 10)
	w.publish(to, &transport.Message{Body: []byte("one")})
	w.publish(to, &transport.Message{Body: []byte("two")})
	first, second := w.receive(rx, "the first message"), w.receive(rx, "the second message")
	id := first.Message().ID
	if id == "" || second.Message().ID == "" {
		w.Fatalf("a message without an ID arrived without one")
	}
	if id == second.Message().ID {
		w.Errorf("two messages without an ID were both given %q", id)
	}
	w.ack(second)
	if !w.caps.Redelivers {
		w.ack(first)
		return
	}
	w.nack(first, 0)
	if again := w.receiveWithin(rx, w.back(), "the first message again"); again.Message().ID != id {
		w.Errorf("the ID was %q and is %q on redelivery", id, again.Message().ID)
	}
}

func positionsAreUnique(w *world) {
	rx, to := w.listen("a", 10)
	one, two := w.message("one"), w.message("two")
	two.ID, two.DedupID = one.ID, one.ID+"-second-leg"
	w.publish(to, one)
	w.publish(to, two)
	first, second := w.receive(rx, "the first copy").Message(), w.receive(rx, "the second copy").Message()
	if w.caps.Stores && (first.Position == "" || second.Position == "") {
		w.Fatalf("stored messages without a position: %q and %q", first.Position, second.Position)
	}
	if first.Position != "" && first.Position == second.Position {
		w.Errorf("two stored copies have the one position %q", first.Position)
	}
}

func publishWithoutRouteIsUnroutable(w *world) {
	_, to := w.source("a") // never provisioned
	ctx, cancel := w.soon()
	defer cancel()
	err := w.tr.Publish(ctx, to, w.message("to nobody"))
	if !w.caps.Stores {
		if err != nil {
			w.Errorf("a publish that nobody listens to: %v, and a broker that stores nothing cannot know", err)
		}
		return
	}
	w.refused(err, transport.ErrUnroutable, "a publish to an address that nothing takes")
}

func publishWaitsForAReceiverOrIsGone(w *world) {
	src, to := w.source("a")
	w.provision(src, w.want("a", 1))
	early := w.message("before anybody received")
	w.publish(to, early)
	rx := w.start(src, w.want("a", 1))
	if w.caps.Stores {
		d := w.receive(rx, "a message stored before a receiver was open")
		w.same(d, early, "a message stored before a receiver was open")
		w.ack(d)
		return
	}
	w.nothing(rx, w.h.Quiet, "nothing is stored by this broker")
	late := w.message("after")
	w.publish(to, late)
	w.same(w.receive(rx, "a message published later"), late, "a message published later")
}

func invalidAddressIsRefused(w *world) {
	for _, to := range w.h.InvalidAddresses {
		ctx, cancel := w.soon()
		err := w.tr.Publish(ctx, to, w.message("nowhere"))
		cancel()
		w.refused(err, transport.ErrInvalid, "publish to "+quote(to))
		if transport.KindOf(err) != transport.Permanent {
			w.Errorf("publish to %s: the error is %v, want permanent", quote(to), transport.KindOf(err))
		}
	}
}

func quote(to transport.Address) string { return "\"" + to.Name + "\"/\"" + to.Key + "\"" }

func oversizeIsRefused(w *world) {
	rx, to := w.listen("a", 1)
	m := w.message("")
	m.Body = full(w.h.MaxSize + 1)
	ctx, cancel := w.soon()
	defer cancel()
	err := w.tr.Publish(ctx, to, m)
	w.refused(err, transport.ErrTooLarge, "a message larger than the broker takes")
	if transport.KindOf(err) != transport.Permanent {
		w.Errorf("too large is %v, want permanent", transport.KindOf(err))
	}
	next := w.message("the next one")
	w.publish(to, next)
	w.same(w.receive(rx, "the message after one that was too large"), next, "the next message")
}

func publishHonoursContext(w *world) {
	_, to := w.listen("a", 1)
	if err := w.tr.Publish(w.ended(), to, w.message("too late")); err == nil {
		w.Errorf("a publish whose context had ended was confirmed")
	}
}

func dedupStoresOneCopy(w *world) {
	rx, to := w.listen("a", 10)
	m := w.message("once")
	w.publish(to, m)
	w.publish(to, m)
	keyed := w.message("once under a key")
	keyed.DedupID = keyed.ID + "-key"
	w.publish(to, keyed)
	w.publish(to, keyed)
	w.copies(rx, 2)
}

// copies takes what there is of n messages that were published twice each.
func (w *world) copies(rx transport.Receiver, n int) {
	w.Helper()
	if !w.h.Deduplicates {
		n *= 2
	}
	for range n {
		w.ack(w.receive(rx, "a copy"))
	}
	w.nothing(rx, w.h.Quiet, "after the last copy")
}

func differentDedupIDArrives(w *world) {
	rx, to := w.listen("a", 10)
	first := w.message("first leg")
	w.publish(to, first)
	d := w.receive(rx, "the first leg")
	w.ack(d)
	second := *first
	second.DedupID = first.ID + "-second-leg"
	w.publish(to, &second)
	d = w.receive(rx, "the second leg, with the same ID and another DedupID")
	w.same(d, first, "the second leg")
	w.ack(d)
}
