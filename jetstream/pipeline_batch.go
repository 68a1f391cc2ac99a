package jetstream

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// Headers of an atomic batch.
const (
	batchIDHeader     = "Nats-Batch-Id"
	batchSeqHeader    = "Nats-Batch-Sequence"
	batchCommitHeader = "Nats-Batch-Commit"
	// batchHeaderSize is more than the three take.
	batchHeaderSize = 160
)

// Codes of the server about atomic batches.
const (
	codeBatchDisabled natsjs.ErrorCode = 10174
	codeBatchTooLarge natsjs.ErrorCode = 10199
)

// How much goes into one batch.
const (
	batchMost  = 512
	batchBytes = 1 << 20
	// batchLinger is how long a batch waits at most for what its publisher sends
	// when it learns of the outcomes before: a batch costs the server as much as
	// many messages do, whatever its size.
	batchLinger = time.Millisecond
)

// batcher publishes in atomic batches, which the server syncs to disk once. While
// one is under way the messages of the next are sent, all but the last: with that
// one a batch is committed, and it is held back until the batch before it has its
// outcome. So a batch that is rejected can be published again message by message
// with nothing behind it stored before, and each message gets an outcome of its
// own.
//
// A batch is rejected as a whole when one of its messages is a duplicate. So what
// may have been stored before, and what the server could not tell from a
// duplicate, is published by itself.
type batcher struct {
	p  *pipeline
	id string // of this pipeline; the ID of a batch begins with it

	// mu guards what follows and is held while a message is written: the
	// goroutine that sends and that of the inbox both do. It is taken under
	// reporting, and flight.mu under it.
	mu    sync.Mutex
	most  int // messages in a batch
	off   bool
	seq   uint64
	under batch      // committed and not answered
	next  batch      // gathers while one is under way; its last message is not sent yet
	queue []gathered // waits behind next, and does not fit into it
	// After an answer the next batch waits for as many messages as were unconfirmed
	// by then, for a short time.
	lingering bool
	target    int
	timer     *time.Timer
}

// gathered is a message that was checked.
type gathered struct {
	subject string
	m       *transport.Message
	tag     uint64
	solo    bool // published by itself
}

// batch is messages to one subject. A single one is no batch for the server.
type batch struct {
	id       string
	messages []gathered
	numbers  []uint64 // of the messages
	bytes    int
}

func (u *batch) empty() bool { return len(u.messages) == 0 }

func (u *batch) last() uint64 { return u.numbers[len(u.numbers)-1] }

// newBatcher returns nil where the server does not know batches: it would ignore
// their headers.
func newBatcher(p *pipeline) *batcher {
	if !serverAtLeast(p.conn.nc, 2, 12, 0) {
		return nil
	}
	id := strings.TrimSuffix(p.prefix, ".")
	return &batcher{p: p, id: id[strings.LastIndexByte(id, '.')+1:], most: batchMost}
}

// send takes a message whose address was checked.
func (b *batcher) send(subject string, m *transport.Message, tag uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	header := b.p.own.encode(m)
	if err := b.p.own.check("publish", subject, m); err != nil {
		return err
	}
	size, limit := int64(len(m.Body))+headerSize(header), b.p.conn.nc.MaxPayload()
	if size > limit {
		return tooLarge("publish", subject, size, limit)
	}
	solo := m.Resent || m.ID == "" && m.DedupID == "" || size+batchHeaderSize > limit
	b.queue = append(b.queue, gathered{subject: subject, m: m, tag: tag, solo: solo})
	b.advanceLocked()
	return nil
}

// advanceLocked sends what may be sent now. What goes out in vain, since the
// pipeline is over, has no outcome.
func (b *batcher) advanceLocked() {
	for {
		b.drainLocked()
		more := b.lingering && len(b.next.messages) < b.target && len(b.queue) == 0
		if !b.under.empty() || b.next.empty() || more {
			return
		}
		b.lingering = false
		b.commitLocked()
	}
}

// drainLocked takes from the queue what need not wait.
func (b *batcher) drainLocked() {
	taken := 0
	for _, g := range b.queue {
		if !b.takeLocked(g) {
			break
		}
		taken++
	}
	rest := copy(b.queue, b.queue[taken:])
	clear(b.queue[rest:])
	b.queue = b.queue[:rest]
}

// takeLocked sends or gathers the oldest of the queue. It reports false when
// that has to wait.
func (b *batcher) takeLocked(g gathered) bool {
	idle := b.under.empty() && b.next.empty()
	switch {
	case idle && (g.solo || b.off):
		b.singleLocked(g)
	case idle && !b.lingering:
		// What follows gathers until this one is confirmed.
		b.under = batch{messages: []gathered{g}, numbers: []uint64{b.singleLocked(g)}}
	case g.solo || b.off || !b.next.empty() && !b.fitsLocked(g):
		return false
	default:
		b.gatherLocked(g)
	}
	return true
}

// lingerLocked lets the next batch wait for so many messages.
func (b *batcher) lingerLocked(target int) {
	b.lingering, b.target = true, min(target, b.most)
	if b.timer == nil {
		b.timer = time.AfterFunc(batchLinger, b.flush)
		return
	}
	b.timer.Reset(batchLinger)
}

