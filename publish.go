package holdfast

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/internal/sender"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// Publisher publishes bodies of one type to one broker, in the order of the
// calls. It is safe for concurrent use.
//
// What the broker has not confirmed belongs to the publisher and not to a
// connection: it is bounded (see Window), and after a reconnect it is sent again
// before anything new, in its order, under the same IDs. Order holds across any
// number of reconnects; a message that the broker refuses for a moment, because
// too much is under way there, may be overtaken by those already on their way.
//
// Close waits for what is pending. A publisher that is not closed ends with its
// transport, and leaves nothing behind if nothing was pending.
type Publisher[T any] struct {
	to   transport.Address
	cfg  publisherConfig
	core *publishing
}

// DefaultPublishTimeout bounds a Publish whose context has no earlier deadline.
const DefaultPublishTimeout = 30 * time.Second

type publisherConfig struct {
	codec     Codec
	timeout   time.Duration
	window    sender.Config
	spool     *spoolConfig
	observers []observe.Observer
}

// PublisherOption sets something of a Publisher.
type PublisherOption interface{ applyPublisher(*publisherConfig) }

type publisherOptionFunc func(*publisherConfig)

func (f publisherOptionFunc) applyPublisher(c *publisherConfig) { f(c) }

// PublishCodec sets the codec of a Publisher. The default is Bytes for []byte,
// Text for string and JSON for everything else.
func PublishCodec(c Codec) PublisherOption {
	return publisherOptionFunc(func(p *publisherConfig) { p.codec = c })
}

// PublishTimeout bounds each publish, tries included. The default is
// DefaultPublishTimeout, for zero too; the context of the call may end it
// earlier. It is kept to a tenth of a second.
func PublishTimeout(d time.Duration) PublisherOption {
	return publisherOptionFunc(func(p *publisherConfig) {
		if d > 0 {
			p.timeout = d
		}
	})
}

// Window bounds what is unconfirmed at once: so many messages and so many bytes
// of bodies. A publish that finds the window full waits, and drops nothing. Zero
// means the default: 256 messages, 16 MiB.
func Window(messages, bytes int) PublisherOption {
	return publisherOptionFunc(func(p *publisherConfig) { p.window.Messages, p.window.Bytes = messages, bytes })
}

// ConfirmTimeout is how long the broker may take to confirm before its
// connection is given up and what is pending is sent again on another one. An
// alarm of the broker suspends it. The default is five seconds, for zero too.
func ConfirmTimeout(d time.Duration) PublisherOption {
	return publisherOptionFunc(func(p *publisherConfig) { p.window.Confirm = d })
}

// PublishObserver tells o of every publish.
func PublishObserver(o observe.Observer) PublisherOption {
	return publisherOptionFunc(func(p *publisherConfig) { p.observers = append(p.observers, o) })
}

// NewPublisher returns a publisher to an address, such as
// jetstream.Subject("orders.placed"), or one with parameters such as
// jetstream.Subject("orders.{region}.{id}"); see Param. It does no I/O, unless it has a Spool: that
// is opened, and what is left in it from before goes to the broker. A spool that
// cannot be opened makes every publish fail; Err tells at once.
func NewPublisher[T any](t transport.Transport, to transport.Address, opts ...PublisherOption) *Publisher[T] {
	cfg := publisherConfig{timeout: DefaultPublishTimeout}
	for _, o := range opts {
		o.applyPublisher(&cfg)
	}
	cfg.codec = codecFor[T](cfg.codec)
	return &Publisher[T]{to: to, cfg: cfg, core: newPublishing(t, to, &cfg)}
}

// PublishOption sets something of one message.
type PublishOption interface{ applyMessage(*outgoing) }

type outgoing struct {
	m      transport.Message
	to     transport.Address
	codec  Codec    // of this message, if not the publisher's
	params []string // names and values by turns
}

type publishOptionFunc func(*outgoing)

func (f publishOptionFunc) applyMessage(o *outgoing) { f(o) }

