package rabbitmq

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

var _ transport.Requeuer = (*delivery)(nil)

// Requeue implements transport.Requeuer: basic.reject with requeue, which counts
// towards the delivery limit of a quorum queue in every version. A basic.nack
// does not from 4.3 on.
func (d *delivery) Requeue(ctx context.Context) error {
	if d.lane.r.src.stream() {
		return transport.Unsupported("requeue", d.address(), "a stream gives nothing back")
	}
	return d.settle(ctx, "requeue", func() error { return d.lane.reject(d.raw.DeliveryTag, true) })
}

// leavesToBroker tells whether the broker takes failed messages away itself.
func leavesToBroker(want transport.Want) bool { return want.Reject || want.BrokerRetries > 0 }

// bounds lists what keeps the queue from bounding retries as want asks for.
func (s *source) bounds(want transport.Want) []transport.Finding {
	if want.BrokerRetries == 0 {
		return nil
	}
	var found []transport.Finding
	refuse := func(code transport.Code, fact, fix string) {
		found = append(found, transport.Finding{Code: code, Level: transport.LevelError, Fact: fact, Fix: fix})
	}
	c := &s.cfg
	limit := int64(c.DeliveryLimit)
	if own := c.Arguments[argLimit]; own != nil {
		limit = integer(own)
	}
	switch {
	case c.Type != Quorum:
		refuse(transport.CodeBrokerRetries,
			fmt.Sprintf("the queue %s is not known to be a quorum queue: no other counts what it hands out again, and a message that fails would come back for ever", c.Name),
			"set QueueConfig.Type to Quorum, or retry with holdfast.Retry")
	case limit != int64(want.BrokerRetries):
		refuse(transport.CodeBrokerRetries,
			fmt.Sprintf("the queue %s hands a message out again %d times, and the subscription asks for %d", c.Name, limit, want.BrokerRetries),
			fmt.Sprintf("set QueueConfig.DeliveryLimit to %d; a queue that exists keeps its limit", want.BrokerRetries))
	}
	if c.Declare == DeclareAdopt && c.DeadLetterExchange == "" {
		refuse(transport.CodeRejectDestroys,
			fmt.Sprintf("the queue %s is not known to have a dead-letter exchange: a message that reaches the delivery limit would be destroyed", c.Name),
			"name it in DeadLetterExchange if it has one, or set one with a policy (rabbitmqctl set_policy)")
	}
	return found
}

// counted warns of messages that share their attempts.
func (s *source) counted(want transport.Want) []transport.Finding {
	if !want.Counted {
		return nil
	}
	return []transport.Finding{{
		Code: transport.CodeDerivedID, Level: transport.LevelWarning,
		Fact: "attempts are counted by message ID: a message without the property message-id gets one made from its content (SHA-256 of its addresses, properties, headers and body), and two that are equal in all of these share their attempts",
		Fix:  "let every sender set message-id to something of its own, as holdfast does",
	}}
}

// probeDLX makes sure that the dead-letter exchange routes somewhere, when the
// broker itself shall send failed messages there. AMQP tells that only of a
// message: it is an empty one with a time to live of zero, which is gone at once
// unless a consumer waits for it. In a queue that holds messages it is dropped when
// it comes to the front; so an exchange that was seen to route is not asked again.
// A fact is of this level when no key is routed.
func (a *admin) probeDLX(s *source, want transport.Want, level transport.Level) ([]transport.Finding, error) {
	if s.cfg.DeadLetterExchange == "" || s.stream() || !leavesToBroker(want) {
		return nil, nil
	}
	var lost []string
	keys := s.deadKeys()
	for _, key := range keys {
		route := [2]string{s.cfg.DeadLetterExchange, key}
		if _, seen := s.t.routed.Load(route); seen {
			continue
		}
		routed, err := a.probe(s.cfg.DeadLetterExchange, key)
		if code, ok := exception(err); ok && code.Code == amqp.AccessRefused {
			return []transport.Finding{{
				Code: transport.CodePermission, Level: transport.LevelWarning,
				Fact: fmt.Sprintf("it cannot be seen whether the dead-letter exchange %s routes somewhere: %s", s.cfg.DeadLetterExchange, code.Reason),
				Fix:  "grant write on the exchange to let holdfast look, or look with rabbitmqctl list_bindings",
			}}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("look where the exchange %s routes: %w", s.cfg.DeadLetterExchange, err)
		}
		if routed {
			s.t.routed.Store(route, true)
		} else {
			lost = append(lost, fmt.Sprintf("%q", key))
		}
	}
	if len(lost) == 0 {
		return nil, nil
	}
	if len(lost) < len(keys) {
		level = transport.LevelWarning
	}
	return []transport.Finding{{
		Code: transport.CodeDLXNowhere, Level: level,
		Fact: fmt.Sprintf("the dead-letter exchange %s routes nothing with the key %s: the broker would destroy the message, or keep it for ever", s.cfg.DeadLetterExchange, strings.Join(lost, ", ")),
		Fix:  "bind a queue to the exchange for this key, or leave DeadLetterExchange empty: then messages go to " + deadName(s.cfg.Name),
	}}, nil
}

