package sender

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// broker is a broker behind pipelines: it stores what reaches it, in order, and
// does what the test makes it do with each message.
type broker struct {
	transport.Transport // nil: nothing but OpenPipeline is called

	mu     sync.Mutex
	stored []storedCopy
	lines  map[*line]struct{}
	opened int
	down   chan struct{} // not nil: nobody connects before it is closed
	alarm  error
	silent bool // nothing is confirmed
	full   bool // what is sent waits until the pipeline is ended as stuck
	stuck  int  // pipelines that were ended so
	// decide says what becomes of a message. Default: stored and confirmed.
	decide func(m *transport.Message) fate
}

type storedCopy struct {
	id     string
	resent bool
}

// fate is what a broker does with one message.
type fate struct {
	refuse error // the outcome, if it is not stored
	now    error // what Send returns
	lose   bool  // the connection breaks before it arrives
	breaks bool  // it is stored and the connection breaks before the outcome
	mute   bool  // it is stored and there is never an outcome
}

type line struct {
	b      *broker
	report func(uint64, error)
	queue  chan outcome
	done   chan struct{}
	torn   chan struct{} // closed when the connection is not trusted any more
	cut    sync.Once
	mu     sync.Mutex
	err    error
}

type outcome struct {
	tag uint64
	err error
}

func newBroker() *broker { return &broker{lines: map[*line]struct{}{}} }

func (b *broker) OpenPipeline(ctx context.Context, report func(uint64, error)) (transport.Pipeline, error) {
	b.mu.Lock()
	down := b.down
	b.mu.Unlock()
	if down != nil {
		select {
		case <-down:
		case <-ctx.Done():
			return nil, &transport.Error{Op: "open", Kind: transport.Temporary, Err: ctx.Err()}
		}
	}
	l := &line{b: b, report: report, queue: make(chan outcome, 4096), done: make(chan struct{}), torn: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened++
	b.lines[l] = struct{}{}
	go l.run()
	return l, nil
}

func (l *line) run() {
	defer close(l.done)
	for o := range l.queue {
		time.Sleep(time.Millisecond) // virtual: the way to the broker and back
		if l.Err() != nil {
			return
		}
		l.report(o.tag, o.err)
	}
}

var errCut = &transport.Error{Op: "publish", Kind: transport.Unknown, Err: errors.New("the connection was cut")}

func (l *line) Send(_ transport.Address, m *transport.Message, tag uint64) error {
	l.b.mu.Lock()
	full := l.b.full
	l.b.mu.Unlock()
	if full {
		<-l.torn
		return errCut
	}
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	if err := l.Err(); err != nil {
		return err
	}
	var f fate
	if l.b.decide != nil {
		f = l.b.decide(m)
	}
	switch {
	case f.now != nil:
		return f.now
	case f.lose:
		l.fail(errCut)
		return nil
	case f.refuse != nil:
		l.queue <- outcome{tag, f.refuse}
		return nil
	}
	l.b.stored = append(l.b.stored, storedCopy{m.ID, m.Resent})
	if f.breaks {
		l.fail(errCut)
		return nil
	}
	if !l.b.silent && !f.mute {
		l.queue <- outcome{tag, nil}
	}
	return nil
}

func (l *line) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.queue)
	}
}

func (l *line) Flush() error          { return l.Err() }
func (l *line) Done() <-chan struct{} { return l.done }

func (l *line) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *line) Waiting() error {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	return l.b.alarm
}

func (l *line) End(stuck bool) {
	l.b.mu.Lock()
	if stuck {
		l.b.stuck++
	}
	l.b.mu.Unlock()
	if stuck {
		l.cut.Do(func() { close(l.torn) })
	}
	l.fail(&transport.Error{Op: "publish", Kind: transport.Temporary, Err: transport.ErrClosed})
	<-l.done
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	delete(l.b.lines, l)
}

// set changes the broker.
func (b *broker) set(change func(*broker)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

// firsts returns the IDs in the order in which they were first stored.
func (b *broker) firsts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[string]bool{}
	var ids []string
	for _, c := range b.stored {
		if !seen[c.id] {
			seen[c.id] = true
			ids = append(ids, c.id)
		}
	}
	return ids
}

// chaos breaks connections before and after a message is stored, and refuses for
// a moment now and then.
func chaos(seed uint64, busy bool) func(*transport.Message) fate {
	r := rand.New(rand.NewPCG(seed, seed))
	return func(*transport.Message) fate {
		switch n := r.IntN(100); {
		case n < 2:
			return fate{lose: true}
		case n < 4:
			return fate{breaks: true}
		case n < 6 && busy:
			return fate{refuse: &transport.Error{Kind: transport.Temporary, Err: transport.ErrBusy}}
		}
		return fate{}
	}
}

// results collects outcomes.
type results struct {
	mu  sync.Mutex
	got map[string]error
	n   int
}

type result struct {
	r  *results
	id string
}

func (c result) Complete(_ int, err error) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if old, twice := c.r.got[c.id]; twice {
		err = fmt.Errorf("completed twice: %v, then %v", old, err)
	}
	c.r.got[c.id] = err
	c.r.n++
}

func newResults() *results { return &results{got: map[string]error{}} }

func (r *results) of(id string) (error, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err, ok := r.got[id]
	return err, ok
}

func (r *results) item(id string) Item {
	return Item{To: transport.Address{Name: "orders"}, M: &transport.Message{ID: id, Body: []byte(id)}, Then: result{r, id}}
}
