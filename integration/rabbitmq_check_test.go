package integration_test

import (
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// What would lose messages is found before the first one is taken, with a code
// and a way out.
func TestRabbitMQCheckFindsWhatWouldLoseMessages(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	for _, c := range []struct {
		name  string
		cfg   rabbitmq.QueueConfig
		want  func(*transport.Want)
		code  transport.Code
		level transport.Level
	}{
		{"a name of the broker", rabbitmq.QueueConfig{Name: "amq.mine"}, nil, transport.CodeInvalid, transport.LevelError},
		{
			"rejecting from a foreign queue",
			rabbitmq.QueueConfig{Name: w.name, Declare: rabbitmq.DeclareAdopt},
			func(want *transport.Want) { want.Reject = true }, transport.CodeRejectDestroys, transport.LevelError,
		},
		{
			"a dead-letter exchange that is not there",
			rabbitmq.QueueConfig{Name: w.name + "-1", DeadLetterExchange: w.name + "-no"},
			nil, transport.CodeDLXMissing, transport.LevelError,
		},
		{
			"a queue that drops",
			rabbitmq.QueueConfig{Name: w.name + "-2", Arguments: amqp.Table{"x-overflow": "drop-head"}},
			nil, transport.CodeAtMostOnce, transport.LevelError,
		},
		{
			"a time to live",
			rabbitmq.QueueConfig{Name: w.name + "-3", Arguments: amqp.Table{"x-message-ttl": int64(1000)}},
			nil, transport.CodeQueueLoses, transport.LevelWarning,
		},
		{"a low limit", rabbitmq.QueueConfig{Name: w.name + "-4", DeliveryLimit: 5}, nil, transport.CodeDeliveryLimit, transport.LevelWarning},
		{"a classic queue", rabbitmq.QueueConfig{Name: w.name + "-5", Type: rabbitmq.Classic}, nil, transport.CodeNoCount, transport.LevelWarning},
		{
			"a stream with retries",
			rabbitmq.QueueConfig{Name: w.name + "-6", Type: rabbitmq.Stream, Offset: "next"},
			nil, transport.CodeNoRedelivery, transport.LevelError,
		},
		{
			"an exchange of unknown kind",
			rabbitmq.QueueConfig{Name: w.name + "-7", Bindings: []rabbitmq.Binding{{Exchange: w.name + "-no"}}},
			nil, transport.CodeExchangeMissing, transport.LevelError,
		},
		{
			"an exchange of another kind",
			rabbitmq.QueueConfig{Name: w.name + "-8", Bindings: []rabbitmq.Binding{{Exchange: "amq.topic", Kind: "direct"}}},
			nil, transport.CodeExchangeDrift, transport.LevelError,
		},
	} {
		want := w.want()
		if c.want != nil {
			c.want(&want)
		}
		found, err := w.rmq.Check(w.soon(), w.rmq.Queue(c.cfg), want)
		if err != nil || !hasCode(found, c.code, c.level) {
			t.Errorf("%s: found %v (%v), want %s %s", c.name, found, err, c.code, c.level)
		}
		for _, f := range found {
			if f.Subscription != w.name {
				t.Errorf("%s: a finding of nobody: %v", c.name, f)
			}
		}
	}
}

// A policy whose delays change makes new retry queues, and no difference.
func TestRabbitMQChangedDelaysAreNoDrift(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name})
	for i, delays := range [][]time.Duration{{time.Second}, {time.Second, time.Minute}, {2 * time.Second}} {
		want := w.want()
		want.Delays, want.MaxDelay = delays, delays[len(delays)-1]
		report, err := w.rmq.Provision(w.soon(), src, want)
		if err != nil || len(errorFindings(report.Findings)) > 0 {
			t.Errorf("round %d: %v, %v", i, report.Findings, err)
		}
		if created := strings.Join(report.Created, ", "); i > 0 && strings.Count(created, "retry queue") != 1 || i > 0 && len(report.Created) != 1 {
			t.Errorf("round %d created %s", i, created)
		}
	}
}
