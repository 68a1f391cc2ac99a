package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The test binary is its own NATS server, as the bench is.
func TestMain(m *testing.M) {
	if wantsServer() {
		os.Exit(serve(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// Every workload runs and finds each message handled as often as it should be.
// No figure is looked at.
func TestBenchRuns(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "results.md")
	if err := os.WriteFile(file, []byte("the table before\n\n## Notes\n\nkept\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	err := command(t.Context(), []string{"-quick", "-rounds", "1", "-md", file}, &out, &log)
	t.Log(log.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range plan(1) {
		for _, c := range g.contenders {
			if !strings.Contains(out.String(), "| "+g.name+" | "+c.name+" |") {
				t.Errorf("the table has no row for %s, %s", g.name, c.name)
			}
		}
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(written); !strings.HasSuffix(text, "\n## Notes\n\nkept\n") || strings.Contains(text, "before") {
		t.Errorf("the notes below the table were not kept:\n%s", text)
	}
}

func TestArgumentsThatCannotBeMeantAreRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-rounds", "0"}, {"-scale", "0"}, {"-only", "("}, {"-unknown"}} {
		var out, log bytes.Buffer
		if err := command(t.Context(), args, &out, &log); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

func TestARatioIsThatOfTheMediansWithTheRangeOfTheRounds(t *testing.T) {
	t.Parallel()
	at := func(perSecond float64) sample { return sample{msgs: perSecond, wall: time.Second} }
	r := &results{
		group: &group{metric: metricRatio, contenders: []contender{{}, {goals: []goal{{metricRatio, atLeast, 1}}}}},
		samples: [][]sample{
			{at(100), at(200), at(400)},
			{at(110), at(100), at(300)},
		},
	}
	got := r.ratio(1, metricRatio.value)
	if got.median != 110.0/200 || got.low != 0.5 || got.high != 1.1 {
		t.Errorf("ratio is %+v", got)
	}
	if _, verdict := r.verdict(1); !strings.Contains(verdict, "short") {
		t.Errorf("a ratio of 0.55 meets a goal of 1: %s", verdict)
	}
}

func TestATallyFindsMessagesThatWereLostOrRepeated(t *testing.T) {
	t.Parallel()
	once := func(uint64) uint32 { return 1 }
	for name, hits := range map[string][]uint64{"lost": {0}, "repeated": {0, 1, 1}, "unknown": {0, 7}} {
		c := newTally(0, 2, 2, 1)
		for _, seq := range hits {
			c.hit(seq)
		}
		if c.check(once) == nil {
			t.Errorf("a message was %s, and the tally is content", name)
		}
	}
	c := newTally(0, 2, 2, 1)
	c.hit(1)
	c.hit(0)
	if err := c.check(once); err != nil {
		t.Error(err)
	}
}
