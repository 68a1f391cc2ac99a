package transporttest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

func receiving() []Promise {
	return []Promise{
		{"ReceiveHonoursContext", receiveHonoursContext},
		{"ReceiveInOrder", receiveInOrder},
		{"ClosedReceiverRefuses", closedReceiverRefuses},
		{"ClosedTransportRefuses", closedTransportRefuses},
		{"GroupSharesAndGroupsCopy", groupSharesAndGroupsCopy},
		{"ConcurrentReceiveGivesEachDeliveryOnce", concurrentReceiveGivesEachDeliveryOnce},
		{"WindowBoundsWhatIsHeld", windowBoundsWhatIsHeld},
		{"UnseenMessagesComeBackPromptly", unseenMessagesComeBackPromptly},
		{"AbandonedMessageComesBack", abandonedMessageComesBack},
	}
}

func receiveHonoursContext(w *world) {
	rx, to := w.listen("a", 10)
	w.nothing(rx, w.h.Quiet, "nothing was published")
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() {
		_, err := rx.Receive(ctx)
		done <- err
	}()
	cancel()
	if err := await(w, done, "a Receive whose context was cancelled"); !errors.Is(err, context.Canceled) {
		w.Errorf("receive with a cancelled context: %v", err)
	}
	m := w.message("after")
	w.publish(to, m)
	d := w.receive(rx, "a message after a Receive that was cancelled")
	w.same(d, m, "a message after a Receive that was cancelled")
	w.ack(d)
}

// await returns what ch gives, which should be at once.
func await[T any](w *world, ch <-chan T, what string) T {
	w.Helper()
	ctx, cancel := w.soon()
	defer cancel()
	select {
	case got := <-ch:
		return got
	case <-ctx.Done():
		w.Fatalf("%s did not return within %v", what, w.h.Patience)
	}
	var none T // Fatalf has ended the goroutine
	return none
}

func receiveInOrder(w *world) {
	const n = 50
	rx, to := w.listen("a", n)
	var sent []*transport.Message
	for range n {
		m := w.message("in order")
		sent = append(sent, m)
		w.publish(to, m)
	}
	for _, m := range sent {
		d := w.receive(rx, "a message")
		w.same(d, m, "the order of publishing")
		w.ack(d)
	}
}

func closedReceiverRefuses(w *world) {
	rx, _ := w.listen("a", 10)
	done := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := rx.Receive(w.ctx)
			done <- err
		}()
	}
	w.shut(rx)
	for range 2 {
		w.refused(await(w, done, "a Receive that waited when its receiver was closed"), transport.ErrClosed, "a Receive that waited")
	}
	ctx, cancel := w.soon()
	defer cancel()
	_, err := rx.Receive(ctx)
	w.refused(err, transport.ErrClosed, "receive after Close")
	w.shut(rx) // idempotent
}

func closedTransportRefuses(w *world) {
	src, to := w.source("a")
	want := w.want("a", 10)
	w.provision(src, want)
	rx := w.start(src, want)
	w.shut(rx)
	ctx, cancel := w.soon()
	defer cancel()
	for range 2 { // idempotent
		if err := w.tr.Close(ctx); err != nil {
			w.Fatalf("close transport: %v", err)
		}
	}
	w.refused(w.tr.Publish(ctx, to, w.message("late")), transport.ErrClosed, "publish after Close")
	_, err := w.tr.Open(ctx, src, want)
	w.refused(err, transport.ErrClosed, "open after Close")
	_, err = w.tr.Provision(ctx, src, want)
	w.refused(err, transport.ErrClosed, "provision after Close")
	if w.tr.Capabilities() != w.caps {
		w.Errorf("the capabilities changed with Close")
	}
}

// arrival is a message that one of several goroutines received.
type arrival struct {
	who string
	id  string
	err error
}

// drain receives and acks from rx until ctx ends, and tells of each message.
// It waits only for ctx: out has room for all.
func drain(ctx context.Context, w *world, rx transport.Receiver, who string, out chan<- arrival) {
	for {
		d, err := rx.Receive(ctx)
		if err != nil {
			if ctx.Err() == nil {
				out <- arrival{who: who, err: err}
			}
			return
		}
		ack, cancel := w.soon()
		err = d.Ack(ack)
		cancel()
		out <- arrival{who: who, id: d.Message().ID, err: err}
	}
}

// collect returns how often each message arrived at each, once n have arrived
// and nothing more comes.
func (w *world) collect(n int, out <-chan arrival) map[string]map[string]int {
	w.Helper()
	got := map[string]map[string]int{}
	take := func(a arrival) {
		if a.err != nil {
			w.Fatalf("%s: %v", a.who, a.err)
		}
		if got[a.who] == nil {
			got[a.who] = map[string]int{}
		}
		got[a.who][a.id]++
	}
	for range n {
		take(await(w, out, "the next of the messages"))
	}
	ctx, cancel := w.within(w.h.Quiet)
	defer cancel()
	for {
		select {
		case a := <-out:
			take(a)
		case <-ctx.Done():
			return got
		}
	}
}

