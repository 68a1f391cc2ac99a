package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// Task is one attempt at one message, made by Config.NewTask.
type Task interface {
	// Run decodes the message and calls the handler. It may panic.
	Run(ctx context.Context) error
	// Context returns the context that Run is called with. It lives inside the
	// task, so that both are one allocation.
	Context() *Context
}

// Attempt is what a task is made from.
type Attempt struct {
	Delivery transport.Delivery
	// Number is the number of the attempt, from 1.
	Number int
	// Deliveries is the broker's count.
	Deliveries int
	// Manual settles the delivery; it is nil unless the ack policy is Manual.
	Manual *Manual
}

// Config is what a subscription is made of. The root package validates it.
type Config struct {
	Name   string
	App    string
	Source transport.Source
	Want   transport.Want
	Policy recovery.Policy
	// NewTask makes the task of an attempt.
	NewTask func(Attempt) Task
	// Batch makes workers handle many messages at once; nil for one by one. It is
	// not for the ack policies AckFirst and Manual, and not beside OrderBy, Demand
	// or Counts.
	Batch *Batch
	// Timeout bounds one attempt. Zero means MaxLease alone does.
	Timeout time.Duration
	// MaxLease is how long a delivery is kept at most. Zero means
	// DefaultMaxLease.
	MaxLease time.Duration
	// OrderBy returns the ordering key of a message; nil means no order.
	OrderBy func(*transport.Message) string
	// Compensate runs after a failed handler of AckAlways, before the ack.
	Compensate func(ctx context.Context, a Attempt, cause error) error
	// Demand waits until somebody asks for a message; false means that the stop
	// came first. A worker calls it before it takes one, or with OrderBy the
	// dispatcher. Nil if messages are taken as they come.
	Demand func(stop context.Context) bool
	// Met tells that the worker for whom Demand was true is done with its message,
	// whatever became of that. It is not called with OrderBy. Nil with Demand.
	Met func()
	// Counts is where attempts are counted before they start; nil to go by what
	// the broker counts. Policy.Counted is set with it.
	Counts transport.CountStore
	// CountExpiry is how long a count is kept after its last attempt. Required
	// with Counts.
	CountExpiry time.Duration
	// DeadLetters is the store for dead letters; nil if there is none.
	DeadLetters transport.DeadLetterStore
	// Observe is called for every event; nil if nobody looks.
	Observe func(observe.Event)
	// Logger gets one line for each change of state and each dead letter.
	Logger *slog.Logger
}

// Times that are the engine's own.
const (
	// DefaultMaxLease bounds how long a delivery is kept, whatever its handler
	// does.
	DefaultMaxLease = time.Hour
	// exactLease is the MaxLease from which on it may be exceeded by a third of
	// a lease.
	exactLease = 10 * time.Minute
	// hangGrace is how long a handler may take to return after its context
	// ended, before it is left behind.
	hangGrace = 5 * time.Second
	// hungLimit is how many handlers may hang for each slot until the slot
	// stays empty.
	hungLimit = 4
	// settleBudget bounds all tries of one settlement.
	settleBudget = 10 * time.Second
	// leaseless is the pace of the keeper where there are no leases.
	leaseless = 10 * time.Second
)

// ErrUnseen is returned by a task whose message nobody has looked at: it is given
// back uncharged.
var ErrUnseen = errors.New("nobody asked for the message")

// Subscription runs the handler of one source. Run may be called once; the
// other methods are safe for concurrent use at any time.
type Subscription struct {
	cfg        Config
	ledger     ledger
	redelivers bool // what is given back comes again
	exact      bool // attempts are bounded from their start on, and not from when the keeper of leases sees them

	stop      context.CancelFunc // ends receiving
	recvCtx   context.Context
	settleCtx context.Context // never ends: settlements bound themselves
	finished  chan struct{}   // closed by Run when it returns
	started   atomic.Bool
	fault     error // what Run returned; written before finished is closed
	grace     *grace
	stopping  atomic.Bool  // the grace is almost over: attempts that end now were cut short
	panicked  atomic.Bool  // an observer did, and that was told
	gone      atomic.Bool  // Run has returned, or is about to
	receiving atomic.Bool  // there is a receiver
	hung      atomic.Int64 // workers left behind whose handlers have not returned; pool.mu guards its changes
	uncounted atomic.Bool  // the last count of an attempt failed

	mu      sync.Mutex // guards what follows
	state   observe.State
	reason  string
	since   time.Time
	stuck   map[obstacle]string  // what keeps messages from getting through, and why
	workers map[*worker]struct{} // every worker, those that hang included
	held    map[*Manual]struct{} // deliveries left to be settled by hand
	lanes   *lanes               // nil unless OrderBy is set
	past    observe.Counts       // counts of workers that have ended
	burials burials
	dropped uint64
}

