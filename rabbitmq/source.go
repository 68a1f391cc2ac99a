package rabbitmq

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// DeclareMode says what may be done about a queue that is missing or differs
// from what the program asks for.
type DeclareMode uint8

const (
	// DeclareEnsure declares what is missing. What differs is reported, and left
	// as it is.
	DeclareEnsure DeclareMode = iota
	// DeclareVerify declares nothing: what is missing is an error.
	DeclareVerify
	// DeclareAdopt uses a queue of somebody else as it is: the queue, its
	// exchanges and its bindings are never declared. The queues of holdfast
	// beside it, for retries and dead letters, are.
	DeclareAdopt
)

// String returns the name of the mode.
func (m DeclareMode) String() string {
	switch m {
	case DeclareVerify:
		return "verify"
	case DeclareAdopt:
		return "adopt"
	default:
		return "ensure"
	}
}

// QueueType is the kind of a queue.
type QueueType string

// The kinds of queues.
const (
	Quorum  QueueType = "quorum"  // replicated, fsynced before a confirm, counts deliveries
	Classic QueueType = "classic" // on one node; counts no deliveries
	Stream  QueueType = "stream"  // a log that is read and not emptied; nothing can be given back
)

// Binding routes what is published to an exchange into a queue.
type Binding struct {
	// Exchange is where messages come from. Required.
	Exchange string
	// Kind is the type of the exchange, with which it is declared when it is
	// missing: direct, fanout, topic, headers, or one of a plugin. Empty means
	// that the exchange is there already, or described in QueueConfig.Exchanges.
	Kind string
	// Key is the routing key or pattern. In a binding of the queue {name} is the
	// pattern * with a name, and a last {name...} the pattern #: a handler finds
	// what they stand for in the Param of its message.
	Key string
	// Args are the arguments of the binding, such as the headers to match.
	Args amqp.Table
}

// ExchangeConfig describes an exchange.
type ExchangeConfig struct {
	// Name of the exchange. Required.
	Name string
	// Kind is its type. Required.
	Kind string
	// Transient: the exchange does not survive a restart of the broker.
	Transient bool
	// AutoDelete: the exchange goes when its last binding does.
	AutoDelete bool
	// Internal: nobody can publish to it, only other exchanges route to it.
	Internal bool
	// Alternate is an exchange that gets what this one cannot route. The broker
	// confirms such a message, and does not return it.
	Alternate string
	// Args are further arguments.
	Args amqp.Table
	// Bindings route from other exchanges to this one.
	Bindings []Binding
}

// QueueConfig describes a queue as a source of messages.
type QueueConfig struct {
	// Name of the queue. Required; at most 220 bytes, which leaves room for the
	// names of the queues beside it. A subscription without a name takes it.
	Name string
	// Type of the queue. Default: Quorum. An adopted queue has the type it has.
	Type QueueType
	// Bindings of the queue. Bindings that exist already are kept.
	Bindings []Binding
	// Exchanges to declare before the bindings, for what Binding.Kind alone does
	// not say.
	Exchanges []ExchangeConfig
	// Declare says what may be declared. Default: DeclareEnsure.
	Declare DeclareMode
	// Arguments of the queue beyond those that the other fields stand for.
	Arguments amqp.Table
	// DeliveryLimit is how often a quorum queue hands out one message at most
	// before it dead-letters it by itself: a net below the policy, which should
	// never be reached. A message that has come half the way, by deaths of
	// processes and reconnects beside it, is moved to the end of its queue, where
	// that count starts anew; not so where order is kept, and where the limit is
	// below 20. Default: 100. It is part of the queue and cannot be changed later.
	DeliveryLimit int
	// DeadLetterExchange is where the queue sends what is rejected. Empty means
	// <queue>.dead, through the default exchange; for an adopted queue it means
	// that there is none.
	DeadLetterExchange string
	// DeadLetterKey is the routing key with which it does. Empty keeps the key of
	// the message.
	DeadLetterKey string
	// SingleActiveConsumer: one consumer at a time gets messages, and another
	// takes over when it is gone. With Concurrency(1) and Prefetch(0) this keeps the
	// order of the queue over all processes, retries included: a message that waits
	// for its next attempt holds up those behind it. To keep the order of each key
	// and no more, use OrderBy.
	SingleActiveConsumer bool
	// Exclusive: no other consumer is let in while ours is there. Classic queues
	// only.
	Exclusive bool
	// ConsumerPriority: consumers with a higher one are served first.
	ConsumerPriority int
	// Offset is where the consumer of a stream begins: "first", "last", "next", a
	// number, a time.Time or an interval such as "1h". Required for streams.
	Offset any
	// ConsumerArguments are further arguments of the consumer.
	ConsumerArguments amqp.Table
}

