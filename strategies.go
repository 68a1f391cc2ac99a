package holdfast

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// CountStore counts attempts outside of the broker; see CountIn.
type CountStore = transport.CountStore

// countExpiry is how long a count is kept at least after the last attempt.
const countExpiry = 24 * time.Hour

// CountIn counts attempts in a store of its own, for all processes that handle
// the messages of the subscription: jetstream.Transport.CountStore, the module
// redisstore, or memory.NewCountStore for tests. An attempt is counted before it
// starts, immediate ones too, so that one that ends the process counts: the
// handler never runs more often than Retry.Attempts for one message, copies of
// it included. What the broker counts is not looked at, and CrashLimit has
// nothing to add.
//
// Attempts are counted under the name of the subscription and the ID of the
// message. Where a message without an ID gets one that is made from its content,
// two of the same content share their attempts; the check says so.
//
// A count is dropped when its message was handled. The store forgets any other
// when 24 hours have passed since the last attempt, or twice the longest delay of
// the policy if that is more; a dead letter that is redriven starts anew, and a
// message that is sent again under the ID of a dead one does not. A store that answers no more is waited
// for: the message goes back with a growing delay of a second to a minute,
// nothing is charged, the handler does not run, and health says "attempt counter
// unavailable". A stop takes the attempts back that it cuts short.
//
// It costs two calls of the store for each message, and two more for each retry.
// It needs the ack policy RetryOnError, a bound on Attempts, and a broker that
// gives messages back with a delay. CountIn(nil) takes the option of an app or a
// group back.
func CountIn(store CountStore) Option {
	return optionFunc(func(s *settings) { s.counts = store })
}

// BrokerRetries leaves retries to the broker: a message whose handler failed is
// given back at once, and the broker hands it out again so many times at most,
// one that ends the process included. Then the broker itself moves it to where
// its dead letters go. holdfast counts nothing and keeps nothing.
//
// There is no delay between the attempts, and RetryAfter gets none. What fails
// with Permanent, or cannot be decoded, is dead-lettered by holdfast at once.
// Messages that are in hand or prefetched when a process dies are counted as
// well, and so are those that a stop cuts short.
//
// On RabbitMQ it needs a quorum queue whose delivery limit is this one
// (rabbitmq.QueueConfig.DeliveryLimit) and that dead-letters somewhere. Brokers
// that do not bound what they hand out again are refused at start. It takes the
// place of Retry.
func BrokerRetries(limit int) Option {
	return optionFunc(func(s *settings) {
		if limit < 1 {
			s.faults = append(s.faults, fmt.Errorf("%d retries by the broker: that is not positive", limit))
			return
		}
		if s.retrySet {
			s.faults = append(s.faults, errTwoRetries)
		}
		Retry{}.apply(s)
		s.retriesBy(limit)
	})
}

// retriesBy leaves retries to the broker, or takes that back.
func (s *settings) retriesBy(limit int) {
	if limit == 0 && s.brokerSet {
		s.faults = append(s.faults, errTwoRetries)
	}
	s.brokerRetries, s.brokerSet = limit, limit > 0
	s.policy.BrokerRetries = limit > 0
}

// errTwoRetries is a contradiction in one place.
var errTwoRetries = errors.New("both Retry and BrokerRetries are given: choose one")

// expiry is how long counts are kept after an attempt.
func (s *Subscription) expiry(p recovery.Policy) time.Duration {
	return max(countExpiry, 2*min(p.MaxDelay(), longestDelay))
}

// longestDelay keeps twice a delay from being too long for a time.Duration.
const longestDelay = 100 * 365 * 24 * time.Hour

// checkCounter asks the store that counts attempts whether it could.
func (s *Subscription) checkCounter(ctx context.Context, p plan) []Finding {
	store := s.settings.counts
	if store == nil {
		return nil
	}
	if l, ok := store.(transport.CountLimiter); ok && l.MaxExpiry() > 0 && l.MaxExpiry() < s.expiry(p.policy) {
		return []Finding{{
			Code: transport.CodeInvalid, Level: transport.LevelError, Subscription: s.name,
			Fact: fmt.Sprintf("the store keeps the count of attempts for %v, and the retries of this subscription need %v", l.MaxExpiry(), s.expiry(p.policy)),
			Fix:  "make the store with a longer time to live, or shorten the delays",
		}}
	}
	ctx, cancel := context.WithTimeout(ctx, counterPatience)
	defer cancel()
	if _, err := store.Count(ctx, transport.CountKey{Subscription: s.name, Message: "check"}); err != nil {
		return []Finding{{
			Code: transport.CodeCounterDown, Level: transport.LevelWarning, Subscription: s.name,
			Fact: "the store that counts attempts does not answer: " + err.Error(),
			Fix:  "start the store, or grant access to it: until then nothing is handled, and nothing is lost",
		}}
	}
	return nil
}

// counterPatience is how long a check waits for the store.
const counterPatience = 5 * time.Second

// strategyFaults is everything wrong with the options of this file that can be
// seen without the broker.
func (set *settings) strategyFaults() (faults []error) {
	if set.brokerRetries == 0 {
		return nil
	}
	if set.counts != nil {
		faults = append(faults, errors.New("retries by the broker are counted by the broker: leave CountIn out"))
	}
	if set.orderBy != nil {
		faults = append(faults, errors.New("retries by the broker change the order: leave OrderBy out, or retry with Retry"))
	}
	return faults
}
