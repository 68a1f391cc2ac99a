package rabbitmq

import (
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// Headers that stand for properties of AMQP. A received message shows those it
// has; a publish takes them from Message.Header.
const (
	CorrelationID   = "Amqp-Correlation-Id"
	ContentEncoding = "Amqp-Content-Encoding"
	Type            = "Amqp-Type"
	AppID           = "Amqp-App-Id"
	ReplyTo         = "Amqp-Reply-To"
	UserID          = "Amqp-User-Id"    // must be the connected user
	Priority        = "Amqp-Priority"   // 0 to 255; Message.Priority goes before it
	Expiration      = "Amqp-Expiration" // milliseconds; Message.TTL goes before it
	Timestamp       = "Amqp-Timestamp"  // RFC 3339; Message.Time shows it
	// TypedHeader holds the typed form of headers that are not text, as JSON.
	TypedHeader = "Amqp-Typed-Headers"
)

// What the broker acts upon and a copy must not have in its own place.
const (
	ccHeader  = "CC"
	bccHeader = "BCC"
)

// property returns where a header that stands for a property is kept, or nil.
func property(p *amqp.Publishing, name string) *string {
	switch name {
	case CorrelationID:
		return &p.CorrelationId
	case ContentEncoding:
		return &p.ContentEncoding
	case Type:
		return &p.Type
	case AppID:
		return &p.AppId
	case ReplyTo:
		return &p.ReplyTo
	case UserID:
		return &p.UserId
	case Expiration:
		return &p.Expiration
	}
	return nil
}

// saved tells whether a copy keeps a header of this name under another one: an
// expiration would remove the copy, another user's ID would be refused, and CC
// would send it elsewhere as well.
func saved(name string) bool {
	return name == Expiration || name == UserID || name == ccHeader || name == bccHeader
}

// encode builds the publishing of m. A copy is a dead letter or a redriven
// message: the broker must not act upon what the original asked of it.
func encode(m *transport.Message, id string, isCopy bool) (amqp.Publishing, error) {
	return encodeInto(make(amqp.Table, len(m.Header)+3), m, id, isCopy)
}

// encodeInto is encode with an empty table for the headers.
func encodeInto(table amqp.Table, m *transport.Message, id string, isCopy bool) (amqp.Publishing, error) {
	p := amqp.Publishing{
		Headers:      table,
		ContentType:  m.ContentType,
		DeliveryMode: amqp.Persistent,
		MessageId:    m.ID,
		Body:         m.Body,
	}
	for name, values := range m.Header {
		if len(values) == 0 {
			continue
		}
		if isCopy && saved(name) {
			p.Headers[wire.SavedPrefix+name] = tableValue(values)
			continue
		}
		if err := encodeHeader(&p, name, values); err != nil {
			return p, err
		}
	}
	restoreTypes(&p, m.Header)
	if len(m.ID) > maxShort {
		p.MessageId = ""
		p.Headers[wire.ID] = m.ID
	}
	if m.Key != "" {
		p.Headers[wire.Key] = m.Key
	}
	if p.Timestamp.IsZero() {
		p.Timestamp = time.Now()
	}
	p.Headers[wire.Copy] = id
	if m.Resent {
		p.Headers[wire.Resent] = "true"
	}
	return p, encodeWishes(&p, m)
}

// maxExpiration is how many milliseconds the broker takes.
const maxExpiration = 1<<32 - 1

// encodeWishes puts what the message asks of its broker into its properties. A
// header that stands for one of them gives way.
func encodeWishes(p *amqp.Publishing, m *transport.Message) error {
	if !m.NotBefore.IsZero() {
		return transport.Unsupported("publish", "", "RabbitMQ keeps no message back: publish when it is due, or to an exchange of the plugin for delayed messages with the header x-delay")
	}
	if m.Priority > 0 {
		p.Priority = m.Priority
	}
	if m.TTL == 0 {
		return nil
	}
	// Rounded up: it is not dropped before its time.
	ms := (m.TTL + time.Millisecond - 1) / time.Millisecond
	if m.TTL < 0 || ms > maxExpiration {
		return transport.Invalid("publish", "", "the TTL %v is not between 1 ms and %v, which is the longest that RabbitMQ takes", m.TTL, maxExpiration*time.Millisecond)
	}
	p.Expiration = strconv.FormatInt(int64(ms), 10)
	return nil
}

// tableValue is a header's value in AMQP: text, or a list of texts.
func tableValue(values []string) any {
	if len(values) == 1 {
		return values[0]
	}
	list := make([]any, len(values))
	for i, v := range values {
		list[i] = v
	}
	return list
}

// encodeHeader puts one header where it belongs.
func encodeHeader(p *amqp.Publishing, name string, values []string) error {
	if field := property(p, name); field != nil {
		*field = values[0]
		return nil
	}
	switch name {
	case TypedHeader: // see restoreTypes
	case Priority:
		n, err := strconv.ParseUint(values[0], 10, 8)
		if err != nil {
			return invalidHeader(name, values[0], "is a number from 0 to 255")
		}
		p.Priority = uint8(n)
	case Timestamp:
		at, err := time.Parse(time.RFC3339, values[0])
		if err != nil {
			return invalidHeader(name, values[0], "is a time in RFC 3339")
		}
		p.Timestamp = at
	case ccHeader, bccHeader: // the broker takes a list only
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = v
		}
		p.Headers[name] = list
	default:
		p.Headers[name] = tableValue(values)
	}
	return nil
}

func invalidHeader(name, value, want string) error {
	return transport.Invalid("publish", "", "the header %s is %q and %s", name, value, want)
}