const (
	defaultDeliveryLimit = 100
	// maxQueueName leaves room for ".retry." and twelve digits.
	maxQueueName = 220
)

// source is a QueueConfig bound to its transport, defaults filled in.
type source struct {
	t   *Transport
	cfg QueueConfig // the keys of its Bindings are patterns

	transport.Templates // what those keys were made of
	unread              []string
}

var (
	_ transport.Source     = (*source)(nil)
	_ transport.Prefixer   = (*source)(nil)
	_ transport.Identified = (*source)(nil)
)

// Queue returns a source for subscriptions. It does no I/O: what cfg asks for is
// checked by Check and made by Provision.
func (t *Transport) Queue(cfg QueueConfig) transport.Source {
	cfg.Bindings = slices.Clone(cfg.Bindings)
	cfg.Exchanges = slices.Clone(cfg.Exchanges)
	for i := range cfg.Exchanges {
		cfg.Exchanges[i].Bindings = slices.Clone(cfg.Exchanges[i].Bindings)
	}
	cfg.Arguments, cfg.ConsumerArguments = maps.Clone(cfg.Arguments), maps.Clone(cfg.ConsumerArguments)
	if cfg.Type == "" && cfg.Declare != DeclareAdopt {
		cfg.Type = Quorum
	}
	if cfg.DeliveryLimit == 0 && cfg.Type != Classic && cfg.Type != Stream {
		cfg.DeliveryLimit = defaultDeliveryLimit
	}
	return t.source(cfg)
}

func (t *Transport) source(cfg QueueConfig) *source {
	s := &source{t: t, cfg: cfg}
	keys := make([]string, len(cfg.Bindings))
	for i, b := range cfg.Bindings {
		keys[i] = b.Key
	}
	s.Templates, s.unread = transport.ParseTemplates(keys)
	for i, pattern := range s.Patterns("*", "#") {
		s.cfg.Bindings[i].Key = pattern
	}
	return s
}

// Transport implements transport.Source.
func (s *source) Transport() transport.Transport { return s.t }

// Name implements transport.Source.
func (s *source) Name() string { return s.cfg.Name }

// Identity implements transport.Identified: the consumers of a queue share it.
func (s *source) Identity() string { return "queue " + s.cfg.Name }

// String implements transport.Source.
func (s *source) String() string { return "rabbitmq queue " + s.cfg.Name }

// WithPrefix implements transport.Prefixer: the prefix is put before the names of
// the queue and of all exchanges but those of the broker (amq.*). Routing keys
// stay as they are.
func (s *source) WithPrefix(prefix string) transport.Source {
	cfg := s.cfg
	name := func(n string) string {
		if n == "" || reservedName(n) {
			return n
		}
		return prefix + n
	}
	bindings := func(in []Binding) []Binding {
		out := slices.Clone(in)
		for i := range out {
			out[i].Exchange = name(out[i].Exchange)
		}
		return out
	}
	cfg.Name = name(cfg.Name)
	cfg.DeadLetterExchange = name(cfg.DeadLetterExchange)
	cfg.Bindings = bindings(cfg.Bindings)
	for i, t := range s.Templates {
		cfg.Bindings[i].Key = t.String()
	}
	cfg.Exchanges = slices.Clone(cfg.Exchanges)
	for i := range cfg.Exchanges {
		e := &cfg.Exchanges[i]
		e.Name, e.Alternate, e.Bindings = name(e.Name), name(e.Alternate), bindings(e.Bindings)
	}
	return s.t.source(cfg)
}

// reservedName tells whether a name belongs to the broker.
func reservedName(n string) bool { return len(n) >= 4 && n[:4] == "amq." }

// sourceOf returns src as a source of this transport.
func (t *Transport) sourceOf(op string, src transport.Source) (*source, error) {
	s, ok := src.(*source)
	if !ok || s.t != t {
		return nil, transport.Invalid(op, src.String(), "the source was made by another transport")
	}
	return s, nil
}

// stream tells whether the queue is a stream.
func (s *source) stream() bool { return s.cfg.Type == Stream }

// owned tells whether the queue may be declared again when it is gone.
func (s *source) owned() bool { return s.cfg.Declare == DeclareEnsure }