// ID gives the message its ID. It names the logical message: publish the same
// thing again under the same ID and a broker that deduplicates stores one copy.
// The default is a new one that sorts by time; inside a handler it is derived
// from the message that is handled and from what is published, so that a second
// attempt publishes the same IDs.
func ID(id string) PublishOption { return publishOptionFunc(func(o *outgoing) { o.m.ID = id }) }

// Key gives the message an ordering key; see OrderByKey.
func Key(key string) PublishOption { return publishOptionFunc(func(o *outgoing) { o.m.Key = key }) }

// BodyCodec encodes the body of this message, or of this request and its answer,
// with c.
func BodyCodec(c Codec) PublishOption { return publishOptionFunc(func(o *outgoing) { o.codec = c }) }

// SetHeader adds a value of a header. Names that start with Holdfast- or Nats-
// are refused, and so is Content-Type, which the codec sets.
func SetHeader(name, value string) PublishOption {
	return publishOptionFunc(func(o *outgoing) {
		if o.m.Header == nil {
			o.m.Header = make(transport.Header)
		}
		o.m.Header.Add(name, value)
	})
}

// Param gives a parameter of the address its value: for the address
// "orders.{region}.{id}" Param("region", "eu"). A value that is missing, or that
// would make another address of it, is refused with ErrInvalid.
func Param(name, value string) PublishOption {
	return publishOptionFunc(func(o *outgoing) { o.params = append(o.params, name, value) })
}

// At keeps the message back at the broker until t, where the broker can; see
// transport.Capabilities. Elsewhere the publish is refused with ErrUnsupported.
func At(t time.Time) PublishOption {
	return publishOptionFunc(func(o *outgoing) { o.m.NotBefore = t })
}

// After keeps the message back at the broker for d from now; see At.
func After(d time.Duration) PublishOption {
	return publishOptionFunc(func(o *outgoing) { o.m.NotBefore = time.Now().Add(d) })
}

// Expiry lets the broker drop the message when nobody took it for d, where the
// broker can. Elsewhere the publish is refused with ErrUnsupported.
func Expiry(d time.Duration) PublishOption {
	return publishOptionFunc(func(o *outgoing) { o.m.TTL = d })
}

// Priority puts the message before waiting ones of a lower priority, where the
// queue has them (RabbitMQ: x-max-priority). Zero is the lowest and the default.
// Elsewhere the publish is refused with ErrUnsupported.
func Priority(n uint8) PublishOption {
	return publishOptionFunc(func(o *outgoing) { o.m.Priority = n })
}

// To publishes this message to another address.
func To(a transport.Address) PublishOption { return publishOptionFunc(func(o *outgoing) { o.to = a }) }

// Publish encodes body and returns nil once the broker has confirmed that it
// stored the message, or, with a Spool, once the disk has it. It survives
// reconnects until ctx ends. OutcomeOf tells what an error means for the message:
// one for which Unknown is true says that it may have been stored all the same.
func (p *Publisher[T]) Publish(ctx context.Context, body T, opts ...PublishOption) error {
	o := &outgoing{to: p.to}
	if err := p.prepare(ctx, o, body, opts); err != nil {
		return err
	}
	return p.core.publish(ctx, o)
}

// prepare makes the message: the first of a publish's three rooms.
func (p *Publisher[T]) prepare(ctx context.Context, o *outgoing, body T, opts []PublishOption) error {
	for _, opt := range opts {
		opt.applyMessage(o)
	}
	if err := o.address(); err != nil {
		return err
	}
	if err := o.encode(p.cfg.codec, body); err != nil {
		return err
	}
	if err := o.refuse(p.core.caps); err != nil {
		return err
	}
	o.identify(ctx)
	return nil
}