// restoreTypes gives headers their types back where their text is unchanged.
func restoreTypes(p *amqp.Publishing, h transport.Header) {
	for name, v := range parseTyped(h.Get(TypedHeader)) {
		if values := h[name]; len(values) == 1 && values[0] == text(v) && !saved(name) {
			p.Headers[name] = v
		}
	}
}

// decode turns a delivery into a message. Headers that have a field of their own
// in it, and the broker's count, are not repeated in Message.Header.
func decode(raw *amqp.Delivery, m *transport.Message) (more extra) {
	m.ID, m.ContentType, m.Body = raw.MessageId, raw.ContentType, raw.Body
	m.Subject = raw.RoutingKey
	if m.Subject == "" {
		m.Subject = raw.Exchange
	}
	if !raw.Timestamp.IsZero() {
		m.Time = raw.Timestamp
	}
	more.redelivered = raw.Redelivered
	decodeTable(raw.Headers, m, &more)
	showProperties(raw, m)
	if m.Header != nil {
		decodeOrigin(m)
	}
	if more.of != "" {
		m.Position = more.of
	}
	if m.ID == "" {
		m.ID = m.Position
	}
	if m.ID == "" {
		m.ID = contentID(raw)
	}
	return more
}

// extra is what the headers say to the transport itself.
type extra struct {
	counts
	before int    // deliveries of earlier copies
	of     string // the position this copy continues
	due    time.Time
}

// decodeTable reads the headers of a delivery.
func decodeTable(table amqp.Table, m *transport.Message, more *extra) {
	var types map[string]any
	_, ownCopy := table[wire.CopyOf]
	for name, v := range table {
		if ours(name, v, m, more) || ownCopy && strings.HasPrefix(name, "x-") && wire.BrokerOwned(name) {
			continue // a copy was made without the broker's records: these tell of our own retry queues
		}
		if m.Header == nil {
			m.Header = make(transport.Header, len(table))
		}
		name = strings.TrimPrefix(name, wire.SavedPrefix)
		switch v := v.(type) {
		case string:
			m.Header[name] = []string{v}
		case []any:
			values, plain := textList(v)
			m.Header[name] = values
			if !plain && !wire.BrokerOwned(name) {
				types = addType(types, name, v)
			}
		default:
			m.Header[name] = []string{text(v)}
			if !wire.BrokerOwned(name) {
				types = addType(types, name, v)
			}
		}
	}
	if types != nil {
		m.Header[TypedHeader] = []string{typedHeader(types)}
	}
}

func addType(types map[string]any, name string, v any) map[string]any {
	if types == nil {
		types = map[string]any{}
	}
	types[name] = v
	return types
}

// textList returns a list of two or more texts as values of one header; any
// other list is shown as JSON.
func textList(list []any) (values []string, plain bool) {
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return []string{text(list)}, false
		}
		values = append(values, s)
	}
	if len(values) < 2 {
		return []string{text(list)}, false
	}
	return values, true
}

// ours takes the headers that are not shown, and tells whether this is one.
func ours(name string, v any, m *transport.Message, more *extra) bool {
	switch name {
	case "x-delivery-count":
		more.delivery, more.hasDelivery = int(integer(v)), true
		return true
	case "x-acquired-count":
		more.acquired = int(integer(v))
		return true
	}
	if !strings.HasPrefix(name, wire.Prefix) {
		return false
	}
	switch name {
	case wire.Copy:
		m.Position, _ = v.(string)
	case wire.CopyOf:
		more.of, _ = v.(string)
	case wire.Deliveries:
		more.before = int(min(max(integer(v), 0), 1<<30))
	case wire.Due:
		if ms := integer(v); ms > 0 {
			more.due = time.UnixMilli(ms)
		}
	case wire.ID:
		if s, ok := v.(string); ok && m.ID == "" {
			m.ID = s
		}
	case wire.Key:
		m.Key, _ = v.(string)
	case wire.Resent:
		m.Resent = true
	default:
		return false
	}
	return true
}

// integer reads any integer type of AMQP leniently; anything else is 0.
func integer(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case int32:
		return int64(n)
	case int16:
		return int64(n)
	case int8:
		return int64(n)
	case uint8:
		return int64(n)
	case uint16:
		return int64(n)
	case uint32:
		return int64(n)
	case int:
		return int64(n)
	case string:
		i, err := strconv.ParseInt(n, 10, 64)
		if err != nil {
			return 0
		}
		return i
	}
	return 0
}

// showProperties shows the properties that are set.
func showProperties(raw *amqp.Delivery, m *transport.Message) {
	show := func(name, value string) {
		if value == "" {
			return
		}
		if m.Header == nil {
			m.Header = make(transport.Header, 4)
		}
		m.Header[name] = []string{value}
	}
	show(CorrelationID, raw.CorrelationId)
	show(ContentEncoding, raw.ContentEncoding)
	show(Type, raw.Type)
	show(AppID, raw.AppId)
	show(ReplyTo, raw.ReplyTo)
	show(UserID, raw.UserId)
	show(Expiration, raw.Expiration)
	if raw.Priority > 0 {
		show(Priority, strconv.Itoa(int(raw.Priority)))
	}
}

// decodeOrigin shows on a copy where its original was published to and when.
func decodeOrigin(m *transport.Message) {
	if s := m.Header.Get(wire.Subject); s != "" {
		m.Subject = wire.Unescape(s)
	}
	if s := m.Header.Get(wire.Time); s != "" {
		if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
			m.Time = at
		}
	}
}
