package jetstream

import (
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// No setting is without an effect: what another one makes meaningless is refused.
func TestSettingsThatWouldBeIgnoredAreRefused(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		cfg  ConsumerConfig
		word string
	}{
		"a lease without acks":       {ConsumerConfig{Ordered: true, AckWait: time.Second}, "AckWait"},
		"unsettled without acks":     {ConsumerConfig{Ordered: true, MaxAckPending: 1}, "MaxAckPending"},
		"the end of a durable":       {ConsumerConfig{Durable: "billing", InactiveThreshold: time.Hour}, "InactiveThreshold"},
		"storage beside a whole one": {ConsumerConfig{Storage: natsjs.MemoryStorage, StreamConfig: &natsjs.StreamConfig{}}, "Storage"},
	} {
		c.cfg.Stream = "ORDERS"
		if faults := (&Transport{}).Consumer(c.cfg).(*source).faults(); len(faults) != 1 || !strings.Contains(faults[0], c.word) {
			t.Errorf("%s: %q", what, faults)
		}
	}
	for _, cfg := range []ConsumerConfig{
		{Stream: "ORDERS", Ordered: true, InactiveThreshold: time.Hour},
		{Stream: "ORDERS", Durable: "billing", AckWait: time.Hour, MaxAckPending: 9},
		{Stream: "ORDERS", Storage: natsjs.MemoryStorage, StreamConfig: &natsjs.StreamConfig{Storage: natsjs.MemoryStorage}},
	} {
		src := (&Transport{}).Consumer(cfg).(*source)
		if faults := append(src.faults(), src.WithPrefix("dev.").(*source).faults()...); len(faults) > 0 {
			t.Errorf("%+v: %q", cfg, faults)
		}
	}
}

func TestOptionsThatCanNeverWorkAreRefused(t *testing.T) {
	t.Parallel()
	for what, o := range map[string]Option{
		"no time to publish":         PublishTimeout(0),
		"replicas below zero":        DeadLetters(DeadLetterConfig{Replicas: -1}),
		"a window below zero":        DeadLetters(DeadLetterConfig{Duplicates: -1}),
		"park replicas below zero":   Parking(ParkConfig{Replicas: -1}),
		"a domain of two tokens":     Domain("a.b"),
		"a prefix that is a pattern": APIPrefix("a.>"),
	} {
		if _, err := applyOptions([]Option{o}); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if _, err := applyOptions([]Option{APIPrefix("$JS.hub.API.")}); err != nil {
		t.Errorf("a prefix with a dot at its end: %v", err)
	}
}
