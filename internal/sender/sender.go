package sender

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// Config bounds a sender. Zero fields have defaults.
type Config struct {
	// Messages is how many messages may be unconfirmed at once. Default 256.
	Messages int
	// Bytes is how many bytes of bodies may be unconfirmed at once. A larger
	// message goes alone. Default 16 MiB.
	Bytes int
	// Confirm is how long a confirmation may take before the connection is
	// given up. An alarm of the broker suspends it. Default 5 s.
	Confirm time.Duration
	// Patient makes a full queue, and a broker that lets nobody in, something to
	// wait for instead of an outcome.
	Patient bool
	// Watch is called with what is under way: every second while there is
	// something, and once when there is nothing left. It must not block. May be
	// nil.
	Watch func(Stats)
}

// The defaults of Config.
const (
	DefaultMessages = 256
	DefaultBytes    = 16 << 20
	DefaultConfirm  = 5 * time.Second
)

func (c Config) withDefaults() Config {
	if c.Messages <= 0 {
		c.Messages = DefaultMessages
	}
	if c.Bytes <= 0 {
		c.Bytes = DefaultBytes
	}
	if c.Confirm <= 0 {
		c.Confirm = DefaultConfirm
	}
	return c
}

// Completer is told the outcome of one message, once, and must not block.
type Completer interface {
	Complete(tries int, err error)
}

// Item is one message to send. The sender owns M until it is completed.
type Item struct {
	To   transport.Address
	M    *transport.Message
	Then Completer
	// Ctx gives the message up when it ends; nil for one that is never given up.
	Ctx context.Context
	// Within gives the message up as well, so long after Send was called, to a
	// tenth of a second; zero for never.
	Within time.Duration
	// Again: a copy of it may be at the broker from before. On an item that Close
	// hands back: a copy of it may be there.
	Again bool
}

// Stats is what a sender has under way and has done.
type Stats struct {
	Pending   int           // messages without an outcome
	Bytes     int           // of their bodies
	Oldest    time.Duration // how long the oldest of them has been there, to a tenth of a second
	Confirmed uint64        // stored, by the broker's word
	Refused   uint64        // ended with an error
	Resent    uint64        // sent once more
	Pipelines uint64        // how often a connection was taken up
	Err       error         // why nothing flows at this moment, nil while it does
}

// Sender sends messages in order through pipelines of one transport.
type Sender struct {
	cfg    Config
	opener transport.PipelinedPublisher

	turn chan struct{} // holds one token while somebody sends; taken before mu
	kick chan struct{} // wakes the keeper to look again
	life context.Context
	end  context.CancelFunc

	mu      sync.Mutex // guards what follows; nothing of a pipeline is called under it
	win     window
	waiting []*waiter          // for room, first come first served
	flow    transport.Pipeline // takes messages now; nil while the keeper mends
	pipe    transport.Pipeline // the last one, also while it is mended
	epoch   uint64             // of pipe: outcomes of another one that are errors mean nothing
	refused bool               // the broker refused for a moment: pause
	stuck   bool               // the broker does not answer: give the connection up
	why     error              // why nothing flows
	alarm   error              // why the broker confirms nothing, as it said at the last tick
	closed  bool
	idle    chan struct{} // closed when a closed sender has nothing left; nil if not closed
	keeping bool          // there is a keeper
	kept    chan struct{} // closed when the last one is over; nil before the first
	clock   clock
	stats   Stats
	stored  uint64 // the latest tag that was confirmed
}

// New returns a sender on t. It does nothing until the first message.
func New(t transport.Transport, cfg Config) *Sender {
	opener, ok := t.(transport.PipelinedPublisher)
	if !ok {
		opener = serially{t}
	}
	s := &Sender{
		cfg: cfg.withDefaults(), opener: opener,
		turn: make(chan struct{}, 1), kick: make(chan struct{}, 1),
	}
	// The life of a sender is bounded by Close alone: messages outlive the calls
	// that brought them.
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Send takes it over as soon as there is room, in the order of the calls, and
// returns its tag. It waits for room until ctx ends; an error means that the
// message was not taken and was not sent.
func (s *Sender) Send(ctx context.Context, it Item) (tag uint64, err error) {
	size := len(it.M.Body)
	if err := s.reserve(ctx, &it, size); err != nil {
		return 0, err
	}
	select {
	case s.turn <- struct{}{}:
	default:
		// Somebody writes to a socket that takes nothing, or others are before us.
		if err := await(&it, func(over <-chan time.Time) error {
			select {
			case s.turn <- struct{}{}:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-over:
				return context.DeadlineExceeded
			}
		}); err != nil {
			s.unreserve(size)
			return 0, s.notSent(it.To, err)
		}
	}
	tag, err = s.put(it, size)
	<-s.turn
	return tag, err
}

// await calls wait with a channel that fires when the time of it is over, and
// takes what that took off the time.
func await(it *Item, wait func(over <-chan time.Time) error) error {
	if it.Within == 0 {
		return wait(nil)
	}
	began := time.Now()
	t := time.NewTimer(it.Within)
	defer t.Stop()
	err := wait(t.C)
	it.Within = max(it.Within-time.Since(began), 1)
	return err
}

// put enters it into the window and sends it, if messages flow. The caller has
// the turn and has reserved room.
func (s *Sender) put(it Item, size int) (uint64, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.unreserve(size)
		return 0, closedError(it.To)
	}
	tag, e := s.win.push(it, size, s.clock.ticks)
	flow := s.flow
	if flow != nil {
		s.win.send(e, s.clock.ticks)
	} else {
		s.wakeLocked()
	}
	s.armLocked()
	s.mu.Unlock()
	if flow != nil {
		s.deliver(flow, tag, it.To, it.M)
	}
	return tag, nil
}

