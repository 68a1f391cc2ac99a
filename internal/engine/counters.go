package engine

import (
	"sync/atomic"

	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/recovery"
)

// counters are one worker's share of Counts, so that workers do not contend.
type counters struct {
	received, attempts, handled, retried, dead, discarded, rejected, returned, lost atomic.Uint64
}

// addTo adds the counters to c.
func (k *counters) addTo(c *observe.Counts) {
	c.Received += k.received.Load()
	c.Attempts += k.attempts.Load()
	c.Handled += k.handled.Load()
	c.Retried += k.retried.Load()
	c.Dead += k.dead.Load()
	c.Discarded += k.discarded.Load()
	c.Rejected += k.rejected.Load()
	c.Returned += k.returned.Load()
	c.LeasesLost += k.lost.Load()
}

// of is the counter of deliveries that ended with this action.
func (k *counters) of(a recovery.Action) *atomic.Uint64 {
	switch a {
	case recovery.DeadLetter:
		return &k.dead
	case recovery.Drop:
		return &k.discarded
	default:
		return &k.handled
	}
}