// address fills in the parameters of the address: those of the routing key, where
// the broker has one.
func (o *outgoing) address() error {
	text := &o.to.Name
	if o.to.Key != "" {
		text = &o.to.Key
	}
	if len(o.params) == 0 && strings.IndexByte(*text, '{') < 0 && strings.IndexByte(*text, '}') < 0 {
		return nil
	}
	t, err := transport.ParseTemplate(*text)
	if err != nil {
		return &transport.Error{Op: "publish", Address: o.to.String(), Kind: transport.Permanent, Err: err}
	}
	for i := 0; i < len(o.params); i += 2 {
		if !slices.Contains(t.Names(), o.params[i]) {
			return transport.Invalid("publish", o.to.String(), "the address has no parameter %q", o.params[i])
		}
	}
	filled, err := t.Fill(o.param)
	if err != nil {
		return &transport.Error{Op: "publish", Address: o.to.String(), Kind: transport.Permanent, Err: err}
	}
	*text = filled
	return nil
}

// param returns the value that was given last.
func (o *outgoing) param(name string) (value string, given bool) {
	for i := 0; i < len(o.params); i += 2 {
		if o.params[i] == name {
			value, given = o.params[i+1], true
		}
	}
	return value, given
}

func (o *outgoing) encode(codec Codec, body any) error {
	for name := range o.m.Header {
		if wire.Reserved(name) || strings.EqualFold(name, wire.ContentType) {
			return transport.Invalid("publish", o.to.String(), "header %q is reserved: use the options of holdfast, or another name", name)
		}
	}
	if o.codec != nil {
		codec = o.codec
	}
	data, err := codec.Encode(body)
	if err != nil {
		return &transport.Error{Op: "publish", Address: o.to.String(), Kind: transport.Permanent, Err: fmt.Errorf("encode body: %w", err)}
	}
	o.m.Body, o.m.ContentType = data, codec.ContentType()
	return nil
}

// refuse returns an error for what the broker cannot do.
func (o *outgoing) refuse(can transport.Capabilities) error {
	switch {
	case !o.m.NotBefore.IsZero() && !can.Schedules:
		return transport.Unsupported("publish", o.to.String(), can.Name+" cannot keep a message back: send it when it is due")
	case o.m.TTL != 0 && !can.Expires:
		return transport.Unsupported("publish", o.to.String(), can.Name+" cannot drop a message after a time: give the subscription a MaxAge")
	case o.m.Priority != 0 && !can.Priorities:
		return transport.Unsupported("publish", o.to.String(), can.Name+" has no priorities: use an address for each")
	case o.m.TTL < 0:
		return transport.Invalid("publish", o.to.String(), "the expiry %v is negative", o.m.TTL)
	}
	return nil
}

// identify gives the message an ID, if it has none: derived from the message
// that is being handled, if there is one, and otherwise a new one.
func (o *outgoing) identify(ctx context.Context) {
	cause := handled(ctx)
	if cause != nil {
		if o.m.Header == nil {
			o.m.Header = make(transport.Header, 1)
		}
		o.m.Header.Set(wire.Cause, wire.Escape(cause.id))
	}
	switch {
	case o.m.ID != "":
	case cause != nil:
		o.m.ID = cause.derive(o)
	default:
		o.m.ID = newID()
	}
}

// idAlphabet is Crockford's base 32, which sorts as the bytes do.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// newID returns a new message ID: 48 bits of milliseconds and 80 random bits, 26
// characters that sort by time.
func newID() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMilli())<<16)
	// Random enough to be unique: ChaCha8, seeded by the operating system. An ID
	// is no secret.
	binary.BigEndian.PutUint64(b[8:], rand.Uint64())
	binary.BigEndian.PutUint16(b[6:], uint16(rand.Uint32()))
	return encodeID(b)
}

// encodeID writes 128 bits as 26 characters, five bits each, the first ones
// first.
func encodeID(b [16]byte) string {
	var text [26]byte
	high, low := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	for i := range text {
		text[i] = idAlphabet[high>>59]
		high, low = high<<5|low>>59, low<<5
	}
	return string(text[:])
}
