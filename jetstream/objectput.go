package jetstream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

const (
	defaultChunk = 128 << 10
	// putWindow is how many bytes of an object may be unconfirmed.
	putWindow    = 4 << 20
	digestPrefix = "SHA-256="
	// purgeTimeout bounds the removal of what a cut put has left behind.
	purgeTimeout = 10 * time.Second
)

// Put stores what r yields under meta.Name and returns what is known of it. Until
// it returns nil nobody sees anything of it, and what was there before can be
// read. When r fails, ctx ends or the connection is lost in the middle, the bytes
// that were stored are removed; Sweep removes what could not be, since the
// process or the connection was gone. Such an error may pass: put the object
// again from the start.
//
// meta.Opts.ChunkSize is the size of the parts, 128 KiB by default.
func (s *ObjectStore) Put(ctx context.Context, meta ObjectMeta, r io.Reader) (*ObjectInfo, error) {
	const op = "put object"
	if err := s.checkPut(op, meta, r); err != nil {
		return nil, err
	}
	p := newPutting(s, op, meta)
	info, err := p.send(ctx, r)
	if err == nil {
		info, err = s.replace(ctx, op, meta.Name, func(*ObjectInfo) (*ObjectInfo, error) { return info, nil })
	}
	if err != nil {
		return nil, p.undo(ctx, err)
	}
	return info, nil
}

func (s *ObjectStore) checkPut(op string, meta ObjectMeta, r io.Reader) error {
	if err := s.checkName(op, meta.Name); err != nil {
		return err
	}
	if r == nil {
		return transport.Invalid(op, s.at(meta.Name), "there is nothing to read from")
	}
	if meta.Opts == nil {
		return nil
	}
	if meta.Opts.Link != nil {
		return transport.Invalid(op, s.at(meta.Name), "a link is made by AddLink")
	}
	if limit := s.t.nc().MaxPayload(); limit > 0 && int64(meta.Opts.ChunkSize) > limit {
		return transport.Invalid(op, s.at(meta.Name), "the chunk size is %d and the server takes %d bytes at once (max_payload)", meta.Opts.ChunkSize, limit)
	}
	return nil
}

// newNUID names a version of an object.
func newNUID() string { return rand.Text() }

// putting is one put. It is the asker of all its chunks: confirmations come to
// answer, from the goroutine of the inbox.
type putting struct {
	s       *ObjectStore
	op      string
	meta    ObjectMeta
	nuid    string
	subject string // to publish chunks to
	chunk   int
	window  int // chunks

	mu    sync.Mutex    // guards what follows; nothing else is locked under it
	open  int           // chunks without a confirmation
	err   error         // the first one
	moved chan struct{} // capacity 1: look again
}

func newPutting(s *ObjectStore, op string, meta ObjectMeta) *putting {
	p := &putting{s: s, op: op, meta: meta, nuid: newNUID(), chunk: defaultChunk, moved: make(chan struct{}, 1)}
	if meta.Opts != nil && meta.Opts.ChunkSize > 0 {
		p.chunk = int(meta.Opts.ChunkSize)
	}
	p.meta.Opts = &natsjs.ObjectMetaOptions{ChunkSize: uint32(p.chunk)}
	p.window = max(putWindow/p.chunk, 2)
	p.subject = s.chunkSubject(p.nuid)
	return p
}

// askedAt and answer implement asker.
func (p *putting) askedAt() string { return p.subject }

func (p *putting) answer(m *nats.Msg, err error) {
	if err == nil {
		err = confirmedChunk(m)
	}
	p.mu.Lock()
	p.open--
	if p.err == nil {
		p.err = err
	}
	p.mu.Unlock()
	select {
	case p.moved <- struct{}{}:
	default:
	}
}

// confirmedChunk reads a confirmation.
func confirmedChunk(m *nats.Msg) error {
	if _, ok := plainAck(m.Data); ok {
		return nil
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return nats.ErrNoResponders
	}
	_, err := parsePubAck(m.Data)
	return err
}