// deliver sends one message that was entered as sent. The caller has the turn.
// It reports whether the pipeline goes on.
func (s *Sender) deliver(p transport.Pipeline, tag uint64, to transport.Address, m *transport.Message) bool {
	err := p.Send(to, m, tag)
	if err == nil {
		return true
	}
	if transport.KindOf(err) == transport.Permanent && p.Err() == nil {
		s.settle(tag, err)
		return true
	}
	s.mu.Lock()
	if s.pipe == p {
		s.flow = nil
		s.why = err
		if e := s.win.at(tag); e != nil && e.state == sent {
			s.win.requeue(e, false)
		}
	}
	s.wakeLocked()
	s.mu.Unlock()
	return false
}

// report is what a pipeline calls.
func (s *Sender) report(epoch, tag uint64, err error) {
	s.mu.Lock()
	e := s.win.at(tag)
	if e == nil {
		s.mu.Unlock()
		return
	}
	if err != nil {
		if epoch != s.epoch || e.state != sent {
			s.mu.Unlock()
			return // it is sent again already, or will be
		}
		if s.again(e, err) {
			s.win.requeue(e, transport.KindOf(err) == transport.Unknown)
			e.err = err
			// In the errors of others it is told, and is not their outcome.
			s.flow, s.refused, s.why = nil, true, fmt.Errorf("the broker refused a message for a moment: %v", err)
			s.wakeLocked()
			s.mu.Unlock()
			return
		}
	}
	if err == nil {
		s.stored = max(s.stored, tag)
	}
	s.settleLocked(e, e.refusal(err))
}

// settle ends a message that was refused, if it has not ended.
func (s *Sender) settle(tag uint64, err error) {
	s.mu.Lock()
	if e := s.win.at(tag); e != nil {
		s.settleLocked(e, e.refusal(err))
		return
	}
	s.mu.Unlock()
}

// settleLocked ends a message, lets the next one in, and unlocks.
func (s *Sender) settleLocked(e *entry, err error) {
	then, tries := e.item.Then, e.tries
	if err == nil {
		s.stats.Confirmed++
	} else {
		s.stats.Refused++
	}
	s.win.remove(e)
	s.roomLocked()
	if s.flow == nil && s.win.flying == 0 {
		s.wakeLocked() // the keeper may wait for the last outcome
	}
	if s.closed && s.win.pending == 0 {
		closeOnce(s.idle)
	}
	s.mu.Unlock()
	then.Complete(tries, err)
}

// GiveUp ends a message whose caller waits no longer. It returns the outcome,
// which Complete is then not told, and false when Complete was or will be told.
func (s *Sender) GiveUp(tag uint64, cause error) (error, bool) {
	s.mu.Lock()
	e := s.win.at(tag)
	if e == nil {
		s.mu.Unlock()
		return nil, false
	}
	err := s.givenUp(e, cause)
	e.item.Then = nobody{}
	s.settleLocked(e, err)
	return err, true
}

// nobody is the completer of a message whose outcome was told otherwise.
type nobody struct{}

func (nobody) Complete(int, error) {}

// Stats returns what is under way and what was done.
func (s *Sender) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statsLocked()
}

func (s *Sender) statsLocked() Stats {
	st := s.stats
	st.Pending, st.Bytes = s.win.pending, s.win.bytes
	if e := s.win.oldest(); e != nil {
		st.Oldest = time.Duration(s.clock.ticks-e.born) * tick
	}
	if st.Err = s.why; st.Err == nil {
		st.Err = s.alarm
	}
	return st
}

// wakeLocked makes the keeper look again, and starts one when there is none and
// something to send.
func (s *Sender) wakeLocked() {
	if !s.keeping && s.life.Err() == nil {
		if s.win.pending > 0 {
			s.keeping, s.kept = true, make(chan struct{})
			go s.keep(s.kept) // awaited by Close
		}
		return
	}
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}
