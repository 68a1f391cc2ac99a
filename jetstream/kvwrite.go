package jetstream

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// PutOption changes one Put, Create or Update.
type PutOption func(*write)

// KeyTTL lets the server remove this value when d has passed, in whole seconds,
// rounded up. The bucket must have a LimitMarkerTTL, which needs a server of
// version 2.11; watches then see the removal as OpPurge with Expired.
func KeyTTL(d time.Duration) PutOption {
	return func(w *write) { w.ttl, w.expires = d, true }
}

// DeleteOption changes one Delete or Purge.
type DeleteOption func(*write)

// IfRevision lets a Delete or Purge happen only if the last revision of the key
// is this one.
func IfRevision(revision uint64) DeleteOption {
	return func(w *write) { w.expect = &revision }
}

// MarkerTTL lets the server remove the mark that a Purge leaves when d has
// passed, in whole seconds, rounded up. Delete refuses it: what came before the
// mark would be current again.
func MarkerTTL(d time.Duration) DeleteOption {
	return func(w *write) { w.ttl, w.expires = d, true }
}

// write is one change of a key.
type write struct {
	op, key   string
	data      []byte
	operation string  // KV-Operation; "" is a value
	expect    *uint64 // the last revision; 0: none
	ttl       time.Duration
	expires   bool

	id     string // names the write where its outcome must be found out
	unsure bool   // a try has an unknown outcome
}

// Names of the headers of a write that the server acts upon.
const (
	kvExpectHeader = "Nats-Expected-Last-Subject-Sequence"
	kvTTLHeader    = "Nats-TTL"
	kvRollupHeader = "Nats-Rollup"
)

// header returns what is written besides the value; nil is nothing.
func (w *write) header() nats.Header {
	h := nats.Header{}
	if w.operation != "" {
		h[kvOperation] = []string{w.operation}
	}
	if w.operation == kvPurge {
		h[kvRollupHeader] = []string{"sub"}
	}
	if w.expires {
		seconds := max((w.ttl+time.Second-1)/time.Second, 1)
		h[kvTTLHeader] = []string{strconv.FormatInt(int64(seconds), 10) + "s"}
	}
	if w.expect != nil {
		h[kvExpectHeader] = []string{strconv.FormatUint(*w.expect, 10)}
		h[msgIDHeader] = []string{w.id}
	}
	if len(h) == 0 {
		return nil
	}
	return h
}

// write makes one change, repeated until the outcome is known or ctx ends.
func (b *bucket) write(ctx context.Context, w write) (uint64, error) {
	if err := b.checkWrite(&w); err != nil {
		return 0, err
	}
	if w.expect != nil {
		w.id = rand.Text()
	}
	subject := b.put + w.key
	header := w.header()
	if limit := b.t.nc().MaxPayload(); limit > 0 && int64(len(w.data)) > limit-headerSize(header) {
		return 0, &transport.Error{
			Op: w.op, Address: b.at(w.key), Kind: transport.Permanent, Err: transport.ErrTooLarge,
			Hint: fmt.Sprintf("the value has %d bytes and the server takes %d (max_payload); the object store takes more", len(w.data), limit),
		}
	}
	var rev uint64
	err := b.t.persist(ctx, func() (err error) {
		rev, err = b.t.storeAt(ctx, w.op, b.at(w.key), &nats.Msg{Subject: subject, Header: header, Data: w.data})
		if err == nil {
			return nil
		}
		rev, err = b.outcome(ctx, &w, header, err)
		return err
	})
	if err != nil && w.unsure {
		err = unknown(err)
	}
	return rev, err
}

// checkWrite refuses what the server would ignore or change.
func (b *bucket) checkWrite(w *write) error {
	if !w.expires {
		return nil
	}
	refuse := func(cause error, format, hint string, args ...any) error {
		return &transport.Error{Op: w.op, Address: b.at(w.key), Kind: transport.Permanent, Err: fmt.Errorf("%w: "+format, append([]any{cause}, args...)...), Hint: hint}
	}
	switch {
	case w.operation == kvDelete:
		return refuse(transport.ErrInvalid, "the mark of a Delete cannot expire: what came before it would be current again", "use Purge")
	case w.ttl < time.Second:
		return refuse(transport.ErrInvalid, "a time to live of %v is below a second", "the server counts in seconds", w.ttl)
	case !b.ttl:
		return refuse(transport.ErrUnsupported, "the bucket does not let single values expire",
			"give the bucket a LimitMarkerTTL, which needs a server of version 2.11 or later; the connected one is "+b.t.nc().ConnectedServerVersion())
	case w.ttl < b.least:
		return refuse(transport.ErrInvalid, "a time to live of %v is below the LimitMarkerTTL of %v, to which the server would raise it", "lower LimitMarkerTTL, or keep one revision a key (History 1)", w.ttl, b.least)
	}
	return nil
}