// send stores all chunks and returns what there is to say of them.
func (p *putting) send(ctx context.Context, r io.Reader) (*ObjectInfo, error) {
	digest := sha256.New()
	buf := make([]byte, p.chunk)
	info := &ObjectInfo{ObjectMeta: p.meta, Bucket: p.s.cfg.Bucket, NUID: p.nuid}
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			_, _ = digest.Write(buf[:n]) // never fails
			if err := p.sendChunk(ctx, buf[:n]); err != nil {
				return nil, p.fault(err)
			}
			info.Chunks++
			info.Size += uint64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, &transport.Error{Op: p.op, Address: p.s.at(p.meta.Name), Kind: transport.Temporary, Err: fmt.Errorf("read what is to be stored: %w", err)}
		}
	}
	if err := p.await(ctx, 0); err != nil {
		return nil, p.fault(err)
	}
	info.Digest = digestText(digest)
	return info, nil
}

func digestText(h hash.Hash) string {
	return digestPrefix + base64.URLEncoding.EncodeToString(h.Sum(nil))
}

// sendChunk publishes one chunk when there is room for it. The connection copies
// what it is given.
func (p *putting) sendChunk(ctx context.Context, data []byte) error {
	if err := p.await(ctx, p.window-1); err != nil {
		return err
	}
	t := p.s.t
	if t.isClosed() || !t.nc().IsConnected() {
		return t.notConnected()
	}
	p.mu.Lock()
	p.open++
	p.mu.Unlock()
	token := t.inbox.expect(p)
	err := t.nc().PublishMsg(&nats.Msg{Subject: p.subject, Reply: t.inbox.reply(token), Data: data})
	if err == nil {
		return nil
	}
	if t.inbox.forget(token) {
		p.answer(nil, err)
	}
	return t.sendError(err)
}

// await waits until no more than so many chunks are unconfirmed.
func (p *putting) await(ctx context.Context, most int) error {
	for {
		p.mu.Lock()
		open, err := p.open, p.err
		p.mu.Unlock()
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case open <= most:
			return nil
		}
		timer := time.NewTimer(p.s.t.set.pubTimeout)
		select {
		case <-p.moved:
		case <-ctx.Done():
		case <-timer.C:
			err = nats.ErrTimeout
		}
		timer.Stop()
		if err != nil {
			return err
		}
	}
}

// fault is an error of the seam. The object was not stored, whatever became of
// its chunks.
func (p *putting) fault(err error) error {
	if errors.Is(err, nats.ErrNoResponders) {
		ctx, cancel := backgroundFor(apiTimeout)
		defer cancel()
		if gone := p.s.t.gone(ctx, p.s.stream); gone != nil {
			return &transport.Error{Op: p.op, Address: p.s.at(p.meta.Name), Kind: transport.Permanent, Err: gone, Hint: "the store was deleted; open it again to make it"}
		}
	}
	return seamError(p.op, p.s.at(p.meta.Name), p.s.t.sendError(err), false)
}

// undo removes the chunks of a put that failed. The caller's context may have
// ended, so it has time of its own.
func (p *putting) undo(ctx context.Context, cause error) error {
	if transport.KindOf(cause) == transport.Unknown {
		return cause // the object may be there, with its chunks
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), purgeTimeout)
	defer cancel()
	// What is on its way would be stored behind the purge.
	p.settle(ctx)
	p.s.t.inbox.fail(transport.ErrClosed, func(subject string) bool { return subject == p.subject })
	err := p.s.t.persist(ctx, func() error { return p.s.fault(p.op, p.meta.Name, p.purgeAll(ctx)) })
	if err == nil || errors.Is(err, transport.ErrNotFound) {
		return cause
	}
	return fmt.Errorf("%w; what was stored of it could not be removed, Sweep does it later: %w", cause, err)
}

