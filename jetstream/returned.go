package jetstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// JetStream counts every hand-over of a message and cannot be told to take one
// back. What was given back unseen is therefore remembered in the metadata of
// the durable consumer, where every process finds it:
//
//	holdfast.returned: 17:1 23:2
//
// says that message 17 of the stream was given back uncharged once and message
// 23 twice. A hand-over shows the server's count less that.
//
// The record is read, changed and written again, and nothing keeps two members
// from doing so at once: then one overwrites what the other added. A lost entry
// makes a count too high by one, as if there were no record, and never too low.
// In the same way a change of the consumer by somebody else is undone when it
// falls between the reading and the writing, a few milliseconds apart.
const (
	returnedKey = "holdfast.returned"
	// maxReturned bounds the record. What lies at the ack floor or below is done
	// with and removed; beyond that the lowest sequences go.
	maxReturned = 512
	// returnedTimeout bounds the writing: it must not hold up a stop for long.
	returnedTimeout = 2 * time.Second
	// returnedPause is how long nothing is written after a failure, so that many
	// returns after each other do not all wait for a server that does not answer.
	returnedPause = 30 * time.Second
)

// returns is what a lane knows of hand-overs that were given back uncharged. It
// is safe for concurrent use.
type returns struct {
	size atomic.Int64 // of counts; while it is 0 nothing else is looked at

	mu     sync.Mutex        // guards what follows; nothing else is locked under it
	counts map[uint64]uint32 // by sequence in the stream; true, or too low
	next   *recording        // what the next write will hold
	denied bool              // the record cannot be kept
	paused time.Time         // nothing is written before

	turn chan struct{} // holds a token while a write is under way
}

// recording is one write, made by one of those who wait for it.
type recording struct {
	seqs []uint64
	done chan struct{}
}

// less returns deliveries, the server's count, without those that were given
// back.
func (r *returns) less(seq uint64, deliveries uint32) uint32 {
	if deliveries <= 1 || r.size.Load() == 0 {
		return max(deliveries, 1)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(deliveries, r.counts[seq]+1) - r.counts[seq]
}

// learn takes over what the server holds.
func (r *returns) learn(metadata map[string]string, floor uint64) {
	stored := parseReturned(metadata[returnedKey])
	if len(stored) == 0 && r.size.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mergeLocked(stored)
	maps.DeleteFunc(r.counts, func(seq uint64, _ uint32) bool { return seq <= floor })
	r.size.Store(int64(len(r.counts)))
}

// mergeLocked raises counts to those of stored: both are true or too low.
func (r *returns) mergeLocked(stored map[uint64]uint32) {
	if r.counts == nil {
		r.counts = make(map[uint64]uint32, len(stored))
	}
	for seq, n := range stored {
		r.counts[seq] = max(r.counts[seq], n)
	}
}

// forget drops everything: the consumer it spoke of is gone.
func (r *returns) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts = nil
	r.size.Store(0)
}

// join adds hand-overs to what is known and to the next write.
func (r *returns) join(seqs []uint64) *recording {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mergeLocked(nil)
	for _, seq := range seqs {
		r.counts[seq]++
	}
	r.size.Store(int64(len(r.counts)))
	if r.next == nil {
		r.next = &recording{done: make(chan struct{})}
	}
	r.next.seqs = append(r.next.seqs, seqs...)
	return r.next
}

// depart takes a recording that nobody can join any more.
func (r *returns) depart(rec *recording) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == rec {
		r.next = nil
	}
}

// raised returns stored with the hand-overs of seqs added to it.
func (r *returns) raised(stored map[uint64]uint32, seqs []uint64) map[uint64]uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, seq := range seqs {
		stored[seq] = max(stored[seq]+1, r.counts[seq])
	}
	r.mergeLocked(stored)
	r.size.Store(int64(len(r.counts)))
	return stored
}

// failed keeps from writing for a while; for good when the account may not: each
// further try would be another line in the log of the server.
func (r *returns) failed(err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.denied = r.denied || errors.Is(err, transport.ErrPermission)
	r.paused = time.Now().Add(returnedPause)
}

