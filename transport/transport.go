package transport

import (
	"context"
	"math"
	"time"
)

// Transport is a connection to a broker. Its methods are safe for concurrent
// use.
type Transport interface {
	// Capabilities says what the broker can do. It does no I/O and never
	// changes.
	Capabilities() Capabilities

	// Check compares what a subscription wants of src with what the broker has
	// today, and changes nothing. It returns every contradiction it found, not
	// only the first; the error is for a check that could not be made at all.
	Check(ctx context.Context, src Source, want Want) ([]Finding, error)

	// Provision makes what src and want need and is missing, as far as the mode
	// of src allows. It is idempotent, never repairs drift in silence and never
	// takes anything away.
	Provision(ctx context.Context, src Source, want Want) (Report, error)

	// Publish stores m and returns nil only after the broker confirmed it.
	// It tries once, bounded by ctx and by a timeout of its own; the caller
	// repeats it for a Temporary or Unknown error under the same DedupID.
	Publish(ctx context.Context, to Address, m *Message) error

	// Open starts taking messages from a provisioned source.
	Open(ctx context.Context, src Source, want Want) (Receiver, error)

	// Close ends the connection, waiting for what is pending until ctx ends. It
	// is idempotent. Receivers are closed before their transport.
	Close(ctx context.Context) error
}

// Capabilities says what a broker can do. The conformance suite tests each
// field in both directions.
type Capabilities struct {
	// Name is the transport's name: "memory", "natscore", "jetstream".
	Name string
	// Redelivers: a delivery that is not acked comes back.
	Redelivers bool
	// Delays: Nack keeps a message back for a time.
	Delays bool
	// Rejects: deliveries implement Rejecter.
	Rejects bool
	// Stores: a publish is kept until somebody takes it. False means that a
	// message nobody listens to is gone.
	Stores bool
	// Durable: what is stored outlives the process that runs the broker.
	Durable bool
	// DeadLetters: the transport implements DeadLetterer.
	DeadLetters bool
	// Requests: the transport implements Requester and its deliveries Responder.
	Requests bool
	// Requeues: deliveries implement Requeuer, and the broker bounds them.
	Requeues bool
	// Schedules: a message with NotBefore is kept back by the broker.
	Schedules bool
	// Expires: a message with a TTL is dropped by the broker when it has passed.
	Expires bool
	// Priorities: a message with a Priority is handed out before those of a
	// lower one.
	Priorities bool
}

// Source is a place to take messages from, made by its transport (a stream and
// durable consumer, a queue, a subject and group). It is opaque to the engine.
type Source interface {
	// Transport returns the transport that made the source.
	Transport() Transport
	// Name is the name a subscription takes from its source when it is given
	// none: the durable, the queue, the group. May be empty.
	Name() string
	// String describes the source in one line for logs and errors, without
	// credentials.
	String() string
}

// Prefixer is a Source whose addresses can be put under a common prefix.
type Prefixer interface {
	// WithPrefix returns a copy of the source with prefix put before every
	// address and name that belongs to it.
	WithPrefix(prefix string) Source
}

// Want is what one subscription asks of its source.
type Want struct {
	// Subscription is the subscription's name.
	Subscription string
	// Concurrency is how many messages are handled at once. At least 1.
	Concurrency int
	// Prefetch is how many messages a receiver may hold beyond those.
	Prefetch int
	// Redelivery: an unacked message must come back.
	Redelivery bool
	// Delay: failed messages are given back with a delay, MaxDelay at most.
	Delay    bool
	MaxDelay time.Duration
	// Delays are the different delays the policy asks for, without jitter,
	// rising: for a broker with one place for each. Any other delay up to and
	// beyond MaxDelay may be asked for as well, by a handler.
	Delays []time.Duration
	// DeadLetter: dead letters go to this transport's own store.
	DeadLetter bool
	// Reject: failed messages are settled by the broker's own terminal.
	Reject bool
	// Reply: handlers answer requests.
	Reply bool
	// Ordered: messages of one key are kept in sequence; deliveries are held
	// through their backoff.
	Ordered bool
	// BrokerRetries: failed messages are given back through Requeuer, and the
	// broker itself hands one out again so often at most. Zero means that this
	// is not asked for. Capabilities.Requeues says whether it can be.
	BrokerRetries int
	// Hold is how long the program asks that one delivery may be kept in hand: by
	// its timeouts, or because it waits there for its retries when it is Ordered.
	// Zero means as long as the broker lets it.
	Hold time.Duration
	// Counted: attempts are counted elsewhere, under Message.ID. Where messages
	// without an ID of their own may share one, the check says so.
	Counted bool
}

// Window is how many messages a receiver may have taken and not yet settled.
func (w Want) Window() int {
	handled := max(w.Concurrency, 1)
	return handled + min(max(w.Prefetch, 0), math.MaxInt-handled)
}

// Report says what Provision did.
type Report struct {
	// Created names what was made, in the order it was made.
	Created []string
	// Updated names what was changed because the source's mode asked for it.
	Updated []string
	// Findings are drifts that were seen and left alone.
	Findings []Finding
}

// Receiver hands out deliveries of one source.
type Receiver interface {
	// Receive waits for the next delivery. It survives reconnects. Many
	// goroutines may call it at once; each delivery goes to one of them, in the
	// broker's order. After an error other than the end of ctx the receiver is
	// of no more use: close it and open another. After Close it returns
	// ErrClosed.
	//
	// The lease of a delivery is fresh when it is handed out: a receiver keeps
	// up the leases of what it has buffered.
	Receive(ctx context.Context) (Delivery, error)

	// Close stops taking messages, hands back to the broker what was buffered
	// and never handed out, waits until pipelined settlements are confirmed,
	// and ends with ctx at the latest. Deliveries handed out before stay
	// settleable until the transport is closed. It is idempotent.
	Close(ctx context.Context) error
}

