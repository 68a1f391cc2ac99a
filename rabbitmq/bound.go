package rabbitmq

import (
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

var _ transport.Bounded = (*source)(nil)

// argTimeout is the consumer timeout of a queue or of a consumer.
const argTimeout = "x-consumer-timeout"

// Bound implements transport.Bounded: the consumer_timeout of the broker, as far as
// it is known, see WithConsumerTimeout.
func (s *source) Bound() time.Duration {
	var v version
	if session, _, _ := s.t.consuming.session(); session != nil {
		v = session.version
	}
	return s.bound(v)
}

func (s *source) bound(v version) time.Duration {
	if !v.timesOut(s.cfg.Type) {
		return 0
	}
	if own := integer(s.timeoutArgument(v)); own > 0 {
		return time.Duration(own) * time.Millisecond
	}
	return s.t.set.consumer
}

// timeoutArgument is the argument that the server goes by, if there is one.
func (s *source) timeoutArgument(v version) any {
	if own := s.cfg.ConsumerArguments[argTimeout]; own != nil && v.consumerTimeouts() {
		return own
	}
	if own := s.cfg.Arguments[argTimeout]; own != nil && v.queueTimeouts() {
		return own
	}
	return nil
}

// takenBack is how long before the broker takes a delivery back it should be settled
// at the latest.
const takenBack = 30 * time.Second

// held lists what asks to hold a delivery for longer than the broker lets it.
func (s *source) held(want transport.Want, v version) []transport.Finding {
	var found []transport.Finding
	told := s.cfg.Arguments[argTimeout] != nil || s.cfg.ConsumerArguments[argTimeout] != nil
	if told && s.timeoutArgument(v) == nil {
		found = append(found, transport.Finding{
			Code: transport.CodeServerTooOld, Level: transport.LevelError,
			Fact: fmt.Sprintf("the server is RabbitMQ %v: it takes %s and does nothing", v, argTimeout),
			Fix:  "leave it out and set consumer_timeout in the broker's configuration; a queue may have its own from RabbitMQ 3.12 on, and a consumer from 4.3 on",
		})
	}
	bound := s.bound(v)
	if s.strict(want) {
		want.Hold = max(want.Hold, want.MaxDelay) // it is held for each of its delays
	}
	if bound == 0 || want.Hold <= bound-min(bound/4, takenBack) {
		return found
	}
	why := "a Timeout or MaxLease"
	if want.Ordered || s.strict(want) {
		why = "a Timeout, a MaxLease or the retries of an ordered message"
	}
	return append(found, transport.Finding{
		Code: transport.CodeConsumerTimeout, Level: transport.LevelError,
		Fact: fmt.Sprintf("%s may take %v, and the broker takes back what is not settled after %v (consumer_timeout), with all that the consumer has in hand", why, want.Hold, bound),
		Fix:  "ask for less, or raise consumer_timeout in the broker's configuration and say so with WithConsumerTimeout",
	})
}