// bindsDLX tells whether the source itself binds something to its dead-letter
// exchange when it is provisioned.
func (s *source) bindsDLX() bool {
	from := func(b Binding) bool { return b.Exchange == s.cfg.DeadLetterExchange }
	return s.owned() && (slices.ContainsFunc(s.cfg.Bindings, from) ||
		slices.ContainsFunc(s.cfg.Exchanges, func(e ExchangeConfig) bool { return slices.ContainsFunc(e.Bindings, from) }))
}

// checkRoutes looks before the start where the dead-letter exchange routes. What it
// finds is a warning: another subscription of the program may bind a queue to it.
// Provision refuses it.
func (a *admin) checkRoutes(s *source, want transport.Want, found *[]transport.Finding) error {
	if s.bindsDLX() {
		return nil
	}
	nowhere, err := a.probeDLX(s, want, transport.LevelWarning)
	if missing(err) { // it is to be declared, or was reported
		if s.owned() && leavesToBroker(want) && !slices.ContainsFunc(*found, func(f transport.Finding) bool { return f.Code == transport.CodeDLXMissing }) {
			*found = append(*found, transport.Finding{
				Code: transport.CodeDLXNowhere, Level: transport.LevelWarning,
				Fact: fmt.Sprintf("the dead-letter exchange %s will be declared, and nothing is bound to it: the broker would destroy what it should send there", s.cfg.DeadLetterExchange),
				Fix:  "bind a queue to the exchange, or leave DeadLetterExchange empty: then messages go to " + deadName(s.cfg.Name),
			})
		}
		return nil
	}
	*found = append(*found, nowhere...)
	return err
}

// deadKeys are routing keys with which the queue dead-letters.
func (s *source) deadKeys() []string {
	if s.cfg.DeadLetterKey != "" {
		return []string{s.cfg.DeadLetterKey}
	}
	keys := []string{}
	for _, b := range s.cfg.Bindings {
		// Any word stands for a wildcard as well as another.
		keys = append(keys, strings.NewReplacer("#", "holdfast", "*", "holdfast").Replace(b.Key))
	}
	if len(keys) == 0 {
		keys = append(keys, s.cfg.Name) // as the default exchange routes
	}
	return keys
}

// probe tells whether an exchange routes a key to a queue.
func (a *admin) probe(exchange, key string) (routed bool, err error) {
	ch, err := a.s.conn.Channel()
	if err != nil {
		return false, err
	}
	defer func() { _ = ch.Close() }() // an exception has closed it already
	acks := ch.NotifyPublish(make(chan amqp.Confirmation, 1))
	returns := ch.NotifyReturn(make(chan amqp.Return, 1))
	closes := ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := ch.Confirm(false); err != nil {
		return false, err
	}
	probe := amqp.Publishing{Type: "holdfast.probe", Expiration: "0", Timestamp: time.Now()}
	if err := ch.Publish(exchange, key, true, false, probe); err != nil {
		return false, err
	}
	if _, ok := <-acks; !ok { // the admin's connection is cut when its time is over
		if said := <-closes; said != nil {
			return false, said
		}
		return false, errLost
	}
	select {
	case <-returns: // it comes before its confirmation
		return false, nil
	default:
		return true, nil
	}
}
