package jetstream

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// PriorityConfig says how a program pulls from a consumer that has a priority
// policy (PriorityPolicy and PriorityGroups of its Consumer; servers from 2.11).
// The zero value takes part in the consumer's only group.
//
// Of a pinned consumer one member gets all messages, and another takes over when
// the first has not pulled for PinnedTTL, 2 minutes by default; messages that the
// first still holds come after AckWait.
type PriorityConfig struct {
	// Group is the priority group. Default: the only one the consumer has.
	Group string
	// MinPending and MinAckPending are for the policy overflow: this program gets
	// messages only while at least so many wait, or are unsettled. Zero does not
	// limit.
	MinPending, MinAckPending int64
	// Priority is for the policy prioritized, from 0, which is served first, to 9.
	Priority int
}

// pinHeader is where the server says which member of a group is pinned.
const pinHeader = "Nats-Pin-Id"

// fault returns what does not fit the consumer as it is or is to be made.
func (p PriorityConfig) fault(have natsjs.ConsumerConfig) string {
	policy := have.PriorityPolicy
	switch {
	case policy == natsjs.PriorityPolicyNone && p != PriorityConfig{}:
		return "Priority is set, and the consumer has no priority policy"
	case policy == natsjs.PriorityPolicyNone:
		return ""
	case p.Group == "" && len(have.PriorityGroups) != 1:
		return fmt.Sprintf("the consumer has the priority groups %s, and Priority names none of them", list(have.PriorityGroups))
	case p.Group != "" && !slices.Contains(have.PriorityGroups, p.Group):
		return fmt.Sprintf("the consumer has the priority groups %s, and not %s", list(have.PriorityGroups), p.Group)
	case (p.MinPending != 0 || p.MinAckPending != 0) && policy != natsjs.PriorityPolicyOverflow:
		return "MinPending and MinAckPending are for the priority policy overflow"
	case p.Priority != 0 && policy != natsjs.PriorityPolicyPrioritized:
		return "a Priority from 0 to 9 is for the priority policy prioritized"
	case p.Priority < 0 || p.Priority > 9 || p.MinPending < 0 || p.MinAckPending < 0:
		return "Priority is from 0 to 9, and MinPending and MinAckPending are not negative"
	}
	return ""
}

// asks is what each pull says of priority.
func (p PriorityConfig) asks(have natsjs.ConsumerConfig) string {
	if have.PriorityPolicy == natsjs.PriorityPolicyNone || len(have.PriorityGroups) == 0 {
		return ""
	}
	group := p.Group
	if group == "" {
		group = have.PriorityGroups[0]
	}
	s := `,"group":` + strconv.Quote(group)
	if p.MinPending > 0 {
		s += `,"min_pending":` + strconv.FormatInt(p.MinPending, 10)
	}
	if p.MinAckPending > 0 {
		s += `,"min_ack_pending":` + strconv.FormatInt(p.MinAckPending, 10)
	}
	if p.Priority > 0 {
		s += `,"priority":` + strconv.Itoa(p.Priority)
	}
	return s
}

// group is what a lane says of priority with each pull.
type group struct {
	asks   string
	pinned bool   // the consumer pins one member
	pin    string // ours, while we are that member
}

// pulls returns what the next pull adds. l.mu is held.
func (g group) pulls() string {
	if g.pin == "" {
		return g.asks
	}
	return g.asks + `,"id":` + strconv.Quote(g.pin)
}

// joins takes over the priority policy of the consumer. l.mu is held.
func (l *lane) joins(cfg natsjs.ConsumerConfig) {
	if l != l.r.lanes[0] {
		return
	}
	l.group.asks = l.r.src.cfg.Priority.asks(cfg)
	l.group.pinned = cfg.PriorityPolicy == natsjs.PriorityPolicyPinned
	l.pinned.Store(l.group.pinned)
}

// noticePin remembers that the server has chosen us.
func (l *lane) noticePin(m *nats.Msg) {
	if !l.pinned.Load() {
		return
	}
	if id := m.Header.Get(pinHeader); id != "" {
		l.mu.Lock()
		l.group.pin = id
		l.mu.Unlock()
	}
}

// unpinned handles the answer to a pull of a member that is pinned no longer: it
// asks again as one that waits.
func (l *lane) unpinned(s *session, m *nats.Msg) {
	l.mu.Lock()
	l.group.pin = ""
	l.mu.Unlock()
	n, err := strconv.ParseInt(m.Header.Get("Nats-Pending-Messages"), 10, 64)
	if err != nil { // the pull was not taken at all: its inbox ends with its size
		n, _ = strconv.ParseInt(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 10, 64)
	}
	l.release(s, n)
}
