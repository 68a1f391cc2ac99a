package recovery

import (
	"slices"
	"time"
)

// Backoff gives the delay before each delayed retry. The zero value has no
// delays at all: Policy.Validate refuses it where delayed retries are left.
// Build one with Constant, Exponential or Delays. It is immutable.
type Backoff struct {
	first  time.Duration
	limit  time.Duration
	factor float64
	list   []time.Duration
}

// Constant waits d before every delayed retry.
func Constant(d time.Duration) Backoff { return Backoff{first: d, limit: d, factor: 1} }

// Exponential waits first, then twice as long each time, up to limit.
func Exponential(first, limit time.Duration) Backoff {
	return Backoff{first: first, limit: limit, factor: 2}
}

// Delays waits the given delays in turn; the last one repeats.
func Delays(d ...time.Duration) Backoff { return Backoff{list: slices.Clone(d)} }

// IsZero reports whether no delay was given.
func (b Backoff) IsZero() bool { return b.factor == 0 && len(b.list) == 0 }

// Delay returns the delay before delayed retry n, counted from 1.
func (b Backoff) Delay(n int) time.Duration {
	n = max(n, 1)
	if len(b.list) > 0 {
		return b.list[min(n, len(b.list))-1]
	}
	d := b.first
	for range n - 1 {
		next := float64(d) * b.factor
		if b.factor == 1 || next >= float64(b.limit) {
			return b.limit // before the product leaves the range of a Duration
		}
		d = time.Duration(next)
	}
	return min(d, b.limit)
}

// Max returns the longest delay there can be, without jitter.
func (b Backoff) Max() time.Duration {
	if len(b.list) > 0 {
		return slices.Max(b.list)
	}
	return b.limit
}

// Sum returns the sum of the first n delays, without jitter.
func (b Backoff) Sum(n int) time.Duration {
	var sum time.Duration
	for i := 1; i <= n && sum < forever; i++ {
		sum = add(sum, b.Delay(i))
	}
	return sum
}

// forever is the longest Duration there is. Sums of delays stop at it.
const forever = time.Duration(1<<63 - 1)

// add returns a+b for a duration that is not negative, and forever where the
// sum is longer.
func add(a, b time.Duration) time.Duration {
	if b > forever-a {
		return forever
	}
	return a + b
}

// negative reports whether a delay is not positive, or the limit of an
// exponential backoff lies below its first delay.
func (b Backoff) negative() bool {
	if len(b.list) > 0 {
		return slices.Min(b.list) <= 0
	}
	return b.factor != 0 && (b.first <= 0 || b.limit < b.first)
}
