package rabbitmq

import (
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
)

// confirming is one channel in confirm mode, with the publishes on it that have
// no outcome yet. One goroutine reads it; it is never restored.
type confirming struct {
	s       *session
	ch      *amqp.Channel
	returns chan amqp.Return
	closes  chan *amqp.Error
	wake    chan struct{} // capacity 1: there is something new for a reader that had nothing to wait for
	settled []entry       // used by the reader only
	behind  []int         // likewise

	mu   sync.Mutex // orders publishes; guards what follows
	row  row
	idle bool // the reader has nothing to wait for
}

// entry is one publish that waits for its confirmation.
type entry struct {
	id       string // wire.Copy: what a return is known by
	exchange string
	key      string
	size     int
	sent     time.Time
	quiet    bool // not mandatory: nobody is to be told that no queue takes it
	returned bool
	told     bool        // it has its outcome, and waits for those before it to leave the row
	tag      uint64      // of a pipeline
	then     func(error) // of a publisher
	confirm  *amqp.DeferredConfirmation
}

// openConfirming makes a channel in confirm mode. Both calls return when the
// connection ends, which the link sees to. The reader of the connection must
// never wait for us: returns is how many may come back before they are read.
func openConfirming(s *session, returns int) (*confirming, error) {
	ch, err := s.conn.Channel()
	if err != nil {
		return nil, err
	}
	c := &confirming{
		s: s, ch: ch,
		returns: ch.NotifyReturn(make(chan amqp.Return, returns)),
		closes:  ch.NotifyClose(make(chan *amqp.Error, 1)),
		wake:    make(chan struct{}, 1),
	}
	if err := ch.Confirm(false); err != nil {
		return nil, err
	}
	return c, nil
}

// put publishes msg. A write never waits, see pipe. After an error nothing came
// out whole, and nothing waits for a confirmation.
func (c *confirming) put(e *entry, msg *amqp.Publishing) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The lock is held until the entry stands in the row: a return is looked for
	// there.
	confirm, err := c.ch.PublishWithDeferredConfirm(e.exchange, e.key, !e.quiet, false, *msg)
	if err != nil {
		return err
	}
	e.confirm = confirm
	c.row.push(*e)
	if c.idle {
		c.idle = false
		c.rouse()
	}
	return nil
}

// rouse makes the reader look again.
func (c *confirming) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// settle tells the outcomes that are known, and returns what the next one waits
// for; nil when nothing is under way, or when the channel is gone. The reader
// calls it.
func (c *confirming) settle(tell func(*entry, error)) (next <-chan struct{}, empty bool) {
	c.mu.Lock()
	n := c.ready()
	if n > 0 {
		// A return comes before the confirmation of its message: it is here by now.
		c.takeReturns()
	}
	for range n {
		if e := c.row.pop(); !e.told {
			c.settled = append(c.settled, e)
		}
	}
	empty = c.row.len() == 0
	switch {
	case empty:
		c.idle = true
	case !c.lost(c.row.at(0)):
		next = c.row.at(0).confirm.Done()
	}
	c.mu.Unlock()
	c.tellSettled(tell)
	return next, empty
}

func (c *confirming) tellSettled(tell func(*entry, error)) {
	for i := range c.settled {
		e := &c.settled[i]
		tell(e, outcome(e, e.confirm.Acked()))
	}
	clear(c.settled)
	c.settled = c.settled[:0]
}

// overtaken is after how long without the first outcome the others are told.
const overtaken = 20 * time.Millisecond

// passBy tells the outcomes that are known although one before them is not: a queue
// that does not answer concerns those who publish there, and nobody else. The
// reader calls it.
func (c *confirming) passBy(tell func(*entry, error)) {
	c.mu.Lock()
	for i := range c.row.len() {
		e := c.row.at(i)
		if e.told {
			continue
		}
		select {
		case <-e.confirm.Done():
			if !c.lost(e) {
				c.behind = append(c.behind, i)
			}
		default:
		}
	}
	c.takeReturns()
	for _, i := range c.behind {
		e := c.row.at(i)
		e.told = true
		c.settled = append(c.settled, *e)
	}
	c.behind = c.behind[:0]
	c.mu.Unlock()
	c.tellSettled(tell)
}

// giveUp takes what was sent before a time and has no outcome, if something that was
// sent after it has one: the connection works, and those messages are held up where
// they went. dead tells that nothing shows that it works.
func (c *confirming) giveUp(before time.Time) (stuck []entry, dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.row.len()
	if n == 0 || c.row.at(0).told || c.row.at(0).sent.After(before) {
		return nil, false
	}
	answers := false
	for i := range n {
		answers = answers || c.row.at(i).told
	}
	for i := 0; i < n && answers; i++ {
		if e := c.row.at(i); !e.told && !e.sent.After(before) {
			e.told = true
			stuck = append(stuck, *e)
		}
	}
	return stuck, !answers
}

// ready counts the entries at the head of the row that are confirmed, or that
// nobody waits for any more.
func (c *confirming) ready() int {
	for i := range c.row.len() {
		e := c.row.at(i)
		if e.told {
			continue
		}
		select {
		case <-e.confirm.Done():
			if !c.lost(e) {
				continue
			}
		default:
		}
		return i
	}
	return c.row.len()
}

// lost tells whether nobody will learn what became of e: a channel that ends
// gives up what is not confirmed, and the client library shows that as a nack.
func (c *confirming) lost(e *entry) bool { return c.ch.IsClosed() && !e.confirm.Acked() }

// rest is for a channel that nobody reads any more. It tells the outcomes that
// are known, and returns what has none.
func (c *confirming) rest(tell func(*entry, error)) (left []entry) {
	c.mu.Lock()
	acked := make([]bool, c.row.len())
	for i := range acked {
		acked[i] = c.row.at(i).confirm.Acked()
	}
	c.takeReturns()
	all := make([]entry, 0, len(acked))
	for range acked {
		all = append(all, c.row.pop())
	}
	c.mu.Unlock()
	for i := range all {
		if all[i].told {
			continue
		}
		if acked[i] {
			tell(&all[i], outcome(&all[i], true))
			continue
		}
		left = append(left, all[i])
	}
	return left
}

// takeReturns marks what came back so far. The reader calls it, and holds the
// lock.
func (c *confirming) takeReturns() {
	for {
		select {
		case r, ok := <-c.returns:
			if !ok {
				c.returns = nil // the channel is gone
				return
			}
			c.mark(r)
		default:
			return
		}
	}
}

// cameBack is for the reader when it has read a return, or their end.
func (c *confirming) cameBack(r amqp.Return, ok bool) {
	if !ok {
		c.returns = nil
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark(r)
}

// mark finds the entry of a message that came back. The caller holds the lock.
func (c *confirming) mark(r amqp.Return) {
	id, _ := r.Headers[wire.Copy].(string)
	for i := range c.row.len() {
		if e := c.row.at(i); e.id == id {
			e.returned = true
			return
		}
	}
}
