package holdfast

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/internal/engine"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// Publisher publishes bodies of one type. It is safe for concurrent use and has
// nothing to close: closing its transport ends it.
type Publisher[T any] struct {
	t   transport.Transport
	to  transport.Address
	cfg publisherConfig
}

// DefaultPublishTimeout bounds a Publish whose context has no earlier deadline.
const DefaultPublishTimeout = 30 * time.Second

type publisherConfig struct {
	codec     Codec
	timeout   time.Duration
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

// PublishTimeout bounds each Publish, tries included. The default is
// DefaultPublishTimeout, for zero too; the context of the call may end it earlier.
func PublishTimeout(d time.Duration) PublisherOption {
	return publisherOptionFunc(func(p *publisherConfig) {
		if d > 0 {
			p.timeout = d
		}
	})
}

// PublishObserver tells o of every publish.
func PublishObserver(o observe.Observer) PublisherOption {
	return publisherOptionFunc(func(p *publisherConfig) { p.observers = append(p.observers, o) })
}

// NewPublisher returns a publisher to an address, such as
// jetstream.Subject("orders.placed").
func NewPublisher[T any](t transport.Transport, to transport.Address, opts ...PublisherOption) *Publisher[T] {
	p := &Publisher[T]{t: t, to: to, cfg: publisherConfig{timeout: DefaultPublishTimeout}}
	for _, o := range opts {
		o.applyPublisher(&p.cfg)
	}
	p.cfg.codec = codecFor[T](p.cfg.codec)
	return p
}

// PublishOption sets something of one message.
type PublishOption interface{ applyMessage(*outgoing) }

type outgoing struct {
	m     transport.Message
	to    transport.Address
	codec Codec // of this message, if not the publisher's
}

type publishOptionFunc func(*outgoing)

func (f publishOptionFunc) applyMessage(o *outgoing) { f(o) }

// ID gives the message its ID. It names the logical message: publish the same
// thing again under the same ID and a broker that deduplicates stores one copy.
// The default is a new one that sorts by time.
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

// To publishes this message to another address.
func To(a transport.Address) PublishOption { return publishOptionFunc(func(o *outgoing) { o.to = a }) }

// Publish encodes body and returns nil once the broker has confirmed that it
// stored the message. It survives reconnects: a try whose outcome is temporary or
// unknown is repeated under the same ID until ctx ends. An error for which
// Unknown is true says that the message may have been stored all the same.
func (p *Publisher[T]) Publish(ctx context.Context, body T, opts ...PublishOption) error {
	o, err := p.prepare(body, opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.timeout)
	defer cancel()
	started := time.Now()
	tries, err := engine.Send(ctx, p.t, o.to, &o.m)
	for _, obs := range p.cfg.observers {
		obs.Observe(observe.Event{Kind: observe.Published, Time: started, Subject: o.to.String(), MessageID: o.m.ID, Attempt: tries, Duration: time.Since(started), Err: err})
	}
	return err
}

// prepare makes the message: the first of a publish's three rooms.
func (p *Publisher[T]) prepare(body T, opts []PublishOption) (*outgoing, error) {
	o := &outgoing{to: p.to}
	for _, opt := range opts {
		opt.applyMessage(o)
	}
	if err := o.encode(p.cfg.codec, body); err != nil {
		return nil, err
	}
	return o, nil
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
	if o.m.ID == "" {
		o.m.ID = newID()
	}
	return nil
}

// idAlphabet is Crockford's base 32, which sorts as the bytes do.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// newID returns a new message ID: 48 bits of milliseconds and 80 random bits, 26
// characters that sort by time.
func newID() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMilli())<<16)
	rand.Read(b[6:]) // never fails: crypto/rand ends the process instead
	return base32.NewEncoding(idAlphabet).WithPadding(base32.NoPadding).EncodeToString(b[:])
}
