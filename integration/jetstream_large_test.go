package integration_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/transport"
)

// largest is a body as large as a server takes by default, without a single
// header.
func largest() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	body := make([]byte, 1<<20)
	for i := range body {
		body[i] = byte(r.Uint32())
	}
	return body
}

func (w *jsWorld) letters(store *deadletter.Store) []deadletter.Letter {
	w.Helper()
	all, err := store.ListAll(w.ctx, deadletter.Query{})
	if err != nil {
		w.Fatal(err)
	}
	return all
}

// A message that fits the server to the byte has no room for an envelope, and is
// buried all the same.
func TestJetStreamMessageWithoutRoomForAnEnvelopeIsBuried(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.provision(w.source(), want(1))
	body := largest()
	w.foreign("orders.placed", "", string(body))
	done := make(chan struct{}, 1)
	a := w.startApp(func(_ context.Context, m *holdfast.Message[string]) error {
		if m.Redrives > 0 {
			done <- struct{}{}
			return nil
		}
		return holdfast.Permanent(errors.New("no good"))
	})
	eventually(t, "it is acked", func() bool {
		info := w.consumer("ORDERS", "billing")
		return info.AckFloor.Stream == 1 && info.NumAckPending == 0
	})
	store := deadletter.Open(w.js.DeadLetters())
	all := w.letters(store)
	if len(all) != 1 || !all[0].Intact() || !bytes.Equal(all[0].Body, body) || all[0].Error != "no good" {
		t.Fatalf("%d letters; whole: %v", len(all), len(all) > 0 && all[0].Intact())
	}
	for name := range all[0].Raw.Header {
		if strings.HasPrefix(name, "Holdfast-Part") {
			t.Errorf("the letter shows how it is stored: %s", name)
		}
	}
	if counts, err := w.js.DeadLetters().Summary(w.ctx); err != nil || len(counts) != 1 || counts[0].Count != 1 {
		t.Fatalf("counted %v, %v", counts, err)
	}
	result, err := store.Redrive(w.ctx, deadletter.Query{All: true}, deadletter.RedriveOptions{})
	if err == nil && len(result.Outcomes) == 1 {
		err = result.Outcomes[0].Err
	}
	if !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "max_payload") || len(w.letters(store)) != 1 {
		t.Fatalf("redrive where it does not fit: %v", err)
	}
	w.server.RestartWith(func(o *server.Options) { o.MaxPayload = 2 << 20 })
	eventually(t, "it is redriven to a server that takes more, and handled", func() bool {
		if w.js.Conn().IsConnected() && len(done) == 0 {
			_, _ = store.Redrive(w.ctx, deadletter.Query{All: true}, deadletter.RedriveOptions{})
		}
		return len(done) > 0
	})
	a.end(t)
	if n := w.stored("HOLDFAST_DEAD"); n != 0 {
		t.Errorf("the letter left %d messages behind", n)
	}
}

func TestJetStreamLetterInPartsIsBuriedOnceAndRemovedWhole(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.provision(w.source(), accessWant())
	dead := w.js.DeadLetters()
	key := transport.DeadKey{Subscription: "billing", Fingerprint: "f", ID: "one"}
	m := &transport.Message{ID: "m1", Header: transport.Header{"Status": {"mine"}}, Body: largest()}
	for range 3 {
		if err := dead.Bury(w.ctx, key, m); err != nil {
			t.Fatal(err)
		}
	}
	small := key
	small.ID = "two"
	if err := dead.Bury(w.ctx, small, &transport.Message{ID: "m2", Body: []byte("small")}); err != nil {
		t.Fatal(err)
	}
	var got []transport.StoredLetter
	for l, err := range dead.Letters(w.ctx, transport.LetterFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, l)
	}
	if len(got) != 2 || !bytes.Equal(got[0].Message.Body, m.Body) || got[0].Message.Header.Get("Status") != "mine" {
		t.Fatalf("%d letters", len(got))
	}
	if err := dead.Remove(w.ctx, key); err != nil {
		t.Fatal(err)
	}
	if n := w.stored("HOLDFAST_DEAD"); n != 1 {
		t.Fatalf("%d messages are left of one letter", n)
	}
}

// A letter that lost a part is told of, and hides no other.
func TestJetStreamLetterThatLostAPartIsAnErrorAfterTheOthers(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	w.provision(w.source(), accessWant())
	dead := w.js.DeadLetters()
	key := transport.DeadKey{Subscription: "billing", Fingerprint: "f", ID: "one"}
	if err := dead.Bury(w.ctx, key, &transport.Message{ID: "m1", Body: largest()}); err != nil {
		t.Fatal(err)
	}
	key.ID = "two"
	if err := dead.Bury(w.ctx, key, &transport.Message{ID: "m2", Body: []byte("small")}); err != nil {
		t.Fatal(err)
	}
	s, err := w.js.JetStream().Stream(w.ctx, "HOLDFAST_DEAD")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(w.ctx, 1); err != nil {
		t.Fatal(err)
	}
	var ids []string
	var fault error
	for l, err := range dead.Letters(w.ctx, transport.LetterFilter{}) {
		if err != nil {
			fault = err
			break
		}
		ids = append(ids, l.Message.ID)
	}
	if len(ids) != 1 || ids[0] != "m2" || !errors.Is(fault, transport.ErrNotFound) {
		t.Fatalf("read %v, then %v", ids, fault)
	}
}