// settle waits until every chunk has its confirmation, or none is to be expected.
func (p *putting) settle(ctx context.Context) {
	for {
		p.mu.Lock()
		p.err = nil
		p.mu.Unlock()
		if err := p.await(ctx, 0); err == nil || errors.Is(err, nats.ErrTimeout) || ctx.Err() != nil {
			return
		}
	}
}

// errStillThere sends a purge round once more: a chunk was stored behind it.
var errStillThere = errors.New("chunks are still stored")

func (p *putting) purgeAll(ctx context.Context) error {
	if err := p.s.purge(ctx, p.nuid); err != nil {
		return err
	}
	_, err := p.s.t.get(ctx, p.s.stream, getRequest{LastFor: p.s.chunkSubject(p.nuid)})
	if isCode(err, codeNoMessage) {
		return nil
	}
	if err == nil {
		err = errStillThere
	}
	return err
}

// purge removes the chunks of one version.
func (s *ObjectStore) purge(ctx context.Context, nuid string) error {
	in := struct {
		Filter string `json:"filter"`
	}{s.chunkSubject(nuid)}
	return s.t.manage(ctx, "STREAM.PURGE."+s.stream, in, nil)
}

// replace writes what change makes of an object's info, unless somebody was
// faster: then it is changed again. The bytes that the new version does not have
// any more are removed afterwards.
func (s *ObjectStore) replace(ctx context.Context, op, name string, change func(old *ObjectInfo) (*ObjectInfo, error)) (*ObjectInfo, error) {
	for {
		old, seq, err := s.info(ctx, op, name)
		if errors.Is(err, transport.ErrNotFound) && seq == 0 && !streamMissing(err) {
			old, err = nil, nil
		}
		if err != nil && !errors.Is(err, ErrObjectDamaged) {
			return nil, err
		}
		next, err := change(old)
		if err != nil {
			return nil, err
		}
		stored, err := s.storeInfo(ctx, op, *next, seq)
		if errors.Is(err, errFaster) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if old != nil && (old.NUID != next.NUID || next.Deleted) {
			// Should it fail, Sweep finds them.
			_ = s.purge(ctx, old.NUID)
		}
		return stored, nil
	}
}

// errFaster tells that somebody else has changed the object.
var errFaster = errors.New("the object was changed by somebody else")

// storeInfo writes the info of an object in place of the one at seq.
func (s *ObjectStore) storeInfo(ctx context.Context, op string, info ObjectInfo, seq uint64) (*ObjectInfo, error) {
	info.ModTime = time.Time{}
	body, err := json.Marshal(info)
	if err != nil {
		return nil, transport.Invalid(op, s.at(info.Name), "what is said of the object: %v", err)
	}
	if limit := s.t.nc().MaxPayload(); limit > 0 && int64(len(body))+512 > limit {
		return nil, &transport.Error{Op: op, Address: s.at(info.Name), Kind: transport.Permanent, Err: transport.ErrTooLarge, Hint: "its description, headers and metadata are larger than the server takes"}
	}
	id, unsure := rand.Text(), false
	m := &nats.Msg{
		Subject: s.metaSubject(info.Name), Data: body,
		Header: nats.Header{
			kvRollupHeader: []string{"sub"}, msgIDHeader: []string{id}, kvExpectHeader: []string{strconv.FormatUint(seq, 10)},
		},
	}
	err = s.t.persist(ctx, func() error {
		_, err := s.t.storeAt(ctx, op, s.at(info.Name), m)
		if wrongRevision(err) {
			if now, _, readErr := s.info(ctx, op, info.Name); unsure && readErr == nil && now.NUID == info.NUID && now.Deleted == info.Deleted {
				return nil // it was this very write
			}
			return &transport.Error{Op: op, Address: s.at(info.Name), Kind: transport.Permanent, Err: errFaster}
		}
		err = s.fault(op, info.Name, err)
		unsure = unsure || transport.KindOf(err) == transport.Unknown
		return err
	})
	if err != nil && unsure && !errors.Is(err, errFaster) {
		err = unknown(err)
	}
	info.ModTime = time.Now().UTC() // until it is read, ours is close enough
	return &info, err
}
