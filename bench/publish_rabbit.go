package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// rabbitWindowGroups publish to RabbitMQ with many messages unconfirmed at once,
// and one at a time through the same pipeline.
func rabbitWindowGroups() []*group {
	atPar := []goal{{metricRatio, atLeast, 1}, {metricCPURatio, atMost, 1}}
	var all []*group
	for _, kind := range []rabbitmq.QueueType{rabbitmq.Quorum, rabbitmq.Classic} {
		goals := atPar
		if kind != rabbitmq.Quorum {
			goals = nil
		}
		all = append(all, &group{
			name: "publish, window 256, " + string(kind), n: 150_000, queue: kind, metric: metricRatio, trial: rabbitPublishTrial,
			contenders: []contender{
				{name: "raw amqp091-go, deferred confirms", run: rawRabbitWindow(window, false)},
				{name: "raw amqp091-go, with an ID, a time and a header", run: rawRabbitWindow(window, true)},
				{name: "holdfast's PublishAsync", run: holdRabbitWindow(window), goals: goals},
				{name: "holdfast's pipeline without the publisher", run: holdRabbitPipeline(window)},
			},
		})
	}
	return append(all, &group{
		name: "publish, one by one through a pipeline, quorum", n: 8_000, queue: rabbitmq.Quorum, metric: metricRatio, trial: rabbitPublishTrial,
		contenders: []contender{
			{name: "raw amqp091-go", run: rawRabbitPublish(1, false)},
			{name: "holdfast's pipeline without the publisher", run: holdRabbitPipeline(1), goals: []goal{{metricRatio, atLeast, 1}}},
		},
	})
}

// rawRabbitWindow waits for the oldest confirmation when the window is full.
// dressed messages carry what holdfast's do.
func rawRabbitWindow(wide int, dressed bool) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		conn, err := amqp.Dial(j.url)
		if err != nil {
			return err
		}
		return errors.Join(windowRawRabbit(ctx, conn, j, wide, dressed), conn.Close())
	}
}

func windowRawRabbit(ctx context.Context, conn *amqp.Connection, j *job, wide int, dressed bool) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	under := make([]*amqp.DeferredConfirmation, wide)
	msgs := uint64(j.tally.msgs)
	for seq := range msgs + uint64(wide) {
		slot := &under[seq%uint64(wide)]
		if *slot != nil {
			if stored, err := (*slot).WaitContext(ctx); err != nil || !stored {
				return errors.Join(errors.New("the broker did not take the message"), err)
			}
			j.tally.hit(seq - uint64(wide))
			*slot = nil
		}
		if seq >= msgs {
			continue
		}
		p := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: j.body(seq)}
		if dressed {
			id := strconv.FormatUint(seq, 36)
			p.MessageId, p.Timestamp, p.Headers = id, time.Now(), amqp.Table{"Copy": id}
		}
		if *slot, err = ch.PublishWithDeferredConfirm("", j.queue, true, false, p); err != nil {
			return err
		}
	}
	return j.wait(ctx)
}

// holdRabbitWindow publishes as a program does, with IDs that the publisher makes,
// and looks at every outcome.
func holdRabbitWindow(wide int) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		rmq, err := rabbitmq.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		p := holdfast.NewPublisher[[]byte](rmq, rabbitmq.QueueAddress(j.queue), holdfast.Window(wide, 0))
		err = windowThrough(ctx, j, p, wide)
		_, left := p.Close(ctx)
		return errors.Join(err, left, rmq.Close(ctx))
	}
}

// holdRabbitPipeline publishes through the transport's pipeline and a window that
// counts: what stands below holdfast's publisher.
func holdRabbitPipeline(wide int) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		rmq, err := rabbitmq.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		return errors.Join(rowThrough(ctx, j, rmq, wide), rmq.Close(ctx))
	}
}

func rowThrough(ctx context.Context, j *job, rmq *rabbitmq.Transport, wide int) error {
	room := newRoom(wide)
	p, err := rmq.OpenPipeline(ctx, j.outcomes(room))
	if err != nil {
		return err
	}
	to := rabbitmq.QueueAddress(j.queue)
	for seq := range uint64(j.tally.msgs) {
		room.enter()
		m := &transport.Message{ID: strconv.FormatUint(seq, 36), Body: j.body(seq)}
		if err := p.Send(to, m, seq); err != nil {
			return err
		}
	}
	err = errors.Join(p.Flush(), j.wait(ctx))
	p.End(false)
	return err
}
