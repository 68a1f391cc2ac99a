package transporttest

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

func lasting() []Promise {
	return []Promise{
		{"ProvisionIsIdempotent", provisionIsIdempotent},
		{"CheckChangesNothing", checkChangesNothing},
		{"ImpossibleWantsAreFound", impossibleWantsAreFound},
		{"ForeignSourceIsRefused", foreignSourceIsRefused},
		{"CapabilitiesMatchInterfaces", capabilitiesMatchInterfaces},
		{"PrefixLeavesTheSourceAlone", prefixLeavesTheSourceAlone},
		{"StoredMessagesSurviveTheirReader", storedMessagesSurviveTheirReader},
		{"CloseLeavesNoGoroutine", closeLeavesNoGoroutine},
	}
}

// errorsIn returns the findings that keep a program from starting.
func errorsIn(findings []transport.Finding) []transport.Finding {
	var out []transport.Finding
	for _, f := range findings {
		if f.Level == transport.LevelError {
			out = append(out, f)
		}
	}
	return out
}

func provisionIsIdempotent(w *world) {
	rx, to := w.listen("a", 10)
	m := w.message("between two calls of Provision")
	if w.caps.Stores {
		w.publish(to, m)
	}
	src, _ := w.source("a")
	report := w.provision(src, w.want("a", 10))
	if len(report.Created)+len(report.Updated) > 0 {
		w.Errorf("the second Provision created %q and updated %q", report.Created, report.Updated)
	}
	if found := errorsIn(report.Findings); len(found) > 0 {
		w.Errorf("the second Provision found %v", found)
	}
	if !w.caps.Stores {
		w.publish(to, m)
	}
	d := w.receive(rx, "a message that was there before the second Provision")
	w.same(d, m, "a message that was there before the second Provision")
	w.ack(d)
}

// find returns what Check finds.
func (w *world) find(src transport.Source, want transport.Want) []transport.Finding {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	found, err := w.tr.Check(ctx, src, want)
	if err != nil {
		w.Fatalf("check %s: %v", src, err)
	}
	return found
}

func checkChangesNothing(w *world) {
	src, to := w.source("a")
	want := w.want("a", 10)
	first := w.find(src, want)
	if found := errorsIn(first); len(found) > 0 {
		w.Fatalf("a source that Provision can make: %v", found)
	}
	if second := w.find(src, want); fmt.Sprint(first) != fmt.Sprint(second) {
		w.Errorf("the first check found %v and the second %v", first, second)
	}
	if w.caps.Stores {
		ctx, cancel := w.soon()
		defer cancel()
		w.refused(w.tr.Publish(ctx, to, w.message("to nobody")), transport.ErrUnroutable, "publish after no more than a check")
	}
	w.provision(src, want)
	if found := errorsIn(w.find(src, want)); len(found) > 0 {
		w.Errorf("after Provision: %v", found)
	}
}

func impossibleWantsAreFound(w *world) {
	src, _ := w.source("a")
	plain := transport.Want{Subscription: w.subscription("a"), Concurrency: 1}
	if found := errorsIn(w.find(src, plain)); len(found) > 0 {
		w.Errorf("a subscription that wants nothing special: %v", found)
	}
	for _, ability := range []struct {
		name string
		has  bool
		ask  func(*transport.Want)
	}{
		{"redelivery", w.caps.Redelivers, func(want *transport.Want) { want.Redelivery = true }},
		{"delay", w.caps.Delays, func(want *transport.Want) {
			want.Redelivery, want.Delay, want.MaxDelay = true, true, time.Second
		}},
		{"dead letters", w.caps.DeadLetters, func(want *transport.Want) { want.DeadLetter = true }},
		{"reject", w.caps.Rejects, func(want *transport.Want) { want.Reject = true }},
		{"reply", w.caps.Requests, func(want *transport.Want) { want.Reply = true }},
	} {
		want := plain
		ability.ask(&want)
		found := errorsIn(w.find(src, want))
		if ability.has && len(found) > 0 {
			w.Errorf("Capabilities offer %s, and Check found %v", ability.name, found)
		}
		if !ability.has && len(found) == 0 {
			w.Errorf("Capabilities deny %s, and Check found nothing wrong with a subscription that wants it", ability.name)
		}
		for _, f := range found {
			if f.Code == "" || f.Fact == "" || f.Fix == "" {
				w.Errorf("a finding without a code, a fact or a fix: %+v", f)
			}
		}
	}
}

// foreign is a source of no transport.
type foreign struct{}

func (foreign) Transport() transport.Transport { return nil }
func (foreign) Name() string                   { return "foreign" }
func (foreign) String() string                 { return "a source of somebody else" }

func foreignSourceIsRefused(w *world) {
	ctx, cancel := w.soon()
	defer cancel()
	want := w.want("a", 1)
	_, err := w.tr.Check(ctx, foreign{}, want)
	w.refused(err, transport.ErrInvalid, "check of a foreign source")
	_, err = w.tr.Provision(ctx, foreign{}, want)
	w.refused(err, transport.ErrInvalid, "provision of a foreign source")
	_, err = w.tr.Open(ctx, foreign{}, want)
	w.refused(err, transport.ErrInvalid, "open of a foreign source")
}

