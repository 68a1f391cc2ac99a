package holdfast_test

import (
	"context"
	"testing"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/transport"
)

// echo is a transport that confirms everything at once, on another goroutine.
type echo struct{ transport.Transport }

func (echo) Capabilities() transport.Capabilities { return transport.Capabilities{Name: "echo"} }

func (echo) OpenPipeline(_ context.Context, report func(uint64, error)) (transport.Pipeline, error) {
	p := &echoing{tags: make(chan uint64, 1024), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for tag := range p.tags {
			report(tag, nil)
		}
	}()
	return p, nil
}

type echoing struct {
	tags  chan uint64
	done  chan struct{}
	ended bool
}

func (p *echoing) Send(_ transport.Address, _ *transport.Message, tag uint64) error {
	p.tags <- tag
	return nil
}
func (p *echoing) Flush() error          { return nil }
func (p *echoing) Done() <-chan struct{} { return p.done }
func (p *echoing) Err() error            { return nil }
func (p *echoing) Waiting() error        { return nil }
func (p *echoing) End(bool) {
	if !p.ended {
		p.ended = true
		close(p.tags)
	}
	<-p.done
}

// BenchmarkPublishAsync is what a publisher costs besides its transport.
func BenchmarkPublishAsync(b *testing.B) {
	p := holdfast.NewPublisher[[]byte](echo{}, transport.Address{Name: "orders.placed"})
	body := make([]byte, 1024)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.PublishAsync(ctx, body); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := p.Close(ctx); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkPublish waits for each outcome.
func BenchmarkPublish(b *testing.B) {
	p := holdfast.NewPublisher[[]byte](echo{}, transport.Address{Name: "orders.placed"})
	body := make([]byte, 1024)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Publish(ctx, body); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := p.Close(ctx); err != nil {
		b.Fatal(err)
	}
}
