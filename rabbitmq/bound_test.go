package rabbitmq

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// How long a delivery may be in hand, for each version that decides otherwise, and
// that nobody asks for longer. Traps 68 and 69.
func TestTheConsumerTimeoutIsThatOfTheServer(t *testing.T) {
	t.Parallel()
	minute := amqp.Table{argTimeout: int64(60_000)}
	for name, c := range map[string]struct {
		version version
		cfg     QueueConfig
		broker  time.Duration // WithConsumerTimeout; the default if negative
		want    time.Duration
		refused transport.Code // of a Timeout of 45 seconds; "" if it may be had
	}{
		"3.10":                             {version{3, 10}, QueueConfig{}, -1, 30 * time.Minute, ""},
		"3.10, a classic queue":            {version{3, 10}, QueueConfig{Type: Classic}, -1, 30 * time.Minute, ""},
		"3.10, configured":                 {version{3, 10}, QueueConfig{}, time.Minute, time.Minute, ""},
		"3.10, configured to be short":     {version{3, 10}, QueueConfig{}, 50 * time.Second, 50 * time.Second, transport.CodeConsumerTimeout},
		"3.10, without":                    {version{3, 10}, QueueConfig{}, 0, 0, ""},
		"3.10, an argument it ignores":     {version{3, 10}, QueueConfig{Arguments: minute}, -1, 30 * time.Minute, transport.CodeServerTooOld},
		"3.13, of the queue":               {version{3, 13}, QueueConfig{Arguments: minute}, -1, time.Minute, ""},
		"4.2, of the consumer, ignored":    {version{4, 2}, QueueConfig{ConsumerArguments: minute}, -1, 30 * time.Minute, transport.CodeServerTooOld},
		"4.3, of the consumer":             {version{4, 3}, QueueConfig{ConsumerArguments: minute}, -1, time.Minute, ""},
		"4.3":                              {version{4, 3}, QueueConfig{}, -1, 30 * time.Minute, ""},
		"4.3, a queue of unknown type":     {version{4, 3}, QueueConfig{Declare: DeclareAdopt}, -1, 30 * time.Minute, ""},
		"4.3, a classic queue has none":    {version{4, 3}, QueueConfig{Type: Classic}, time.Second, 0, ""},
		"4.3, a stream has none":           {version{4, 3}, QueueConfig{Type: Stream, Offset: "next"}, time.Second, 0, ""},
		"a version that nobody could read": {version{}, QueueConfig{}, -1, 30 * time.Minute, ""},
	} {
		tr := &Transport{set: defaultSettings(), urls: []string{"amqp://h/"}}
		tr.consuming = newLink(tr, "consume", &session{version: c.version})
		if c.broker >= 0 {
			WithConsumerTimeout(c.broker)(&tr.set)
		}
		c.cfg.Name = "q"
		src, _ := tr.Queue(c.cfg).(*source)
		if got := src.Bound(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		var refused transport.Code
		for _, f := range src.held(transport.Want{Hold: 45 * time.Second}, c.version) {
			refused = f.Code
		}
		if refused != c.refused {
			t.Errorf("%s: refused with %q, want %q", name, refused, c.refused)
		}
	}
}
