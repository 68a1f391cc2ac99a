package natscore

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

func TestIdentityGoesWhereAStreamLooksForDuplicates(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		m    transport.Message
		want map[string]string
	}{
		"nothing":      {transport.Message{}, map[string]string{}},
		"an ID":        {transport.Message{ID: "i"}, map[string]string{"Nats-Msg-Id": "i"}},
		"the same key": {transport.Message{ID: "i", DedupID: "i"}, map[string]string{"Nats-Msg-Id": "i"}},
		"another key":  {transport.Message{ID: "i", DedupID: "d"}, map[string]string{"Nats-Msg-Id": "d", "Holdfast-Id": "i"}},
		"the rest": {
			transport.Message{Key: "k", ContentType: "text/plain", Header: transport.Header{"Content-Type": {"old"}, "X": {"1"}}},
			map[string]string{"Holdfast-Key": "k", "Content-Type": "text/plain", "X": "1"},
		},
		"a publish that is repeated": {transport.Message{ID: "i", Resent: true}, map[string]string{"Nats-Msg-Id": "i", "Holdfast-Resent": "1"}},
		"a copy of a received message": {
			transport.Message{ID: "new", Header: transport.Header{"Nats-Msg-Id": {"old"}, "Holdfast-Id": {"old"}, "Holdfast-Resent": {"1"}}},
			map[string]string{"Nats-Msg-Id": "new"},
		},
	} {
		msg, err := encode("publish", transport.Address{Name: "a"}, &c.m)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		got := map[string]string{}
		for name, values := range msg.Header {
			got[name] = values[0]
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: the headers are %v, want %v", what, got, c.want)
		}
	}
}

func TestWhatOnlyAStoreCanDoIsRefused(t *testing.T) {
	t.Parallel()
	for what, m := range map[string]transport.Message{
		"a schedule":     {NotBefore: time.Now()},
		"a time to live": {TTL: time.Second},
		"a priority":     {Priority: 1},
	} {
		_, err := encode("publish", transport.Address{Name: "a"}, &m)
		if !errors.Is(err, transport.ErrUnsupported) || transport.KindOf(err) != transport.Permanent {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestEncodeLeavesTheMessageAlone(t *testing.T) {
	t.Parallel()
	m := &transport.Message{ID: "i", Key: "k", ContentType: "c", Header: transport.Header{"X": {"1"}, "Content-Type": {"old"}}}
	if _, err := encode("publish", transport.Address{Name: "a"}, m); err != nil {
		t.Fatal(err)
	}
	if len(m.Header) != 2 || m.Header.Get("Content-Type") != "old" {
		t.Errorf("the headers are %v now", m.Header)
	}
}

func TestAConfirmationIsKnownByItsShape(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"stream":"S","seq":1}`:                                 "S",
		`{"stream":"S","seq":1,"domain":"hub","duplicate":true}`: "S",
		`{"error":{"code":503},"stream":"S","seq":0}`:            "S",
		`{"stream":"S","seq":1,"price":3}`:                       "",
		`{"stream":"S"}`:                                         "",
		`{"seq":1}`:                                              "",
		`{"stream":3,"seq":1}`:                                   "",
		`{"stream":"","seq":1}`:                                  "",
		`[]`:                                                     "",
		``:                                                       "",
		`{`:                                                      "",
	} {
		if got, _ := confirmation(&nats.Msg{Data: []byte(body)}); got != want {
			t.Errorf("%s: stream %q, want %q", body, got, want)
		}
	}
	ours := &nats.Msg{Data: []byte(`{"stream":"S","seq":1}`), Header: nats.Header{"Holdfast-Reply": {"ok"}}}
	if got, _ := confirmation(ours); got != "" {
		t.Errorf("an answer of a handler is taken for a confirmation of %s", got)
	}
}

func TestADurableIsNamedWithoutWhatJetStreamRefuses(t *testing.T) {
	t.Parallel()
	s := &source{cfg: SubjectConfig{Subject: "a.>"}}
	got := s.consumerSource("S", transport.Want{Subscription: "eu.billing *"})
	if want := `js.Consumer(jetstream.ConsumerConfig{Stream: "S", Subjects: []string{"a.>"}, Durable: "eu-billing--"})`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLookupProblemsAreWarnings(t *testing.T) {
	t.Parallel()
	denied := &transport.Error{Op: "request", Err: transport.ErrPermission}
	var codes []transport.Code
	for _, err := range []error{nil, denied, context.DeadlineExceeded, errors.New("other")} {
		for _, f := range lookupFindings("a", transport.Want{}, err) {
			codes = append(codes, f.Code)
			if f.Level != transport.LevelWarning || f.Fix == "" {
				t.Errorf("the finding is %+v", f)
			}
		}
	}
	if want := []transport.Code{transport.CodePermission, transport.CodeUnreachable, transport.CodeUnreachable}; !slices.Equal(codes, want) {
		t.Errorf("the codes are %v, want %v", codes, want)
	}
}

// Permissions decide by the subject, so no header takes its place.
func TestTheSubjectIsThatOfTheWire(t *testing.T) {
	t.Parallel()
	m := decode(&nats.Msg{Subject: "orders.eu.1", Header: nats.Header{"Holdfast-Subject": {"orders.us.1"}}})
	if m.Subject != "orders.eu.1" {
		t.Errorf("a header made the subject %q", m.Subject)
	}
}

// Answers that nobody takes do not grow without a bound, and that some were dropped
// is told behind those that were kept.
func TestAnswersThatNobodyTakesAreBounded(t *testing.T) {
	t.Parallel()
	a := &answers{more: make(chan struct{}, 1)}
	large := &nats.Msg{Subject: "a", Data: make([]byte, DefaultPendingBytes/4)}
	for range 10 {
		a.put(large)
	}
	kept := 0
	for {
		m, err := a.next(t.Context())
		if err != nil {
			if !errors.Is(err, errManyAnswers) {
				t.Errorf("the answers end with %v", err)
			}
			break
		}
		if m != large {
			t.Fatal("another message came")
		}
		kept++
	}
	if kept != 3 {
		t.Errorf("%d answers were kept", kept)
	}
	one := &answers{more: make(chan struct{}, 1)}
	one.put(&nats.Msg{Subject: "a", Data: make([]byte, DefaultPendingBytes+1)})
	if m, err := one.next(t.Context()); m == nil || err != nil {
		t.Errorf("one that is larger than all: %v", err)
	}
}
