package main

import (
	"context"
	"errors"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// holdRabbit consumes as a program does: everything not given is the default,
// retry queues and dead letters among it.
func holdRabbit(opts ...holdfast.Option) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		rmq, err := rabbitmq.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		app := holdfast.New(holdfast.Config{Name: "bench"})
		holdfast.Handle(app, rmq.Queue(rabbitmq.QueueConfig{Name: j.queue, Type: j.kind}),
			func(_ context.Context, m *holdfast.Message[[]byte]) error { return j.handle(numberOf(m.Body)) }, opts...)
		return errors.Join(runApp(ctx, app, j), rmq.Close(ctx))
	}
}

// holdRabbitTransport consumes with the transport and no engine above it.
func holdRabbitTransport(prefetch int) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		rmq, err := rabbitmq.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		src := rmq.Queue(rabbitmq.QueueConfig{Name: j.queue, Type: j.kind})
		want := transport.Want{Subscription: durable, Concurrency: 1, Prefetch: prefetch}
		return errors.Join(consumeTransport(ctx, rmq, src, want, j), rmq.Close(ctx))
	}
}

// holdRabbitPublish publishes from so many goroutines, each waiting for its
// confirmations.
func holdRabbitPublish(wide int) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		rmq, err := rabbitmq.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		p := holdfast.NewPublisher[[]byte](rmq, rabbitmq.QueueAddress(j.queue))
		err = j.publishAll(ctx, wide, func(ctx context.Context, _ uint64, body []byte) error { return p.Publish(ctx, body) })
		return errors.Join(err, rmq.Close(ctx))
	}
}
