package recovery

import (
	"slices"
	"time"
)

// maxRungs bounds a ladder: a backoff that never repeats itself is cut here, and
// its longer delays are met by the last rung, taken more than once.
const maxRungs = 32

// Ladder returns the different delays the policy may ask for, without jitter,
// rising: what a broker must prepare that has one place for each delay. A delay
// that is not among them, such as that of RetryAfter, is rounded up to one.
func (p Policy) Ladder() []time.Duration {
	if !p.Delays() {
		return nil
	}
	var rungs []time.Duration
	add := func(b Backoff) {
		for n := 1; n <= min(p.rounds(), maxRungs); n++ {
			if d := b.Delay(n); d > 0 {
				rungs = append(rungs, max(d, minDelay))
			}
		}
	}
	add(p.Backoff)
	for _, r := range p.Rules {
		add(r.Backoff)
		if r.After > 0 {
			rungs = append(rungs, max(r.After, minDelay))
		}
	}
	slices.Sort(rungs)
	return slices.Compact(rungs)
}
