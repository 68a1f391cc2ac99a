package rabbitmq

import (
	"context"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// place is one queue or exchange that a source needs.
type place struct {
	what    string // "queue", "exchange", "retry queue", "dead-letter queue"
	name    string
	make    bool // it may be declared when it is missing
	compare bool // it is compared with what is wanted
	missing transport.Code
	look    func(*admin) error
	declare func(*admin) error
}

// places lists what src and want need, in the order in which it is made: the net
// before the queue, and the queue before what fills it.
func (s *source) places(want transport.Want, v version) []place {
	var all []place
	ensure := s.cfg.Declare == DeclareEnsure
	beside := s.cfg.Declare != DeclareVerify // the queues of our own
	for _, e := range s.exchanges() {
		all = append(all, place{
			what: "exchange", name: e.Name, make: ensure && e.Kind != "", compare: s.cfg.Declare != DeclareAdopt && e.Kind != "",
			missing: transport.CodeExchangeMissing,
			look:    func(a *admin) error { return a.inspectExchange(e) },
			declare: func(a *admin) error { return a.declareExchange(e) },
		})
	}
	add := func(what string, q queue, make, compare bool, missing transport.Code) {
		all = append(all, place{
			what: what, name: q.name, make: make, compare: compare, missing: missing,
			look:    func(a *admin) error { _, err := a.inspect(q.name); return err },
			declare: func(a *admin) error { return a.declare(q) },
		})
	}
	if want.DeadLetter || s.usesDeadQueue(want) {
		add("dead-letter queue", deadQueue(s.cfg.Name, v), beside, true, transport.CodeDeadMissing)
	}
	add("queue", s.workQueue(v), ensure, s.cfg.Declare != DeclareAdopt, transport.CodeQueueMissing)
	if s.stream() {
		return all // nothing is given back
	}
	for _, r := range ladder(s.cfg.Name, want) {
		add("retry queue", s.retryQueue(r, v), beside, true, transport.CodeRetryMissing)
	}
	return all
}

// usesDeadQueue tells whether the broker itself sends to the dead-letter queue.
func (s *source) usesDeadQueue(transport.Want) bool {
	return s.cfg.Declare != DeclareAdopt && !s.stream() && s.cfg.DeadLetterExchange == ""
}

// Provision implements transport.Transport.
func (t *Transport) Provision(ctx context.Context, src transport.Source, want transport.Want) (transport.Report, error) {
	var report transport.Report
	s, err := t.sourceOf("provision", src)
	if err != nil {
		return report, err
	}
	if err := t.refuse("provision", s.cfg.Name); err != nil {
		return report, err
	}
	if faults := s.faults(); len(faults) > 0 {
		return report, transport.Invalid("provision", s.cfg.Name, "%s", faults[0])
	}
	err = t.admin(ctx, "provision", s.cfg.Name, func(a *admin) error {
		if err := a.provideAll(s, want, &report); err != nil {
			return err
		}
		if err := a.bindings(s); err != nil {
			return err
		}
		nowhere, err := a.probeDLX(s, want, transport.LevelError)
		report.Findings = append(report.Findings, named(nowhere, want)...)
		return err
	})
	if err != nil {
		return report, err
	}
	t.dead.register(want.Subscription, s.cfg.Name)
	return report, nil
}

// provideAll makes the places of s that are missing.
func (a *admin) provideAll(s *source, want transport.Want, report *transport.Report) error {
	for _, p := range s.places(want, a.s.version) {
		created, found, err := a.provide(s, p)
		if err != nil {
			return fmt.Errorf("%s %s: %w", p.what, p.name, err)
		}
		if created {
			report.Created = append(report.Created, p.what+" "+p.name)
		}
		if found != nil {
			found.Subscription = want.Subscription
			report.Findings = append(report.Findings, *found)
		}
	}
	return nil
}

// provide makes one place if it is missing and may be made, and compares it
// otherwise.
func (a *admin) provide(s *source, p place) (created bool, found *transport.Finding, err error) {
	err = p.look(a)
	switch {
	case absent(err) && !p.make:
		return false, nil, &transport.Error{
			Op: "provision", Address: p.name, Kind: transport.Permanent,
			Err: fmt.Errorf("%w: %w", transport.ErrNotFound, err), Hint: p.hint(s),
		}
	case absent(err):
		return true, nil, p.declare(a)
	case err != nil:
		if f := permissionFinding(p, err); f != nil && s.cfg.Declare == DeclareAdopt {
			return false, f, nil
		}
		return false, nil, err
	}
	found, err = a.compare(p)
	return false, found, err
}

// compare declares what is there already, as it is wanted: the broker then says
// whether that is what it has, and changes nothing.
func (a *admin) compare(p place) (*transport.Finding, error) {
	if !p.compare {
		return nil, nil
	}
	err := p.declare(a)
	if err == nil {
		return nil, nil
	}
	if f := permissionFinding(p, err); f != nil {
		return f, nil
	}
	line, differs := difference(err)
	if !differs {
		return nil, err
	}
	return driftFinding(p, line), nil
}

// bindings binds what the source may bind. Bindings that are there are kept.
func (a *admin) bindings(s *source) error {
	if s.cfg.Declare != DeclareEnsure {
		return nil
	}
	for _, e := range s.cfg.Exchanges {
		for _, b := range e.Bindings {
			if err := a.do(func(ch *amqp.Channel) error { return ch.ExchangeBind(e.Name, b.Key, b.Exchange, false, b.Args) }); err != nil {
				return fmt.Errorf("bind exchange %s to %s: %w", e.Name, b.Exchange, err)
			}
		}
	}
	for _, b := range s.cfg.Bindings {
		if err := a.do(func(ch *amqp.Channel) error { return ch.QueueBind(s.cfg.Name, b.Key, b.Exchange, false, b.Args) }); err != nil {
			return fmt.Errorf("bind queue %s to %s: %w", s.cfg.Name, b.Exchange, err)
		}
	}
	return nil
}
