package jetstream

import (
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// asker waits for one answer in an inbox. answer is called once at most, from
// the goroutine of the inbox, and must not block.
type asker interface {
	// askedAt is the subject the question was published to.
	askedAt() string
	// answer hands over the reply, or the reason why there will be none.
	answer(m *nats.Msg, err error)
}

// inbox takes the answers to all questions of one connection with a single
// subscription. A question is told by its token, the last part of the reply
// subject. It is safe for concurrent use.
type inbox struct {
	prefix string
	mute   atomic.Pointer[error] // why no answer can come, until the next reconnect

	mu      sync.Mutex // guards what follows; nothing else is locked under it
	sub     *nats.Subscription
	last    uint64
	waiting map[uint64]asker
}

func newInbox(nc *nats.Conn) *inbox {
	return &inbox{prefix: nc.NewInbox() + ".", waiting: map[uint64]asker{}}
}

// open takes answers from a connection, in place of the one before.
func (b *inbox) open(nc *nats.Conn) error {
	b.mute.Store(nil)
	sub, err := nc.Subscribe(b.prefix+"*", b.receive)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.sub = sub
	b.mu.Unlock()
	// Answers are small and as many as the questions asked; none may be dropped.
	return sub.SetPendingLimits(-1, -1)
}

// refused returns why no answer can come: the account may not subscribe to the
// inbox. Nil, as far as is known.
func (b *inbox) refused() error {
	if err := b.mute.Load(); err != nil {
		return *err
	}
	return nil
}

// close takes no more answers.
func (b *inbox) close() {
	b.mu.Lock()
	sub := b.sub
	b.mu.Unlock()
	// A failure means that the connection is closed, and the subscription with it.
	_ = sub.Unsubscribe()
}

// expect registers a and returns its token.
func (b *inbox) expect(a asker) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	b.waiting[b.last] = a
	return b.last
}

// reply returns the subject for the answer to token.
func (b *inbox) reply(token uint64) string {
	buf := make([]byte, 0, 64)
	buf = append(buf, b.prefix...)
	return string(strconv.AppendUint(buf, token, 36))
}

// forget removes the question and reports whether it was still open. When it
// was not, its answer was or is being handed over.
func (b *inbox) forget(token uint64) bool {
	return b.take(token) != nil
}

func (b *inbox) take(token uint64) asker {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.waiting[token]
	delete(b.waiting, token)
	return a
}

func (b *inbox) receive(m *nats.Msg) {
	token, err := strconv.ParseUint(m.Subject[len(b.prefix):], 36, 64)
	if err != nil {
		return
	}
	if a := b.take(token); a != nil {
		a.answer(m, nil)
	}
}

// fail answers every open question that match selects with err.
func (b *inbox) fail(err error, match func(subject string) bool) {
	b.mu.Lock()
	var failed []asker
	for token, a := range b.waiting {
		if match(a.askedAt()) {
			failed = append(failed, a)
			delete(b.waiting, token)
		}
	}
	b.mu.Unlock()
	for _, a := range failed {
		a.answer(nil, err)
	}
}
