package memory_test

import (
	"errors"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

func TestCountStoreKeepsThePromises(t *testing.T) {
	t.Parallel()
	transporttest.RunCountStore(t, func(*testing.T) transport.CountStore { return memory.NewCountStore() })
}

func TestBrokenCountStoreFailsUntilItIsMended(t *testing.T) {
	t.Parallel()
	s := memory.NewCountStore()
	key := transport.CountKey{Subscription: "s", Message: "m"}
	s.Break(errors.New("away"))
	_, err := s.Add(t.Context(), key, "1", time.Hour)
	check.Equal(t, transport.KindOf(err), transport.Temporary)
	s.Break(nil)
	n, err := s.Add(t.Context(), key, "1", time.Hour)
	check.NoError(t, err)
	check.Equal(t, n, 1)
	check.Equal(t, s.Len(), 1)
}

// TestRequeuedMessageIsTakenAwayAfterItsLimit: three retries are four
// deliveries, and then the message is among the rejected.
func TestRequeuedMessageIsTakenAwayAfterItsLimit(t *testing.T) {
	t.Parallel()
	b := memory.New()
	src := b.Queue(memory.QueueConfig{Name: "q"})
	want := transport.Want{Subscription: "q", Concurrency: 1, Redelivery: true, BrokerRetries: 3}
	_, err := b.Provision(t.Context(), src, want)
	check.NoError(t, err)
	rx, err := b.Open(t.Context(), src, want)
	check.NoError(t, err)
	check.NoError(t, b.Publish(t.Context(), transport.Address{Name: "q"}, &transport.Message{ID: "m"}))
	for n := 1; n <= 4; n++ {
		d, err := rx.Receive(t.Context())
		check.NoError(t, err)
		check.Equal(t, d.Deliveries(), n)
		check.NoError(t, d.(transport.Requeuer).Requeue(t.Context()))
	}
	check.True(t, b.Idle(), "idle")
	rejected := b.Rejected("q")
	if len(rejected) != 1 || rejected[0].Reason != "delivery limit" || rejected[0].Deliveries != 4 {
		t.Errorf("rejected are %+v", rejected)
	}
	check.NoError(t, b.Close(t.Context()))
}
