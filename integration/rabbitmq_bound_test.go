package integration_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// Trap 68: a handler without a Timeout is cancelled before the broker takes its
// message back, too, and the channel with all that is on it stays.
func TestRabbitMQHandlerWithoutTimeoutIsCancelledBeforeTheBrokersLimit(t *testing.T) {
	t.Parallel()
	const limit = 20 * time.Second
	b := rabbittest.Start(t, "[{rabbit, [{consumer_timeout, 20000}, {channel_tick_interval, 500}]}].")
	w := newRabbitWorld(t, b, rabbitmq.WithConsumerTimeout(limit))
	w.queue(nil)
	stalled := rabbitEvents(t, w.rmq, transport.Stalled)
	var log rabbitLog
	app := holdfast.New(holdfast.Config{Name: "slow"})
	holdfast.Handle(app, w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name}), func(ctx context.Context, m *holdfast.Message[string]) error {
		if m.Body == "slow" && m.Attempt == 1 {
			<-ctx.Done()
			log.add("cancelled")
			return ctx.Err()
		}
		log.add("handled " + m.Body)
		return nil
	}, holdfast.Concurrency(2), holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(20 * time.Millisecond)})
	runRabbit(t, app)
	w.publish("slow")
	w.publish("beside")
	w.eventually("both are handled", func() bool {
		return slices.Contains(log.all(), "handled slow") && slices.Contains(log.all(), "handled beside")
	})
	if all := log.all(); !slices.Contains(all, "cancelled") {
		t.Errorf("it went %q", all)
	}
	if len(stalled) > 0 {
		t.Errorf("the channel was lost: %+v", <-stalled)
	}
	if n := len(w.letters()); n > 0 {
		t.Errorf("%d dead letters", n)
	}
}

// What needs longer than the broker lets it is refused at the start, with a way
// out: a timeout, and a message that is held while it waits for its retries.
func TestRabbitMQWhatTheBrokerWouldTakeBackIsRefused(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	hours := holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Hour)}
	check := func(opts ...holdfast.Option) []holdfast.Finding {
		app := holdfast.New(holdfast.Config{Name: "long"})
		holdfast.Handle(app, w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name}), func(context.Context, *holdfast.Message[string]) error { return nil }, opts...)
		found, err := app.Check(w.soon())
		if err != nil {
			t.Error(err)
		}
		return slices.DeleteFunc(found, func(f holdfast.Finding) bool { return f.Level != transport.LevelError })
	}
	for name, opts := range map[string][]holdfast.Option{
		"a timeout":        {holdfast.Timeout(time.Hour)},
		"a lease":          {holdfast.MaxLease(time.Hour)},
		"retries in order": {holdfast.OrderByKey(), hours},
	} {
		refused := check(opts...)
		if len(refused) != 1 || refused[0].Code != transport.CodeConsumerTimeout || !strings.Contains(refused[0].Fix, "WithConsumerTimeout") {
			t.Errorf("%s: %v", name, refused)
		}
	}
	if refused := check(hours); len(refused) > 0 {
		t.Errorf("a message that is parked is not held: %v", refused)
	}
}
