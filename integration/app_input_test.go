package integration

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
)

// input is a message as a foreign client sends it, and what becomes of it.
type input struct {
	name   string
	msg    nats.Msg
	reason string // of its dead letter; empty: it is handled
}

// inputs are messages that have brought consumers down.
func inputs() []input {
	many := nats.Header{"Tag": {"first", "second", "first"}, "X-Request-Id": {"r-1"}}
	return []input{
		{name: "well-formed", msg: nats.Msg{Data: []byte(`{"kind":"ok"}`)}},
		{name: "undecodable", msg: nats.Msg{Data: []byte(`{"kind":`)}, reason: "undecodable"},
		{name: "another-type", msg: nats.Msg{Data: []byte(`["kind"]`)}, reason: "undecodable"},
		{name: "refused", msg: nats.Msg{Data: []byte(`{"kind":""}`)}, reason: "invalid"},
		{name: "empty", msg: nats.Msg{}, reason: "undecodable"},
		{name: "empty-with-status", msg: nats.Msg{Header: nats.Header{"Status": {"503"}, "Description": {"No Responders"}}}, reason: "undecodable"},
		{name: "not-text", msg: nats.Msg{Data: []byte{0xff, 0xfe, 0x00}}, reason: "undecodable"},
		{name: "repeated-header", msg: nats.Msg{Data: []byte(`{"kind":"headers"}`), Header: many}},
		{name: "header-not-utf8", msg: nats.Msg{Data: []byte(`{"kind":"ok"}`), Header: nats.Header{"Name": {"gr\xfc\xdfe"}}}},
		{name: "wrong-content-type", msg: nats.Msg{Data: []byte(`{"kind":"ok"}`), Header: nats.Header{"Content-Type": {"application/protobuf"}}}, reason: "undecodable"},
		{name: "panics", msg: nats.Msg{Data: []byte(`{"kind":"panic"}`)}, reason: "attempts-exhausted"},
		{name: "hangs", msg: nats.Msg{Data: []byte(`{"kind":"hang"}`)}, reason: "attempts-exhausted"},
		{name: "permanent", msg: nats.Msg{Data: []byte(`{"kind":"permanent"}`)}, reason: "permanent"},
		{name: "large", msg: nats.Msg{Data: large(`{"kind":"permanent","pad":"`, 1<<20-4096)}, reason: "permanent"},
	}
}

func large(start string, size int) []byte {
	return append(append([]byte(start), bytes.Repeat([]byte{'x'}, size-len(start)-2)...), `"}`...)
}

// order is the body of the inputs.
type order struct {
	Kind string `json:"kind"`
	Pad  string `json:"pad"`
}

func (o order) Validate() error {
	if o.Kind == "" {
		return errors.New("an order has a kind")
	}
	return nil
}

// TestHostileInputEndsAndStopsNobody: whatever a foreign client sends and a
// handler does, each message ends handled or as a dead letter with its bytes,
// and the others are handled.
func TestHostileInputEndsAndStopsNobody(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	js := dial(t, srv.URL())
	v := newVisits()
	released := make(chan struct{})
	t.Cleanup(func() { close(released) })
	app := holdfast.New(holdfast.Config{Name: "hostile", Logger: testLog(t)})
	holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{
		Stream: "IN", Subjects: []string{"in.>"}, Durable: "in", Start: jetstream.StartAll(), AckWait: time.Minute,
	}), func(ctx context.Context, m *holdfast.Message[order]) error {
		name := strings.TrimPrefix(m.Subject, "in.")
		v.add(name)
		switch m.Body.Kind {
		case "panic":
			panic("no such customer")
		case "hang":
			<-released // whatever its context says
		case "permanent":
			return holdfast.Permanent(errors.New("the card is stolen"))
		case "headers":
			if got := strings.Join(m.Header.Values("Tag"), ","); got != "first,second,first" || m.Header.Get("X-Request-Id") != "r-1" {
				return holdfast.Permanent(errors.New("headers are damaged: " + got))
			}
		}
		return nil
	}, holdfast.Concurrency(3), holdfast.Timeout(6*time.Second),
		holdfast.Retry{Attempts: 2, Backoff: holdfast.Constant(50 * time.Millisecond)})
	stop := runApp(t, app)

	nc := srv.Conn()
	sent := inputs()
	for _, in := range sent {
		m := in.msg
		m.Subject = "in." + in.name
		if err := nc.PublishMsg(&m); err != nil {
			t.Fatal(err)
		}
	}
	dead := 0
	for _, in := range sent {
		if in.reason != "" {
			dead++
		}
	}
	eventually(t, time.Minute, "every input to end", func() bool {
		h := app.Health().Subscriptions[0].Counts
		return h.Handled == uint64(len(sent)-dead) && h.Dead == uint64(dead)
	})
	letters := make(map[string]int)
	for i, l := range graves(t, js) {
		letters[strings.TrimPrefix(l.Subject, "in.")] = i
	}
	all := graves(t, js)
	for _, in := range sent {
		i, buried := letters[in.name]
		switch {
		case buried != (in.reason != ""):
			t.Errorf("%s: buried %t, want reason %q", in.name, buried, in.reason)
		case buried && (string(all[i].Reason) != in.reason || !bytes.Equal(all[i].Body, in.msg.Data)):
			t.Errorf("%s: dead letter has reason %s and %d bytes, want %s and %d", in.name, all[i].Reason, len(all[i].Body), in.reason, len(in.msg.Data))
		case !buried && v.of(in.name) != 1:
			t.Errorf("%s: handled %d times", in.name, v.of(in.name))
		}
	}
	for _, name := range []string{"panics", "hangs"} {
		if v.of(name) != 2 {
			t.Errorf("%s: %d attempts, want 2", name, v.of(name))
		}
	}
	released <- struct{}{} // both runs of the one that hangs
	released <- struct{}{}
	stop()
}
