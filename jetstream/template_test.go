package jetstream

import (
	"slices"
	"strings"
	"testing"
)

func TestParametersInSubjectsAreWildcardsWithNames(t *testing.T) {
	t.Parallel()
	src := (&Transport{}).Consumer(ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.{region}.{id}", "bills.{rest...}"}}).(*source)
	if want := []string{"orders.*.*", "bills.>"}; !slices.Equal(src.cfg.Subjects, want) {
		t.Errorf("subjects %v, want %v", src.cfg.Subjects, want)
	}
	moved := src.WithPrefix("eu.").(*source)
	if got, ok := moved.Param("eu.orders.north.7", "id"); !ok || got != "7" {
		t.Errorf("id %q, %v", got, ok)
	}
	if got := moved.cfg.Subjects[1]; got != "eu.bills.>" {
		t.Errorf("subject %s", got)
	}
	bad := (&Transport{}).Consumer(ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.{id"}}).(*source)
	if faults := strings.Join(bad.faults(), "\n"); !strings.Contains(faults, "whole token") {
		t.Errorf("faults: %s", faults)
	}
}
