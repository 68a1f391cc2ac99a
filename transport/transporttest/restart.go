package transporttest

import (
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

func restarting() []Promise {
	return []Promise{
		{"SurvivesRestart", survivesRestart},
		{"NothingConfirmedIsLostInARestart", nothingConfirmedIsLostInARestart},
		{"RestartIsObserved", restartIsObserved},
	}
}

func restartIsObserved(w *world) {
	o, ok := w.tr.(transport.Observable)
	if !ok || w.h.Restart == nil {
		return // a transport that is not Observable promises no events
	}
	events := make(chan transport.Event, 1000)
	stop := o.Observe(func(e transport.Event) {
		select {
		case events <- e:
		default: // fn must not block
		}
	})
	_, _ = w.listen("a", 1)
	w.h.Restart(w)
	for _, kind := range []transport.EventKind{transport.Disconnected, transport.Reconnected} {
		for await(w, events, "the event "+string(kind)).Kind != kind {
		}
	}
	stop()
	stop() // idempotent
}

func survivesRestart(w *world) {
	if w.h.Restart == nil {
		return // only where there is neither storage nor a connection, see Harness
	}
	src, to := w.leased("a", w.long())
	want := w.want("a", 10)
	w.provision(src, want)
	rx := w.start(src, want)
	acked, kept := w.message("acked before"), w.message("stored before")
	w.publish(to, acked)
	w.ack(w.receive(rx, "the message before the restart"))
	if w.caps.Durable {
		w.publish(to, kept)
	}
	w.h.Restart(w)
	if w.caps.Durable {
		d := w.receiveWithin(rx, w.back(), "a message stored before the restart")
		w.same(d, kept, "a message stored before the restart")
		w.ack(d)
	}
	after := w.message("published after")
	w.publishUntilTaken(to, after)
	d := w.receiveWithin(rx, w.back(), "an open receiver after the restart")
	w.same(d, after, "an open receiver after the restart")
	w.ack(d)
	w.nothing(rx, w.h.Quiet, "what was acked before the restart")
}

// publishUntilTaken repeats a publish as the engine would: while the connection
// is being restored it fails with Temporary or Unknown errors.
func (w *world) publishUntilTaken(to transport.Address, m *transport.Message) {
	w.Helper()
	if err := w.persist(to, m); err != nil {
		w.Fatalf("publish after the restart: %v", err)
	}
}

// persist is publishUntilTaken for any goroutine.
func (w *world) persist(to transport.Address, m *transport.Message) error {
	within, cancel := w.within(w.back())
	defer cancel()
	for {
		ctx, done := w.soon()
		err := w.tr.Publish(ctx, to, m)
		done()
		if err == nil || transport.KindOf(err) == transport.Permanent || within.Err() != nil {
			return err
		}
		w.pause(10 * time.Millisecond)
	}
}

// confirmed is a message that was published, or why it was not.
type confirmed struct {
	id  string
	err error
}

// flow publishes one message after the other until stop is closed and tells of
// each. out is closed at the end.
func (w *world) flow(to transport.Address, stop <-chan struct{}, out chan<- confirmed) {
	defer close(out)
	for n := 0; ; n++ {
		m := &transport.Message{ID: fmt.Sprintf("%s-flow-%d", w.name, n), Body: []byte("in the flow")}
		err := w.persist(to, m)
		select {
		case out <- confirmed{m.ID, err}:
		case <-stop:
			// Not told of, and so not looked for.
			return
		}
		if err != nil {
			return
		}
		w.pause(time.Millisecond)
	}
}

func nothingConfirmedIsLostInARestart(w *world) {
	if w.h.Restart == nil {
		return // only where there is neither storage nor a connection, see Harness
	}
	const around = 20 // messages before and after
	src, to := w.leased("a", w.long())
	want := w.want("a", 10)
	w.provision(src, want)
	rx := w.start(src, want)
	stop, out := make(chan struct{}), make(chan confirmed, 10_000)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() { w.flow(to, stop, out) })
	ids := w.told(around, out)
	w.h.Restart(w)
	ids = append(ids, w.told(len(out)+around, out)...)
	if !w.caps.Stores {
		return // what was published meanwhile is gone, and that it goes on is shown
	}
	missing := map[string]bool{}
	for _, id := range ids {
		missing[id] = true
	}
	for len(missing) > 0 {
		d := w.receiveWithin(rx, w.back(), fmt.Sprintf("one of %d messages that were confirmed", len(missing)))
		delete(missing, d.Message().ID)
		w.ack(d)
	}
}

// told returns the next n messages that were confirmed.
func (w *world) told(n int, out <-chan confirmed) []string {
	w.Helper()
	var ids []string
	for range n {
		c := await(w, out, "a publish around a restart")
		if c.err != nil {
			w.Fatalf("publish around a restart: %v", c.err)
		}
		ids = append(ids, c.id)
	}
	return ids
}
