package jetstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// getWindow is how many bytes of an object are on their way to its reader.
const getWindow = 8 << 20

// maxGetChunks are on their way at most, however small the object says they are:
// what it says may be wrong.
const maxGetChunks = 64

// maxLinks is how many links are followed from one to the next. Links to links
// are refused when they are made, and an object may become a link afterwards.
const maxLinks = 8

// ObjectReader reads one version of an object. Read returns io.EOF only after
// all bytes have come and their digest is the one that was stored with them;
// anything else that ends it is an error, so use nothing of the bytes before
// io.EOF where a part or a wrong one would do harm. It goes on after a lost
// connection until its context ends. It is for one goroutine at a time, and must
// be closed.
type ObjectReader struct {
	info   ObjectInfo
	s      *ObjectStore
	ctx    context.Context
	cancel context.CancelFunc
	next   func() (stored, error, bool)
	stop   func()
	digest hash.Hash
	rest   []byte
	chunks uint32
	size   uint64
	err    error
}

var (
	_ io.ReadCloser = (*ObjectReader)(nil)
	_ io.WriterTo   = (*ObjectReader)(nil)
)

// Get opens an object for reading, following links; transport.ErrNotFound when
// there is none. ctx must not end before the reader is closed.
func (s *ObjectStore) Get(ctx context.Context, name string) (*ObjectReader, error) {
	const op = "get object"
	at := s
	for range maxLinks {
		info, err := at.Info(ctx, name)
		if err != nil {
			return nil, err
		}
		link := linkOf(info)
		if link == nil {
			return at.read(ctx, *info), nil
		}
		if link.Name == "" {
			return nil, transport.Invalid(op, at.at(name), "it is a link to the store %s and not to an object: open that store", link.Bucket)
		}
		if !validToken(link.Bucket) {
			return nil, at.damaged(op, name, "it is a link to %q, which is no name of a store", short(link.Bucket))
		}
		name, at = link.Name, at.linked(link.Bucket)
	}
	return nil, transport.Invalid(op, s.at(name), "its links lead from one to the next without an end")
}

// linked is the store of a link.
func (s *ObjectStore) linked(bucket string) *ObjectStore {
	if bucket == s.cfg.Bucket {
		return s
	}
	return &ObjectStore{t: s.t, cfg: ObjectStoreConfig{Bucket: bucket, Mode: ModeVerify}, stream: objectStreamPrefix + bucket}
}

// Open opens the very version of an object that info tells of, such as the one in
// the hands of a watch. ErrObjectReplaced, also from Read, means that it is gone:
// there is a newer one, or it was deleted. Of a link it opens what Get does.
func (s *ObjectStore) Open(ctx context.Context, info *ObjectInfo) (*ObjectReader, error) {
	const op = "open object"
	now, err := s.Info(ctx, info.Name)
	switch {
	case errors.Is(err, transport.ErrNotFound) && !streamMissing(err):
		return nil, s.replaced(op, info.Name)
	case err != nil:
		return nil, err
	case now.NUID != info.NUID:
		return nil, s.replaced(op, info.Name)
	case linkOf(now) != nil:
		return s.Get(ctx, info.Name)
	}
	return s.read(ctx, *now), nil
}

func (s *ObjectStore) replaced(op, name string) error {
	return &transport.Error{Op: op, Address: s.at(name), Kind: transport.Permanent, Err: ErrObjectReplaced, Hint: "read the version that is there now"}
}

func (s *ObjectStore) damaged(op, name, format string, args ...any) error {
	return &transport.Error{
		Op: op, Address: s.at(name), Kind: transport.Permanent, Err: fmt.Errorf("%w: %s", ErrObjectDamaged, fmt.Sprintf(format, args...)),
		Hint: "put the object again",
	}
}

func (s *ObjectStore) read(ctx context.Context, info ObjectInfo) *ObjectReader {
	o := &ObjectReader{info: info, s: s, digest: sha256.New()}
	o.ctx, o.cancel = context.WithCancel(ctx)
	chunk := uint64(defaultChunk)
	if info.Chunks > 0 {
		chunk = max(info.Size/uint64(info.Chunks), 1)
	}
	o.next, o.stop = iter.Pull2(s.t.scan(o.ctx, scanning{
		op: "read object", what: s.at(info.Name), stream: s.stream,
		filters: []string{s.chunkSubject(info.NUID)}, window: int(min(max(getWindow/chunk, 2), maxGetChunks)),
	}))
	return o
}

// Info is what is known of the version that is read.
func (o *ObjectReader) Info() *ObjectInfo {
	info := o.info
	return &info
}

