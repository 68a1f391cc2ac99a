package sender

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// How the keeper waits between two tries.
const (
	firstPause   = 50 * time.Millisecond
	longestPause = time.Second
)

// keep is the goroutine that takes up pipelines. It ends with the sender, and
// when there is neither a pipeline nor anything to send.
func (s *Sender) keep(kept chan struct{}) {
	defer close(kept)
	pause, fruitless := time.Duration(0), 0
	for s.needed() {
		p, err := s.takeUp()
		switch {
		case err == nil:
			worked := s.serve(p, s.batch(fruitless))
			s.blame()
			if worked {
				pause, fruitless = 0, 0 // the next try at once
				continue
			}
			fruitless++
		case s.life.Err() == nil && s.hopeless(err):
			s.failAll(err)
			continue
		}
		pause = min(max(2*pause, firstPause), longestPause)
		s.sleep(jittered(pause), nil)
	}
}

// hopeless tells whether no pipeline will be had after err.
func (s *Sender) hopeless(err error) bool {
	return errors.Is(err, transport.ErrClosed) || transport.KindOf(err) == transport.Permanent && !s.cfg.Patient
}

// batch is how many messages are sent before the first confirmation, after so
// many connections in a row that broke before there was one: fewer each time,
// so that something gets through a connection that keeps breaking, and so that
// in the end the message that breaks it is alone.
func (s *Sender) batch(fruitless int) int { return max(s.cfg.Messages>>fruitless, 1) }

// killer is how many connections a message may end before it is taken for the
// cause.
const killer = 10

// blame ends the oldest message when it has ended too many connections.
func (s *Sender) blame() {
	s.mu.Lock()
	e := s.win.oldest()
	if e == nil || e.killed < killer {
		s.mu.Unlock()
		return
	}
	s.settleLocked(e, s.givenUp(e, errKiller))
}

// needed tells whether there is anything to send. When there is not, the next
// message starts another keeper.
func (s *Sender) needed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keeping = s.win.pending > 0 && s.life.Err() == nil
	return s.keeping
}

// takeUp opens the next pipeline.
func (s *Sender) takeUp() (transport.Pipeline, error) {
	s.mu.Lock()
	s.epoch++
	epoch := s.epoch
	if s.why == nil {
		s.why = errConnecting
	}
	s.mu.Unlock()
	p, err := s.opener.OpenPipeline(s.life, func(tag uint64, err error) { s.report(epoch, tag, err) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.why = err
		return nil, err
	}
	s.pipe, s.stuck, s.refused = p, false, false
	s.clock.calm = s.clock.ticks
	s.stats.Pipelines++
	return p, nil
}

// serve keeps messages flowing through p until it is over. It begins with so
// many, and reports whether anything was confirmed.
func (s *Sender) serve(p transport.Pipeline, batch int) bool {
	before := s.confirmed()
	pause := time.Duration(0)
	for s.catchUp(p, batch) {
		s.watch(p)
		if s.life.Err() != nil || p.Err() != nil || s.isStuck() {
			break
		}
		// The broker refused for a moment, or there is more to catch up with. What
		// was there first goes first: nothing new before all that is under way has
		// its outcome.
		if !s.landed(p) {
			break
		}
		batch = min(2*batch, s.cfg.Messages)
		if !s.wasRefused() {
			pause = 0
			continue
		}
		pause = min(max(2*pause, firstPause), longestPause)
		s.sleep(jittered(pause), p)
	}
	s.lost(p)
	return s.confirmed() > before
}

// catchUp sends what is queued, in order and up to batch messages, and lets new
// ones flow when nothing is left. It reports whether the pipeline goes on.
func (s *Sender) catchUp(p transport.Pipeline, batch int) bool {
	select {
	case s.turn <- struct{}{}:
	case <-p.Done():
		return false
	case <-s.life.Done():
		return false
	}
	defer func() { <-s.turn }()
	next := s.begin()
	for range batch {
		tag, it, ok := s.nextQueued(next)
		if !ok {
			break
		}
		next = tag + 1
		if !s.deliver(p, tag, it.To, it.M) {
			return false
		}
	}
	if p.Flush() != nil || p.Err() != nil {
		return false
	}
	s.flowFrom(p)
	return true
}

// begin forgets an earlier refusal and returns where the queued messages begin.
func (s *Sender) begin() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = false
	return s.win.head
}

// flowFrom lets new messages flow through p, if none waits before them.
func (s *Sender) flowFrom(p transport.Pipeline) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.refused && s.win.pending == s.win.flying {
		s.flow, s.why = p, nil
	}
}

