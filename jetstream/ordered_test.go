package jetstream

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/check"
)

// A message that was lost on the way ends the session: the next one begins after
// the last message taken.
func TestOrderedSessionEndsAtAGap(t *testing.T) {
	t.Parallel()
	r := &ordered{orderedRow: newOrderedRow("S", 8), halted: make(chan struct{})}
	s := &orderedSession{r: r, lane: &lane{stream: "S", consumer: "c"}, outstanding: 8}
	arrive := func(seq, order int) error {
		reply := fmt.Sprintf("$JS.ACK.S.c.1.%d.%d.%d.0", seq, order, time.Now().UnixNano())
		return s.arrive(&nats.Msg{Subject: "orders.a", Reply: reply})
	}
	check.NoError(t, arrive(5, 1))
	check.NoError(t, arrive(9, 2)) // others were removed, or are not selected
	if err := arrive(11, 4); !errors.Is(err, errSession) {
		t.Fatalf("the third message is lost: %v", err)
	}
	check.Equal(t, r.last, 9)
	check.Equal(t, len(r.out), 2)
	s.order = 3
	if err := arrive(9, 4); !errors.Is(err, errSession) {
		t.Fatalf("a message that was taken: %v", err)
	}
}
