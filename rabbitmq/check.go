package rabbitmq

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// Check implements transport.Transport.
func (t *Transport) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	s, err := t.sourceOf("check", src)
	if err != nil {
		return nil, err
	}
	found := s.contradictions(want)
	if len(found) > 0 {
		return named(found, want), nil
	}
	err = t.admin(ctx, "check", s.cfg.Name, func(a *admin) error {
		found = append(found, s.warnings(want, a.s.version)...)
		found = append(found, s.held(want, a.s.version)...)
		for _, p := range s.places(want, a.s.version) {
			f, err := a.check(s, p)
			if err != nil {
				return fmt.Errorf("%s %s: %w", p.what, p.name, err)
			}
			if f != nil {
				found = append(found, *f)
			}
		}
		if err := a.checkDLX(s, &found); err != nil {
			return err
		}
		return a.checkRoutes(s, want, &found)
	})
	return named(found, want), err
}

func named(found []transport.Finding, want transport.Want) []transport.Finding {
	for i := range found {
		found[i].Subscription = want.Subscription
	}
	return found
}

// check looks at one place.
func (a *admin) check(s *source, p place) (*transport.Finding, error) {
	err := p.look(a)
	switch {
	case absent(err) && p.make:
		code := transport.CodeQueueCreated
		if p.missing == transport.CodeDeadMissing {
			code = transport.CodeDeadCreated
		}
		return &transport.Finding{Code: code, Level: transport.LevelInfo, Fact: fmt.Sprintf("the %s %s will be declared", p.what, p.name)}, nil
	case absent(err):
		return &transport.Finding{
			Code: p.missing, Level: transport.LevelError,
			Fact: fmt.Sprintf("the %s %s does not exist", p.what, p.name), Fix: p.hint(s),
		}, nil
	case err != nil:
		if f := permissionFinding(p, err); f != nil {
			if s.cfg.Declare == DeclareAdopt {
				f.Level = transport.LevelWarning // to use it needs less than to look at it
			}
			return f, nil
		}
		return nil, err
	}
	return a.compare(p)
}

// checkDLX looks for the dead-letter exchange that the source names.
func (a *admin) checkDLX(s *source, found *[]transport.Finding) error {
	name := s.cfg.DeadLetterExchange
	if name == "" || s.stream() {
		return nil
	}
	err := a.inspectExchange(ExchangeConfig{Name: name})
	if err == nil {
		return nil
	}
	if absent(err) {
		for _, e := range s.exchanges() {
			if e.Name == name && s.cfg.Declare == DeclareEnsure {
				return nil // it will be declared
			}
		}
		*found = append(*found, transport.Finding{
			Code: transport.CodeDLXMissing, Level: transport.LevelError,
			Fact: fmt.Sprintf("the dead-letter exchange %s does not exist: the broker destroys what it should send there", name),
			Fix:  "declare the exchange and bind a queue to it, or leave DeadLetterExchange empty",
		})
		return nil
	}
	if f := permissionFinding(place{what: "exchange", name: name}, err); f != nil {
		f.Level = transport.LevelWarning
		*found = append(*found, *f)
		return nil
	}
	return err
}

// hint says how a place that is missing comes to be.
func (p place) hint(s *source) string {
	switch {
	case p.missing == transport.CodeExchangeMissing && s.cfg.Declare == DeclareEnsure:
		return "declare the exchange, or give its Kind so that it is declared here"
	case s.cfg.Declare == DeclareAdopt:
		return "declare it first, or use DeclareEnsure"
	default:
		return "declare it, or use DeclareEnsure"
	}
}

// permissionFinding is the finding for what the user may not look at or declare,
// or nil.
func permissionFinding(p place, err error) *transport.Finding {
	if !isCode(err, 403) {
		return nil
	}
	said, _ := exception(err)
	return &transport.Finding{
		Code: transport.CodePermission, Level: transport.LevelError,
		Fact: fmt.Sprintf("the user may not use the %s %s: %s", p.what, p.name, said.Reason),
		Fix:  "grant it: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ",
	}
}

