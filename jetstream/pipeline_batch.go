package jetstream

import (
	"errors"
	"strconv"
	"strings"
	"sync"

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
)

// batcher publishes in atomic batches, which the server syncs to disk once. One
// batch is under way at a time, and what is sent meanwhile gathers for the next:
// so a batch that is rejected can be published again message by message with
// nothing behind it stored before, and each message gets an outcome of its own.
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
	queue []gathered
	most  int // messages in a batch
	off   bool
	seq   uint64
	under batch // under way; zero when nothing is
}

// gathered is a message that waits for its batch.
type gathered struct {
	subject string
	m       *transport.Message
	tag     uint64
	solo    bool // published by itself
}

// batch is what is under way: messages with consecutive numbers. A single one is
// no batch for the server.
type batch struct {
	id          string
	first, last uint64
	messages    []gathered
}

// newBatcher returns nil where the server does not know batches: it would ignore
// their headers.
func newBatcher(p *pipeline) *batcher {
	if !serverAtLeast(p.conn.nc, 2, 12, 0) {
		return nil
	}
	id := strings.TrimSuffix(p.prefix, ".")
	return &batcher{p: p, id: id[strings.LastIndexByte(id, '.')+1:], most: batchMost}
}

// send takes a message that was checked.
func (b *batcher) send(subject string, m *transport.Message, tag uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := gathered{subject: subject, m: m, tag: tag}
	header := b.p.own.encode(m)
	if err := b.p.own.check("publish", subject, m); err != nil {
		return err
	}
	size, limit := int64(len(m.Body))+headerSize(header), b.p.conn.nc.MaxPayload()
	if size > limit {
		return tooLarge("publish", subject, size, limit)
	}
	g.solo = b.off || m.Resent || m.ID == "" && m.DedupID == "" || size+batchHeaderSize > limit
	b.queue = append(b.queue, g)
	b.pumpLocked()
	return nil
}

// flush is nothing to do: what waits, waits for the batch before it.
func (b *batcher) flush() {}

// pumpLocked sends what may be sent now.
func (b *batcher) pumpLocked() {
	for len(b.queue) > 0 && b.under.messages == nil && b.p.Err() == nil {
		next := b.nextLocked()
		switch {
		case b.off || next[0].solo:
			b.singlesLocked(next)
		case len(next) == 1:
			// What follows gathers until this one is confirmed.
			if n, ok := b.singleLocked(next[0]); ok {
				b.under = batch{first: n, last: n, messages: next}
			}
		default:
			b.batchLocked(next)
		}
	}
}

// nextLocked takes from the queue what goes out together.
func (b *batcher) nextLocked() []gathered {
	first, n, size := b.queue[0], 1, len(b.queue[0].m.Body)
	for !first.solo && n < min(len(b.queue), b.most) {
		g := b.queue[n]
		size += len(g.m.Body)
		if g.solo || g.subject != first.subject || size > batchBytes {
			break
		}
		n++
	}
	next := make([]gathered, n)
	copy(next, b.queue)
	rest := copy(b.queue, b.queue[n:])
	clear(b.queue[rest:])
	b.queue = b.queue[:rest]
	return next
}

// singlesLocked publishes messages one by one.
func (b *batcher) singlesLocked(all []gathered) {
	for _, g := range all {
		if _, ok := b.singleLocked(g); !ok {
			return
		}
	}
}

// singleLocked publishes one message. It cannot be refused here, for it was
// checked; when it cannot be sent the pipeline is over.
func (b *batcher) singleLocked(g gathered) (n uint64, ok bool) {
	n = b.p.flight.add(g.tag, g.subject)
	return n, b.writeLocked(g, n, b.p.reply(n), b.p.own.encode(g.m))
}

func (b *batcher) writeLocked(g gathered, n uint64, reply string, header nats.Header) bool {
	b.p.msg.Subject, b.p.msg.Reply, b.p.msg.Header, b.p.msg.Data = g.subject, reply, header, g.m.Body
	if err := b.p.conn.nc.PublishMsg(&b.p.msg); err != nil {
		_ = b.p.sendFailed(n, g.subject, err)
		if b.p.Err() == nil { // the server lowered a limit in between
			b.p.fail(lostError(false, err))
			b.p.conn.wire.Close()
		}
		return false
	}
	return true
}

// batchLocked publishes messages as one batch. Only the last one, which commits
// it, is answered.
func (b *batcher) batchLocked(all []gathered) {
	b.seq++
	id := b.id + "-" + strconv.FormatUint(b.seq, 36)
	under := batch{id: id, messages: all}
	for i, g := range all {
		header := b.p.own.encode(g.m)
		b.p.own.set(batchIDHeader, id)
		b.p.own.set(batchSeqHeader, strconv.Itoa(i+1))
		n, reply := b.p.flight.add(g.tag, g.subject), ""
		if i == 0 {
			under.first = n
		}
		if i == len(all)-1 {
			b.p.own.set(batchCommitHeader, "1")
			reply, under.last = b.p.reply(n), n
		}
		if !b.writeLocked(g, n, reply, header) {
			return
		}
	}
	b.under = under
}

// answered takes the answer to number n. It reports whether that was one to a
// batch, whose messages have their outcome then. reporting is held.
func (b *batcher) answered(n uint64, ack *pubAck, err error) bool {
	b.mu.Lock()
	under := b.under
	if under.messages == nil || n != under.last {
		b.mu.Unlock()
		return false
	}
	b.under = batch{}
	if under.first == under.last {
		b.pumpLocked()
		b.mu.Unlock()
		return false
	}
	stored := err == nil && ack != nil && ack.Batch == under.id && ack.Count == len(under.messages)
	if !stored && !errors.Is(err, nats.ErrNoResponders) {
		b.resolveLocked(under, err)
		b.pumpLocked()
		b.mu.Unlock()
		return true
	}
	b.pumpLocked()
	b.mu.Unlock()
	for i := under.first; i <= under.last; i++ {
		b.p.flight.take(i, func(tag uint64, subject string) { b.p.report(tag, outcome(subject, err)) })
	}
	return true
}

// resolveLocked publishes the messages of a rejected batch one by one, so that
// each gets its own outcome.
func (b *batcher) resolveLocked(under batch, err error) {
	switch {
	case err == nil, isCode(err, codeBatchDisabled):
		b.off = true // no batch: the server took each message for itself, or the stream takes none
	case isCode(err, codeBatchTooLarge):
		b.most = max(len(under.messages)/2, 2)
	}
	for n := under.first; n <= under.last; n++ {
		b.p.flight.take(n, nil)
	}
	b.singlesLocked(under.messages)
}

// denied forgets a batch the server did not allow. reporting is held.
func (b *batcher) denied(subject string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.under.messages != nil && b.under.messages[0].subject == subject {
		b.under = batch{}
		b.pumpLocked()
	}
}
