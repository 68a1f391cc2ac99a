package memory

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// QueueConfig describes a queue.
type QueueConfig struct {
	// Name identifies the queue in its broker. Required: letters, digits and
	// any of - _ . : /
	Name string
	// Subjects are what the queue takes: tokens separated by dots, where *
	// stands for one token and a last > for one or more. None means Name alone.
	// {name} stands for one token too, and a last {name...} for one or more: a
	// handler finds what they stand for in the Param of its message.
	Subjects []string
	// Lease is how long a delivery may be worked on before it is handed to
	// somebody else. Zero means that of the broker.
	Lease time.Duration
}

// source is a queue as a subscription describes it.
type source struct {
	broker   *Broker
	name     string
	subjects []string
	lease    time.Duration

	transport.Templates // what subjects was made of
	unread              []string
}

// Queue returns the queue as a source. It does nothing yet: the queue exists
// from Provision on. What can never work in cfg is reported by Check and
// refused by Provision.
func (b *Broker) Queue(cfg QueueConfig) transport.Source {
	subjects := cfg.Subjects
	if len(subjects) == 0 {
		subjects = []string{cfg.Name}
	}
	lease := cfg.Lease
	if lease == 0 {
		lease = b.lease
	}
	return b.source(cfg.Name, subjects, lease)
}

func (b *Broker) source(name string, subjects []string, lease time.Duration) *source {
	s := &source{broker: b, name: name, lease: lease}
	s.Templates, s.unread = transport.ParseTemplates(subjects)
	s.subjects = s.Patterns("*", ">")
	return s
}

// Transport implements transport.Source.
func (s *source) Transport() transport.Transport { return s.broker }

// Name implements transport.Source with the name of the queue.
func (s *source) Name() string { return s.name }

// String implements transport.Source.
func (s *source) String() string {
	return "memory queue " + s.name + " on " + strings.Join(s.subjects, ", ")
}

// WithPrefix implements transport.Prefixer: prefix goes before the name and
// before every subject, as it is.
func (s *source) WithPrefix(prefix string) transport.Source {
	subjects := make([]string, len(s.Templates))
	for i, t := range s.Templates {
		subjects[i] = prefix + t.String()
	}
	return s.broker.source(prefix+s.name, subjects, s.lease)
}

// validate returns the first thing in s that can never work.
func (s *source) validate() error {
	if faults := s.faults(); len(faults) > 0 {
		return transport.Invalid("provision", s.name, "%s", faults[0])
	}
	return nil
}

// faults returns all that can never work in s.
func (s *source) faults() []string {
	out := slices.Clone(s.unread)
	if !validName(s.name) {
		out = append(out, fmt.Sprintf("queue name %q is not made of letters, digits and - _ . : /", s.name))
	}
	for _, subject := range s.subjects {
		if fault := subjectFault(subject, true); fault != "" {
			out = append(out, fmt.Sprintf("subject %q %s", subject, fault))
		}
	}
	if s.lease < 0 {
		out = append(out, fmt.Sprintf("lease %v is negative", s.lease))
	}
	return out
}

// findings compares s with q, which is nil when there is no such queue yet.
func (s *source) findings(q *queue, want transport.Want) []transport.Finding {
	var out []transport.Finding
	for _, fault := range s.faults() {
		out = append(out, transport.Finding{
			Code: transport.CodeInvalid, Level: transport.LevelError, Subscription: want.Subscription,
			Fact: fault, Fix: "change the name or subject in the queue's configuration",
		})
	}
	if len(out) > 0 {
		return out
	}
	if q == nil {
		return []transport.Finding{{
			Code: transport.CodeConsumerCreated, Level: transport.LevelInfo, Subscription: want.Subscription,
			Fact: "the queue " + s.name + " will be created",
		}}
	}
	if diff := s.drift(q); len(diff) > 0 {
		out = append(out, transport.Finding{
			Code: transport.CodeConsumerDrift, Level: transport.LevelError, Subscription: want.Subscription,
			Fact: "the queue " + s.name + " exists and is bound otherwise", Diff: diff,
			Fix: "describe the queue in the same way everywhere, or give this one another name",
		})
	}
	return out
}

// drift lists what differs between s and the queue as it is.
func (s *source) drift(q *queue) []string {
	var diff []string
	if want, have := strings.Join(s.subjects, " "), strings.Join(q.subjects, " "); want != have {
		diff = append(diff, fmt.Sprintf("subjects: want %s, have %s", want, have))
	}
	if s.lease != q.lease {
		diff = append(diff, fmt.Sprintf("lease: want %v, have %v", s.lease, q.lease))
	}
	return diff
}

func validName(name string) bool {
	for _, r := range name {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.:/", r)) {
			return false
		}
	}
	return name != ""
}

// subjectFault says what is wrong with a subject, or "" when nothing is.
func subjectFault(subject string, wildcards bool) string {
	if subject == "" {
		return "is empty"
	}
	tokens := strings.Split(subject, ".")
	for i, token := range tokens {
		switch {
		case token == "":
			return "has an empty token"
		case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f }):
			return "has white space or a control character"
		case !strings.ContainsAny(token, "*>"):
		case !wildcards:
			return "has a wildcard, and a message is published to one subject"
		case token == "*", token == ">" && i == len(tokens)-1:
		default:
			return "has a wildcard that is not a token of its own, or a > that is not the last"
		}
	}
	return ""
}

// matches tells whether a subject is one that pattern stands for.
func matches(pattern, subject string) bool {
	for {
		p, pRest, pMore := strings.Cut(pattern, ".")
		s, sRest, sMore := strings.Cut(subject, ".")
		if p == ">" {
			return true
		}
		if p != "*" && p != s {
			return false
		}
		if !pMore || !sMore {
			return pMore == sMore
		}
		pattern, subject = pRest, sRest
	}
}
