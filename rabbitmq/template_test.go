package rabbitmq

import (
	"strings"
	"testing"
)

func TestParametersInRoutingKeysArePatternsWithNames(t *testing.T) {
	t.Parallel()
	src := (&Transport{}).Queue(QueueConfig{Name: "orders", Bindings: []Binding{
		{Exchange: "orders", Kind: "topic", Key: "orders.{region}.{id}"}, {Exchange: "bills", Kind: "topic", Key: "bills.{rest...}"},
	}}).(*source)
	moved := src.WithPrefix("eu.").(*source)
	for _, s := range []*source{src, moved} {
		if a, b := s.cfg.Bindings[0].Key, s.cfg.Bindings[1].Key; a != "orders.*.*" || b != "bills.#" {
			t.Errorf("keys %s and %s", a, b)
		}
		if got, ok := s.Param("orders.north.7", "region"); !ok || got != "north" {
			t.Errorf("region %q, %v", got, ok)
		}
	}
	bad := (&Transport{}).Queue(QueueConfig{Name: "orders", Bindings: []Binding{{Exchange: "orders", Key: "orders.{id"}}}).(*source)
	if faults := strings.Join(bad.faults(), "\n"); !strings.Contains(faults, "whole token") {
		t.Errorf("faults: %s", faults)
	}
}