func capabilitiesMatchInterfaces(w *world) {
	src, _ := w.source("a")
	if w.caps.Name == "" {
		w.Errorf("the transport has no name")
	}
	if w.caps.Delays && !w.caps.Redelivers || w.caps.Durable && !w.caps.Stores {
		w.Errorf("delays need redelivery and durability needs storage: %+v", w.caps)
	}
	if src.Transport() != w.tr {
		w.Errorf("the source belongs to %v", src.Transport())
	}
	if src.String() == "" {
		w.Errorf("the source has no description")
	}
	w.graveyard()
	w.requester()
	rx, to := w.listen("a", 10)
	w.publish(to, w.message("for its interfaces"))
	d := w.receive(rx, "the message")
	if first := d.Message(); first != d.Message() {
		w.Errorf("Message returns another pointer each time")
	}
	if _, ok := d.(transport.Rejecter); w.caps.Rejects && !ok {
		w.Errorf("Capabilities say Rejects, and the delivery is no Rejecter")
	}
	if _, ok := d.(transport.Requeuer); w.caps.Requeues != ok {
		w.Errorf("Capabilities say Requeues: %v, and the delivery is a Requeuer: %v", w.caps.Requeues, ok)
	}
	if _, ok := d.(transport.Responder); w.caps.Requests && !ok {
		w.Errorf("Capabilities say Requests, and the delivery is no Responder")
	}
	if w.h.Lease == 0 {
		w.leaseless(rx, d)
		return
	}
	if l, ok := rx.(transport.Leased); !ok || l.Lease() != w.h.Lease {
		w.Errorf("the harness leases for %v, and the receiver does not say so", w.h.Lease)
	}
	w.ack(d)
}

func prefixLeavesTheSourceAlone(w *world) {
	src, _ := w.source("a")
	p, ok := src.(transport.Prefixer)
	if !ok {
		return // Check of a group with a prefix finds that, see CodeNoPrefix
	}
	before := src.Name() + src.String()
	prefixed := p.WithPrefix("pre-")
	if src.Name()+src.String() != before {
		w.Errorf("WithPrefix changed the source itself: %s", src)
	}
	if prefixed.Transport() != w.tr {
		w.Errorf("the prefixed source belongs to %v", prefixed.Transport())
	}
	if !strings.Contains(prefixed.String(), "pre-") || src.Name() != "" && !strings.Contains(prefixed.Name(), "pre-") {
		w.Errorf("the prefix is neither in the name nor in the description: %q, %s", prefixed.Name(), prefixed)
	}
	if found := errorsIn(w.find(prefixed, w.want("a", 1))); len(found) > 0 {
		w.Errorf("the prefixed source cannot work: %v", found)
	}
}

func storedMessagesSurviveTheirReader(w *world) {
	src, to := w.source("a")
	w.provision(src, w.want("a", 10))
	w.shut(w.start(src, w.want("a", 10)))
	m := w.message("stored")
	w.publish(to, m)
	if w.h.Second != nil {
		ctx, cancel := w.soon()
		defer cancel()
		if err := w.tr.Close(ctx); err != nil {
			w.Fatalf("close transport: %v", err)
		}
		w = w.second()
		defer w.close()
		defer w.disconnect()
		src, _ = w.source("a")
		w.provision(src, w.want("a", 10))
	}
	rx := w.start(src, w.want("a", 10))
	if !w.caps.Stores {
		w.nothing(rx, w.h.Quiet, "this broker stores nothing")
		return
	}
	d := w.receiveWithin(rx, w.back(), "a message stored before")
	w.same(d, m, "a message stored before")
	w.ack(d)
}

// second returns the same place of a promise, seen over another connection.
func (w *world) second() *world {
	w.Helper()
	h := w.h.Second(w).filled()
	return &world{TB: w.TB, h: h, caps: w.caps, ctx: w.ctx, tr: h.Transport, name: w.name, sent: w.sent}
}

// disconnect closes the transport.
func (w *world) disconnect() {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), w.h.Patience)
	defer cancel()
	if err := w.tr.Close(ctx); err != nil {
		w.Errorf("close transport: %v", err)
	}
}

// closeLeavesNoGoroutine finds the goroutines of this promise among all others
// by a profiler label, which every goroutine takes from the one that starts it.
func closeLeavesNoGoroutine(w *world) {
	const key = "transporttest"
	pprof.Do(w.ctx, pprof.Labels(key, w.name), func(context.Context) {
		used := w
		if w.h.Second != nil {
			used = w.second()
		}
		used.exercise()
		used.disconnect()
	})
	mark := fmt.Sprintf("%q:%q", key, w.name)
	for end := time.Now().Add(w.h.Patience); ; w.pause(10 * time.Millisecond) {
		left := labelled(mark)
		if left == "" {
			return
		}
		if time.Now().After(end) {
			w.Fatalf("%v after everything was closed these goroutines still run:\n%s", w.h.Patience, left)
		}
	}
}

// exercise opens receivers, leaves one waiting and one with a message, and
// closes them. A pipeline is left open.
func (w *world) exercise() {
	w.Helper()
	busy, to := w.listen("a", 10)
	waiting, _ := w.listen("b", 1)
	done := make(chan error, 1)
	for range 3 {
		w.publish(to, w.message("to be left behind"))
	}
	w.ack(w.receive(busy, "a message"))
	if w.pipelines() {
		p := w.row() // left to Close of the transport
		p.send(to, w.message("to be left behind as well"))
		p.flush()
	}
	w.receive(waiting, "a message that is not settled")
	go func() {
		_, err := waiting.Receive(w.ctx)
		done <- err
	}()
	w.shut(waiting)
	err := await(w, done, "a Receive that waited")
	if err != nil || w.caps.Redelivers { // without a window it may have got the next message
		w.refused(err, transport.ErrClosed, "a Receive that waited")
	}
	w.shut(busy)
}

// labelled returns the stacks of the goroutines that carry a profiler label.
func labelled(mark string) string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return err.Error()
	}
	var found []string
	for _, record := range strings.Split(all.String(), "\n\n") {
		if strings.Contains(record, mark) {
			found = append(found, record)
		}
	}
	return strings.Join(found, "\n\n")
}
