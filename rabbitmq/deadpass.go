package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

const (
	// othersLook is how long to wait for somebody else who looks.
	othersLook = 30 * time.Second
	// silence is after how long without a letter a pass asks why; after so many of
	// them it believes that the queue gives less than it counted, or hangs.
	silence      = 500 * time.Millisecond
	mostSilences = 20
	fewSilences  = 5
	// A pass holds what it has read until its end, so that the queue keeps its
	// order, and asks for more by one consumer after another. What one of them may
	// give is all that lies in memory. There are few: the broker takes back what
	// more than 32 consumers held in any order.
	mostConsumers = 30
	firstWindow   = 64
	mostWindow    = 1000
	windowBytes   = 16 << 20
)

// errDisturbed is the cause when somebody else began to look at the same time:
// each sees a part.
var errDisturbed = errors.New("somebody else reads the same dead letters")

// letter is a dead letter with when it was buried.
type letter struct {
	transport.StoredLetter
	buried time.Time
	tag    uint64
}

// pass reads the letters of one work queue once, oldest first, and gives back in
// their order what it did not drop. It belongs to one goroutine.
type pass struct {
	a            *admin
	ch           *amqp.Channel
	queue        string // the work queue
	subscription string // that the broker's own dead letters are filed under
	left         int    // letters still to come
	room         int    // letters that the current consumer still may give
	used         int    // consumers so far
	letters      int    // read so far
	bytes        int    // of their bodies
	tag          string // of the current consumer
	in           <-chan amqp.Delivery
	alike        map[string]int
	dropped      bool
}

// pass begins to read the letters of a work queue; nil when there are none.
func (a *admin) pass(ctx context.Context, queue, subscription string) (*pass, error) {
	if q, err := a.inspect(deadName(queue)); absent(err) || err == nil && q.Messages+q.Consumers == 0 {
		return nil, nil
	}
	if err := a.lock(ctx, deadName(queue)); err != nil {
		return nil, err
	}
	n, err := a.undisturbed(ctx, deadName(queue))
	var ch *amqp.Channel
	if err == nil && n > 0 {
		ch, err = a.s.conn.Channel()
	}
	if err != nil || n == 0 {
		a.unlock(deadName(queue))
		return nil, err
	}
	return &pass{a: a, ch: ch, queue: queue, subscription: subscription, left: n, alike: map[string]int{}}, nil
}

// lockName is a queue that only one connection may have: that of who looks. It is
// gone with the connection at the latest.
func lockName(queue string) string { return queue + ".look" }

// lock waits for the right to look. Without the permission to declare the lock
// there is none, and whoever is disturbed begins again.
func (a *admin) lock(ctx context.Context, queue string) error {
	for end := time.Now().Add(othersLook); ; {
		err := a.do(func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(lockName(queue), false, true, true, false, nil)
			return err
		})
		switch {
		case !isCode(err, amqp.ResourceLocked):
			if isCode(err, amqp.AccessRefused) {
				return nil
			}
			return err
		case time.Now().After(end):
			return fmt.Errorf("%w: %s has been read for %v; end that, or try again later", errOthers, queue, othersLook)
		case !pause(ctx, jittered(40*time.Millisecond)):
			return context.Cause(ctx)
		}
	}
}

func (a *admin) unlock(queue string) {
	_ = a.do(func(ch *amqp.Channel) error { // it goes with the connection otherwise
		_, err := ch.QueueDelete(lockName(queue), false, false, false)
		return err
	})
}

// undisturbed waits until nobody else looks at the queue, and returns how many
// messages it has.
func (a *admin) undisturbed(ctx context.Context, queue string) (n int, err error) {
	for end := time.Now().Add(othersLook); ; {
		q, err := a.inspect(queue)
		if err != nil || q.Consumers == 0 {
			return q.Messages, err
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("%w: the queue %s has had another consumer for %v; end it, or try again later", errOthers, queue, othersLook)
		}
		if !pause(ctx, jittered(40*time.Millisecond)) {
			return 0, context.Cause(ctx)
		}
	}
}

// errOthers is the cause when somebody else does not stop looking.
var errOthers = errors.New("somebody else consumes the dead letters")

// next returns the next letter; ok is false after the last one.
func (p *pass) next(ctx context.Context) (l letter, ok bool, err error) {
	if p == nil || p.left == 0 {
		return letter{}, false, nil
	}
	if p.room == 0 {
		if err := p.more(ctx); err != nil {
			return letter{}, false, err
		}
	}
	raw, ok, err := p.take(ctx)
	if err != nil || !ok {
		p.left = 0
		return letter{}, false, err
	}
	p.left--
	p.room--
	p.letters++
	p.bytes += len(raw.Body)
	return p.decode(&raw), true, nil
}

// more opens another consumer, and then ends the one before: at no time is the
// queue without one of ours. What that one gave is still held.
func (p *pass) more(ctx context.Context) error {
	size := nextWindow(p.left, p.used, p.letters, p.bytes)
	if err := p.ch.Qos(size, 0, false); err != nil {
		return err
	}
	tag := fmt.Sprintf("holdfast-look-%02d", p.used)
	in, err := p.ch.Consume(deadName(p.queue), tag, false, false, false, false, nil)
	if err != nil {
		return err
	}
	p.used++
	if p.tag != "" {
		if err := p.others(ctx); err != nil {
			return err
		}
		if err := p.ch.Cancel(p.tag, false); err != nil {
			return err
		}
	}
	p.tag, p.in, p.room = tag, in, size
	return nil
}

