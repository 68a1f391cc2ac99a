package recovery_test

import (
	"slices"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
)

func TestLadderHasEveryDelayOnce(t *testing.T) {
	t.Parallel()
	p := recovery.Policy{
		Attempts: 6, Immediate: 1, Backoff: recovery.Exponential(time.Second, 3*time.Second),
		Rules: []recovery.Rule{{When: recovery.Is(recovery.ErrNoHandler), After: time.Minute}},
	}
	want := []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, time.Minute}
	if got := p.Ladder(); !slices.Equal(got, want) {
		t.Errorf("ladder is %v, want %v", got, want)
	}
	if got := (recovery.Policy{Attempts: 3, Immediate: 2}).Ladder(); got != nil {
		t.Errorf("a policy without delays has the ladder %v", got)
	}
}