// driftFinding is the finding for a place that differs.
func driftFinding(p place, line string) *transport.Finding {
	code, fix := transport.CodeQueueDrift, "ask for what is there, or use DeclareAdopt; arguments of a queue cannot be changed, only a new queue has others"
	switch {
	case p.what == "exchange":
		code = transport.CodeExchangeDrift
	case strings.HasPrefix(line, "durable:"):
		fix = "a restart of the broker forgets this queue, and RabbitMQ 4.3 makes no such queue any more: delete it and let it be declared durable, with x-expires and x-message-ttl in Arguments where it may go; or use DeclareAdopt"
	}
	return &transport.Finding{
		Code: code, Level: transport.LevelError,
		Fact: fmt.Sprintf("the %s %s differs from what is asked for", p.what, p.name),
		Fix:  fix,
		Diff: []string{line},
	}
}

// contradictions lists what can never work, whatever the broker has.
func (s *source) contradictions(want transport.Want) []transport.Finding {
	var found []transport.Finding
	for _, fault := range s.faults() {
		found = append(found, transport.Finding{
			Code: transport.CodeInvalid, Level: transport.LevelError, Fact: fault, Fix: "correct the QueueConfig",
		})
	}
	if s.stream() && (want.Redelivery || want.Delay) {
		found = append(found, transport.Finding{
			Code: transport.CodeNoRedelivery, Level: transport.LevelError,
			Fact: "a stream gives nothing back: a message that failed would not come again",
			Fix:  "use a quorum queue, or a policy without retries over the broker",
		})
	}
	if want.Reject && (s.stream() || s.cfg.Declare == DeclareAdopt && s.cfg.DeadLetterExchange == "") {
		found = append(found, transport.Finding{
			Code: transport.CodeRejectDestroys, Level: transport.LevelError,
			Fact: fmt.Sprintf("the queue %s is not known to have a dead-letter exchange: a rejected message would be destroyed", s.cfg.Name),
			Fix:  "name it in DeadLetterExchange if it has one, set one with a policy (rabbitmqctl set_policy), or dead-letter to the store of holdfast",
		})
	}
	found = append(found, s.bounds(want)...)
	if s.cfg.Type == Quorum && s.cfg.Arguments[argOverflow] != nil && s.cfg.Arguments[argOverflow] != "reject-publish" {
		found = append(found, transport.Finding{
			Code: transport.CodeAtMostOnce, Level: transport.LevelError,
			Fact: fmt.Sprintf("x-overflow is %v: the broker then dead-letters at most once in silence, and a full queue drops its oldest messages", s.cfg.Arguments[argOverflow]),
			Fix:  "leave x-overflow as it is, which is reject-publish",
		})
	}
	if own := s.cfg.Arguments[argStrategy]; s.cfg.Type == Quorum && own != nil && own != "at-least-once" {
		found = append(found, transport.Finding{
			Code: transport.CodeAtMostOnce, Level: transport.LevelError,
			Fact: fmt.Sprintf("%s is %v: what the broker itself dead-letters may be lost on its way", argStrategy, own),
			Fix:  "leave it out: it is at-least-once where the server can",
		})
	}
	return found
}

// binds tells whether bindings are given.
func (s *source) binds() bool {
	return len(s.cfg.Bindings) > 0 || slices.ContainsFunc(s.cfg.Exchanges, func(e ExchangeConfig) bool { return len(e.Bindings) > 0 })
}

