package holdfast

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// Option sets something of a subscription. An option given to the app or to a
// group is the default of its subscriptions; the nearest one counts.
type Option interface{ apply(*settings) }

// settings are what the options of app, group and subscription add up to.
type settings struct {
	name        string
	policy      recovery.Policy
	retrySet    bool
	ackSet      bool
	deadLetters deadLetterChoice
	store       transport.DeadLetterStore
	codec       Codec
	concurrency int
	prefetch    int
	prefetchSet bool
	timeout     time.Duration
	maxLease    time.Duration
	orderBy     func(*transport.Message) string
	compensate  func(context.Context, *Meta, error) error
	middleware  []Middleware
	reply       bool
	faults      []error

	counts        transport.CountStore // see CountIn
	brokerRetries int                  // see BrokerRetries
	brokerSet     bool                 // by this place
}

type deadLetterChoice uint8

const (
	deadLettersByDefault deadLetterChoice = iota // where the transport has a store
	deadLettersWanted
	deadLettersOff
	deadLettersElsewhere
)

// applyAll applies what was said in one place. An ack policy that never retries
// puts aside the retries of the places around it; beside retries of the same
// place it is a contradiction, which the check finds.
func (s *settings) applyAll(opts []Option) {
	outer := *s
	s.retrySet, s.ackSet, s.brokerSet = false, false, false
	for _, o := range opts {
		if o == nil {
			s.required(false, "an option")
			continue
		}
		o.apply(s)
	}
	retries := s.policy.Ack == RetryOnError || s.policy.Ack == Manual
	if s.ackSet && !retries && !s.retrySet {
		Retry{}.apply(s)
		s.retrySet, outer.retrySet = false, false
	}
	s.retrySet, s.ackSet = s.retrySet || outer.retrySet, s.ackSet || outer.ackSet
}

// required notes a part of an option that is missing: no option is a no-op.
func (s *settings) required(there bool, what string) {
	if !there {
		s.faults = append(s.faults, errors.New(what+" is nil"))
	}
}

type optionFunc func(*settings)

func (f optionFunc) apply(s *settings) { f(s) }

// Retry bounds how often a failed message is handled again. The zero value tries
// once. See the fields for what each bounds; whichever ends first counts.
//
// Without a Retry a subscription on a broker that redelivers uses DefaultRetry.
type Retry struct {
	// Attempts is how often the handler runs at most for one message, immediate
	// retries included. Zero means 1, or no bound in number if Within is set.
	Attempts int
	// Immediate is how many of the retries follow at once, in process.
	Immediate int
	// Backoff lies between the other attempts. It is required where there are
	// any.
	Backoff Backoff
	// Jitter lengthens each delay by up to this fraction of it, 0.2 being 20 %.
	// It never shortens one. Zero means none.
	Jitter float64
	// Within bounds the time from the first attempt to the start of the last.
	// Zero means no bound.
	Within time.Duration
	// Rules treat classes of errors apart; the first that matches counts.
	Rules []Rule
}

func (r Retry) apply(s *settings) {
	s.retrySet = true
	s.retriesBy(0)
	s.policy.Attempts, s.policy.Immediate, s.policy.Backoff = r.Attempts, r.Immediate, r.Backoff
	s.policy.Jitter, s.policy.Within, s.policy.Rules = r.Jitter, r.Within, r.Rules
}

// DefaultRetry is used by subscriptions that say nothing, where the broker
// redelivers: five attempts, one of them at once, the others from one second on.
func DefaultRetry() Retry {
	return Retry{Attempts: 5, Immediate: 1, Backoff: Exponential(time.Second, time.Minute), Jitter: 0.2}
}

// NoRetry lets the handler run once. What fails becomes a dead letter at once.
func NoRetry() Option { return Retry{Attempts: 1} }

// Backoff gives the delays between attempts; see Constant, Exponential, Delays.
type Backoff = recovery.Backoff

// Constant waits d before every delayed retry.
func Constant(d time.Duration) Backoff { return recovery.Constant(d) }

// Exponential waits first, then twice as long each time, up to limit.
func Exponential(first, limit time.Duration) Backoff { return recovery.Exponential(first, limit) }

// Delays waits the given delays in turn; the last one repeats.
func Delays(d ...time.Duration) Backoff { return recovery.Delays(d...) }

// Rule treats errors of one class in its own way; see ErrorIs and ErrorAs.
type Rule = recovery.Rule

// ErrorIs matches errors as errors.Is does; for Rule.When.
func ErrorIs(target error) func(error) bool { return recovery.Is(target) }

// ErrorAs matches errors that have an E in their chain; for Rule.When.
func ErrorAs[E error]() func(error) bool { return recovery.As[E]() }

// AckPolicy says when a message is acked.
type AckPolicy = recovery.AckPolicy

// The ack policies.
const (
	RetryOnError  = recovery.RetryOnError  // after success; failures are retried, then dead-lettered
	RejectOnError = recovery.RejectOnError // after success; failures are dead-lettered or rejected at once
	AckAlways     = recovery.AckAlways     // after the handler, whatever it returned; see Compensate
	AckFirst      = recovery.AckFirst      // before the handler: at most once
	Manual        = recovery.Manual        // by the handler, through Meta.Ack, Nack and Reject
)

