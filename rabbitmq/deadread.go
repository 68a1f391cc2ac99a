package rabbitmq

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

const (
	// mostLetters is how many letters are looked at together: what one consumer
	// may hold.
	mostLetters = 60_000
	// othersLook is how long to wait for somebody else who looks.
	othersLook = 5 * time.Second
	// silence ends a look at a queue that gives less than it counted. Before the
	// first letter it is longer: somebody else may be looking.
	silence = 2 * time.Second
)

// letter is a dead letter with when it was buried.
type letter struct {
	transport.StoredLetter
	buried time.Time
}

// read takes all letters of a work queue, acks those that remove selects, and
// gives the others back, in their order.
func (s *deadStore) read(ctx context.Context, op, queue, subscription string, remove func(letter) bool) (found []letter, err error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, seamError(op, deadName(queue), context.Cause(ctx), false)
	}
	err = s.t.admin(ctx, op, deadName(queue), func(a *admin) error {
		n, err := a.undisturbed(ctx, deadName(queue))
		if absent(err) || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		return a.borrow(deadName(queue), min(n, mostLetters), func(raws []amqp.Delivery) error {
			found = lettersOf(raws, queue, subscription)
			for i, l := range found {
				if remove != nil && remove(l) {
					if err := a.ch.Ack(raws[i].DeliveryTag, false); err != nil {
						return err
					}
				}
			}
			return nil
		})
	})
	return found, err
}

// undisturbed waits until nobody else looks at the queue, and returns how many
// messages it has.
func (a *admin) undisturbed(ctx context.Context, queue string) (n int, err error) {
	for end := time.Now().Add(othersLook); ; {
		q, err := a.inspect(queue)
		if err != nil || q.Consumers == 0 || time.Now().After(end) {
			return q.Messages, err
		}
		if !pause(ctx, 20*time.Millisecond) {
			return 0, context.Cause(ctx)
		}
	}
}

// borrow takes n messages of a queue, calls use with them, and gives back what it
// did not ack. The cancellation is awaited: after it the queue has taken both the
// acks and what came back.
func (a *admin) borrow(queue string, n int, use func([]amqp.Delivery) error) error {
	return a.do(func(ch *amqp.Channel) error {
		if err := ch.Qos(n, 0, false); err != nil {
			return err
		}
		const tag = "holdfast-look"
		in, err := ch.Consume(queue, tag, false, false, false, false, nil)
		if err != nil {
			return err
		}
		raws := gatherDeliveries(in, n)
		if err := use(raws); err != nil {
			return err
		}
		// All that is left at once, in order; tag 0 stands for all.
		if err := ch.Nack(0, true, true); err != nil {
			return err
		}
		if err := ch.Cancel(tag, false); err != nil {
			return err
		}
		for range in { // what came meanwhile goes back with the channel
		}
		return nil
	})
}

// gatherDeliveries takes n deliveries, or what comes until there is a silence.
func gatherDeliveries(in <-chan amqp.Delivery, n int) []amqp.Delivery {
	raws := make([]amqp.Delivery, 0, n)
	quiet := time.NewTimer(othersLook)
	defer quiet.Stop()
	for len(raws) < n {
		select {
		case raw, ok := <-in:
			if !ok {
				return raws
			}
			raws = append(raws, raw)
			quiet.Reset(silence)
		case <-quiet.C:
			return raws
		}
	}
	return raws
}

// lettersOf decodes what was found in a dead-letter queue. Letters of the broker
// itself that look alike get IDs of their own: they are different messages.
func lettersOf(raws []amqp.Delivery, queue, subscription string) []letter {
	out := make([]letter, len(raws))
	alike := map[string]int{}
	for i := range raws {
		var buried bool
		out[i], buried = letterOf(&raws[i], queue, subscription)
		if buried {
			continue
		}
		id := out[i].Key.ID
		alike[id]++
		if n := alike[id]; n > 1 {
			out[i].Key.ID += "-" + strconv.Itoa(n)
			out[i].Message.Header.Set(wire.DeadLetterID, out[i].Key.ID)
		}
	}
	return out
}

// letterOf decodes one message of a dead-letter queue; buried tells whether
// holdfast put it there.
func letterOf(raw *amqp.Delivery, queue, subscription string) (l letter, buried bool) {
	m := &transport.Message{}
	decode(raw, m)
	if m.Header == nil {
		m.Header = transport.Header{}
	}
	parts := strings.Split(m.Header.Get(wire.DeadKey), ".")
	if len(parts) != 3 {
		return synthesised(raw, m, queue, subscription), false
	}
	l.Key = transport.DeadKey{Subscription: parts[0], Fingerprint: parts[1], ID: parts[2]}
	if ns, err := strconv.ParseInt(m.Header.Get(wire.Buried), 10, 64); err == nil {
		l.buried = time.Unix(0, ns)
	}
	m.Header.Del(wire.DeadKey)
	m.Header.Del(wire.Buried)
	m.Time = raw.Timestamp
	l.Message = m
	return l, true
}

// synthesised makes a letter of what the broker itself dead-lettered: its limit
// was reached, somebody rejected it, it expired. The story is that of x-death.
func synthesised(raw *amqp.Delivery, m *transport.Message, queue, subscription string) letter {
	death := lastDeath(raw.Headers)
	if keys, ok := death["routing-keys"].([]any); ok && len(keys) > 0 && m.Header[wire.Subject] == nil {
		if key, ok := keys[0].(string); ok && key != "" {
			m.Subject = key
		}
	}
	reason, _ := death["reason"].(string)
	at, _ := death["time"].(time.Time)
	e := wire.Envelope{
		Subscription: subscription,
		Source:       "rabbitmq queue " + queue,
		Reason:       reasonOf(reason),
		Class:        "broker",
		ErrorText:    fmt.Sprintf("the broker dead-lettered the message: %s", reasonText(reason)),
		Stage:        wire.StageHandle,
		Deliveries:   int(integer(raw.Headers[wire.Deliveries]) + integer(death["count"])),
		FirstFailed:  at,
		Failed:       at,
	}
	e = wire.Complete(m, e)
	l := letter{buried: at}
	l.Key, l.Message = e.DeadKey(), wire.BuryMessage(m, e)
	l.Message.Subject, l.Message.Time = m.Subject, at
	return l
}

// lastDeath returns the newest entry of x-death, nil when there is none.
func lastDeath(headers amqp.Table) amqp.Table {
	deaths, _ := headers["x-death"].([]any)
	if len(deaths) == 0 {
		return nil
	}
	death, _ := deaths[0].(amqp.Table)
	return death
}

// reasonOf is the broker's reason in the words of the policy.
func reasonOf(reason string) string {
	switch reason {
	case "delivery_limit":
		return "crash-loop"
	case "expired":
		return "expired"
	default:
		return "rejected"
	}
}

func reasonText(reason string) string {
	switch reason {
	case "delivery_limit":
		return "the delivery limit of its queue was reached"
	case "expired":
		return "its time to live was over"
	case "maxlen":
		return "its queue was full"
	case "rejected":
		return "a consumer rejected it"
	case "":
		return "no reason is given"
	default:
		return reason
	}
}