// netPolicy is the command that makes the queue send what it drops to the
// dead-letter queue. The broker ignores a policy with a key that the type of the
// queue does not have, so the limit stands there only for a quorum queue.
func (s *source) netPolicy() string {
	net := map[string]any{"dead-letter-exchange": "", "dead-letter-routing-key": deadName(s.cfg.Name)}
	if s.cfg.Type == Quorum {
		net["delivery-limit"] = defaultDeliveryLimit
	}
	definition, err := json.Marshal(net)
	if err != nil {
		return "rabbitmqctl set_policy" // text and a number can always be encoded
	}
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	vhost := ""
	if at, err := amqp.ParseURI(s.t.urls[0]); err == nil && at.Vhost != "/" {
		vhost = " -p " + quote(at.Vhost)
	}
	return fmt.Sprintf("rabbitmqctl set_policy%s --apply-to queues %s %s %s",
		vhost, quote("holdfast-"+s.cfg.Name), quote("^"+regexp.QuoteMeta(s.cfg.Name)+"$"), quote(string(definition)))
}

// fewDeliveries is below what a policy with crashes and restarts may need.
const fewDeliveries = 20

// warnings lists what works and is likely not meant.
func (s *source) warnings(want transport.Want, v version) []transport.Finding {
	var found []transport.Finding
	warn := func(code transport.Code, fact, fix string) {
		found = append(found, transport.Finding{Code: code, Level: transport.LevelWarning, Fact: fact, Fix: fix})
	}
	c := &s.cfg
	if c.Declare == DeclareAdopt {
		warn(transport.CodeNoNet,
			fmt.Sprintf("the dead-lettering and the limits of the queue %s cannot be seen over AMQP: what the broker itself drops, expires or refuses may be lost", c.Name),
			"look with rabbitmqctl list_queues name type arguments policy; add a net with "+s.netPolicy())
	}
	if c.Declare != DeclareEnsure && s.binds() {
		found = append(found, transport.Finding{
			Code: transport.CodeBindingsUnseen, Level: transport.LevelInfo,
			Fact: fmt.Sprintf("the queue %s is not declared here (%v): its bindings are not made either, and AMQP does not tell whether they are there", c.Name, c.Declare),
			Fix:  "look with rabbitmqctl list_bindings, or use DeclareEnsure",
		})
	}
	moves := s.unordered(want)
	switch {
	case c.Type == Classic && !moves && want.Redelivery && !want.Counted:
		warn(transport.CodeNoCount,
			fmt.Sprintf("the queue %s is a classic queue: it counts no deliveries and is not replicated; to keep the order no message is moved to count it, so that one which ends the process each time comes back for ever", c.Name),
			"use a quorum queue, or count attempts in a store (CountIn)")
	case c.Type == Classic:
		warn(transport.CodeNoCount,
			fmt.Sprintf("the queue %s is a classic queue: it counts no deliveries and is not replicated; a message that was handed out before is copied to the end of the queue to count it", c.Name),
			"use a quorum queue")
	}
	if c.Type == Quorum && c.DeliveryLimit < fewDeliveries && want.BrokerRetries == 0 {
		warn(transport.CodeDeliveryLimit,
			fmt.Sprintf("the delivery limit of %d may be reached by restarts and crashes alone, and the message is then dead-lettered by the broker", c.DeliveryLimit),
			fmt.Sprintf("raise DeliveryLimit, or leave it at its default of %d", defaultDeliveryLimit))
	}
	for _, arg := range []string{argTTL, "x-expires", "x-max-length", "x-max-length-bytes"} {
		if c.Arguments[arg] != nil && !s.stream() {
			warn(transport.CodeQueueLoses,
				fmt.Sprintf("the queue has %s: messages that wait for their turn can expire, be refused or be dropped while consumers are away", arg),
				"leave it out; MaxAge and Within bound the age of a message where it is handled")
		}
	}
	if want.Delay && !v.atLeastOnce() {
		warn(transport.CodeServerTooOld,
			fmt.Sprintf("the server is RabbitMQ %v: before 3.10 quorum queues have no time to live, and the retry queues cannot be declared", v),
			"use RabbitMQ 3.10 or later")
	}
	return append(found, s.counted(want)...)
}
