package memory

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// What a broker is when no option says otherwise.
const (
	// DefaultLease is how long a delivery may be worked on.
	DefaultLease = 30 * time.Second
	// DefaultMaxSize is how large a message may be, headers included, in bytes.
	DefaultMaxSize = 1 << 20
	// DefaultDedupWindow is how long a second copy is recognised.
	DefaultDedupWindow = 2 * time.Minute
	// operationTimeout bounds a call whose context has no end of its own.
	operationTimeout = 10 * time.Second
)

// Option changes what a broker is. The options of this package are all there
// are.
type Option interface{ apply(*Broker) }

type option func(*Broker)

func (o option) apply(b *Broker) { o(b) }

// WithLease sets how long a delivery may be worked on, for queues that do not
// say. Zero or less means [DefaultLease].
func WithLease(d time.Duration) Option {
	return option(func(b *Broker) { b.lease = positive(d, DefaultLease) })
}

// WithMaxSize sets how large a message may be in bytes, header names and values
// included. Zero or less means [DefaultMaxSize].
func WithMaxSize(n int) Option {
	return option(func(b *Broker) { b.maxSize = positive(n, DefaultMaxSize) })
}

// WithDedupWindow sets how long a queue recognises a second copy. Zero or less
// means [DefaultDedupWindow].
func WithDedupWindow(d time.Duration) Option {
	return option(func(b *Broker) { b.dedupWindow = positive(d, DefaultDedupWindow) })
}

func positive[N int | time.Duration](n, otherwise N) N {
	if n <= 0 {
		return otherwise
	}
	return n
}

// Broker is an in-process broker and the transport that reaches it. Its methods
// are safe for concurrent use.
//
// It implements transport.Transport, PipelinedPublisher, DeadLetterer, Requester
// and Observable. Its deliveries implement PipelinedAcker, Rejecter, LeaseExtender,
// Responder and Native.
type Broker struct {
	lease       time.Duration
	maxSize     int
	dedupWindow time.Duration
	done        chan struct{}  // closed by Close
	timers      sync.WaitGroup // one count for each armed or running timer
	running     sync.WaitGroup // the goroutines of pipelines

	// mu guards everything below and the state of queues, receivers and
	// deliveries. It is the only lock of a broker besides observers.mu, and is
	// never held while waiting or while an observer runs.
	mu         sync.Mutex
	closed     bool
	down       error         // why the connection is cut; nil while it is up
	up         chan struct{} // closed when it is up again; nil while it is up
	paused     bool
	seq        uint64
	stored     int             // messages in all queues
	idle       []chan struct{} // each closed when stored becomes zero
	queues     map[string]*queue
	order      []*queue // queues in the order they were made
	subs       map[string]*queue
	requests   map[*request]struct{}
	pipelines  map[*pipeline]struct{}
	unanswered int   // messages of pipelines to store without an outcome
	alarm      error // why publishes are held up, if pipelines are to say so
	faults     map[Op][]*fault
	stalls     map[Op]chan struct{}
	letters    letters

	observers observers
}

// New returns an empty broker.
func New(opts ...Option) *Broker {
	b := &Broker{
		lease:       DefaultLease,
		maxSize:     DefaultMaxSize,
		dedupWindow: DefaultDedupWindow,
		done:        make(chan struct{}),
		queues:      map[string]*queue{},
		subs:        map[string]*queue{},
		requests:    map[*request]struct{}{},
		pipelines:   map[*pipeline]struct{}{},
		faults:      map[Op][]*fault{},
		stalls:      map[Op]chan struct{}{},
		letters:     letters{byID: map[letterID]*letter{}},
	}
	for _, o := range opts {
		o.apply(b)
	}
	return b
}

// Capabilities implements transport.Transport: everything but durability.
func (b *Broker) Capabilities() transport.Capabilities {
	return transport.Capabilities{
		Name:        "memory",
		Redelivers:  true,
		Delays:      true,
		Rejects:     true,
		Stores:      true,
		DeadLetters: true,
		Requests:    true,
		Requeues:    true,
		Schedules:   true,
		Expires:     true,
		Priorities:  true,
	}
}

// Check implements transport.Transport. Everything a subscription can want is
// kept here, so it finds only names that can never work, a queue that is not as
// the source describes it, and what Provision will create.
func (b *Broker) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	s, err := b.own("check", src)
	if err != nil {
		return nil, err
	}
	lost, err := b.begin(ctx, OpCheck, s.name)
	if err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	return s.findings(b.queues[s.name], want), lost
}

// Provision implements transport.Transport: it makes the queue when it is
// missing. From then on the queue stores what is published to its subjects,
// whether or not a receiver is open, until the broker is closed.
func (b *Broker) Provision(ctx context.Context, src transport.Source, want transport.Want) (transport.Report, error) {
	s, err := b.own("provision", src)
	if err != nil {
		return transport.Report{}, err
	}
	if err := s.validate(); err != nil {
		return transport.Report{}, err
	}
	lost, err := b.begin(ctx, OpProvision, s.name)
	if err != nil {
		return transport.Report{}, err
	}
	defer b.mu.Unlock()
	var report transport.Report
	q := b.queues[s.name]
	if q == nil {
		q = newQueue(b, s)
		b.queues[s.name] = q
		b.order = append(b.order, q)
		report.Created = append(report.Created, "queue "+s.name)
	} else {
		report.Findings = s.findings(q, want)
	}
	if want.Subscription != "" {
		b.subs[want.Subscription] = q
	}
	return report, lost
}

// Open implements transport.Transport. The queue must have been provisioned.
func (b *Broker) Open(ctx context.Context, src transport.Source, want transport.Want) (transport.Receiver, error) {
	s, err := b.own("open", src)
	if err != nil {
		return nil, err
	}
	lost, err := b.begin(ctx, OpOpen, s.name)
	if err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	if lost != nil {
		return nil, lost
	}
	q := b.queues[s.name]
	if q == nil {
		return nil, &transport.Error{
			Op: "open", Address: s.name, Kind: transport.Permanent,
			Hint: "provision the source first", Err: transport.ErrNotFound,
		}
	}
	if want.Subscription != "" {
		b.subs[want.Subscription] = q
	}
	r := &receiver{q: q, subscription: want.Subscription, window: want.Window(), retries: want.BrokerRetries}
	q.receivers[r] = struct{}{}
	return r, nil
}

// Close implements transport.Transport. It closes every receiver, ends every
// call that waits with ErrClosed, ends every pipeline and drops what is stored. Deliveries that are
// still held can no longer be settled.
func (b *Broker) Close(context.Context) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	close(b.done)
	b.endPipelines(closedError(string(OpPublish), ""))
	var events []transport.Event
	for _, q := range b.order {
		events = append(events, q.shut()...)
	}
	b.mu.Unlock()
	b.observers.emit(events...)
	b.timers.Wait()
	b.running.Wait()
	return nil
}

// own returns src as a source of this broker.
func (b *Broker) own(op string, src transport.Source) (*source, error) {
	s, ok := src.(*source)
	if !ok || s.broker != b {
		return nil, transport.Invalid(op, describe(src), "the source was made by another transport")
	}
	return s, nil
}

func describe(src transport.Source) string {
	if src == nil {
		return ""
	}
	return src.String()
}

// forget counts n messages that left the broker, and wakes those who wait for
// the broker to be idle. b.mu is held.
func (b *Broker) forget(n int) {
	b.stored -= n
	if b.stored > 0 {
		return
	}
	for _, ch := range b.idle {
		close(ch)
	}
	b.idle = nil
}