// flush sends what waits for more.
func (b *batcher) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lingering = false
	b.advanceLocked()
}

// stop is called when the pipeline is over.
func (b *batcher) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
	}
}

func (b *batcher) fitsLocked(g gathered) bool {
	return g.subject == b.next.messages[0].subject && len(b.next.messages) < b.most && b.next.bytes+len(g.m.Body) <= batchBytes
}

// gatherLocked adds a message to the next batch, and sends the one before it.
func (b *batcher) gatherLocked(g gathered) {
	if b.next.empty() {
		b.seq++
		b.next.id = b.id + "-" + strconv.FormatUint(b.seq, 36)
	} else {
		b.memberLocked("")
	}
	b.next.messages = append(b.next.messages, g)
	b.next.numbers = append(b.next.numbers, b.p.flight.add(g.tag, g.subject))
	b.next.bytes += len(g.m.Body)
}

// memberLocked sends the last message of the next batch. With a reply subject it
// commits the batch.
func (b *batcher) memberLocked(reply string) {
	i := len(b.next.messages) - 1
	g := b.next.messages[i]
	header := b.p.own.encode(g.m)
	b.p.own.set(batchIDHeader, b.next.id)
	b.p.own.set(batchSeqHeader, strconv.Itoa(i+1))
	if reply != "" {
		b.p.own.set(batchCommitHeader, "1")
	}
	b.writeLocked(g, b.next.numbers[i], reply, header)
}

// commitLocked puts the next batch under way.
func (b *batcher) commitLocked() {
	n := b.next.last()
	switch {
	case b.off:
		b.singlesLocked(b.next)
		b.next = batch{}
		return
	case len(b.next.messages) == 1:
		g := b.next.messages[0]
		b.writeLocked(g, n, b.p.reply(n), b.p.own.encode(g.m))
	default:
		b.memberLocked(b.p.reply(n))
	}
	b.under, b.next = b.next, batch{}
}

// singlesLocked publishes the messages of a batch that will not be one by
// themselves.
func (b *batcher) singlesLocked(u batch) {
	for _, n := range u.numbers {
		b.p.flight.take(n, nil)
	}
	for _, g := range u.messages {
		b.singleLocked(g)
	}
}

// singleLocked publishes one message and returns its number.
func (b *batcher) singleLocked(g gathered) uint64 {
	n := b.p.flight.add(g.tag, g.subject)
	b.writeLocked(g, n, b.p.reply(n), b.p.own.encode(g.m))
	return n
}

// writeLocked sends a message. It cannot be refused here, for it was checked;
// when it cannot be sent the pipeline is over, and what follows is sent in vain.
func (b *batcher) writeLocked(g gathered, n uint64, reply string, header nats.Header) {
	if b.p.Err() != nil {
		return
	}
	b.p.msg.Subject, b.p.msg.Reply, b.p.msg.Header, b.p.msg.Data = g.subject, reply, header, g.m.Body
	if err := b.p.conn.nc.PublishMsg(&b.p.msg); err != nil {
		b.p.fail(lostError(false, err))
		b.p.conn.wire.Close()
	}
}

// answered takes the answer to number n. It reports whether that was one to a
// batch, whose messages have their outcome then. reporting is held.
func (b *batcher) answered(n uint64, ack *pubAck, err error) bool {
	b.mu.Lock()
	under := b.under
	if under.empty() || n != under.last() {
		b.mu.Unlock()
		return false
	}
	unconfirmed := len(under.messages) + len(b.next.messages) + len(b.queue)
	b.under = batch{}
	single := len(under.messages) == 1
	stored := err == nil && ack != nil && ack.Batch == under.id && ack.Count == len(under.messages)
	resolve := !single && !stored && !errors.Is(err, nats.ErrNoResponders)
	switch {
	case resolve:
		b.rejectedLocked(under, err)
	case err == nil && unconfirmed > 1 && !b.off:
		b.lingerLocked(unconfirmed)
	}
	b.advanceLocked()
	b.mu.Unlock()
	if single || resolve {
		return resolve
	}
	for _, n := range under.numbers {
		b.p.flight.take(n, func(tag uint64, subject string) { b.p.report(tag, outcome(subject, err)) })
	}
	return true
}

// rejectedLocked publishes the messages of a rejected batch one by one, so that
// each gets its own outcome.
func (b *batcher) rejectedLocked(u batch, err error) {
	switch {
	case err == nil, isCode(err, codeBatchDisabled):
		b.off = true // no batch: the server took each message for itself, or the stream takes none
	case isCode(err, codeBatchTooLarge):
		b.most = max(len(u.messages)/2, 2)
	}
	b.singlesLocked(u)
}

// denied forgets batches the server does not allow; what is under way to the
// subject is told so. reporting is held.
func (b *batcher) denied(subject string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range []*batch{&b.under, &b.next} {
		if !u.empty() && u.messages[0].subject == subject {
			*u = batch{}
		}
	}
	b.advanceLocked()
}
