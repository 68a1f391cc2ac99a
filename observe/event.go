// Package observe holds what holdfast tells about itself: events for metrics and
// traces, and the health of subscriptions. It is data only; events reach an
// Observer given to holdfast.Config.
package observe

import (
	"time"

	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// EventKind names what happened.
type EventKind string

// The events of the engine.
const (
	Attempted     EventKind = "attempted"      // an attempt ended: Attempt, Duration, Err
	Settled       EventKind = "settled"        // a delivery was settled as Verdict says
	SettleFailed  EventKind = "settle-failed"  // a settlement was given up; the broker will hand the message out again
	BurialFailed  EventKind = "burial-failed"  // a dead letter could not be stored; the message stays where it is
	Abandoned     EventKind = "abandoned"      // a handler did not return after its context ended and was left behind
	LeaseLost     EventKind = "lease-lost"     // the broker may have handed the message to somebody else
	StateChanged  EventKind = "state-changed"  // the subscription's state is now State
	Published     EventKind = "published"      // a publish ended: Duration, Err, Attempt (tries)
	TransportNews EventKind = "transport-news" // something happened to a connection or receiver: Transport
	PublisherNews EventKind = "publisher-news" // what a publisher has under way: Publisher; every second while there is something, and once when there is nothing left
)

// Event is something that happened to a message or a subscription. It holds no
// body and no headers.
type Event struct {
	Kind         EventKind
	Time         time.Time
	Subscription string
	Subject      string
	MessageID    string
	Attempt      int
	Deliveries   int
	Duration     time.Duration
	Verdict      recovery.Verdict
	Err          error
	State        State
	Transport    transport.Event
	Publisher    Publisher
}

// Publisher is what a publisher has under way at one moment, and its totals.
type Publisher struct {
	// Address is what it publishes to.
	Address string `json:"address"`
	// Pending is how many messages wait for their outcome, Bytes the size of
	// their bodies, and Oldest how long the oldest waits, to a tenth of a second.
	Pending int           `json:"pending"`
	Bytes   int           `json:"bytes"`
	Oldest  time.Duration `json:"oldest"`
	// Confirmed is how many messages the broker stored, and Refused how many
	// ended with an error: returns and refusals, and those that were given up.
	Confirmed uint64 `json:"confirmed"`
	Refused   uint64 `json:"refused"`
	// Resent is how many messages were sent once more, and Connections how often
	// a connection was taken up.
	Resent      uint64 `json:"resent"`
	Connections uint64 `json:"connections"`
	// Spool is what is on disk; zero without a spool.
	Spool Spool `json:"spool,omitzero"`
	// Err is why nothing is confirmed at this moment; nil while all is well.
	Err error `json:"-"`
}

// Spool is what the disk log of a publisher holds.
type Spool struct {
	// Pending is how many messages are not confirmed yet, and Oldest how long the
	// oldest has been there.
	Pending int64         `json:"pending"`
	Oldest  time.Duration `json:"oldest"`
	// Bytes is what counts against the limit, Limit.
	Bytes int64 `json:"bytes"`
	Limit int64 `json:"limit"`
	// SetAside is how many messages the broker refused for good, and Quarantined
	// how many files hold what could not be read.
	SetAside    int `json:"set_aside"`
	Quarantined int `json:"quarantined"`
	// Err is why the disk does not take messages or marks; nil while it does.
	Err error `json:"-"`
}

// State is what a subscription is doing.
type State string

// The states of a subscription.
const (
	StateIdle     State = "idle"     // not started
	StateStarting State = "starting" // opening its receiver for the first time
	StateRunning  State = "running"  // taking messages
	StateRetrying State = "retrying" // its receiver failed and is being reopened
	StateStuck    State = "stuck"    // messages are not getting through, see Reason
	StateStopping State = "stopping" // finishing what it has
	StateStopped  State = "stopped"  // has ended
)

// Health is the state of a subscription at one moment.
type Health struct {
	Subscription string    `json:"subscription"`
	Source       string    `json:"source"`
	State        State     `json:"state"`
	Since        time.Time `json:"since"`
	// Reason says why the state is not running; empty otherwise.
	Reason string `json:"reason,omitempty"`
	Counts Counts `json:"counts"`
	// InFlight is how many handlers run now.
	InFlight int `json:"in_flight"`
	// Hung is how many handlers were left behind and have not returned.
	Hung int `json:"hung"`
	// Waiting is how many deliveries are held for the order of their key, or
	// for a handler that settles by hand.
	Waiting int `json:"waiting"`
}

// Counts are totals since the subscription was made.
type Counts struct {
	Received   uint64 `json:"received"`    // deliveries taken from the broker
	Attempts   uint64 `json:"attempts"`    // runs of the handler
	Handled    uint64 `json:"handled"`     // deliveries acked after success
	Retried    uint64 `json:"retried"`     // retries, immediate and delayed
	Dead       uint64 `json:"dead"`        // dead letters stored
	Discarded  uint64 `json:"discarded"`   // messages dropped on request, or failed where nothing keeps them
	Rejected   uint64 `json:"rejected"`    // deliveries settled by the broker's own terminal
	Returned   uint64 `json:"returned"`    // deliveries given back uncharged
	Dropped    uint64 `json:"dropped"`     // messages the transport dropped unseen
	LeasesLost uint64 `json:"leases_lost"` // deliveries whose lease ran out in our hands
}

// Observer is told every event. Observe must not block and must be safe for
// concurrent use: it runs on the path of messages.
type Observer interface{ Observe(Event) }

// Func makes a function an Observer.
type Func func(Event)

// Observe calls f.
func (f Func) Observe(e Event) { f(e) }