// outcome turns an error of one try into what is known: a conflict may be with
// what an earlier try has stored.
func (b *bucket) outcome(ctx context.Context, w *write, header nats.Header, err error) (uint64, error) {
	if !wrongRevision(err) {
		err = b.fault(ctx, w.op, w.key, err)
		w.unsure = w.unsure || transport.KindOf(err) == transport.Unknown
		return 0, err
	}
	last, readErr := b.last(ctx, w.key)
	if readErr == nil && w.unsure && last.header.Get(msgIDHeader) == w.id {
		w.unsure = false
		return last.seq, nil
	}
	if w.op == "create" && *w.expect == 0 {
		if readErr != nil && !errors.Is(readErr, transport.ErrNotFound) {
			return 0, readErr
		}
		if o, _ := operationOf(last.header); readErr == nil && o != OpPut {
			// It was deleted: what must not exist is a value.
			header[kvExpectHeader] = []string{strconv.FormatUint(last.seq, 10)}
			return 0, &transport.Error{Op: w.op, Address: b.at(w.key), Kind: transport.Temporary, Err: errDeleted}
		}
	}
	return 0, &transport.Error{
		Op: w.op, Address: b.at(w.key), Kind: transport.Permanent,
		Err: &ConflictError{Bucket: b.cfg.Bucket, Key: w.key, Expected: *w.expect},
	}
}

// errDeleted sends a Create round once more.
var errDeleted = errors.New("the key was deleted")

// fault is an error of the seam for a question about a key. When nobody answers
// for the stream it finds out whether there is one.
func (b *bucket) fault(ctx context.Context, op, key string, err error) error {
	if errors.Is(err, nats.ErrNoResponders) {
		if gone := b.t.gone(ctx, b.stream); gone != nil {
			return &transport.Error{
				Op: op, Address: b.at(key), Kind: transport.Permanent, Err: fmt.Errorf("the bucket is gone: %w", gone),
				Hint: "it was deleted; open it again to make it",
			}
		}
	}
	return seamError(op, b.at(key), err, false)
}

// gone returns ErrNotFound when the server says that there is no such stream.
func (t *Transport) gone(ctx context.Context, stream string) error {
	if _, err := t.streamInfo(ctx, stream); streamMissing(err) {
		return fmt.Errorf("%w: %w", transport.ErrNotFound, err)
	}
	return nil
}

// unknown is err as one whose outcome nobody knows.
func unknown(err error) error {
	if te, ok := errors.AsType[*transport.Error](err); ok {
		copied := *te
		copied.Kind = transport.Unknown
		return &copied
	}
	return err
}

// storeAt publishes m and returns the sequence under which it is stored. The
// error is of the seam where it is known whether m was sent.
func (t *Transport) storeAt(ctx context.Context, op, address string, m *nats.Msg) (uint64, error) {
	if t.isClosed() || !t.nc().IsConnected() {
		return 0, t.notConnected()
	}
	reply, sent, err := t.ask(ctx, m, t.set.pubTimeout)
	if err != nil {
		if sent && !errors.Is(err, nats.ErrNoResponders) {
			return 0, seamError(op, address, err, true)
		}
		return 0, err
	}
	if seq, ok := plainAck(reply.Data); ok {
		return seq, nil
	}
	ack, err := parsePubAck(reply.Data)
	if err != nil {
		return 0, err
	}
	if ack == nil {
		return 0, errBadAnswer
	}
	return ack.Sequence, nil
}

// plainAck reads the sequence from a confirmation of the ordinary form without
// decoding all of it. One of another form is left to parsePubAck.
func plainAck(data []byte) (uint64, bool) {
	const name = `"seq":`
	at := bytes.Index(data, []byte(name))
	if at < 0 || !bytes.HasPrefix(data, []byte(`{"stream":"`)) || bytes.Contains(data, []byte(`"error"`)) {
		return 0, false
	}
	rest := data[at+len(name):]
	for len(rest) > 0 && rest[0] == ' ' {
		rest = rest[1:]
	}
	var n uint64
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		n = n*10 + uint64(rest[digits]-'0')
		digits++
	}
	return n, digits > 0
}

const (
	persistMin = 20 * time.Millisecond
	persistMax = 2 * time.Second
)

// persist repeats try until it succeeds, is refused for good, or ctx ends. Then
// the last error of try is returned.
func (t *Transport) persist(ctx context.Context, try func() error) error {
	pause := persistMin
	for {
		err := try()
		if err == nil || transport.KindOf(err) == transport.Permanent || isFull(err) || t.isClosed() {
			return err
		}
		if errors.Is(err, errDeleted) {
			continue // it changed what it asks for
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return endedBy(ctx, err)
		case <-timer.C:
		}
		pause = min(2*pause, persistMax)
	}
}

// isFull tells whether the server has no room, which no repetition makes.
func isFull(err error) bool {
	return isCode(err, codeStoreFailed, codeNoStorage, codeInsufficient)
}

// endedBy adds to err that the caller's context ended.
func endedBy(ctx context.Context, err error) error {
	te, ok := errors.AsType[*transport.Error](err)
	if !ok || errors.Is(err, ctx.Err()) {
		return err
	}
	copied := *te
	copied.Err = errors.Join(te.Err, ctx.Err())
	return &copied
}
