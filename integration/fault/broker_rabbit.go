//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/rabbitnode"
)

// rabbitBroker is a RabbitMQ node of its own.
type rabbitBroker struct {
	node  *rabbitnode.Node
	queue string // the type of its queues
	young time.Time
	taken map[string][]string // what was taken to make room, by queue
}

func newRabbit(queue string) (*rabbitBroker, error) {
	n, err := rabbitnode.Start("", false)
	if err != nil {
		return nil, err
	}
	return &rabbitBroker{node: n, queue: queue, taken: map[string][]string{}}, nil
}

func (b *rabbitBroker) protocol() string       { return "amqp" }
func (b *rabbitBroker) batches() bool          { return false }
func (b *rabbitBroker) addr() string           { return b.node.Addr() }
func (b *rabbitBroker) url(addr string) string { return "amqp://guest:guest@" + addr }
func (b *rabbitBroker) start() error           { return b.node.Run() }
func (b *rabbitBroker) stop()                  { _ = b.node.Remove() }

// kill waits first until the last queue is not young any more: a quorum queue of
// RabbitMQ 3.10 that was declared within the last second before has no leader for
// ever after.
func (b *rabbitBroker) kill() {
	<-time.After(time.Until(b.young))
	b.node.Kill()
}

func (b *rabbitBroker) pause() error  { return b.signal(syscall.SIGSTOP) }
func (b *rabbitBroker) resume() error { return b.signal(syscall.SIGCONT) }

func (b *rabbitBroker) signal(s syscall.Signal) error {
	pid := b.node.PID()
	if comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm"); err != nil || string(comm) != "beam.smp\n" {
		return fmt.Errorf("process %d is %q and not the node (%v)", pid, comm, err)
	}
	return syscall.Kill(pid, s)
}

func (b *rabbitBroker) alarm(on bool) error {
	limit := []string{"set_vm_memory_high_watermark", "absolute", "4GB"}
	if on {
		limit = []string{"set_vm_memory_high_watermark", "0.00001"}
	}
	_, err := b.node.Ctl(limit...)
	return err
}

func (b *rabbitBroker) with(do func(*amqp.Channel) error) error {
	conn, err := amqp.Dial(b.url(b.addr()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	return do(ch)
}

// limit makes a queue refuse more messages than n.
func (b *rabbitBroker) limit(name string, n int) error {
	definition := fmt.Sprintf(`{"max-length":%d,"overflow":"reject-publish"}`, n)
	_, err := b.node.Ctl("set_policy", "limit-"+name, "^"+name+"$", definition, "--apply-to", "queues")
	return err
}

func (b *rabbitBroker) create(_ context.Context, name string, limit int) error {
	if limit > 0 {
		if err := b.limit(name, limit); err != nil {
			return err
		}
	}
	err := b.with(func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{"x-queue-type": b.queue})
		return err
	})
	b.young = time.Now().Add(5 * time.Second)
	return err
}

// unlimit raises the limit and takes messages: a quorum queue of RabbitMQ 3.10 that
// refuses goes on refusing for ever when its limit is removed, and looks at a higher
// one when something is taken.
func (b *rabbitBroker) unlimit(_ context.Context, name string) error {
	if err := b.limit(name, 1_000_000); err != nil {
		return err
	}
	return b.with(func(ch *amqp.Channel) error {
		for range 10 {
			d, ok, err := ch.Get(name, true)
			if err != nil || !ok {
				return err
			}
			b.taken[name] = append(b.taken[name], nameOf(d.Body))
		}
		return nil
	})
}

func (b *rabbitBroker) remove(_ context.Context, name string) error {
	return b.with(func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(name, false, false, false)
		return err
	})
}

func (b *rabbitBroker) put(ctx context.Context, name string, body []byte) error {
	return b.with(func(ch *amqp.Channel) error {
		if err := ch.Confirm(false); err != nil {
			return err
		}
		c, err := ch.PublishWithDeferredConfirm("", name, false, false, amqp.Publishing{Body: body, DeliveryMode: amqp.Persistent})
		if err != nil {
			return err
		}
		if ok, err := c.WaitContext(ctx); err != nil || !ok {
			return fmt.Errorf("not confirmed: %w", err)
		}
		return nil
	})
}

// quiet is how long a queue says nothing before it is taken for empty.
const quiet = 700 * time.Millisecond

func (b *rabbitBroker) stored(ctx context.Context, name string) (names []string, err error) {
	names = b.taken[name]
	// A queue may need a moment to come back after the last fault.
	for end := time.Now().Add(30 * time.Second); ; <-time.After(200 * time.Millisecond) {
		err = b.with(func(ch *amqp.Channel) error {
			got, err := drain(ctx, ch, name)
			names = append(names, got...)
			return err
		})
		if err == nil || time.Now().After(end) || len(names) > len(b.taken[name]) {
			return names, err
		}
	}
}

// drain takes all messages of a queue.
func drain(ctx context.Context, ch *amqp.Channel, name string) ([]string, error) {
	const tag = "check"
	deliveries, err := ch.Consume(name, tag, true, true, false, false, nil)
	if err != nil {
		return nil, err
	}
	var names []string
	silence := time.NewTimer(quiet)
	defer silence.Stop()
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return names, fmt.Errorf("the channel ended after %d messages", len(names))
			}
			names = append(names, nameOf(d.Body))
		case <-silence.C:
			q, err := ch.QueueDeclarePassive(name, true, false, false, false, amqp.Table{})
			if err != nil {
				return names, err
			}
			if q.Messages > 0 {
				break
			}
			// What is still on its way comes before the answer to this.
			if err := ch.Cancel(tag, false); err != nil {
				return names, err
			}
			for d := range deliveries {
				names = append(names, nameOf(d.Body))
			}
			return names, nil
		case <-ctx.Done():
			return names, ctx.Err()
		}
		silence.Reset(quiet)
	}
}
