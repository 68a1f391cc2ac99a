package main

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
)

// batchSize is how many messages a batch has at most.
const batchSize = 500

// batchGroups handle many messages at once beside one by one: where the handler
// costs nothing, and where a call of it waits for something, as for a database.
func batchGroups() []*group {
	one := []holdfast.Option{holdfast.Concurrency(64), holdfast.Prefetch(batchSize)}
	return []*group{
		{
			name: "batches of 500, 1 KiB", n: 300_000, body: plain(kib), metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "holdfast, one by one", run: holdBytes(one...)},
				{name: "holdfast, HandleBatch", run: holdBatch(0), goals: []goal{{metricRatio, atLeast, 1.5}}},
			},
		},
		{
			name: "batches of 500, 1 KiB, a call waits 1 ms", n: 150_000, body: plain(kib), metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "holdfast, one by one, 64 wide", n: 60_000, run: holdWaiting(time.Millisecond, one...)},
				{name: "holdfast, HandleBatch", run: holdBatch(time.Millisecond), goals: []goal{{metricRatio, atLeast, 1.5}}},
			},
		},
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

// holdBatch handles messages in batches, and waits in each call.
func holdBatch(pause time.Duration) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		js, err := jetstream.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		src := js.Consumer(jetstream.ConsumerConfig{Stream: j.stream, Subjects: []string{j.subject}, Durable: durable, Start: jetstream.StartAll()})
		app := holdfast.New(holdfast.Config{Name: "bench"})
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
		return errors.Join(runApp(ctx, app, j), js.Close(ctx))
	}
}
