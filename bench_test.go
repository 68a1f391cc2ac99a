package holdfast_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/transport"
)

// noop is a transport that hands out the same delivery n times and takes every
// settlement: what is left is the engine.
type noop struct {
	left chan struct{}
	done chan struct{}
	once sync.Once
}

func newNoop(n int) *noop {
	t := &noop{left: make(chan struct{}, n), done: make(chan struct{})}
	for range n {
		t.left <- struct{}{}
	}
	return t
}

func (t *noop) Capabilities() transport.Capabilities {
	return transport.Capabilities{Name: "noop", Redelivers: true, Delays: true}
}

func (t *noop) Check(context.Context, transport.Source, transport.Want) ([]transport.Finding, error) {
	return nil, nil
}

func (t *noop) Provision(context.Context, transport.Source, transport.Want) (transport.Report, error) {
	return transport.Report{}, nil
}
func (t *noop) Publish(context.Context, transport.Address, *transport.Message) error { return nil }
func (t *noop) Open(context.Context, transport.Source, transport.Want) (transport.Receiver, error) {
	return t, nil
}
func (t *noop) Close(context.Context) error { return nil }

var noopMessage = &transport.Message{ID: "m-1", Subject: "orders.placed", Body: make([]byte, 1024), Position: "S:1"}

func (t *noop) Receive(ctx context.Context) (transport.Delivery, error) {
	select {
	case <-t.left:
		return noopDelivery{}, nil
	default:
	}
	t.once.Do(func() { close(t.done) })
	<-ctx.Done()
	return nil, ctx.Err()
}

type noopDelivery struct{}

func (noopDelivery) Message() *transport.Message               { return noopMessage }
func (noopDelivery) Deliveries() int                           { return 1 }
func (noopDelivery) Ack(context.Context) error                 { return nil }
func (noopDelivery) Nack(context.Context, time.Duration) error { return nil }

type noopSource struct{ t *noop }

func (s noopSource) Transport() transport.Transport { return s.t }
func (noopSource) Name() string                     { return "bench" }
func (noopSource) String() string                   { return "noop" }

func BenchmarkEngine(b *testing.B) {
	for _, concurrency := range []int{1, 16} {
		for _, timeout := range []time.Duration{0, time.Minute} {
			b.Run("concurrency="+strconv.Itoa(concurrency)+"/timeout="+timeout.String(), func(b *testing.B) {
				t := newNoop(b.N)
				app := holdfast.New(holdfast.Config{})
				holdfast.Handle(app, noopSource{t}, func(context.Context, *holdfast.Message[[]byte]) error { return nil },
					holdfast.Concurrency(concurrency), holdfast.Timeout(timeout))
				ctx, cancel := context.WithCancel(b.Context())
				b.ReportAllocs()
				b.ResetTimer()
				done := make(chan error)
				go func() { done <- app.Run(ctx) }()
				<-t.done
				b.StopTimer()
				cancel()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
