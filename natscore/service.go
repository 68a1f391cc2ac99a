package natscore

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// ServiceConfig describes a service for those who look for services.
type ServiceConfig struct {
	// Name is made of letters, digits, '-' and '_'. Required.
	Name string
	// Version is a semantic version, such as 1.0.0. Required.
	Version string
	// Description and Metadata are for people.
	Description string
	Metadata    map[string]string
}

// Service is an instance of a service: what is subscribed to with it is found
// through the service API of NATS ($SRV.PING, INFO and STATS), for as long as
// one of its endpoints listens. The requests themselves are handled like all
// others: with the policy, the concurrency and the stop of their subscription.
// It is safe for concurrent use.
type Service struct {
	t   *Transport
	cfg ServiceConfig
	id  string

	mu        sync.Mutex // guards what follows; a leaf but for the client library
	started   time.Time
	endpoints []*endpoint // those that listen, in their order
	control   []*nats.Subscription
	conn      *nats.Conn // that control is subscribed on
}

// Service returns a new instance of a service, to be given to subjects with
// SubjectConfig.Service. It does nothing yet: what can never work in cfg is
// reported by Check of those subjects and refused by Open.
func (t *Transport) Service(cfg ServiceConfig) *Service {
	return &Service{t: t, cfg: cfg, id: nats.NewInbox()[len(nats.InboxPrefix):]}
}

// ID returns the name of this instance among all of the service.
func (s *Service) ID() string { return s.id }

var (
	serviceName    = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	serviceVersion = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
)

// faults returns all that can never work in the service and its endpoint.
func (s *Service) faults(endpoint string) []string {
	var out []string
	if !serviceName.MatchString(s.cfg.Name) {
		out = append(out, fmt.Sprintf("the name %q of the service is not made of letters, digits, '-' and '_'", s.cfg.Name))
	}
	if !serviceVersion.MatchString(s.cfg.Version) {
		out = append(out, fmt.Sprintf("the version %q of the service is not a semantic version such as 1.0.0", s.cfg.Version))
	}
	if !serviceName.MatchString(endpoint) {
		out = append(out, fmt.Sprintf("the name %q of the endpoint is not made of letters, digits, '-' and '_'", endpoint))
	}
	return out
}

// endpoint is a receiver as the service API shows it.
type endpoint struct {
	name, subject, group string

	mu       sync.Mutex // guards what follows; a leaf
	requests int
	failures int
	last     string
	took     time.Duration
}

// answered counts a request. A failure is an answer that says so.
func (e *endpoint) answered(took time.Duration, failure string, failed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests++
	e.took += took
	if failed {
		e.failures++
		e.last = failure
	}
}

func (e *endpoint) stats() *micro.EndpointStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &micro.EndpointStats{
		Name: e.name, Subject: e.subject, QueueGroup: e.group,
		NumRequests: e.requests, NumErrors: e.failures, LastError: e.last, ProcessingTime: e.took,
	}
	if e.requests > 0 {
		s.AverageProcessingTime = e.took / time.Duration(e.requests)
	}
	return s
}

// verbs are what a service is asked, and how it answers.
func (s *Service) verbs() map[micro.Verb]func() any {
	return map[micro.Verb]func() any{
		micro.PingVerb:  func() any { return micro.Ping{ServiceIdentity: s.identity(), Type: micro.PingResponseType} },
		micro.InfoVerb:  func() any { return s.info() },
		micro.StatsVerb: func() any { return s.stats() },
	}
}

// subjects are where the service is asked a verb: all services, those of its
// name, this instance.
func (s *Service) subjects(verb micro.Verb) []string {
	all := micro.APIPrefix + "." + verb.String()
	return []string{all, all + "." + s.cfg.Name, all + "." + s.cfg.Name + "." + s.id}
}

// listens is what the account must be allowed to subscribe to.
func (s *Service) listens() []string {
	var out []string
	for _, verb := range []micro.Verb{micro.PingVerb, micro.InfoVerb, micro.StatsVerb} {
		all := micro.APIPrefix + "." + verb.String()
		out = append(out, all, all+"."+s.cfg.Name, all+"."+s.cfg.Name+".*")
	}
	return out
}

// join adds an endpoint that listens now; leave takes it away.
func (s *Service) join(e *endpoint) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.listen(s.t.Conn()); err != nil {
		return nil, err
	}
	s.endpoints = append(s.endpoints, e)
	return func() { s.leave(e) }, nil
}

func (s *Service) leave(e *endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = slices.DeleteFunc(s.endpoints, func(other *endpoint) bool { return other == e })
	if len(s.endpoints) == 0 {
		s.mute()
	}
}

// mute takes no more questions. It fails when the connection is gone, and the
// subscriptions with it.
func (s *Service) mute() {
	for _, sub := range s.control {
		_ = sub.Unsubscribe()
	}
	s.control, s.conn = nil, nil
}

// listen takes questions on a connection, unless it does.
func (s *Service) listen(nc *nats.Conn) error {
	if s.conn == nc {
		return nil
	}
	s.mute()
	s.conn, s.started = nc, time.Now().UTC()
	for verb, answer := range s.verbs() {
		for _, subject := range s.subjects(verb) {
			sub, err := nc.Subscribe(subject, func(m *nats.Msg) { s.answer(m, answer) })
			if err != nil {
				s.mute()
				return err
			}
			s.control = append(s.control, sub)
		}
	}
	return nil
}

// answer is called by the client library. Whoever asks gets no answer when the
// connection is lost, and asks again.
func (s *Service) answer(m *nats.Msg, say func() any) {
	if body, err := json.Marshal(say()); err == nil && m.Reply != "" {
		_ = m.Respond(body)
	}
}

func (s *Service) identity() micro.ServiceIdentity {
	metadata := s.cfg.Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	return micro.ServiceIdentity{Name: s.cfg.Name, ID: s.id, Version: s.cfg.Version, Metadata: metadata}
}

func (s *Service) info() micro.Info {
	out := micro.Info{ServiceIdentity: s.identity(), Type: micro.InfoResponseType, Description: s.cfg.Description, Endpoints: []micro.EndpointInfo{}}
	for _, e := range s.listening() {
		out.Endpoints = append(out.Endpoints, micro.EndpointInfo{Name: e.name, Subject: e.subject, QueueGroup: e.group})
	}
	return out
}

func (s *Service) stats() micro.Stats {
	out := micro.Stats{ServiceIdentity: s.identity(), Type: micro.StatsResponseType, Endpoints: []*micro.EndpointStats{}}
	for _, e := range s.listening() {
		out.Endpoints = append(out.Endpoints, e.stats())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Started = s.started
	return out
}

func (s *Service) listening() []*endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.endpoints)
}

// failureOf tells whether an answer says that the request failed, and how.
func failureOf(m *transport.Message) (text, code string, failed bool) {
	if m.Header.Get(wire.Reply) != "error" {
		return "", "", false
	}
	return wire.Unescape(m.Header.Get(wire.Error)), wire.Unescape(m.Header.Get(wire.ErrorCode)), true
}

// mark adds to an answer what clients of the service API read a failure from.
func mark(msg *nats.Msg, text, code string) {
	if code == "" {
		code = "500"
	}
	// What cannot be a header value as it is stays escaped.
	msg.Header.Set(micro.ErrorHeader, wire.Escape(text))
	msg.Header.Set(micro.ErrorCodeHeader, wire.Escape(code))
}