// Leased is a Receiver whose deliveries are leased: a delivery neither settled
// nor extended within Lease is handed to somebody else.
type Leased interface {
	Lease() time.Duration
}

// Bounded is a Source whose broker takes a delivery back when it was not settled for
// so long, whatever is said about it meanwhile. The engine cancels a handler before
// that.
type Bounded interface {
	// Bound is how long that is; zero means for ever. It does no I/O.
	Bound() time.Duration
}

// Delivery is one hand-over of a message. It has one owner, who settles it
// once; a second settlement is ErrSettled. A settlement that failed may be
// tried again. Every settlement is bounded by a timeout of the transport's own
// as well as by ctx.
type Delivery interface {
	// Message returns the message; the same pointer each time.
	Message() *Message

	// Deliveries is how often the broker has handed out this message, this time
	// included, by the broker's own count. It may over-count attempts (messages
	// that were buffered and never seen may come back counted, see Returner) and
	// never under-counts them. At least 1.
	Deliveries() int

	// Ack settles the delivery as done. It returns nil once the broker has
	// confirmed it, where the broker can.
	Ack(ctx context.Context) error

	// Nack gives the message back to this subscription only, to be handed out
	// again not before delay has passed. It may return before the broker has
	// confirmed: a lost nack brings the message back when the lease ends, and
	// loses nothing.
	Nack(ctx context.Context, delay time.Duration) error
}

// PipelinedAcker is a Delivery that can be acked without waiting for the
// broker's confirmation. The receiver confirms such acks in the background,
// repeats them after a reconnect, waits for them in Close, and reports one that
// could not be confirmed as an AckUnconfirmed event.
type PipelinedAcker interface {
	AckLater() error
}

// Returner is a Delivery that can be given back uncharged: nobody has worked on
// it, or a stop cut the work short. Receiver.Close gives back in the same way
// what was buffered and never handed out.
type Returner interface {
	// Return gives the message back, to be handed out again at once. Deliveries
	// of later hand-overs leaves this one out, here and in other processes, as
	// far as the broker can be made to remember it; where it cannot, they count
	// it. A receiver that was open already may learn of it late: see Recounter.
	Return(ctx context.Context) error
}

// Recounter is a Delivery whose count can be asked for anew.
type Recounter interface {
	// Recount asks the broker how often it has handed out this message, this
	// time included, less the hand-overs that were given back uncharged. It is
	// at least 1, costs a round trip, and changes nothing that Deliveries says.
	Recount(ctx context.Context) (int, error)
}

// Rejecter is a Delivery with a terminal of the broker's own: a dead-letter
// exchange, Term.
type Rejecter interface {
	Reject(ctx context.Context, reason string) error
}

// LeaseExtender is a Delivery whose lease can be extended to its full length
// from now. It does not wait for the broker. ErrLeaseLost means that it came
// too late for certain.
type LeaseExtender interface {
	ExtendLease() error
}

// Responder is a Delivery that may be a request.
type Responder interface {
	// WantsReply tells whether somebody waits for an answer.
	WantsReply() bool
	// Respond sends the answer.
	Respond(ctx context.Context, m *Message) error
}

// Native is a Delivery that gives access to the client library's own message.
type Native interface {
	Native() any
}

// Requester is a Transport that can ask and wait for an answer.
type Requester interface {
	// Request publishes m and waits for one answer until ctx ends.
	// ErrUnroutable means that nobody listens.
	Request(ctx context.Context, to Address, m *Message) (*Message, error)
}

// Observable is a Transport that reports what happens to its connection and
// its receivers.
type Observable interface {
	// Observe calls fn for every event from now on, until the returned function
	// is called. fn must not block and may be called from several goroutines.
	Observe(fn func(Event)) (stop func())
}

// EventKind names what happened to a connection or a receiver.
type EventKind string

// The events of a transport.
const (
	Disconnected   EventKind = "disconnected"    // the connection was lost; it is being restored
	Reconnected    EventKind = "reconnected"     // the connection is back
	ConnectionLost EventKind = "connection-lost" // the connection is closed for good
	Dropped        EventKind = "dropped"         // Count messages were dropped before a handler saw them
	Recreated      EventKind = "recreated"       // an owned consumer was gone and has been made again
	Stranded       EventKind = "stranded"        // Count messages were left behind by a foreign delivery limit
	AckUnconfirmed EventKind = "ack-unconfirmed" // Count acks could not be confirmed; those messages may be delivered again
	Stalled        EventKind = "stalled"         // a receiver gets nothing although it should
	Flowing        EventKind = "flowing"         // a stalled receiver works again
	Compacted      EventKind = "compacted"       // Count revisions of a bucket were removed before a watch saw them
)

// Event is something that happened to a connection or a receiver.
type Event struct {
	Kind EventKind
	// Subscription is empty for events of the whole connection.
	Subscription string
	// Count is how many messages it concerns, where the kind says so.
	Count int
	// Err is the cause, if there is one.
	Err error
	// Detail says more in one line. It never holds credentials or bodies.
	Detail string
}

// Identified is a Source that is one object on the broker, such as a durable
// consumer, whose messages its users share between them.
type Identified interface {
	// Identity names the object; empty when every user has one of his own.
	Identity() string
}

// Neighbour is a Source that can be in the way of another source of the same
// program, in ways that the check of neither shows, since they come true only
// once both are provisioned.
type Neighbour interface {
	// ConflictsWith returns what stands against both sources in one program, if
	// anything does. other may be of another transport. It is called after both
	// were checked, and does no I/O.
	ConflictsWith(other Source) (Finding, bool)
}