// Read implements io.Reader.
func (o *ObjectReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(o.rest) == 0 {
		if o.err == nil {
			o.rest, o.err = o.chunk()
		}
		if o.err != nil {
			return 0, o.err
		}
	}
	n := copy(p, o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: it hands over whole chunks, without copying
// them once more. It returns nil only where Read would return io.EOF.
func (o *ObjectReader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if len(o.rest) > 0 {
			n, err := w.Write(o.rest)
			total += int64(n)
			o.rest = o.rest[n:]
			if err != nil {
				return total, err
			}
		}
		if o.err == nil {
			o.rest, o.err = o.chunk()
		}
		if errors.Is(o.err, io.EOF) {
			return total, nil
		}
		if o.err != nil {
			return total, o.err
		}
	}
}

// chunk returns the next chunk, or io.EOF when all have come and are right.
func (o *ObjectReader) chunk() ([]byte, error) {
	const op = "read object"
	if o.chunks == o.info.Chunks {
		return nil, o.verify(op)
	}
	r, err, more := o.next()
	switch {
	case !more:
		return nil, o.short(op)
	case err != nil:
		return nil, err
	case r.pending+uint64(o.chunks)+1 != uint64(o.info.Chunks):
		// It is known before the bytes are handed out that one is missing, or one
		// too many.
		return nil, o.wrong(op, r.pending+uint64(o.chunks)+1)
	}
	o.chunks++
	o.size += uint64(len(r.data))
	_, _ = o.digest.Write(r.data) // never fails
	return r.data, nil
}

// verify compares what has come with what was stored.
func (o *ObjectReader) verify(op string) error {
	if o.size != o.info.Size {
		return o.s.damaged(op, o.info.Name, "%d bytes of %d are there", o.size, o.info.Size)
	}
	if o.info.Digest == "" && o.size == 0 {
		return io.EOF
	}
	// Some clients pad the digest, and some do not.
	if got := digestText(o.digest); strings.TrimRight(got, "=") != strings.TrimRight(o.info.Digest, "=") {
		return o.s.damaged(op, o.info.Name, "its digest is %s and %q was stored with it", got, o.info.Digest)
	}
	return io.EOF
}

// short says why there are fewer chunks than there were: the object was replaced,
// or it is damaged.
func (o *ObjectReader) short(op string) error { return o.wrong(op, uint64(o.chunks)) }

func (o *ObjectReader) wrong(op string, there uint64) error {
	if err := o.ctx.Err(); err != nil {
		return &transport.Error{Op: op, Address: o.s.at(o.info.Name), Kind: transport.Temporary, Err: err}
	}
	now, _, err := o.s.info(o.ctx, op, o.info.Name)
	switch {
	case err == nil && (now.NUID != o.info.NUID || now.Deleted), errors.Is(err, transport.ErrNotFound):
		return o.s.replaced(op, o.info.Name)
	case err != nil:
		return err
	}
	return o.s.damaged(op, o.info.Name, "%d of its %d chunks are there", there, o.info.Chunks)
}

// Close ends the reading. It is idempotent.
func (o *ObjectReader) Close() error {
	o.cancel()
	o.stop()
	o.rest = nil
	if o.err == nil {
		o.err = &transport.Error{Op: "read object", Address: o.s.at(o.info.Name), Kind: transport.Permanent, Err: transport.ErrClosed}
	}
	return nil
}

// Sweep removes the bytes of puts that were cut and left them behind, and returns
// of how many. Those that were written to within age are left alone, since they
// may belong to a put that is under way: an age of an hour is right where no
// chunk takes as long as that.
func (s *ObjectStore) Sweep(ctx context.Context, age time.Duration) (int, error) {
	const op = "sweep objects"
	if age < time.Second {
		return 0, transport.Invalid(op, s.cfg.Bucket, "an age of %v is below a second, within which a put may be under way", age)
	}
	what := "object store " + s.cfg.Bucket
	versions := map[string]bool{}
	// The chunks are listed first: what is put meanwhile has its info by then.
	prefix := s.chunkSubject("")
	var candidates []string
	for r, err := range s.t.scan(ctx, scanning{op: op, what: what, stream: s.stream, filters: []string{prefix + ">"}, last: true, headersOnly: true}) {
		if err != nil {
			return 0, err
		}
		// Nobody puts under a name with a wildcard, and to purge it would remove the
		// bytes of all.
		if nuid := strings.TrimPrefix(r.subject, prefix); time.Since(r.time) > age && validToken(nuid) {
			candidates = append(candidates, nuid)
		}
	}
	for r, err := range s.t.scan(ctx, scanning{op: op, what: what, stream: s.stream, filters: []string{s.metaPrefix() + ">"}, last: true}) {
		if err != nil {
			return 0, err
		}
		info, err := s.decode(op, r)
		if err != nil {
			return 0, err // nobody knows whose chunks it has
		}
		versions[info.NUID] = !info.Deleted
	}
	removed := 0
	for _, nuid := range candidates {
		if versions[nuid] {
			continue
		}
		if err := s.purge(ctx, nuid); err != nil {
			return removed, s.fault(op, "", err)
		}
		removed++
	}
	return removed, nil
}
