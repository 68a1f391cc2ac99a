package transporttest

import (
	"fmt"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

func burying() []Promise {
	return []Promise{
		{"BurialIsIdempotent", burialIsIdempotent},
		{"LettersAreReadWithoutWear", lettersAreReadWithoutWear},
		{"LettersAreFiltered", lettersAreFiltered},
		{"SummaryCounts", summaryCounts},
		{"RemoveDeletesOne", removeDeletesOne},
		{"RedriveReachesOnlyItsSubscription", redriveReachesOnlyItsSubscription},
		{"RepeatedRedriveArrivesOnce", repeatedRedriveArrivesOnce},
		{"RedriveToNobodyIsRefusedOrKept", redriveToNobodyIsRefusedOrKept},
	}
}

// graveyard returns the dead-letter store, prepared for a subscription, or
// false after it asserted that there is none.
func (w *world) graveyard() (transport.DeadLetterStore, bool) {
	w.Helper()
	src, _ := w.source("a")
	w.provision(src, w.want("a", 1))
	holder, ok := w.tr.(transport.DeadLetterer)
	if w.caps.DeadLetters {
		if !ok || holder.DeadLetters() == nil {
			w.Fatalf("Capabilities say DeadLetters, and there is no store")
		}
		return holder.DeadLetters(), true
	}
	if ok && holder.DeadLetters() != nil {
		err := holder.DeadLetters().Bury(w.ctx, w.key("f1", 1), w.dead("denied"))
		w.refused(err, transport.ErrUnsupported, "bury where there are no dead letters")
	}
	return nil, false
}

// key returns the key of a dead letter of this promise's first group.
func (w *world) key(fingerprint string, n int) transport.DeadKey {
	return transport.DeadKey{
		Subscription: w.subscription("a"), Fingerprint: fingerprint, ID: fmt.Sprintf("%s-dead-%d", w.name, n),
	}
}

// dead returns a message as it is buried.
func (w *world) dead(text string) *transport.Message {
	m := w.message(text)
	m.Body = append([]byte{0, 0xff}, m.Body...)
	m.Key, m.ContentType, m.DedupID = "customer-7", "text/plain", m.ID+"-dead"
	m.Header = transport.Header{
		"Plain":       {"one"},
		"Repeated":    {"c", "a", "b"},
		wire.Subject:  {"somewhere.else"},
		wire.Position: {"stream/7"},
		wire.Redrives: {"0"},
	}
	return m
}

// bury buries m under key.
func (w *world) bury(store transport.DeadLetterStore, key transport.DeadKey, m *transport.Message) {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	if err := store.Bury(ctx, key, m); err != nil {
		w.Fatalf("bury %v: %v", key, err)
	}
}

// letters returns the dead letters that f selects.
func (w *world) letters(store transport.DeadLetterStore, f transport.LetterFilter) []transport.StoredLetter {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	var out []transport.StoredLetter
	for l, err := range store.Letters(ctx, f) {
		if err != nil {
			w.Fatalf("list %v: %v", f, err)
		}
		out = append(out, l)
	}
	return out
}

// mine selects the dead letters of this promise.
func (w *world) mine() transport.LetterFilter {
	return transport.LetterFilter{Subscription: w.subscription("a")}
}

// keys fails unless the dead letters of this promise have these keys, in order.
func (w *world) keys(store transport.DeadLetterStore, f transport.LetterFilter, what string, want ...transport.DeadKey) {
	w.Helper()
	got := w.letters(store, f)
	if len(got) != len(want) {
		w.Fatalf("%s: there are %d dead letters, want %d", what, len(got), len(want))
	}
	for i, l := range got {
		if l.Key != want[i] {
			w.Errorf("%s: letter %d is %v, want %v", what, i, l.Key, want[i])
		}
	}
}

func burialIsIdempotent(w *world) {
	store, ok := w.graveyard()
	if !ok {
		return
	}
	key, m := w.key("f1", 1), w.dead("dead")
	for range 3 {
		w.bury(store, key, m)
	}
	w.keys(store, w.mine(), "after three burials of one letter", key)
	w.bury(store, w.key("f1", 2), w.dead("another"))
	w.keys(store, w.mine(), "after a burial of another", key, w.key("f1", 2))
}

func lettersAreReadWithoutWear(w *world) {
	store, ok := w.graveyard()
	if !ok {
		return
	}
	sent := []*transport.Message{w.dead("one"), w.dead("two"), w.dead("")}
	for i, m := range sent {
		w.bury(store, w.key("f1", i), m)
	}
	for range 5 {
		got := w.letters(store, w.mine())
		if len(got) != len(sent) {
			w.Fatalf("there are %d dead letters, want %d", len(got), len(sent))
		}
		for i, l := range got {
			if l.Key != w.key("f1", i) {
				w.Errorf("letter %d is %v, want %v: oldest first", i, l.Key, w.key("f1", i))
			}
			w.intact(l.Message, sent[i])
		}
		for range store.Letters(w.ctx, w.mine()) {
			break // to stop early is allowed
		}
	}
}

// intact fails unless all that was buried of m is there.
func (w *world) intact(got, m *transport.Message) {
	w.Helper()
	if string(got.Body) != string(m.Body) {
		w.Errorf("a dead letter's body is %q, was %q", got.Body, m.Body)
	}
	if got.ID != m.ID || got.Key != m.Key || got.ContentType != m.ContentType {
		w.Errorf("a dead letter has ID %q, key %q, content type %q; it had %q, %q, %q",
			got.ID, got.Key, got.ContentType, m.ID, m.Key, m.ContentType)
	}
	w.headers(got.Header, m.Header, "a dead letter")
}

func lettersAreFiltered(w *world) {
	store, ok := w.graveyard()
	if !ok {
		return
	}
	one, two, three := w.key("f1", 1), w.key("f2", 2), w.key("f1", 3)
	foreign := w.key("f1", 4)
	foreign.Subscription = w.subscription("other")
	for _, key := range []transport.DeadKey{one, two, foreign, three} {
		w.bury(store, key, w.dead("dead"))
	}
	f := w.mine()
	w.keys(store, f, "by subscription", one, two, three)
	f.Fingerprint = "f1"
	w.keys(store, f, "by fingerprint", one, three)
	f.ID = three.ID
	w.keys(store, f, "by ID", three)
	f.ID = "nobody"
	w.keys(store, f, "by an ID that is not there")
	w.keys(store, transport.LetterFilter{ID: two.ID}, "by ID alone", two)
}

func summaryCounts(w *world) {
	store, ok := w.graveyard()
	if !ok {
		return
	}
	for i, fingerprint := range []string{"f1", "f2", "f1", "f1"} {
		w.bury(store, w.key(fingerprint, i), w.dead("dead"))
	}
	ctx, cancel := w.soon()
	defer cancel()
	counts, err := store.Summary(ctx)
	if err != nil {
		w.Fatalf("summary: %v", err)
	}
	got := map[string]int{}
	for _, c := range counts {
		if c.Subscription == w.subscription("a") {
			got[c.Fingerprint] += c.Count
		}
	}
	if len(got) != 2 || got["f1"] != 3 || got["f2"] != 1 {
		w.Errorf("counted %v, want 3 of f1 and 1 of f2", got)
	}
}

func removeDeletesOne(w *world) {
	store, ok := w.graveyard()
	if !ok {
		return
	}
	one, two := w.key("f1", 1), w.key("f1", 2)
	w.bury(store, one, w.dead("dead"))
	w.bury(store, two, w.dead("dead too"))
	ctx, cancel := w.soon()
	defer cancel()
	if err := store.Remove(ctx, one); err != nil {
		w.Fatalf("remove: %v", err)
	}
	w.keys(store, w.mine(), "after one was removed", two)
	w.refused(store.Remove(ctx, one), transport.ErrNotFound, "remove what was removed")
	w.refused(store.Remove(ctx, w.key("f1", 9)), transport.ErrNotFound, "remove what never was")
	w.keys(store, w.mine(), "after removals that found nothing", two)
}

// redriven is m as it is redriven for the nth time.
func redriven(m *transport.Message, to transport.Address, n int) *transport.Message {
	c := *m
	c.DedupID = fmt.Sprintf("%s-r%d", m.ID, n)
	c.Header = m.Header.Clone()
	c.Header.Set(wire.Subject, to.Name)
	c.Header.Set(wire.Position, "somewhere/7")
	c.Header.Set(wire.Redrives, fmt.Sprint(n))
	return &c
}

// redrive redrives m to a group.
func (w *world) redrive(store transport.DeadLetterStore, group string, m *transport.Message) {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	if err := store.Redrive(ctx, w.subscription(group), m); err != nil {
		w.Fatalf("redrive: %v", err)
	}
}

func redriveReachesOnlyItsSubscription(w *world) {
	store, ok := w.graveyard()
	if !ok {
		return
	}
	a, to := w.listen("a", 10)
	b, _ := w.listen("b", 10)
	m := w.message("\x00redriven\xff")
	m.Key, m.ContentType, m.Header = "customer-7", "text/plain", transport.Header{"Repeated": {"b", "a"}}
	w.publish(to, m)
	w.ack(w.receive(a, "group a"))
	w.ack(w.receive(b, "group b"))

	// Twice, as after two failures: each redrive has a key of its own, and none
	// is suppressed for the ID it shares with the original.
	for n := 1; n <= 2; n++ {
		w.redrive(store, "a", redriven(m, to, n))
		d := w.receive(a, "the group it is redriven to")
		w.whole(d, m, "a redriven message")
		if d.Message().Subject != to.Name {
			w.Errorf("a redriven message shows the subject %q, and its original one is %q", d.Message().Subject, to.Name)
		}
		if got := d.Message().Header.Get(wire.Redrives); got != fmt.Sprint(n) {
			w.Errorf("a redriven message shows %q redrives, want %d", got, n)
		}
		w.ack(d)
	}
	w.nothing(b, w.h.RedeliverWithin, "a group it is not redriven to")
}

func repeatedRedriveArrivesOnce(w *world) {
	store, ok := w.graveyard()
	if !ok {
		return
	}
	rx, to := w.listen("a", 10)
	m := redriven(w.message("redriven"), to, 1)
	w.redrive(store, "a", m)
	w.redrive(store, "a", m)
	want := 1
	if !w.h.Deduplicates {
		want = 2
	}
	for range want {
		d := w.receive(rx, "a redriven message")
		w.same(d, m, "a redriven message")
		w.ack(d)
	}
	w.nothing(rx, w.h.Quiet, "after a redrive that was repeated")
}

// redriveToNobodyIsRefusedOrKept: a broker may keep the message until its
// subscription comes back, or say that there is none. It must not lose it.
func redriveToNobodyIsRefusedOrKept(w *world) {
	store, ok := w.graveyard()
	if !ok {
		return
	}
	_, to := w.source("nobody")
	m := redriven(w.message("to nobody yet"), to, 1)
	ctx, cancel := w.soon()
	defer cancel()
	if err := store.Redrive(ctx, w.subscription("nobody"), m); err != nil {
		return
	}
	rx, _ := w.listen("nobody", 1)
	d := w.receive(rx, "a redrive that was confirmed before its subscription was there")
	w.same(d, m, "a redrive that was confirmed")
	w.ack(d)
}
