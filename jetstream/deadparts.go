package jetstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// A message may be so near max_payload that it does not fit any more with the
// envelope of a dead letter. Its body is then stored in parts, below the subject
// of the letter: <letter>.<size>-<n>. They are confirmed before the letter is
// published, which says how many they are and what they hash to. Parts without a
// letter are what a burial left behind that was begun and never finished; nobody
// sees them.

// partsNote is the body of a letter in parts, for whoever looks at the stream.
// It is not empty, since a header named Status would hide the letter then.
const partsNote = "the body is stored in parts, under the subjects below this one"

// maxParts bounds what a letter may claim.
const maxParts = 1 << 16

// parts is where the body of a letter lies.
type parts struct {
	count, size int
	hash        string
}

// partsOf reads the headers of a letter; ok is false when its body is its own.
func partsOf(h transport.Header) (p parts, ok bool) {
	p.hash = h.Get(wire.PartsSHA256)
	var err, err2 error
	p.count, err = strconv.Atoi(h.Get(wire.Parts))
	p.size, err2 = strconv.Atoi(h.Get(wire.PartSize))
	return p, err == nil && err2 == nil && p.count > 0 && p.count <= maxParts && p.size > 0
}

// subject is where part n of a letter lies. The size is part of it, so that
// parts of two burials under different limits do not mix.
func (p parts) subject(letter string, n int) string {
	return letter + "." + strconv.Itoa(p.size) + "-" + strconv.Itoa(n)
}

// splitBody says how the body of a letter is divided where the server takes
// messages of limit bytes: half of that leaves room for headers.
func splitBody(body []byte, limit int64) parts {
	size := int(max(limit/2, 1))
	sum := sha256.Sum256(body)
	return parts{count: (len(body) + size - 1) / size, size: size, hash: hex.EncodeToString(sum[:])}
}

// buryInParts stores a letter that is too large as one message. tooLarge is what
// that attempt returned, and is returned when parts are of no help.
func (s *deadStore) buryInParts(ctx context.Context, subject string, m *transport.Message, tooLarge error) error {
	limit := s.t().nc().MaxPayload()
	if len(m.Body) == 0 || limit <= 0 {
		return tooLarge
	}
	p := splitBody(m.Body, limit)
	n := 0
	for part := range slices.Chunk(m.Body, p.size) {
		err := s.putNew(ctx, p.subject(subject, n), &transport.Message{DedupID: m.DedupID + "-" + strconv.Itoa(p.size) + "-" + strconv.Itoa(n), Body: part})
		if err != nil {
			return err
		}
		n++
	}
	letter := *m
	letter.Header = m.Header.Clone()
	letter.Header.Set(wire.Parts, strconv.Itoa(p.count))
	letter.Header.Set(wire.PartSize, strconv.Itoa(p.size))
	letter.Header.Set(wire.PartsSHA256, p.hash)
	letter.Body = []byte(partsNote)
	return s.putNew(ctx, subject, &letter)
}

// putNew stores m at a subject that holds nothing yet. One that does stays as it
// is, and is no error.
func (s *deadStore) putNew(ctx context.Context, subject string, m *transport.Message) error {
	_, err := s.t().store(ctx, "bury", subject, m, nats.Header{natsjs.ExpectedLastSubjSeqHeader: {"0"}})
	if isCode(err, natsjs.JSErrCodeStreamWrongLastSequence, natsjs.JSErrCodeStreamWrongLastSequenceConstant) {
		return nil
	}
	return hintMissing(err, s.t().deadStream())
}

// assemble puts the body of a letter together, if it is in parts.
func (s *deadStore) assemble(ctx context.Context, subject string, m *transport.Message) error {
	p, ok := partsOf(m.Header)
	if !ok {
		return nil
	}
	var body []byte
	for n := range p.count {
		part, err := s.t().get(ctx, s.t().deadStream(), getRequest{LastFor: p.subject(subject, n)})
		if err != nil {
			return seamError("read dead letter", p.subject(subject, n), err, false)
		}
		body = append(body, part.Data...)
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != p.hash {
		return &transport.Error{
			Op: "read dead letter", Address: subject, Kind: transport.Permanent,
			Err: errors.New("the parts of its body are not those that were buried"),
		}
	}
	m.Body = body
	for _, name := range []string{wire.Parts, wire.PartSize, wire.PartsSHA256} {
		m.Header.Del(name)
	}
	return nil
}

// removeParts deletes what a letter that is gone leaves behind. A part that is
// not there was removed before.
func (s *deadStore) removeParts(ctx context.Context, subject string, p parts) error {
	for n := range p.count {
		part, err := s.t().get(ctx, s.t().deadStream(), getRequest{LastFor: p.subject(subject, n)})
		if err == nil {
			err = s.t().deleteMessage(ctx, s.t().deadStream(), part.Sequence)
		}
		if err != nil && !isCode(err, codeNoMessage) {
			return fmt.Errorf("remove part %d of the body: %w", n, err)
		}
	}
	return nil
}
