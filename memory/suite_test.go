package memory_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

// lease is that of the suite.
const lease = 500 * time.Millisecond

// harness returns a broker of its own for one promise.
func harness(t testing.TB) transporttest.Harness {
	const maxSize = 1 << 20
	b := memory.New(memory.WithLease(lease), memory.WithMaxSize(maxSize))
	t.Cleanup(func() {
		if err := b.Close(t.Context()); err != nil {
			t.Errorf("close broker: %v", err)
		}
	})
	return transporttest.Harness{
		Transport: b,
		Source: func(_ testing.TB, spec transporttest.Spec) (transport.Source, transport.Address) {
			subject := "test." + spec.Name
			return b.Queue(memory.QueueConfig{
				Name: spec.Name + "." + spec.Group, Subjects: []string{subject}, Lease: spec.Lease,
			}), transport.Address{Name: subject}
		},
		Lease:           lease,
		RedeliverWithin: 2 * lease,
		Restart: func(testing.TB) {
			// What is on its way when the connection breaks is lost with it.
			release := b.Stall(memory.OpPublish)
			<-time.After(10 * time.Millisecond)
			b.Disconnect(nil)
			release()
			b.Reconnect()
		},
		FailSettles: func(testing.TB) func() {
			b.Disconnect(nil)
			return b.Reconnect
		},
		MaxSize:      maxSize,
		Deduplicates: true,
	}
}

func TestMemoryKeepsThePromises(t *testing.T) {
	t.Parallel()
	for _, p := range transporttest.Promises() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			check.Punctual(t, lease/4, func(t testing.TB) { p.Check(t, harness(t)) })
		})
	}
}

func TestMemoryKeepsThePromisesInVirtualTime(t *testing.T) {
	t.Parallel()
	for _, p := range transporttest.Promises() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { p.Check(t, harness(t)) })
		})
	}
}