// New returns a subscription that is not running.
func New(cfg Config) *Subscription {
	if cfg.MaxLease <= 0 {
		cfg.MaxLease = DefaultMaxLease
	}
	if b, ok := cfg.Source.(transport.Bounded); ok && b.Bound() > 0 {
		cfg.MaxLease = min(cfg.MaxLease, beforeBound(b.Bound()))
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("subscription", cfg.Name)
	// The stop signal outlives any caller's context: it belongs to the
	// subscription, and Stop is what ends it.
	recvCtx, stop := context.WithCancel(context.Background())
	s := &Subscription{
		redelivers: cfg.Source.Transport().Capabilities().Redelivers,
		exact:      cfg.Timeout > 0 || cfg.MaxLease < exactLease,
		cfg:        cfg, stop: stop, recvCtx: recvCtx, settleCtx: context.WithoutCancel(recvCtx), finished: make(chan struct{}),
		state: observe.StateIdle, since: time.Now(), stuck: make(map[obstacle]string),
		workers: make(map[*worker]struct{}), held: make(map[*Manual]struct{}),
	}
	s.grace = newGrace(s.settleCtx)
	return s
}

// beforeBound is how long a delivery is kept that its broker takes back after bound:
// so long that there is time to find out that its handler hangs, and to settle it.
func beforeBound(bound time.Duration) time.Duration {
	return bound - min(bound/4, leaseless+hangGrace+settleBudget)
}

// Name returns the subscription's name.
func (s *Subscription) Name() string { return s.cfg.Name }

// Health returns the state and the counts of this moment.
func (s *Subscription) Health() observe.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := observe.Health{
		Subscription: s.cfg.Name, Source: s.cfg.Source.String(),
		State: s.state, Since: s.since, Reason: s.reason,
		Counts: s.past, Hung: max(int(s.hung.Load()), 0), Waiting: len(s.held),
	}
	h.Counts.Dropped += s.dropped
	for w := range s.workers {
		w.counts.addTo(&h.Counts)
		h.InFlight += w.busyWith()
	}
	if s.lanes != nil {
		h.Waiting += s.lanes.waiting()
	}
	return h
}

// News tells the subscription what its transport reported.
func (s *Subscription) News(e transport.Event) {
	switch e.Kind {
	case transport.Dropped:
		s.mu.Lock()
		s.dropped += uint64(e.Count)
		s.mu.Unlock()
		s.cfg.Logger.Warn("messages dropped before a handler saw them", "count", e.Count, "detail", e.Detail)
	case transport.Stalled:
		s.block(noFlow, describe(e))
	case transport.ConnectionLost:
		s.block(noConnection, describe(e))
	case transport.Flowing:
		s.unblock(noFlow)
	case transport.Disconnected:
		s.setState(observe.StateRetrying, describe(e))
	case transport.Reconnected:
		s.unblock(noConnection) // it was made anew
		if s.receiving.Load() { // else the receiver is being reopened
			s.setState(observe.StateRunning, "")
		}
	default:
		s.cfg.Logger.Warn("transport news", "kind", string(e.Kind), "count", e.Count, "detail", e.Detail, "err", e.Err)
	}
	s.observe(observe.Event{Kind: observe.TransportNews, Transport: e})
}

func describe(e transport.Event) string {
	text := string(e.Kind)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// setState changes the state and tells it once: a log line and an event.
func (s *Subscription) setState(state observe.State, reason string) {
	s.mu.Lock()
	if state == observe.StateRunning && len(s.stuck) > 0 {
		state, reason = observe.StateStuck, s.stuckReasonLocked()
	}
	if s.state == state && (s.reason == reason || state == observe.StateRetrying || state == observe.StateStuck) {
		s.reason = reason
		s.mu.Unlock()
		return
	}
	if final := s.state == observe.StateStopped || s.state == observe.StateStopping && state != observe.StateStopped; final {
		s.mu.Unlock()
		return
	}
	s.state, s.reason, s.since = state, reason, time.Now()
	s.mu.Unlock()

	level := slog.LevelInfo
	if state == observe.StateRetrying || state == observe.StateStuck {
		level = slog.LevelWarn
	}
	// A change of state has no caller whose context it could carry.
	s.cfg.Logger.Log(context.Background(), level, "subscription "+string(state), "source", s.cfg.Source.String(), "reason", reason)
	s.observe(observe.Event{Kind: observe.StateChanged, State: state, Err: reasonError(reason)})
}

// obstacle is something that keeps messages from getting through while the
// receiver works.
type obstacle uint8

const (
	noFlow       obstacle = iota // the transport gets nothing although it should
	noBurials                    // dead letters cannot be stored
	noSlots                      // every handler hangs
	noConnection                 // the connection is closed for good
	noCounter                    // attempts cannot be counted
)

// block makes the subscription stuck until the obstacle is gone.
func (s *Subscription) block(o obstacle, reason string) {
	s.mu.Lock()
	s.stuck[o] = reason
	s.mu.Unlock()
	s.setState(observe.StateStuck, reason)
}

// unblock takes an obstacle away. The common case, that there is none, is cheap.
func (s *Subscription) unblock(o obstacle) {
	s.mu.Lock()
	_, there := s.stuck[o]
	delete(s.stuck, o)
	over := there && s.state == observe.StateStuck
	s.mu.Unlock()
	if over {
		s.setState(observe.StateRunning, "")
	}
}

func (s *Subscription) stuckReasonLocked() string {
	for _, o := range [...]obstacle{noConnection, noFlow, noCounter, noBurials, noSlots} {
		if reason, ok := s.stuck[o]; ok {
			return reason
		}
	}
	return ""
}

func reasonError(reason string) error {
	if reason == "" {
		return nil
	}
	return errors.New(reason)
}

// observe hands an event to whoever looks.
func (s *Subscription) observe(e observe.Event) {
	if s.cfg.Observe == nil {
		return
	}
	e.Subscription = s.cfg.Name
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	defer func() { // it is the application's code, on the path of messages
		if v := recover(); v != nil && s.panicked.CompareAndSwap(false, true) {
			s.cfg.Logger.Error("observer panicked: it misses events; this is said once", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	s.cfg.Observe(e)
}

// errHungLimit ends a subscription's receiver when too many handlers hang.
var errHungLimit = errors.New("every handler slot is taken by a handler that hangs")