func groupSharesAndGroupsCopy(w *world) {
	const n = 30
	a1, to := w.listen("a", 5)
	a2 := w.again("a", 5)
	b, _ := w.listen("b", 5)
	out := make(chan arrival, 10*n)
	ctx, stop := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { drain(ctx, w, a1, "a", out) })
	wg.Go(func() { drain(ctx, w, a2, "a", out) })
	wg.Go(func() { drain(ctx, w, b, "b", out) })
	var ids []string
	for range n {
		m := w.message("for all groups")
		ids = append(ids, m.ID)
		w.publish(to, m)
	}
	got := w.collect(2*n, out)
	for _, group := range []string{"a", "b"} {
		for _, id := range ids {
			if got[group][id] != 1 {
				w.Errorf("group %s got %q %d times", group, id, got[group][id])
			}
		}
	}
}

func concurrentReceiveGivesEachDeliveryOnce(w *world) {
	const n, goroutines = 200, 8
	rx, to := w.listen("a", 2*goroutines)
	out := make(chan arrival, 10*n)
	ctx, stop := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for range goroutines {
		wg.Go(func() { drain(ctx, w, rx, "a", out) })
	}
	var ids []string
	for range n {
		m := w.message("once")
		ids = append(ids, m.ID)
		w.publish(to, m)
	}
	got := w.collect(n, out)
	for _, id := range ids {
		if got["a"][id] != 1 {
			w.Errorf("%q was delivered %d times", id, got["a"][id])
		}
	}
}

func windowBoundsWhatIsHeld(w *world) {
	const window, n = 3, 8
	src, to := w.leased("a", w.long())
	want := w.want("a", 2)
	want.Prefetch = window - 2
	w.provision(src, want)
	rx := w.start(src, want)
	for range n {
		w.publish(to, w.message("one of many"))
	}
	if !w.caps.Redelivers {
		for range n { // nothing is held back where nothing can come back
			w.ack(w.receive(rx, "a message"))
		}
		return
	}
	held := make([]transport.Delivery, window)
	for i := range held {
		held[i] = w.receive(rx, "a message within the window")
	}
	w.nothing(rx, w.h.Quiet, "a receiver whose window is full")
	want.Concurrency = n
	other := w.start(src, want)
	for range n - window {
		w.ack(w.receive(other, "a message that a full receiver must have left to others"))
	}
	last := w.message("after a settlement")
	w.ack(held[0])
	w.shut(other)
	w.publish(to, last)
	w.same(w.receive(rx, "a receiver that has room again"), last, "a receiver that has room again")
}

func unseenMessagesComeBackPromptly(w *world) {
	const n = 10
	src, to := w.leased("a", w.long())
	want := w.want("a", 1)
	want.Prefetch = n - 1
	w.provision(src, want)
	rx := w.start(src, want)
	for range n {
		w.publish(to, w.message("maybe buffered"))
	}
	seen := w.receive(rx, "the first message")
	w.shut(rx)
	w.ack(seen)
	if !w.caps.Redelivers {
		return // at most once: what was buffered is gone, and Close succeeded
	}
	next := w.start(src, want)
	got := map[string]int{seen.Message().ID: 1}
	for range n - 1 {
		d := w.receive(next, "a message that was never handed out, long before a lease ends")
		got[d.Message().ID]++
		w.ack(d)
	}
	if len(got) != n {
		w.Errorf("of %d messages %d came", n, len(got))
	}
	w.nothing(next, w.h.Quiet, "after all messages")
}

func abandonedMessageComesBack(w *world) {
	rx, to := w.listen("a", 10)
	m := w.message("abandoned")
	w.publish(to, m)
	d := w.receive(rx, "the message")
	if w.h.Abandon != nil {
		w.h.Abandon(w, rx)
	}
	next := w.again("a", 10)
	if !w.caps.Redelivers {
		w.nothing(next, w.h.RedeliverWithin, "this broker redelivers nothing")
		return
	}
	again := w.receiveWithin(next, w.back(), "a message whose receiver crashed")
	w.same(again, m, "a message whose receiver crashed")
	if again.Deliveries() <= d.Deliveries() {
		w.Errorf("counted %d after it was counted %d", again.Deliveries(), d.Deliveries())
	}
	w.ack(again)
	w.nothing(next, w.h.Quiet, "after the ack")
}

// pause waits for d without polling.
func (w *world) pause(d time.Duration) {
	ctx, cancel := w.within(d)
	defer cancel()
	<-ctx.Done()
}