// isOff tells whether nothing is to be written now.
func (r *returns) isOff() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.denied || time.Now().Before(r.paused)
}

// recordReturned remembers that messages were handed out and given back
// uncharged, here and at the server. It is called before they are given back,
// and returns when the server has confirmed it or cannot; what cannot be
// recorded is counted, and is no error. Calls at the same time share a write.
func (l *lane) recordReturned(ctx context.Context, seqs ...uint64) {
	if len(seqs) == 0 {
		return
	}
	rec := l.returned.join(seqs)
	ctx, cancel := context.WithTimeout(ctx, returnedTimeout)
	defer cancel()
	select {
	case <-rec.done:
		return
	case <-ctx.Done():
		return
	case l.returned.turn <- struct{}{}:
	}
	defer func() { <-l.returned.turn }()
	select {
	case <-rec.done:
		return
	default:
	}
	l.returned.depart(rec)
	if l.recordable() {
		l.writeReturned(ctx, rec.seqs)
	}
	close(rec.done)
}

// recordable tells whether there is a place for the record: the metadata of a
// consumer that others share and that may be changed.
func (l *lane) recordable() bool {
	t := l.r.t
	durable := l.redrive || l.park || l.r.src.cfg.Durable != ""
	return durable && l.r.mode(l) != ModeVerify && !l.returned.isOff() &&
		t.nc().IsConnected() && serverAtLeast(t.nc(), 2, 10, 0)
}

// storedConsumer is a consumer with its configuration as the server gave it, so
// that settings this client does not know are written back unchanged.
type storedConsumer struct {
	Config   map[string]json.RawMessage `json:"config"`
	AckFloor struct {
		Stream uint64 `json:"stream_seq"`
	} `json:"ack_floor"`
}

// writeReturned adds hand-overs to the record at the server.
func (l *lane) writeReturned(ctx context.Context, seqs []uint64) {
	t := l.r.t
	var have storedConsumer
	err := t.manage(ctx, "CONSUMER.INFO."+l.stream+"."+l.consumer, nil, &have)
	if err != nil || len(have.Config) == 0 {
		l.returned.failed(err)
		return
	}
	metadata := map[string]string{}
	if raw, ok := have.Config["metadata"]; ok && json.Unmarshal(raw, &metadata) != nil {
		return // not ours to overwrite
	}
	stored := l.returned.raised(parseReturned(metadata[returnedKey]), seqs)
	metadata[returnedKey] = formatReturned(stored, have.AckFloor.Stream)
	raw, err := json.Marshal(metadata)
	if err != nil {
		return // a map of strings always can be
	}
	have.Config["metadata"] = raw
	in := struct {
		Stream string                     `json:"stream_name"`
		Config map[string]json.RawMessage `json:"config"`
		Action string                     `json:"action"`
	}{l.stream, have.Config, actionUpdate}
	l.returned.failed(t.manage(ctx, "CONSUMER.CREATE."+l.stream+"."+l.consumer, in, nil))
}

// parseReturned reads a record. What it does not understand it leaves out.
func parseReturned(record string) map[uint64]uint32 {
	counts := map[uint64]uint32{}
	for entry := range strings.FieldsSeq(record) {
		seq, n, _ := strings.Cut(entry, ":")
		s, err := strconv.ParseUint(seq, 10, 64)
		c, err2 := strconv.ParseUint(n, 10, 32)
		if err == nil && err2 == nil && c > 0 && len(counts) < maxReturned {
			counts[s] = uint32(c)
		}
	}
	return counts
}

// formatReturned writes a record of what lies above the ack floor.
func formatReturned(counts map[uint64]uint32, floor uint64) string {
	seqs := slices.DeleteFunc(slices.Collect(maps.Keys(counts)), func(seq uint64) bool { return seq <= floor })
	slices.SortFunc(seqs, cmp.Compare[uint64])
	if len(seqs) > maxReturned {
		seqs = seqs[len(seqs)-maxReturned:]
	}
	var b strings.Builder
	for i, seq := range seqs {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.FormatUint(seq, 10))
		b.WriteByte(':')
		b.WriteString(strconv.FormatUint(uint64(counts[seq]), 10))
	}
	return b.String()
}
