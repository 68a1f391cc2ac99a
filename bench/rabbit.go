package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/rabbitnode"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// rabbit is a RabbitMQ of the bench's own, and what prepares and checks its
// queues.
type rabbit struct {
	node    *rabbitnode.Node
	pid     int
	version string
	conn    *amqp.Connection
	ch      *amqp.Channel // in confirm mode
	hold    *rabbitmq.Transport
	queues  int
	queue   string // filled for the next trial
}

// startRabbit starts RabbitMQ and connects to it.
func startRabbit(ctx context.Context) (r *rabbit, err error) {
	r = &rabbit{}
	if r.node, err = rabbitnode.Start("", true); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.stop(ctx))
		}
	}()
	r.pid = r.node.PID()
	if r.conn, err = amqp.Dial(r.node.URL()); err != nil {
		return nil, err
	}
	r.version, _ = r.conn.Properties["version"].(string)
	if r.ch, err = r.conn.Channel(); err != nil {
		return nil, err
	}
	if err = r.ch.Confirm(false); err != nil {
		return nil, err
	}
	if r.hold, err = rabbitmq.Connect(ctx, r.node.URL(), rabbitmq.WithName("bench")); err != nil {
		return nil, err
	}
	return r, nil
}

// stop ends the node, with everything that is in it.
func (r *rabbit) stop(ctx context.Context) error {
	var failed []error
	if r.hold != nil {
		failed = append(failed, r.hold.Close(ctx))
	}
	if r.conn != nil {
		failed = append(failed, r.conn.Close())
	}
	return errors.Join(append(failed, r.node.Remove())...)
}

// newQueue makes a queue as holdfast makes it, for every contender: they are
// compared over the same queue.
func (r *rabbit) newQueue(ctx context.Context, kind rabbitmq.QueueType) (string, error) {
	r.queues++
	name := "bench-" + strconv.Itoa(r.queues)
	src := r.hold.Queue(rabbitmq.QueueConfig{Name: name, Type: kind})
	report, err := r.hold.Provision(ctx, src, transport.Want{Subscription: durable, Concurrency: 1, DeadLetter: true})
	if err == nil && len(report.Created) == 0 {
		err = errors.New("nothing was made")
	}
	return name, err
}

// fill makes the queue of the next trial and fills it with n messages of g.
func (r *rabbit) fill(ctx context.Context, g *group, n int) error {
	var err error
	if r.queue, err = r.newQueue(ctx, g.queue); err != nil {
		return err
	}
	const window = 1024
	var left []*amqp.DeferredConfirmation
	for seq := range n {
		p := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: g.body(uint64(seq))}
		if g.headers {
			p.MessageId, p.ContentType, p.Timestamp = strconv.Itoa(seq), "application/octet-stream", time.Now()
		}
		dc, err := r.ch.PublishWithDeferredConfirm("", r.queue, true, false, p)
		if err != nil {
			return fmt.Errorf("fill a queue: %w", err)
		}
		left = append(left, dc)
		if len(left) < window && seq < n-1 {
			continue
		}
		// Keep half of the window under way.
		if left, err = awaitConfirms(ctx, left, seq == n-1); err != nil {
			return fmt.Errorf("fill a queue: %w", err)
		}
	}
	return r.holds(ctx, r.queue, n)
}

// awaitConfirms waits for the older half of the confirmations, or for all, and
// returns the others.
func awaitConfirms(ctx context.Context, list []*amqp.DeferredConfirmation, all bool) ([]*amqp.DeferredConfirmation, error) {
	due := len(list) / 2
	if all {
		due = len(list)
	}
	for _, dc := range list[:due] {
		if ok, err := dc.WaitContext(ctx); err != nil || !ok {
			return nil, errors.Join(err, errors.New("a message was not confirmed"))
		}
	}
	return append(list[:0], list[due:]...), nil
}

// holds waits until a queue has exactly so many messages, and still has them a
// moment later: what a consumer did not settle comes back after it is gone.
func (r *rabbit) holds(ctx context.Context, queue string, want int) error {
	seen := 0
	deadline := time.Now().Add(10 * time.Second)
	for ctx.Err() == nil {
		q, err := r.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil {
			return err
		}
		if seen++; q.Messages != want {
			seen = 0
		}
		if seen == 3 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the queue has %d messages instead of %d", q.Messages, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return ctx.Err()
}

// clear deletes the queues of the group that is done, and those beside them.
func (r *rabbit) clear() error {
	names, err := r.node.Ctl("list_queues", "--no-table-headers", "name")
	if err != nil {
		return err
	}
	for name := range strings.Lines(names) {
		if _, err := r.ch.QueueDelete(strings.TrimSpace(name), false, false, false); err != nil {
			return err
		}
	}
	return nil
}

// rabbitConsumeTrial lets c consume the queue that was filled for it.
func rabbitConsumeTrial(ctx context.Context, b *bench, g *group, c *contender) (sample, error) {
	r := b.rabbit
	j := newJob(g, c, r.node.URL(), r.pid)
	j.queue, j.kind = r.queue, g.queue
	runtime.GC()
	if err := c.run(ctx, j); err != nil {
		return sample{}, err
	}
	if err := errors.Join(j.tally.check(j.expected()), r.holds(ctx, j.queue, 0), r.drop(j.queue)); err != nil {
		return sample{}, err
	}
	s := j.tally.sample()
	if c.parked > 0 { // only the fresh ones were measured
		s.msgs = float64(j.tally.want - j.tally.warm)
	}
	return s, nil
}

// rabbitPublishTrial lets c publish into an empty queue.
func rabbitPublishTrial(ctx context.Context, b *bench, g *group, c *contender) (sample, error) {
	r := b.rabbit
	j := newJob(g, c, r.node.URL(), r.pid)
	var err error
	if j.queue, err = r.newQueue(ctx, g.queue); err != nil {
		return sample{}, err
	}
	runtime.GC()
	if err := c.run(ctx, j); err != nil {
		return sample{}, err
	}
	if err := errors.Join(j.tally.check(j.expected()), r.holds(ctx, j.queue, j.tally.msgs), r.drop(j.queue)); err != nil {
		return sample{}, err
	}
	return j.tally.sample(), nil
}

// drop deletes a queue; the small ones beside it wait for clear.
func (r *rabbit) drop(queue string) error {
	_, err := r.ch.QueueDelete(queue, false, false, false)
	return err
}