// others waits until nobody else stands in line: who began to look in the same
// moment sees that it is not its turn, and leaves.
func (p *pass) others(ctx context.Context) error {
	for end := time.Now().Add(othersLook); ; {
		q, err := p.a.inspect(deadName(p.queue))
		if err != nil || q.Consumers <= p.used {
			return err
		}
		if time.Now().After(end) {
			return errDisturbed
		}
		if !pause(ctx, jittered(40*time.Millisecond)) {
			return context.Cause(ctx)
		}
	}
}

// nextWindow is how many letters the next consumer may give: as many as fit into
// the memory there is for them, and enough for the consumers that are left.
func nextWindow(left, used, letters, bytes int) int {
	size := firstWindow
	if letters > 0 {
		size = min(max(windowBytes/(bytes/letters+1), 1), mostWindow)
	}
	consumers := max(mostConsumers-used, 1)
	return min(max(size, (left+consumers-1)/consumers), left, math.MaxUint16)
}

// take waits for a delivery; ok is false when the queue has no more.
func (p *pass) take(ctx context.Context) (raw amqp.Delivery, ok bool, err error) {
	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	for round := 1; ; round++ {
		select {
		case raw, ok := <-p.in:
			if !ok {
				return raw, false, errLost
			}
			return raw, true, nil
		case <-ctx.Done():
			return raw, false, context.Cause(ctx)
		case <-quiet.C:
		}
		q, err := p.a.inspect(deadName(p.queue))
		switch {
		case err != nil:
			return raw, false, err
		case q.Consumers > p.used:
			return raw, false, errDisturbed
		case q.Messages == 0 && round >= fewSilences:
			return raw, false, nil // somebody has taken some, or purged the queue
		case round >= mostSilences:
			return raw, false, errTimeout
		}
		quiet.Reset(silence)
	}
}

// drop removes the letter that was read last. Its consumer gives another one for it.
func (p *pass) drop(l letter) error {
	p.dropped = true
	p.room++
	return p.ch.Ack(l.tag, false)
}

// end gives back what was not dropped, before all that came meanwhile, and returns
// once it is there. A quorum queue puts what comes back behind what came back
// before: only who has taken all gives it back in its order, so the rest is taken
// as well. Nothing but the end of the channel gives it back sorted.
// Its last consumer lives until then: the queue is never without one while it waits
// for something to come back, and whoever wants to look sees that.
func (p *pass) end(ctx context.Context) {
	if p == nil || p.ch.IsClosed() {
		return
	}
	for p.used > 0 {
		if _, ok, err := p.next(ctx); err != nil || !ok {
			break
		}
	}
	if p.dropped {
		p.left = 1
		_ = p.more(ctx) // awaits a cancellation, after which the queue has taken the drops
		pause(ctx, ackSettle)
	}
	_ = p.ch.Close() // it gives everything back whatever it says
	for end := time.Now().Add(closing); time.Now().Before(end) && pause(ctx, 2*time.Millisecond); {
		if q, err := p.a.inspect(deadName(p.queue)); err != nil || q.Consumers == 0 {
			break
		}
	}
	p.a.unlock(deadName(p.queue))
}

// decode reads one letter. Letters of the broker itself that look alike get IDs of
// their own: they are different messages.
func (p *pass) decode(raw *amqp.Delivery) letter {
	l, buried := letterOf(raw, p.queue, p.subscription)
	l.tag = raw.DeliveryTag
	if buried {
		return l
	}
	id := l.Key.ID
	p.alike[id]++
	if n := p.alike[id]; n > 1 {
		l.Key.ID += "-" + strconv.Itoa(n)
		l.Message.Header.Set(wire.DeadLetterID, l.Key.ID)
	}
	return l
}

// merged reads the letters of several work queues, oldest first.
type merged struct {
	passes []*pass
	heads  []*letter // the next of each pass, nil for none read yet
}

// merge begins to read the letters of the work queues, each with the subscription
// that the broker's own dead letters of it are filed under.
func (a *admin) merge(ctx context.Context, queues map[string]string) (*merged, error) {
	m := &merged{}
	for queue, subscription := range queues {
		p, err := a.pass(ctx, queue, subscription)
		if err != nil {
			_ = m.end(ctx, nil)
			return nil, err
		}
		if p != nil {
			m.passes, m.heads = append(m.passes, p), append(m.heads, nil)
		}
	}
	return m, nil
}

// next returns the oldest letter that is left; ok is false after the last one.
func (m *merged) next(ctx context.Context) (l letter, ok bool, err error) {
	oldest := -1
	for i, p := range m.passes {
		if m.heads[i] == nil {
			head, ok, err := p.next(ctx)
			if err != nil {
				return letter{}, false, err
			}
			if !ok {
				continue
			}
			m.heads[i] = &head
		}
		if oldest < 0 || m.heads[i].buried.Before(m.heads[oldest].buried) {
			oldest = i
		}
	}
	if oldest < 0 {
		return letter{}, false, nil
	}
	l = *m.heads[oldest]
	m.heads[oldest] = nil
	return l, true, nil
}

// end ends all passes; rest sees, in their order, the letters that are left.
func (m *merged) end(ctx context.Context, rest func(letter)) (err error) {
	for ok := rest != nil; ok; {
		var l letter
		if l, ok, err = m.next(ctx); ok {
			rest(l)
		}
	}
	for _, p := range m.passes {
		p.end(ctx)
	}
	return err
}
