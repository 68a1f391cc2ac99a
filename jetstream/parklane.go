package jetstream

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/wire"
)

// parkMargin is added to each delay, so that a copy is not early by what two
// processes differ in their knowledge of the server's time.
const parkMargin = 20 * time.Millisecond

// serverClock is the server's time, as far as it is known. It never runs ahead of
// it but for a step of the server's own clock, and does not depend on the clock of
// this machine. It is safe for concurrent use.
type serverClock struct {
	mu     sync.Mutex // guards what follows; nothing else is locked under it
	server time.Time  // what the server said
	here   time.Time  // when it was heard, with a monotonic reading
}

// learn takes what the server said just now. What took long to arrive says less
// than what is known already, unless the clock was set back.
func (c *serverClock) learn(said time.Time) {
	if said.IsZero() {
		return // servers before 2.10 do not say
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	known := c.server.Add(now.Sub(c.here))
	if c.server.IsZero() || said.After(known) || known.Sub(said) > time.Second {
		c.server, c.here = said, now
	}
}

// now returns the time of the server, or that of this machine.
func (c *serverClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server.IsZero() {
		return time.Now()
	}
	return c.server.Add(time.Since(c.here))
}

// sorter is a goroutine of the receiver: it takes what the park stream hands out,
// gives back what is not due, and passes on what is. A copy that was handed out
// for the first time is always given back, due or not: so all later hand-overs,
// and no other, are to handlers, and can be counted. It ends when the receiver is
// halted.
func (l *lane) sorter() {
	for {
		select {
		case <-l.r.halted:
			return
		case m := <-l.in:
			done := l.sort(m)
			l.recordEarly()
			if done {
				continue
			}
			select {
			case l.r.ch <- m:
			case <-l.r.halted:
				l.last = m
				return
			}
		}
	}
}

// sort handles a status, and a copy that is not to be handed out yet. It returns
// false for one that is.
func (l *lane) sort(m *nats.Msg) bool {
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		l.status(m)
		l.topUp()
		return true
	}
	info, err := parseAck(m.Reply)
	if err != nil {
		return false
	}
	wait := l.untilDue(&info, m.Header)
	if info.deliveries > 1 && wait <= 0 {
		return false
	}
	l.arrived(m.Sub)
	if info.deliveries > 1 {
		// Somebody was to give it back and did not. That is not to count.
		l.early = append(l.early, info.streamSeq)
	}
	buf := append(make([]byte, 0, 48), `-NAK {"delay": `...)
	buf = strconv.AppendInt(buf, int64(max(wait+parkMargin, minNakDelay)), 10)
	// If that fails, it comes again when its lease has ended.
	_ = l.r.t.nc().Publish(m.Reply, append(buf, '}'))
	l.free()
	return true
}

// recordEarly remembers, many at once, which hand-overs were given back.
func (l *lane) recordEarly() {
	if len(l.early) == 0 || len(l.in) > 0 && len(l.early) < maxReturned/2 {
		return
	}
	l.recordReturned(l.r.ctx, l.early...)
	l.early = l.early[:0]
}

// untilDue is how long a copy still has to wait.
func (l *lane) untilDue(info *ackInfo, h nats.Header) time.Duration {
	note, ok := parseParkNote(h.Get(wire.Parked))
	if !ok {
		return 0
	}
	return note.delay - l.r.server.now().Sub(info.time())
}

// sortRest passes on what the sorter left when it ended, as far as there is room;
// the rest comes back when its lease has ended.
func (l *lane) sortRest() {
	rest := l.last
	l.last = nil
	for {
		if rest != nil && !l.sort(rest) {
			select {
			case l.r.ch <- rest:
			default:
			}
		}
		select {
		case rest = <-l.in:
		default:
			return
		}
	}
}
