package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// rawRabbit consumes with the client library as its users do: prefetch 256, and
// each message acked by itself.
func rawRabbit(mode rawMode) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		conn, err := amqp.Dial(j.url)
		if err != nil {
			return err
		}
		return errors.Join(consumeRawRabbit(ctx, conn, j, mode), conn.Close())
	}
}

func consumeRawRabbit(ctx context.Context, conn *amqp.Connection, j *job, mode rawMode) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Qos(window, 0, false); err != nil {
		return err
	}
	in, err := ch.Consume(j.queue, durable, false, false, false, false, nil)
	if err != nil {
		return err
	}
	settle := func(d amqp.Delivery) {
		if err := j.handle(numberOf(d.Body)); err != nil {
			// AMQP has no delay: it is held, and then given back.
			time.AfterFunc(j.backoff, func() { _ = d.Reject(true) })
			return
		}
		if err := d.Ack(false); err != nil {
			j.fail(err)
		}
	}
	handler, wait := spreadOver(mode, settle)
	// Cancelling ends the loop; what comes after the last expected call would be
	// a repetition, and the tally finds it.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for d := range in {
			handler(d)
		}
	}()
	err = j.wait(ctx)
	err = errors.Join(err, ch.Cancel(durable, false))
	<-ended
	wait()
	// A quorum queue takes acks in the background.
	time.Sleep(100 * time.Millisecond)
	return err
}

// rawRabbitPublish publishes from so many goroutines on one channel, each waiting
// for its confirmations; with properties it writes those that holdfast writes.
func rawRabbitPublish(wide int, properties bool) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		conn, err := amqp.Dial(j.url)
		if err != nil {
			return err
		}
		return errors.Join(publishRawRabbit(ctx, conn, j, wide, properties), conn.Close())
	}
}

func publishRawRabbit(ctx context.Context, conn *amqp.Connection, j *job, wide int, properties bool) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	return j.publishAll(ctx, wide, func(ctx context.Context, seq uint64, body []byte) error {
		p := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body}
		if properties {
			id := strconv.FormatUint(1<<62+seq, 36)
			p.MessageId, p.ContentType, p.Timestamp = id, "application/octet-stream", time.Now()
			p.Headers = amqp.Table{"Holdfast-Copy": id}
		}
		dc, err := ch.PublishWithDeferredConfirm("", j.queue, true, false, p)
		if err != nil {
			return err
		}
		ok, err := dc.WaitContext(ctx)
		if err == nil && !ok {
			err = errors.New("the broker did not take the message")
		}
		return err
	})
}
