package rabbitmq

import (
	"context"

	"github.com/holdfast-go/holdfast/transport"
)

// preparing is a source that stands for the queue of a subscription whose messages
// come from elsewhere: only its dead-letter queue is looked at or made.
func (s *deadStore) preparing(subscription string) (*source, place) {
	queue, _ := s.queueOf(subscription)
	src := &source{t: s.t, cfg: QueueConfig{Name: queue}}
	return src, place{
		what: "dead-letter queue", name: deadName(queue), make: true, compare: true, missing: transport.CodeDeadMissing,
		look:    func(a *admin) error { _, err := a.inspect(deadName(queue)); return err },
		declare: func(a *admin) error { return a.declare(deadQueue(queue, a.s.version)) },
	}
}

// CheckStore implements transport.PreparedStore. A letter can be redriven only to
// a queue of the subscription's name, which a source on another broker has not.
func (s *deadStore) CheckStore(ctx context.Context, subscription string) ([]transport.Finding, error) {
	if err := checkKey("check dead letters", subscription); err != nil {
		return nil, err
	}
	src, p := s.preparing(subscription)
	var found []transport.Finding
	err := s.t.admin(ctx, "check dead letters", p.name, func(a *admin) error {
		f, err := a.check(src, p)
		if f != nil {
			f.Subscription = subscription
			found = append(found, *f)
		}
		return err
	})
	return found, err
}

// ProvisionStore implements transport.PreparedStore.
func (s *deadStore) ProvisionStore(ctx context.Context, subscription string) (transport.Report, error) {
	var report transport.Report
	if err := checkKey("provision dead letters", subscription); err != nil {
		return report, err
	}
	src, p := s.preparing(subscription)
	err := s.t.admin(ctx, "provision dead letters", p.name, func(a *admin) error {
		created, found, err := a.provide(src, p)
		if created {
			report.Created = append(report.Created, p.what+" "+p.name)
		}
		if found != nil {
			found.Subscription = subscription
			report.Findings = append(report.Findings, *found)
		}
		return err
	})
	if err == nil {
		s.register(subscription, src.cfg.Name)
	}
	return report, err
}