// Ack chooses when messages are acked. The default is RetryOnError.
func Ack(p AckPolicy) Option {
	return optionFunc(func(s *settings) { s.policy.Ack, s.ackSet = p, true })
}

// Compensate sets what runs after a handler of AckAlways failed. The message is
// acked only after it returned nil. While it fails the message is retried, with
// Retry's backoff if that is set and five attempts from one second on otherwise,
// and becomes a dead letter then; with NoDeadLetter it is discarded.
func Compensate(fn func(ctx context.Context, m *Meta, cause error) error) Option {
	return optionFunc(func(s *settings) {
		s.compensate = fn
		s.required(fn != nil, "the compensation")
	})
}

// DeadLetter asks for dead letters in the transport's own store: it is refused
// at start where there is none. It is the default where there is one.
func DeadLetter() Option {
	return optionFunc(func(s *settings) { s.deadLetters, s.store = deadLettersWanted, nil })
}

// DeadLetterTo keeps dead letters in another store, such as that of a JetStream
// transport for a subscription on core NATS.
func DeadLetterTo(store transport.DeadLetterStore) Option {
	return optionFunc(func(s *settings) { s.deadLetters, s.store = deadLettersElsewhere, store })
}

// NoDeadLetter discards what fails for good, counted and logged.
func NoDeadLetter() Option {
	return optionFunc(func(s *settings) { s.deadLetters, s.store = deadLettersOff, nil })
}

// Name names the subscription: letters, digits, '-' and '_'. The default is the
// name its source has: the durable consumer, the queue, the queue group. A source
// that has none, such as a core NATS subject without a group, needs this option. The name is part of the address of its dead letters, so
// it must not change while there are any.
func Name(name string) Option { return optionFunc(func(s *settings) { s.name = name }) }

// Concurrency is how many messages are handled at once. The default is 1.
func Concurrency(n int) Option { return optionFunc(func(s *settings) { s.concurrency = n }) }

// Prefetch is how many messages may be held beyond those being handled, so that
// a handler need not wait for the network. The default is Concurrency, 256 with
// OrderBy, and none with BrokerRetries. What is held and not yet handled is handed back at a stop.
func Prefetch(n int) Option {
	return optionFunc(func(s *settings) { s.prefetch, s.prefetchSet = n, true })
}

// Timeout bounds one run of the handler: its context ends, and if it does not
// return then it is left behind. The failure is transient. The default is no
// timeout but MaxLease.
func Timeout(d time.Duration) Option { return optionFunc(func(s *settings) { s.timeout = d }) }

// MaxLease is how long a message is kept at most, through all attempts that
// follow at once. It is kept to a third of the broker's lease. The default is
// one hour, or twice the Timeout if that is longer, and less where the broker takes
// a message back before, as RabbitMQ does after its consumer_timeout.
func MaxLease(d time.Duration) Option { return optionFunc(func(s *settings) { s.maxLease = d }) }

// MaxAge makes a message that is older when it is received a dead letter,
// without handling it. The default is no bound.
func MaxAge(d time.Duration) Option { return optionFunc(func(s *settings) { s.policy.MaxAge = d }) }

// CrashLimit is how many deliveries of one message may end without an outcome,
// because the process died or its lease ran out, before it becomes a dead letter
// without being handled. The default is recovery.DefaultCrashLimit.
func CrashLimit(n int) Option { return optionFunc(func(s *settings) { s.policy.CrashLimit = n }) }

// OrderBy keeps the messages of one key in sequence, retries included, while
// those of other keys go on. The order holds within this process: give the
// source one consumer at a time if it must hold across processes. Messages that
// wait for one of their key are held and fill Prefetch. A message whose key is
// empty waits for no other.
func OrderBy(key func(m *transport.Message) string) Option {
	return optionFunc(func(s *settings) {
		s.required(key != nil, "the key function of OrderBy")
		s.orderBy = key
		if key != nil {
			s.orderBy = func(m *transport.Message) string { return cmp.Or(key(m), "\x00"+m.Position+"\x00"+m.ID) }
		}
	})
}

// OrderByKey is OrderBy the key the sender gave.
func OrderByKey() Option {
	return OrderBy(func(m *transport.Message) string { return m.Key })
}

// WithCodec sets the codec of bodies. The default is Bytes for []byte, Text for
// string and JSON for everything else.
func WithCodec(c Codec) Option {
	return optionFunc(func(s *settings) {
		s.codec = c
		s.required(c != nil, "the codec")
	})
}

// Use adds middleware around the handler. That of the app is outermost, then
// that of the groups, then that of the subscription, each in the order given.
func Use(m ...Middleware) Option {
	return optionFunc(func(s *settings) {
		for _, one := range m {
			if s.required(one != nil, "a middleware"); one != nil {
				s.middleware = append(s.middleware, one)
			}
		}
	})
}

// HandlerFunc handles a message whose body is not decoded yet; see Middleware.
type HandlerFunc func(ctx context.Context, m *Meta) error

// Middleware wraps a handler. Decoding is part of what it wraps, so it sees
// bodies that cannot be decoded too. It runs once for each attempt.
type Middleware func(next HandlerFunc) HandlerFunc
