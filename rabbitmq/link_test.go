package rabbitmq

import (
	"testing"
	"time"
)

// A connection is tried at once, and then after pauses that grow to a limit and are
// never longer than they are meant to be.
func TestPausesBetweenAttemptsGrowToTheirLimit(t *testing.T) {
	t.Parallel()
	tr := &Transport{set: defaultSettings()}
	if jittered(0) != 0 {
		t.Error("the first attempt is not made at once")
	}
	var all []time.Duration
	for wait := tr.nextWait(0); len(all) < 6; wait = tr.nextWait(wait) {
		all = append(all, wait)
		for range 1000 {
			if d := jittered(wait); d < wait/2 || d > wait {
				t.Fatalf("%v became %v", wait, d)
			}
		}
	}
	want := []time.Duration{100, 200, 400, 800, 1500, 1500}
	for i, d := range all {
		if d != want[i]*time.Millisecond {
			t.Errorf("pause %d is %v, want %v", i, d, want[i]*time.Millisecond)
		}
	}
}