// faults lists what can never work about the source, whatever the broker has.
func (s *source) faults() []string {
	faults := slices.Clone(s.unread)
	add := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	c := &s.cfg
	if c.Name == "" || len(c.Name) > maxQueueName || !validText(c.Name) {
		add("the name of the queue is empty, longer than %d bytes, or has control characters", maxQueueName)
	}
	if reservedName(c.Name) {
		add("names that start with amq. belong to the broker")
	}
	s.typeFaults(add)
	s.argumentFaults(add)
	for _, table := range []amqp.Table{c.Arguments, c.ConsumerArguments} {
		if err := table.Validate(); err != nil {
			add("an argument has a type that AMQP has not: %v", err)
		}
	}
	s.bindingFaults(add)
	return faults
}

// typeFaults lists what a queue of this type does not have. A broker would take
// some of it in silence.
func (s *source) typeFaults(add func(string, ...any)) {
	c := &s.cfg
	switch c.Type {
	case Quorum, Classic, "":
		if c.Offset != nil {
			add("Offset is for streams only")
		}
	case Stream:
		if fault := offsetFault(c.Offset); fault != "" {
			add("%s", fault)
		}
		if c.SingleActiveConsumer {
			add("a stream has no single active consumer over AMQP 0-9-1")
		}
		if c.DeadLetterExchange != "" {
			add("a stream dead-letters nothing: leave DeadLetterExchange out")
		}
		if c.ConsumerPriority != 0 {
			add("a stream gives the same to each of its consumers: leave ConsumerPriority out")
		}
	default:
		add("the queue type %q is none of quorum, classic and stream", c.Type)
	}
	if c.Exclusive && c.Type != Classic && c.Declare != DeclareAdopt {
		add("Exclusive needs a classic queue; use SingleActiveConsumer")
	}
	switch {
	case c.DeliveryLimit < 0:
		add("DeliveryLimit is negative")
	case c.DeliveryLimit > 0 && (c.Type == Classic || c.Type == Stream):
		add("only a quorum queue counts deliveries: leave DeliveryLimit out, or set Type to Quorum")
	}
	if c.DeadLetterKey != "" && c.DeadLetterExchange == "" {
		add("DeadLetterKey needs a DeadLetterExchange")
	}
	if c.ConsumerPriority < math.MinInt32 || c.ConsumerPriority > math.MaxInt32 {
		add("ConsumerPriority has 32 bits")
	}
}

// interval is how a stream's offset says an age.
var interval = regexp.MustCompile(`^[0-9]+(Y|M|D|h|m|s)$`)

// offsetFault tells what is wrong with the offset of a stream, "" for nothing.
func offsetFault(offset any) string {
	const places = "\"next\" begins with what comes, \"first\" with what it holds, \"last\" with its last part; a number, a time.Time and an age such as \"1h\" are places as well"
	switch at := offset.(type) {
	case nil:
		return "a stream needs an Offset: " + places
	case string:
		if at == "first" || at == "last" || at == "next" || interval.MatchString(at) {
			return ""
		}
	case int, int8, int16, int32, int64, uint8, uint16, uint32, time.Time:
		return ""
	}
	return fmt.Sprintf("the Offset %v (%T) is no place in a stream: %s", offset, offset, places)
}

// settable are the arguments of a queue that have a field of their own: beside it
// one of them would hide from what is checked.
var settable = map[string]string{
	argType: "Type", argSAC: "SingleActiveConsumer", argDLX: "DeadLetterExchange", argDLKey: "DeadLetterKey",
}

func (s *source) argumentFaults(add func(string, ...any)) {
	for _, name := range slices.Sorted(maps.Keys(settable)) {
		if s.cfg.Arguments[name] != nil {
			add("the argument %s has a field of its own: set %s", name, settable[name])
		}
	}
}

func (s *source) bindingFaults(add func(string, ...any)) {
	check := func(b Binding) {
		if b.Exchange == "" {
			add("a binding names no exchange; every queue is bound to the default exchange already")
		}
		if len(b.Exchange) > maxShort || len(b.Key) > maxShort {
			add("an exchange's name and a routing key have %d bytes at most", maxShort)
		}
		if err := b.Args.Validate(); err != nil {
			add("an argument of a binding has a type that AMQP has not: %v", err)
		}
	}
	for _, b := range s.cfg.Bindings {
		check(b)
	}
	for _, e := range s.cfg.Exchanges {
		if e.Name == "" || e.Kind == "" {
			add("an exchange needs a Name and a Kind")
		}
		for _, b := range e.Bindings {
			check(b)
		}
	}
}
