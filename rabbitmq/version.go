package rabbitmq

import (
	"fmt"
	"strconv"
	"strings"
)

// version is that of the server, as the connection's properties tell it.
type version struct{ major, minor int }

// parseVersion reads "3.10.8" or "4.2.0-rc.1". What cannot be read is the oldest
// version there is: nothing is then taken for granted.
func parseVersion(text string) version {
	parts := strings.SplitN(text, ".", 3)
	if len(parts) < 2 {
		return version{}
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(strings.TrimRight(parts[1], "+-abcdefghijklmnopqrstuvwxyz"))
	if err1 != nil || err2 != nil {
		return version{}
	}
	return version{major, minor}
}

func (v version) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

// maxMessageSize is what the server takes by default.
func (v version) maxMessageSize() int {
	if v.atLeast(4, 0) {
		return 16 << 20
	}
	return 128 << 20
}

// unlimited tells whether a queue has to be told that it has no delivery limit.
// Before 4.0 there was none by default, and a negative one meant zero.
func (v version) unlimited() bool { return v.atLeast(4, 0) }

// atLeastOnce tells whether quorum queues can dead-letter without losing.
func (v version) atLeastOnce() bool { return v.atLeast(3, 10) }

// queueTimeouts and consumerTimeouts tell whether a queue, or a consumer, may have a
// consumer timeout of its own. Older servers take the argument and do nothing.
func (v version) queueTimeouts() bool    { return v.atLeast(3, 12) }
func (v version) consumerTimeouts() bool { return v.atLeast(4, 3) }

// timesOut tells whether deliveries of a queue of this type are taken back: from 4.3
// on only those of quorum queues are.
func (v version) timesOut(t QueueType) bool { return !v.atLeast(4, 3) || t != Classic && t != Stream }

// quietReturn tells whether a message that is handed back unseen is better
// nacked than rejected: from 4.3 on a nack does not count towards the queue's
// delivery limit.
func (v version) quietReturn() bool { return v.atLeast(4, 3) }

// counts are the broker's own records of how often a message was handed out.
type counts struct {
	delivery    int // x-delivery-count
	acquired    int // x-acquired-count
	hasDelivery bool
	redelivered bool
}

// handed returns how often this copy was handed out, this time included, and
// whether that is the broker's count or only what the redelivered flag lets one
// guess. It never says less than the broker does.
//
//   - 3.10 to 3.13, quorum: x-delivery-count is on every delivery, 0 at first.
//   - 4.0 to 4.2, quorum: it is there on redeliveries only.
//   - 4.3, quorum: it counts failures only, and x-acquired-count all returns.
//   - classic, any version: neither. The flag says "maybe before".
func (c counts) handed() (n int, exact bool) {
	n = max(c.delivery, c.acquired) + 1
	if !c.redelivered {
		return n, true
	}
	if c.hasDelivery || c.acquired > 0 {
		return max(n, 2), true
	}
	return 2, false
}
