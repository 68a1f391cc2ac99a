package natscore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// What a subscription holds at most when its configuration does not say.
const (
	DefaultPendingMessages = 65_536
	DefaultPendingBytes    = 64 << 20
)

// SubjectConfig describes what a subscription listens to.
type SubjectConfig struct {
	// Subject is what is listened to; it may hold the wildcards * and >.
	// {name} stands for one token too, and a last {name...} for one or more: a
	// handler finds what they stand for in the Param of its message. Required.
	Subject string
	// Group is the queue group: each message goes to one member of it. Empty
	// means that this subscription gets every message.
	//
	// Group is also the name that a subscription takes from this source. Without
	// it there is none to take, and the subscription is to be given one with
	// holdfast.Name.
	Group string
	// PendingMessages is how many messages may wait in this process to be
	// handled. Those that arrive when it is full are dropped, counted, and
	// reported as Dropped events. Zero means DefaultPendingMessages.
	PendingMessages int
	// PendingBytes bounds the same in bytes, headers and subject included. One
	// message is always taken, however large. Zero means DefaultPendingBytes.
	PendingBytes int
	// AllowCaptured makes it a warning, and not an error, that a stream captures
	// the subject. Such a subscription gets what is published while it listens,
	// at most once, whatever the stream stores.
	AllowCaptured bool
	// Service makes the subject an endpoint of a service, which others find through
	// the service API of NATS. It is for handlers that answer requests.
	Service *Service
	// Endpoint is the name of the endpoint. Empty means the queue group, or "default"
	// without one.
	Endpoint string
	// Durable is not supported by NATS core, which stores nothing. It is here
	// so that a configuration that asks for it is refused, with the JetStream
	// source to use instead, and not obeyed in part.
	Durable string
}

// source is a subject as a subscription describes it.
type source struct {
	t   *Transport
	cfg SubjectConfig // its Subject is a pattern

	transport.Templates // what Subject was made of
	unread              []string
}

// Subject returns a subject as a source. It does nothing yet: what can never
// work in cfg is reported by Check and refused by Provision and Open.
func (t *Transport) Subject(cfg SubjectConfig) transport.Source { return t.source(cfg) }

func (t *Transport) source(cfg SubjectConfig) *source {
	s := &source{t: t, cfg: cfg}
	s.Templates, s.unread = transport.ParseTemplates([]string{cfg.Subject})
	s.cfg.Subject = s.Patterns("*", ">")[0]
	return s
}

// Transport implements transport.Source.
func (s *source) Transport() transport.Transport { return s.t }

// Name implements transport.Source with the queue group.
func (s *source) Name() string { return s.cfg.Group }

// String implements transport.Source.
func (s *source) String() string {
	if s.cfg.Group == "" {
		return "NATS core subject " + s.cfg.Subject
	}
	return "NATS core subject " + s.cfg.Subject + " in group " + s.cfg.Group
}

// WithPrefix implements transport.Prefixer: prefix goes before the subject, and
// before the group if there is one, as it is.
func (s *source) WithPrefix(prefix string) transport.Source {
	cfg := s.cfg
	cfg.Subject = prefix + s.Templates[0].String()
	if cfg.Group != "" {
		cfg.Group = prefix + cfg.Group
	}
	return s.t.source(cfg)
}

// ConflictsWith implements transport.Neighbour: a stream that another source
// makes may be going to capture the subject.
func (s *source) ConflictsWith(other transport.Source) (transport.Finding, bool) {
	keeper, ok := other.(natsconn.Keeper)
	if !ok {
		return transport.Finding{}, false
	}
	nc, stream, subjects := keeper.WillStore()
	i := slices.IndexFunc(subjects, func(stored string) bool { return natsconn.Overlap(stored, s.cfg.Subject) })
	if i < 0 {
		return transport.Finding{}, false
	}
	together, sure := natsconn.Together(s.t.Conn(), nc)
	if !together {
		return transport.Finding{}, false
	}
	return s.willBeCaptured(stream, subjects[i], sure), true
}

// endpoint is the name of the source in its service.
func (s *source) endpoint() string { return firstOf(s.cfg.Endpoint, s.cfg.Group, "default") }

func (s *source) pendingMessages() int {
	if s.cfg.PendingMessages == 0 {
		return DefaultPendingMessages
	}
	return s.cfg.PendingMessages
}

func (s *source) pendingBytes() int64 {
	if s.cfg.PendingBytes == 0 {
		return DefaultPendingBytes
	}
	return int64(s.cfg.PendingBytes)
}

// faults returns all that can never work in s.
func (s *source) faults() []string {
	out := slices.Clone(s.unread)
	if err := natsconn.CheckFilter("subscribe", s.cfg.Subject); err != nil {
		out = append(out, err.Error())
	}
	if strings.ContainsFunc(s.cfg.Group, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		out = append(out, fmt.Sprintf("the group %q has a space or control character", s.cfg.Group))
	}
	if s.cfg.PendingMessages < 0 {
		out = append(out, fmt.Sprintf("PendingMessages is %d", s.cfg.PendingMessages))
	}
	switch svc := s.cfg.Service; {
	case svc == nil && s.cfg.Endpoint != "":
		out = append(out, fmt.Sprintf("the endpoint %q belongs to no service", s.cfg.Endpoint))
	case svc != nil && svc.t != s.t:
		out = append(out, "the service was made by another transport")
	case svc != nil:
		out = append(out, svc.faults(s.endpoint())...)
	}
	if s.cfg.PendingBytes < 0 {
		out = append(out, fmt.Sprintf("PendingBytes is %d", s.cfg.PendingBytes))
	}
	return out
}

// own returns src as one of this transport's sources.
func (t *Transport) own(op string, src transport.Source) (*source, error) {
	s, ok := src.(*source)
	if !ok || s.t != t {
		return nil, transport.Invalid(op, fmt.Sprint(src), "the source was made by another transport")
	}
	return s, nil
}
