package holdfast_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

func TestMessageShowsWhatIsKnownOfIt(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[order]) error {
			check.Equal(t, m.ID, "m1")
			check.Equal(t, m.Key, "customer-7")
			check.Equal(t, m.Subject, "orders.placed")
			check.Equal(t, m.ContentType, "application/json")
			check.Equal(t, m.Header.Get("X-Trace"), "abc")
			check.True(t, m.Time.Equal(w.start), "time of storage")
			check.Equal(t, []int{m.Attempt, m.Deliveries, m.Redrives}, []int{1, 1, 0})
			check.Equal(t, m.Subscription, "orders")
			check.Equal(t, string(m.Data()), `{"number":7}`)
			check.Equal(t, m.Body, order{Number: 7})
			stored, ok := m.Raw().(*memory.Stored)
			check.True(t, ok && stored.Queue == "orders", "the client library's own message")
			w.see(&m.Meta)
			return nil
		})
		w.run()
		p := holdfast.NewPublisher[order](w.b, transport.Address{Name: "orders.placed"})
		check.NoError(t, p.Publish(t.Context(), order{Number: 7}, holdfast.ID("m1"), holdfast.Key("customer-7"), holdfast.SetHeader("X-Trace", "abc")))
		w.pass(time.Second)
		check.Equal(t, len(w.seen()), 1)
	})
}

func TestHeaderHidesWhatBelongsToBrokersAndHoldfast(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			var names []string
			for name := range m.Header.All() {
				names = append(names, name)
			}
			slices.Sort(names)
			check.Equal(t, names, []string{"X-One", "x-one"})
			for _, hidden := range []string{"Nats-Msg-Id", "nats-rollup", "Holdfast-Id", "HOLDFAST-KEY", "Content-Type"} {
				check.Equal(t, m.Header.Get(hidden), "", hidden)
				check.Equal(t, len(m.Header.Values(hidden)), 0, hidden)
			}
			check.Equal(t, m.Header.Get("X-One"), "a")
			check.Equal(t, m.Header.Values("X-One"), []string{"a", "b"}, "a repeated key")
			check.Equal(t, m.Header.Get("x-one"), "other", "names are compared exactly")
			check.Equal(t, m.Header.Get("missing"), "")
			for range m.Header.All() {
				break // an iteration may end early
			}
			w.see(&m.Meta)
			return nil
		})
		w.run()
		w.send("orders.placed", &transport.Message{ID: "m1", Header: transport.Header{
			"X-One": {"a", "b"}, "x-one": {"other"}, "Nats-Msg-Id": {"x"}, "nats-rollup": {"x"}, "Holdfast-Id": {"x"}, "HOLDFAST-KEY": {"x"}, "Content-Type": {"x"},
		}})
		w.pass(time.Second)
		check.Equal(t, len(w.seen()), 1)
		var none holdfast.Header
		check.Equal(t, none.Get("X-One"), "")
	})
}

func TestHeadersThatAreNotUTF8SurviveToTheDeadLetter(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			check.Equal(t, m.Header.Get("X-Bytes"), "\xff\xfe")
			return holdfast.Permanent(fmt.Errorf("bad bytes \xff\xfe\x00 and\nmore"))
		})
		w.run()
		w.send("orders.placed", &transport.Message{ID: "m1", Header: transport.Header{"X-Bytes": {"\xff\xfe"}, "X-Twice": {"a", "b"}}})
		w.pass(time.Second)
		l := w.letter()
		check.Equal(t, l.Header["X-Bytes"], []string{"\xff\xfe"})
		check.Equal(t, l.Header["X-Twice"], []string{"a", "b"})
		check.True(t, strings.HasPrefix(l.Error, "bad bytes "), l.Error)
	})
}

func TestMessageWithoutAnIDGetsAStableOne(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(errFlaky), slow())
		w.run()
		w.send("orders.placed", &transport.Message{Body: []byte("a")})
		w.send("orders.placed", &transport.Message{Body: []byte("a")})
		w.pass(time.Minute)
		ids := w.ids()
		check.Equal(t, len(ids), 6)
		slices.Sort(ids)
		ids = slices.Compact(ids)
		check.Equal(t, len(ids), 2, "two messages, each with one ID through its retries")
		check.True(t, ids[0] != "", "it is not empty")
		check.Equal(t, len(w.letters()), 2)
	})
}

func TestHugeErrorStillFitsItsDeadLetter(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(holdfast.Permanent(fmt.Errorf("%s", strings.Repeat("x", 1<<20)))))
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		check.True(t, len(w.letter().Error) <= 1<<10, "the text is cut")
		check.Equal(t, w.letter().Truncated, []string{"error"})
	})
}

func TestRedrivenMessageKnowsItAndStartsOver(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		mended := false
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) error {
			w.see(&m.Meta)
			if mended {
				check.Equal(t, m.Redrives, 1)
				check.Equal(t, m.Subject, "orders.placed")
				return nil
			}
			return errFlaky
		}, slow())
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		mended = true
		result, err := deadletter.Open(w.b.DeadLetters()).Redrive(t.Context(), deadletter.Query{IDs: []string{w.letter().ID}}, deadletter.RedriveOptions{})
		check.NoError(t, err, fmt.Sprint(result))
		w.pass(time.Minute)
		check.Equal(t, w.ids(), []string{"m1", "m1", "m1", "m1"})
		check.Equal(t, w.attempts(), []int{1, 2, 3, 1})
		check.Equal(t, len(w.letters()), 0)
		w.idle()
	})
}

func TestRedrivenMessageThatFailsAgainIsALetterOfItsOwn(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(holdfast.Permanent(errFlaky)))
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		was := w.letter()
		_, err := deadletter.Open(w.b.DeadLetters()).Redrive(t.Context(), deadletter.Query{IDs: []string{was.ID}}, deadletter.RedriveOptions{})
		check.NoError(t, err)
		w.pass(time.Second)
		is := w.letter()
		check.True(t, is.ID != was.ID, "another dead letter")
		check.Equal(t, is.Fingerprint, was.Fingerprint, "of the same cause")
		check.Equal(t, []int{was.Redrives, is.Redrives}, []int{0, 1})
		check.Equal(t, is.MessageID, "m1")
	})
}
