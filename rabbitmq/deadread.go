package rabbitmq

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

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
