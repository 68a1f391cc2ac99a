package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// A header that is nested as deeply as its sender liked does not keep a message
// from being buried, or it would come back for ever.
func TestAMessageWithDeeplyNestedHeadersCanBeBuried(t *testing.T) {
	t.Parallel()
	for depth := range 3 * maxNesting {
		var lists, tables any = "innermost", "innermost"
		for range depth {
			lists, tables = []any{lists}, amqp.Table{"t": tables}
		}
		var m transport.Message
		decode(&amqp.Delivery{MessageId: "m", Headers: amqp.Table{"lists": lists, "tables": tables}}, &m)
		letter := wire.BuryMessage(&m, wire.Envelope{Subscription: "s"})
		msg, err := encode(letter, "copy", true)
		if err == nil {
			err = (&Transport{set: defaultSettings()}).limits(nil).check("bury", QueueAddress("q.dead"), &msg)
		}
		if err != nil {
			t.Fatalf("%d levels: %v", depth, err)
		}
	}
}

// What the library would ignore, or what would encrypt nothing, is refused before
// anything is sent.
func TestAnOptionThatWouldChangeNothingIsRefused(t *testing.T) {
	t.Parallel()
	secure := WithTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	for name, c := range map[string]struct {
		url  string
		opts []Option
	}{
		"TLS without TLS":            {"amqp://u:canary@127.0.0.1:1/", []Option{secure}},
		"TLS for one of two":         {"amqps://u:canary@127.0.0.1:1/,amqp://u:canary@127.0.0.1:2/", []Option{secure}},
		"a heartbeat that never is":  {"amqp://u:canary@127.0.0.1:1/?heartbeat=0", nil},
		"a timeout before the start": {"amqp://u:canary@127.0.0.1:1/?connection_timeout=-5", nil},
		"a heartbeat that never is ": {"amqp://u:canary@127.0.0.1:1/", []Option{WithHeartbeat(0)}},
		"more than any broker takes": {"amqp://u:canary@127.0.0.1:1/", []Option{WithMaxMessageSize(1 << 30)}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		tr, err := Connect(ctx, c.url, c.opts...)
		cancel()
		if err == nil {
			_ = tr.Close(t.Context()) // nothing is there
		}
		if !errors.Is(err, transport.ErrInvalid) || strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The time that a URL gives to connect is kept: it is what the client library
// leaves to whoever dials.
func TestTheTimeoutOfTheURLIsKept(t *testing.T) {
	t.Parallel()
	set := defaultSettings()
	for url, want := range map[string]time.Duration{
		"amqp://h/":                         set.dial,
		"amqp://h/?connection_timeout=0":    set.dial,
		"amqp://h/?connection_timeout=2500": 2500 * time.Millisecond,
	} {
		if got := set.dialTimeout(url); got != want {
			t.Errorf("%s: %v, want %v", url, got, want)
		}
	}
}

// A setting of a queue that has no effect on a queue like this, or would change
// what another setting says, is an error at the start.
func TestASettingOfAQueueIsNeverIgnored(t *testing.T) {
	t.Parallel()
	tr := &Transport{set: defaultSettings(), urls: []string{"amqp://h/"}}
	for name, cfg := range map[string]QueueConfig{
		"a limit nobody counts to":       {Type: Classic, DeliveryLimit: 5},
		"a limit of a stream":            {Type: Stream, Offset: "next", DeliveryLimit: 5},
		"a key without an exchange":      {DeadLetterKey: "k"},
		"the key of an adopted queue":    {Declare: DeclareAdopt, DeadLetterKey: "k"},
		"a stream that dead-letters":     {Type: Stream, Offset: "next", DeadLetterExchange: "x"},
		"first served of a stream":       {Type: Stream, Offset: "next", ConsumerPriority: 1},
		"a priority beyond the wire":     {ConsumerPriority: math.MaxInt32 + 1},
		"another type in the arguments":  {Arguments: amqp.Table{"x-queue-type": "classic"}},
		"a hidden exchange":              {Arguments: amqp.Table{"x-dead-letter-exchange": "x"}},
		"a hidden key":                   {Arguments: amqp.Table{"x-dead-letter-routing-key": "k"}},
		"a hidden single consumer":       {Arguments: amqp.Table{"x-single-active-consumer": true}},
		"an offset that is no place":     {Type: Stream, Offset: struct{}{}},
		"an offset in words of its own":  {Type: Stream, Offset: "yesterday"},
		"an offset of a unit of its own": {Type: Stream, Offset: "5 parsecs"},
	} {
		cfg.Name = "q"
		src, _ := tr.Queue(cfg).(*source)
		found := src.contradictions(transport.Want{})
		if len(found) == 0 || found[0].Code != transport.CodeInvalid || found[0].Level != transport.LevelError {
			t.Errorf("%s: %v", name, found)
		}
	}
	for name, cfg := range map[string]QueueConfig{
		"a quorum queue":      {DeliveryLimit: 5, ConsumerPriority: -3, DeadLetterExchange: "x", DeadLetterKey: "k"},
		"an adopted queue":    {Declare: DeclareAdopt, DeliveryLimit: 5, SingleActiveConsumer: true},
		"a classic queue":     {Type: Classic, Exclusive: true, Arguments: amqp.Table{"x-max-priority": int64(5)}},
		"a stream by number":  {Type: Stream, Offset: 5},
		"a stream by time":    {Type: Stream, Offset: time.Now()},
		"a stream from first": {Type: Stream, Offset: "first"},
		"a stream by age":     {Type: Stream, Offset: "12h"},
	} {
		cfg.Name = "q"
		src, _ := tr.Queue(cfg).(*source)
		if found := src.contradictions(transport.Want{}); len(found) > 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
	weak, _ := tr.Queue(QueueConfig{Name: "q", Arguments: amqp.Table{"x-dead-letter-strategy": "at-most-once"}}).(*source)
	if found := weak.contradictions(transport.Want{}); len(found) != 1 || found[0].Code != transport.CodeAtMostOnce {
		t.Errorf("dead-lettering at most once: %v", found)
	}
}

// Bindings that are not made are told of.
func TestBindingsThatAreNotMadeAreTold(t *testing.T) {
	t.Parallel()
	tr := &Transport{set: defaultSettings(), urls: []string{"amqp://h/"}}
	for mode, want := range map[DeclareMode]bool{DeclareEnsure: false, DeclareVerify: true, DeclareAdopt: true} {
		cfg := QueueConfig{Name: "q", Declare: mode, Bindings: []Binding{{Exchange: "x", Key: "k"}}}
		src, _ := tr.Queue(cfg).(*source)
		told := slices.ContainsFunc(src.warnings(transport.Want{}, version{3, 10}), func(f transport.Finding) bool {
			return f.Code == transport.CodeBindingsUnseen && f.Level == transport.LevelInfo
		})
		if told != want {
			t.Errorf("%v: told %v", mode, told)
		}
	}
}

// A publish whose turn came while something else was in the way leaves the room to
// the next one, also when it gives up.
func TestATurnThatIsNotTakenIsPassedOn(t *testing.T) {
	t.Parallel()
	tr := &Transport{set: defaultSettings()}
	s := &session{over: make(chan struct{}), conn: &amqp.Connection{}}
	tr.publishing = newLink(tr, "publish", s)
	p := newPublisher(tr)
	tr.publisher = p
	p.win.limit = 1
	p.change(&confirming{s: s, ch: &amqp.Channel{}}, nil)
	p.mu.Lock()
	p.win.take(1)
	p.mu.Unlock()

	impatient, giveUp := context.WithCancel(t.Context())
	waiting := func(n int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; runtime.Gosched() {
			p.mu.Lock()
			there := len(p.win.waiting)
			p.mu.Unlock()
			if there == n {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d wait for room, want %d", there, n)
			}
		}
	}
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- p.send(impatient, nil, &entry{}, &amqp.Publishing{}) }()
	waiting(1)
	go func() { second <- p.send(t.Context(), nil, &entry{}, &amqp.Publishing{}) }()
	waiting(2)
	// An alarm; then there is room, and the first one cannot use it.
	alarm := "memory"
	s.alarm.Store(&alarm)
	p.mu.Lock()
	p.win.free(1)
	p.mu.Unlock()
	waiting(0) // the second one waits for the end of the alarm, too
	giveUp()
	if err := <-first; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "memory") {
		t.Error(err)
	}
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	s.alarm.Store(nil)
	tr.publishing.poke()
	select {
	case err := <-second:
		if !errors.Is(err, transport.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the second publish waits for ever")
	}
}

// An error of the seam says what can be done about it.
func TestWhatIsAwayOrSilentHasAHint(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errLost, errDown, errTimeout, errors.Join(errDown, context.DeadlineExceeded), blockedError("low on memory")} {
		e, ok := errors.AsType[*transport.Error](seamError("publish", "queue q", err, true))
		if !ok || e.Hint == "" {
			t.Errorf("%v: no hint", err)
		}
	}
}

// A receiver that was closed is forgotten with its last lane, also when the channel
// of that went before its deliveries were settled: an app opens one after the other.
func TestAClosedReceiverIsForgotten(t *testing.T) {
	t.Parallel()
	tr := &Transport{receivers: map[*receiver]struct{}{}}
	r := &receiver{t: tr, lanes: map[*lane]struct{}{}, shut: true}
	l := &lane{r: r, out: 1}
	tr.receivers[r], r.lanes[l] = struct{}{}, struct{}{}
	l.abandon()
	if len(tr.receivers) != 1 {
		t.Error("a lane that is watched was forgotten")
	}
	l.retired = true
	l.abandon() // a delivery could not be settled
	l.abandon()
	if len(tr.receivers)+len(r.lanes) != 0 {
		t.Errorf("%d receivers and %d lanes are remembered", len(tr.receivers), len(r.lanes))
	}
}
