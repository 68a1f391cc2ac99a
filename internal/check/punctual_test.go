package check

import (
	"testing"
	"time"
)

func TestAFailureOfALateMachineIsRunAgainAndNoOther(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		late, failing, runs int // how many runs are late, fail, and are to be seen
		fails               bool
	}{
		"it passes":                     {runs: 1},
		"it passes on a late machine":   {late: 1, runs: 1},
		"it fails":                      {failing: 1, runs: 1, fails: true},
		"it fails on a late machine":    {late: 1, failing: 1, runs: 2},
		"it fails without that as well": {late: 1, failing: 2, runs: 2, fails: true},
		"it fails for ever":             {late: 100, failing: 100, runs: 20, fails: true},
	} {
		runs, cleaned := 0, 0
		told := &attempt{TB: t}
		punctual(told, time.Second, func(t testing.TB) {
			runs++
			t.Cleanup(func() { cleaned++ })
			if runs <= c.failing {
				t.Fatal("it is broken")
			}
		}, func() func() time.Duration {
			return func() time.Duration {
				if runs <= c.late {
					return time.Minute
				}
				return 0
			}
		})
		if runs != c.runs || cleaned != c.runs || told.Failed() != c.fails {
			t.Errorf("%s: %d runs, %d cleaned, failed: %v", name, runs, cleaned, told.Failed())
		}
	}
}

func TestTheWatchEnds(t *testing.T) {
	t.Parallel()
	if late := watch()(); late < 0 {
		t.Errorf("late by %v", late)
	}
}