// nextQueued marks the first queued message from tag on as sent and returns it.
func (s *Sender) nextQueued(tag uint64) (uint64, Item, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tag = max(tag, s.win.head); tag < s.win.tail; tag++ {
		e := s.win.slot(tag)
		if e.state != queued {
			continue
		}
		if e.tries > 0 {
			s.stats.Resent++
		}
		s.win.send(e, s.clock.ticks)
		return tag, e.item, true
	}
	return 0, Item{}, false
}

// watch returns when p is over, when the broker has refused something for a
// moment, when it does not answer, or when the sender ends.
func (s *Sender) watch(p transport.Pipeline) {
	for {
		s.mu.Lock()
		act := s.refused || s.stuck || s.flow == nil
		s.mu.Unlock()
		if act {
			return
		}
		select {
		case <-s.kick:
		case <-p.Done():
			return
		case <-s.life.Done():
			return
		}
	}
}

// landed waits until nothing is under way any more. It reports whether the
// pipeline goes on.
func (s *Sender) landed(p transport.Pipeline) bool {
	for {
		s.mu.Lock()
		flying := s.win.flying
		s.mu.Unlock()
		if p.Err() != nil || s.isStuck() {
			return false
		}
		if flying == 0 {
			return true
		}
		select {
		case <-s.kick:
		case <-p.Done():
			return false
		case <-s.life.Done():
			return false
		}
	}
}

func (s *Sender) confirmed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats.Confirmed
}

func (s *Sender) wasRefused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

func (s *Sender) isStuck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stuck
}

// lost takes back what a pipeline that is over has left without an outcome.
func (s *Sender) lost(p transport.Pipeline) {
	stuck := s.isStuck()
	p.End(stuck)
	why := p.Err()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flow, s.pipe, s.stuck, s.alarm = nil, nil, false, nil
	s.epoch++
	switch {
	case stuck:
		s.why = unansweredError(why)
	case why != nil:
		s.why = why
	}
	alone, first := s.win.flying == 1, true
	s.win.each(func(tag uint64, e *entry) bool {
		if e.state != sent {
			return true
		}
		// A broker that is silent to all proves nothing against the first of them.
		if !stuck && alone || stuck && first && s.stored > tag {
			e.killed++
		}
		first = false
		s.win.requeue(e, true)
		return true
	})
}

// failAll ends everything with err: there will be no other pipeline.
func (s *Sender) failAll(err error) {
	for {
		s.mu.Lock()
		e := s.win.oldest()
		if e == nil {
			s.mu.Unlock()
			return
		}
		s.settleLocked(e, s.givenUp(e, err))
	}
}

// sleep waits for d; less when the sender or the pipeline ends, or when nothing
// is left to send. p may be nil.
func (s *Sender) sleep(d time.Duration, p transport.Pipeline) {
	t := time.NewTimer(d)
	defer t.Stop()
	var over <-chan struct{}
	if p != nil {
		over = p.Done()
	}
	for !s.idling() {
		select {
		case <-t.C:
			return
		case <-over:
			return
		case <-s.life.Done():
			return
		case <-s.kick:
		}
	}
}

func (s *Sender) idling() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.win.pending == 0
}

// jittered lengthens d by up to a half.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Float64()*float64(d)/2)
}

// Flush waits until all messages that were taken before have their outcome, or
// ctx ends.
func (s *Sender) Flush(ctx context.Context) error {
	s.mu.Lock()
	last := s.win.tail
	s.mu.Unlock()
	t := time.NewTicker(flushPoll)
	defer t.Stop()
	for {
		s.mu.Lock()
		over := s.win.head >= last
		s.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// flushPoll is how often Flush looks. It is called seldom, and is not worth
// anything on the path of a message.
const flushPoll = 2 * time.Millisecond

// Close takes no more messages and waits until all have their outcome or ctx
// ends. Those that have none then are given up and returned, oldest first; their
// Complete is told so.
func (s *Sender) Close(ctx context.Context) []Item {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.idle = make(chan struct{})
		if s.win.pending == 0 {
			closeOnce(s.idle)
		}
		for _, w := range s.waiting {
			close(w.told)
		}
		s.waiting = nil
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	left := s.leave(ctx)
	s.end()
	s.mu.Lock()
	kept, p := s.kept, s.pipe
	s.clock.stop()
	s.mu.Unlock()
	if p != nil {
		// Whoever sends into a full socket is let go. Otherwise the connection, which
		// others may share, is as good as before.
		p.End(len(left) > 0 && len(s.turn) > 0)
	}
	if kept != nil {
		<-kept
	}
	return left
}

// leave gives up what has no outcome.
func (s *Sender) leave(ctx context.Context) []Item {
	var left []Item
	for {
		s.mu.Lock()
		e := s.win.oldest()
		if e == nil {
			s.mu.Unlock()
			return left
		}
		it := e.item
		it.Again = e.copies > 0
		left = append(left, it)
		s.settleLocked(e, s.givenUp(e, closeCause(ctx)))
	}
}
