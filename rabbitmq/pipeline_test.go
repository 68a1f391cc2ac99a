package rabbitmq

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

func TestARowKeepsItsOrderHoweverItGrows(t *testing.T) {
	t.Parallel()
	var r row
	var want []uint64
	random := rand.New(rand.NewPCG(1, 2))
	for tag := range uint64(20_000) {
		if len(want) == 0 || random.IntN(100) < 55 {
			r.push(entry{tag: tag})
			want = append(want, tag)
		} else if got := r.pop(); got.tag != want[0] {
			t.Fatalf("popped %d, want %d", got.tag, want[0])
		} else {
			want = want[1:]
		}
		if r.len() != len(want) {
			t.Fatalf("%d entries, want %d", r.len(), len(want))
		}
		for _, i := range []int{0, len(want) / 2, len(want) - 1} {
			if i >= 0 && i < len(want) && r.at(i).tag != want[i] {
				t.Fatalf("entry %d is %d, want %d", i, r.at(i).tag, want[i])
			}
		}
	}
}

// After an exception as many publishes go alone as were under way: one of them
// is to blame.
func TestAnExchangeIsTrustedWhenAsManyPublishesSucceededAsWereInDoubt(t *testing.T) {
	t.Parallel()
	r := newRoutes()
	if !r.known("") || r.known("x") {
		t.Fatal("the default exchange is always there, and no other")
	}
	r.learn("x")
	left := []entry{{exchange: "x"}, {exchange: ""}, {exchange: "x"}}
	r.blame(errors.Join(errLost, &amqp.Error{Code: amqp.ConnectionForced, Server: true}), left)
	if !r.known("x") || !r.known("") {
		t.Error("no publish is to blame for a connection that was closed")
	}
	r.blame(errors.Join(errLost, &amqp.Error{Code: amqp.NotFound, Server: true}), left)
	for exchange, n := range map[string]int{"x": 2, "": 1} {
		for range n {
			if r.known(exchange) {
				t.Errorf("%q is trusted too early", exchange)
			}
			r.reset() // doubts outlive the connection
			r.learn(exchange)
		}
		if !r.known(exchange) {
			t.Errorf("%q is never trusted again", exchange)
		}
	}
	r.reset()
	if !r.known("") || r.known("x") {
		t.Error("on a new connection an exchange may be gone")
	}
}

func TestWhatAMessageAsksForReachesItsProperties(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ttl  time.Duration
		want string
	}{
		{0, ""},
		{1, "1"},
		{time.Millisecond, "1"},
		{time.Millisecond + 1, "2"},
		{time.Hour, "3600000"},
		{maxExpiration * time.Millisecond, "4294967295"},
	} {
		p, err := encode(&transport.Message{TTL: c.ttl, Priority: 7}, "copy", false)
		if err != nil || p.Expiration != c.want || p.Priority != 7 {
			t.Errorf("TTL %v became %q, priority %d, %v", c.ttl, p.Expiration, p.Priority, err)
		}
	}
	for _, m := range []*transport.Message{{TTL: -1}, {TTL: maxExpiration*time.Millisecond + 1}, {NotBefore: time.Now()}} {
		if _, err := encode(m, "copy", false); err == nil || transport.KindOf(err) != transport.Permanent {
			t.Errorf("%+v: %v", m, err)
		}
	}
	p, err := encode(&transport.Message{ID: "twice", Resent: true}, "copy", false)
	if err != nil {
		t.Fatal(err)
	}
	var m transport.Message
	decode(&amqp.Delivery{MessageId: p.MessageId, Headers: p.Headers}, &m)
	if !m.Resent || len(m.Header) != 0 {
		t.Errorf("it arrived as %+v", m)
	}
}
