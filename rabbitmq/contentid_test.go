package rabbitmq

import (
	"bytes"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Stores count attempts under these names: a new version must find the old ones.
func TestTheNameOfAMessageWithoutIDStaysWhatItWas(t *testing.T) {
	t.Parallel()
	for want, raw := range map[string]*amqp.Delivery{
		"content-l8bs12c3hqgadc34lmr4aa6p24bm19bi": {RoutingKey: "bench-1", Body: make([]byte, 1024)},
		"content-a9olmp63hf8cr9nih18vpmeja771epmo": {
			Exchange: "e", RoutingKey: strings.Repeat("k", 200), CorrelationId: strings.Repeat("c", 200), Timestamp: time.Unix(1_700_000_000, 0),
			Headers: amqp.Table{"b": 1, "a": "x", "x-death": []any{}, "Holdfast-Copy": "1"}, Body: bytes.Repeat([]byte("x"), 3000),
		},
	} {
		if got := contentID(raw); got != want {
			t.Errorf("it is called %s and was called %s", got, want)
		}
	}
	one, other := &amqp.Delivery{MessageId: "a", Body: []byte("b")}, &amqp.Delivery{MessageId: "b", Body: []byte("b")}
	if contentID(one) == contentID(other) || contentID(one) == contentID(&amqp.Delivery{Body: []byte("b")}) {
		t.Error("messages of one content under two IDs are taken for one")
	}
}
