package transporttest

import (
	"context"
	"errors"

	"github.com/holdfast-go/holdfast/transport"
)

func asking() []Promise {
	return []Promise{
		{"RequestIsAnswered", requestIsAnswered},
		{"PublishedMessageWantsNoReply", publishedMessageWantsNoReply},
		{"RequestWithoutListenerIsUnroutable", requestWithoutListenerIsUnroutable},
		{"RequestHonoursContext", requestHonoursContext},
	}
}

// requester returns the transport as one that can ask, or false after it
// asserted that it cannot.
func (w *world) requester() (transport.Requester, bool) {
	w.Helper()
	r, ok := w.tr.(transport.Requester)
	if w.caps.Requests {
		if !ok {
			w.Fatalf("Capabilities say Requests, and the transport is no Requester")
		}
		return r, true
	}
	if ok {
		_, to := w.source("a")
		ctx, cancel := w.soon()
		defer cancel()
		_, err := r.Request(ctx, to, w.message("denied"))
		w.refused(err, transport.ErrUnsupported, "a request where there are none")
	}
	return nil, false
}

// answer is what a request came back with.
type answer struct {
	m   *transport.Message
	err error
}

// ask sends a request and returns where its answer will be.
func (w *world) ask(ctx context.Context, r transport.Requester, to transport.Address, m *transport.Message) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		got, err := r.Request(ctx, to, m)
		out <- answer{got, err}
	}()
	return out
}

func requestIsAnswered(w *world) {
	r, ok := w.requester()
	if !ok {
		return
	}
	rx, to := w.listen("a", 10)
	ctx, cancel := w.soon()
	defer cancel()
	for _, text := range []string{"question", ""} { // the second asks with an empty body and gets one
		question := w.message(text)
		question.Header = transport.Header{"Asked": {"b", "a"}}
		out := w.ask(ctx, r, to, question)
		d := w.receive(rx, "a request")
		w.whole(d, question, "a request")
		responder, ok := d.(transport.Responder)
		if !ok || !responder.WantsReply() {
			w.Fatalf("a request that does not want a reply")
		}
		reply := &transport.Message{
			Body: []byte(text), ContentType: "text/plain", Header: transport.Header{"Answered": {"y", "x"}},
		}
		if err := responder.Respond(ctx, reply); err != nil {
			w.Fatalf("respond: %v", err)
		}
		w.ack(d)
		got := await(w, out, "a request that was answered")
		if got.err != nil {
			w.Fatalf("request: %v", got.err)
		}
		if string(got.m.Body) != text || got.m.ContentType != "text/plain" {
			w.Errorf("the answer is %q of type %q, want %q of text/plain", got.m.Body, got.m.ContentType, text)
		}
		w.headers(got.m.Header, reply.Header, "the answer")
	}
}

func publishedMessageWantsNoReply(w *world) {
	rx, to := w.listen("a", 10)
	w.publish(to, w.message("no question"))
	d := w.receive(rx, "the message")
	responder, ok := d.(transport.Responder)
	if ok && responder.WantsReply() {
		w.Errorf("a message that was only published wants a reply")
	}
	if ok && responder.Respond(w.ctx, &transport.Message{Body: []byte("unasked")}) == nil {
		w.Errorf("an answer that nobody asked for was sent, and nobody was told")
	}
	w.ack(d)
}

func requestWithoutListenerIsUnroutable(w *world) {
	r, ok := w.requester()
	if !ok {
		return
	}
	_, to := w.source("a") // never provisioned
	ctx, cancel := w.soon()
	defer cancel()
	_, err := r.Request(ctx, to, w.message("to nobody"))
	w.refused(err, transport.ErrUnroutable, "a request that nobody listens to")
}

func requestHonoursContext(w *world) {
	r, ok := w.requester()
	if !ok {
		return
	}
	rx, to := w.listen("a", 10)
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	out := w.ask(ctx, r, to, w.message("never answered"))
	d := w.receive(rx, "the request")
	cancel()
	got := await(w, out, "a request whose context was cancelled")
	if !errors.Is(got.err, context.Canceled) {
		w.Errorf("a request whose context was cancelled: %v", got.err)
	}
	w.ack(d)
}
