package jetstream

import (
	"fmt"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// refusal is a setting that a promise cannot be kept with.
type refusal struct {
	code      transport.Code
	fact, fix string
}

// owned are the settings of a native consumer configuration that holdfast sets
// itself, and why they may not be set there.
func owned(c natsjs.ConsumerConfig) []refusal {
	var out []refusal
	refuse := func(set bool, code transport.Code, fact, fix string) {
		if set {
			out = append(out, refusal{code, "Consumer sets " + fact, fix})
		}
	}
	elsewhere := func(set bool, native, field string) {
		refuse(set, transport.CodeInvalid, native+", which "+field+" says", "set "+field+" of the jetstream.ConsumerConfig")
	}
	elsewhere(c.Name != "" || c.Durable != "", "a name", "Durable")
	elsewhere(c.DeliverPolicy != natsjs.DeliverAllPolicy || c.OptStartSeq != 0 || c.OptStartTime != nil, "where it starts", "Start")
	elsewhere(c.FilterSubject != "" || len(c.FilterSubjects) > 0, "filters", "Subjects")
	elsewhere(c.AckWait != 0, "AckWait", "AckWait")
	elsewhere(c.MaxAckPending != 0, "MaxAckPending", "MaxAckPending")
	elsewhere(c.Replicas != 0, "Replicas", "Replicas")
	refuse(c.AckPolicy != natsjs.AckExplicitPolicy, transport.CodeAckPolicy, "the ack policy "+c.AckPolicy.String()+": messages would count as done before they are",
		"leave it out; Ordered takes messages without acks")
	refuse(c.MaxDeliver > 0, transport.CodeMaxDeliver, "MaxDeliver, and the server would leave behind what was handed out so often, seen by a handler or not",
		"leave it out: the policy of the subscription decides when to give up")
	refuse(len(c.BackOff) > 0, transport.CodeBackOff, "BackOff, which the server adds to every delay of the policy", "leave it out: the policy of the subscription says the delays")
	refuse(c.InactiveThreshold != 0, transport.CodeInactive, "InactiveThreshold, and the server would delete an idle durable with the place where it stood",
		"leave it out; InactiveThreshold of the jetstream.ConsumerConfig is for a consumer without a durable name")
	refuse(c.DeliverSubject != "" || c.DeliverGroup != "" || c.FlowControl || c.IdleHeartbeat != 0 || c.RateLimit != 0, transport.CodePushConsumer,
		"DeliverSubject, DeliverGroup, FlowControl, IdleHeartbeat or RateLimit, which are for push consumers", "leave them out: messages are pulled")
	return out
}

// refusals lists what is asked of the consumer and cannot be kept.
func (s *source) refusals(want transport.Want) []refusal {
	var out []refusal
	if s.cfg.Ordered {
		out = s.orderedRefusals(want)
	}
	if s.cfg.Consumer == nil {
		return out
	}
	out = append(out, owned(*s.cfg.Consumer)...)
	if s.cfg.Consumer.HeadersOnly && want.DeadLetter {
		out = append(out, refusal{
			transport.CodeHeadersOnly, "Consumer asks for headers only, and a dead letter of this subscription would have no body",
			"leave HeadersOnly out, or the dead letters (holdfast.NoDeadLetter)",
		})
	}
	return out
}

// orderedRefusals lists what cannot be kept of an ordered source.
func (s *source) orderedRefusals(want transport.Want) []refusal {
	var out []refusal
	refuse := func(asked bool, code transport.Code, fact, fix string) {
		if asked {
			out = append(out, refusal{code, "an ordered consumer " + fact, fix})
		}
	}
	refuse(s.cfg.Durable != "", transport.CodeInvalid, "has no durable name: every start of the program reads anew", "leave Durable out, or Ordered")
	refuse(want.DeadLetter, transport.CodeNoDeadLetters, "has nobody to take a redriven message in its place", "leave dead letters out (holdfast.NoDeadLetter), or Ordered")
	refuse(want.Reject, transport.CodeNoReject, "has no acks and no reject", "leave RejectOnError out, or Ordered")
	refuse(want.Concurrency > 1 && !want.Ordered, transport.CodeOrdered, fmt.Sprintf("cannot keep the order with %d handlers at once", want.Concurrency),
		"handle one message at a time, or keep the order of each key (holdfast.OrderByKey)")
	if c := s.cfg.Consumer; c != nil {
		refuse(c.PriorityPolicy != natsjs.PriorityPolicyNone || c.PauseUntil != nil || c.MaxWaiting != 0, transport.CodeInvalid,
			"is one program's own, and Consumer sets a priority policy, a pause or MaxWaiting", "leave them out, or Ordered")
	}
	return out
}
