package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// holdBytes handles bodies of raw bytes.
func holdBytes(opts ...holdfast.Option) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return consumeHold(ctx, j, func(b []byte) error { return j.handle(numberOf(b)) }, opts)
	}
}

// holdJSON handles typed bodies.
func holdJSON(opts ...holdfast.Option) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return consumeHold(ctx, j, func(o order) error { return j.handle(o.Number) }, opts)
	}
}

// consumeHold consumes as a program does: everything not given is the default,
// dead letters and confirmed acks among it.
func consumeHold[T any](ctx context.Context, j *job, handle func(T) error, opts []holdfast.Option) error {
	js, err := jetstream.Connect(ctx, j.url)
	if err != nil {
		return err
	}
	src := js.Consumer(jetstream.ConsumerConfig{Stream: j.stream, Subjects: []string{j.subject}, Durable: durable, Start: jetstream.StartAll()})
	app := holdfast.New(holdfast.Config{Name: "bench"})
	holdfast.Handle(app, src, func(_ context.Context, m *holdfast.Message[T]) error { return handle(m.Body) }, opts...)
	return errors.Join(runApp(ctx, app, j), js.Close(ctx))
}

// holdTransport consumes with the transport and no engine above it, to show
// which of the two costs what.
func holdTransport(prefetch int) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		js, err := jetstream.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		src := js.Consumer(jetstream.ConsumerConfig{Stream: j.stream, Subjects: []string{j.subject}, Durable: durable, Start: jetstream.StartAll()})
		want := transport.Want{Subscription: durable, Concurrency: 1, Prefetch: prefetch}
		return errors.Join(consumeTransport(ctx, js, src, want, j), js.Close(ctx))
	}
}

// consumeTransport receives, handles and acks until the job is done.
func consumeTransport(ctx context.Context, t transport.Transport, src transport.Source, want transport.Want, j *job) error {
	if _, err := t.Provision(ctx, src, want); err != nil {
		return err
	}
	rx, err := t.Open(ctx, src, want)
	if err != nil {
		return err
	}
	for j.tally.calls.Load() < j.tally.want && err == nil {
		var d transport.Delivery
		if d, err = rx.Receive(ctx); err != nil {
			break
		}
		if err = j.handle(numberOf(d.Message().Body)); err == nil {
			err = d.(transport.PipelinedAcker).AckLater()
		}
	}
	return errors.Join(err, rx.Close(ctx))
}

// runApp runs the app until the job is done.
func runApp(ctx context.Context, app *holdfast.App, j *job) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		err := app.Run(running)
		if err != nil {
			j.fail(err)
		}
		ended <- err
	}()
	err := j.wait(ctx)
	stop()
	return errors.Join(err, <-ended)
}

// holdPublish publishes from so many goroutines, each waiting for its
// confirmations.
func holdPublish(wide int) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		js, err := jetstream.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		p := holdfast.NewPublisher[[]byte](js, transport.Address{Name: j.subject})
		err = j.publishAll(ctx, wide, func(ctx context.Context, _ uint64, body []byte) error { return p.Publish(ctx, body) })
		return errors.Join(err, js.Close(ctx))
	}
}

// engineOnly runs the engine over a transport that does nothing.
func engineOnly(workers int, timeout time.Duration) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return overIdle(ctx, j, func(app *holdfast.App, src holdfast.Source) *holdfast.Subscription {
			return holdfast.Handle(app, src, func(context.Context, *holdfast.Message[[]byte]) error { return nil },
				holdfast.Concurrency(workers), holdfast.Timeout(timeout))
		})
	}
}

// overIdle runs what register registers, over a transport that does nothing.
func overIdle(ctx context.Context, j *job, register func(*holdfast.App, holdfast.Source) *holdfast.Subscription) error {
	t := &idle{left: int64(j.tally.msgs), warm: int64(j.tally.msgs) / 20, tally: j.tally}
	app := holdfast.New(holdfast.Config{})
	sub := register(app, idleSource{t})
	err := runApp(ctx, app, j)
	if got := sub.Health().Counts.Handled; err == nil && got != uint64(j.tally.msgs) {
		return errors.New("the engine did not handle every message")
	}
	return err
}

// engineBatch runs the engine over a transport that does nothing, in batches.
func engineBatch() func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return overIdle(ctx, j, func(app *holdfast.App, src holdfast.Source) *holdfast.Subscription {
			limits := holdfast.BatchLimits{Messages: batchSize, Wait: 10 * time.Millisecond}
			return holdfast.HandleBatch(app, src, limits, func(context.Context, *holdfast.Batch[[]byte]) error { return nil })
		})
	}
}

// idle is a transport that hands out one message so many times and takes every
// settlement: what is left is the engine. It measures by what it hands out.
type idle struct {
	left  int64
	warm  int64
	tally *tally
	taken atomic.Int64
	once  sync.Once
}

// Capabilities implements transport.Transport.
func (t *idle) Capabilities() transport.Capabilities {
	return transport.Capabilities{Name: "idle", Redelivers: true, Delays: true}
}

// Check implements transport.Transport.
func (t *idle) Check(context.Context, transport.Source, transport.Want) ([]transport.Finding, error) {
	return nil, nil
}

// Provision implements transport.Transport.
func (t *idle) Provision(context.Context, transport.Source, transport.Want) (transport.Report, error) {
	return transport.Report{}, nil
}

// Publish implements transport.Transport.
func (t *idle) Publish(context.Context, transport.Address, *transport.Message) error { return nil }

// Open implements transport.Transport.
func (t *idle) Open(context.Context, transport.Source, transport.Want) (transport.Receiver, error) {
	return t, nil
}

// Close implements transport.Transport and transport.Receiver.
func (t *idle) Close(context.Context) error { return nil }

// Receive implements transport.Receiver.
func (t *idle) Receive(ctx context.Context) (transport.Delivery, error) {
	n := t.taken.Add(1)
	if n <= t.left {
		if n == t.warm {
			t.tally.start = look(0, true)
		}
		return theDelivery, nil
	}
	t.once.Do(func() {
		t.tally.end = look(0, false)
		close(t.tally.done)
	})
	<-ctx.Done()
	return nil, ctx.Err()
}

var theMessage = &transport.Message{ID: "m-1", Subject: "orders.placed", Body: make([]byte, kib), Position: "S:1"}

var theDelivery transport.Delivery = idleDelivery{}

type idleDelivery struct{}

func (idleDelivery) Message() *transport.Message               { return theMessage }
func (idleDelivery) Deliveries() int                           { return 1 }
func (idleDelivery) Ack(context.Context) error                 { return nil }
func (idleDelivery) AckLater() error                           { return nil }
func (idleDelivery) Nack(context.Context, time.Duration) error { return nil }

type idleSource struct{ t *idle }

func (s idleSource) Transport() transport.Transport { return s.t }
func (idleSource) Name() string                     { return "bench" }
func (idleSource) String() string                   { return "idle" }
