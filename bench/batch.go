package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

// batchSize is how many messages a batch has at most.
const batchSize = 500

// batchGroups handle many messages at once beside one by one: where the handler
// costs nothing, and where a call of it waits for something, as for a database. What
// is acked costs a server the same in a batch, so its share of the work, which the
// raw rows show, bounds what a batch can gain where the handler does nothing; the
// engine's own share is measured without a server.
func batchGroups() []*group {
	one := []holdfast.Option{holdfast.Concurrency(64), holdfast.Prefetch(batchSize)}
	half := []goal{{metricRatio, atLeast, 1.5}}
	return []*group{
		{
			name: "batches of 500, engine over a no-op transport", n: 2_000_000, metric: metricRatio, trial: engineTrial,
			contenders: []contender{
				{name: "holdfast, one by one", run: engineOnly(64, 0)},
				{name: "holdfast, HandleBatch", run: engineBatch(), goals: half},
			},
		},
		{
			name: "batches of 500, 1 KiB, memory broker", n: 300_000, body: plain(kib), metric: metricRatio, trial: inProcessTrial,
			contenders: []contender{
				{name: "holdfast, one by one", run: inMemory(handleEach(one...))},
				{name: "holdfast, HandleBatch", run: inMemory(handleBatches(0)), goals: half},
			},
		},
		{
			name: "batches of 500, 1 KiB", n: 300_000, body: plain(kib), metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "holdfast, one by one", run: onJetStream(handleEach(one...))},
				{name: "holdfast, HandleBatch", run: onJetStream(handleBatches(0)), goals: half},
				{name: "raw nats.go, one by one", run: rawBytes(rawMode{})},
				{name: "raw nats.go, acks by 500", run: rawBytes(rawMode{lot: batchSize})},
			},
		},
		{
			name: "batches of 500, 1 KiB, a call waits 1 ms", n: 150_000, body: plain(kib), metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "holdfast, one by one, 64 wide", n: 60_000, run: holdWaiting(time.Millisecond, one...)},
				{name: "holdfast, HandleBatch", run: onJetStream(handleBatches(time.Millisecond)), goals: half},
			},
		},
	}
}

// registration registers the subscription of a job on an app.
type registration func(app *holdfast.App, src holdfast.Source, j *job)

// handleEach handles one message at a time.
func handleEach(opts ...holdfast.Option) registration {
	return func(app *holdfast.App, src holdfast.Source, j *job) {
		holdfast.Handle(app, src, func(_ context.Context, m *holdfast.Message[[]byte]) error { return j.handle(numberOf(m.Body)) }, opts...)
	}
}

// handleBatches handles messages in batches, and waits in each call.
func handleBatches(pause time.Duration) registration {
	return func(app *holdfast.App, src holdfast.Source, j *job) {
		limits := holdfast.BatchLimits{Messages: batchSize, Wait: 10 * time.Millisecond}
		holdfast.HandleBatch(app, src, limits, func(_ context.Context, b *holdfast.Batch[[]byte]) error {
			if pause > 0 {
				time.Sleep(pause)
			}
			for i, m := range b.Messages {
				if err := j.handle(numberOf(m.Body)); err != nil {
					b.Fail(i, err)
				}
			}
			return nil
		})
	}
}

// holdWaiting handles one message at a time, and waits in each call.
func holdWaiting(pause time.Duration, opts ...holdfast.Option) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return consumeHold(ctx, j, func(b []byte) error {
			time.Sleep(pause)
			return j.handle(numberOf(b))
		}, opts)
	}
}

// onJetStream consumes the stream of the job.
func onJetStream(register registration) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		js, err := jetstream.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		src := js.Consumer(jetstream.ConsumerConfig{Stream: j.stream, Subjects: []string{j.subject}, Durable: durable, Start: jetstream.StartAll()})
		app := holdfast.New(holdfast.Config{Name: "bench"})
		register(app, src, j)
		return errors.Join(runApp(ctx, app, j), js.Close(ctx))
	}
}

// inMemory consumes from a queue of the memory broker that was filled before.
func inMemory(register registration) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		b := memory.New()
		src := b.Queue(memory.QueueConfig{Name: durable, Subjects: []string{durable}})
		if _, err := b.Provision(ctx, src, transport.Want{Subscription: durable, Concurrency: 1}); err != nil {
			return err
		}
		for seq := range j.tally.msgs {
			if err := b.Publish(ctx, transport.Address{Name: durable}, &transport.Message{Body: j.body(uint64(seq))}); err != nil {
				return fmt.Errorf("fill the queue: %w", err)
			}
		}
		app := holdfast.New(holdfast.Config{Name: "bench"})
		register(app, src, j)
		return errors.Join(runApp(ctx, app, j), b.Close(ctx))
	}
}
