package jetstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// DeadLetters implements transport.DeadLetterer: the store is a stream with one
// subject per dead letter, <namespace>.dead.<subscription>.<fingerprint>.<id>.
func (t *Transport) DeadLetters() transport.DeadLetterStore { return (*deadStore)(t) }

func (t *Transport) deadStream() string    { return strings.ToUpper(t.set.namespace) + "_DEAD" }
func (t *Transport) redriveStream() string { return strings.ToUpper(t.set.namespace) + "_REDRIVE" }
func (t *Transport) deadPrefix() string    { return t.set.namespace + ".dead." }
func (t *Transport) redrivePrefix() string { return t.set.namespace + ".redrive." }

// deadConfig is the dead-letter stream: nothing ages, and a full one refuses
// instead of throwing away.
func (t *Transport) deadConfig() natsjs.StreamConfig {
	return natsjs.StreamConfig{
		Name:        t.deadStream(),
		Description: "dead letters of holdfast, kept until a person decides",
		Subjects:    []string{t.deadPrefix() + ">"},
		Retention:   natsjs.LimitsPolicy,
		Discard:     natsjs.DiscardNew,
		Storage:     t.set.dead.Storage,
		Replicas:    t.set.dead.Replicas,
		MaxMsgs:     -1,
		MaxBytes:    max(t.set.dead.MaxBytes, -1),
		Duplicates:  t.set.dead.Duplicates,
		AllowDirect: true,
	}
}

// redriveConfig is the stream of messages on their way back to one subscription.
func (t *Transport) redriveConfig() natsjs.StreamConfig {
	return natsjs.StreamConfig{
		Name:        t.redriveStream(),
		Description: "messages of holdfast on their way back to one subscription",
		Subjects:    []string{t.redrivePrefix() + "*"},
		Retention:   natsjs.WorkQueuePolicy,
		Discard:     natsjs.DiscardNew,
		Storage:     t.set.dead.Storage,
		Replicas:    t.set.dead.Replicas,
		MaxMsgs:     -1,
		MaxBytes:    -1,
		Duplicates:  defaultDuplicates,
	}
}

// redriveConsumer is the consumer that takes what is redriven to one
// subscription.
func (t *Transport) redriveConsumer(want transport.Want) natsjs.ConsumerConfig {
	return natsjs.ConsumerConfig{
		Name:          want.Subscription,
		Durable:       want.Subscription,
		AckPolicy:     natsjs.AckExplicitPolicy,
		AckWait:       defaultAckWait,
		MaxDeliver:    -1,
		MaxAckPending: defaultMaxAckPending,
		FilterSubject: t.redrivePrefix() + want.Subscription,
	}
}

// deadStore implements transport.DeadLetterStore.
type deadStore Transport

var _ transport.PreparedStore = (*deadStore)(nil)

func (s *deadStore) t() *Transport { return (*Transport)(s) }

// subject is where the dead letter with this key lies. The parts of the key are
// single tokens by contract; anything else would be filed elsewhere.
func (s *deadStore) subject(op string, key transport.DeadKey) (string, error) {
	for _, part := range []string{key.Subscription, key.Fingerprint, key.ID} {
		if !validToken(part) {
			return "", transport.Invalid(op, part, "a part of a dead letter's key is made of letters, digits, '-' and '_'")
		}
	}
	return s.t().deadPrefix() + key.Subscription + "." + key.Fingerprint + "." + key.ID, nil
}

// keyOf reads the key from a subject.
func (s *deadStore) keyOf(subject string) (transport.DeadKey, bool) {
	rest, found := strings.CutPrefix(subject, s.t().deadPrefix())
	parts := strings.Split(rest, ".")
	if !found || len(parts) != 3 {
		return transport.DeadKey{}, false
	}
	return transport.DeadKey{Subscription: parts[0], Fingerprint: parts[1], ID: parts[2]}, true
}

// Bury implements transport.DeadLetterStore. The expectation that the subject
// holds nothing makes a second burial a no-op, for as long as the first is
// there; the deduplication key does so for a while after it was removed. A body
// that does not fit with its envelope is stored in parts.
func (s *deadStore) Bury(ctx context.Context, key transport.DeadKey, m *transport.Message) error {
	subject, err := s.subject("bury", key)
	if err != nil {
		return err
	}
	copied := *m
	copied.DedupID = key.ID
	err = s.putNew(ctx, subject, &copied)
	if errors.Is(err, transport.ErrTooLarge) {
		return s.buryInParts(ctx, subject, &copied, err)
	}
	return err
}

// hintMissing tells how a stream of our own comes to be.
func hintMissing(err error, stream string) error {
	if e, ok := errors.AsType[*transport.Error](err); ok && errors.Is(err, transport.ErrUnroutable) {
		e.Hint = "the stream " + stream + " is missing: Provision makes it for a subscription with dead letters"
	}
	return err
}

// Redrive implements transport.DeadLetterStore. A message that fits the server
// only without the headers that tell where it came from is refused with
// ErrTooLarge.
func (s *deadStore) Redrive(ctx context.Context, subscription string, m *transport.Message) error {
	if !validToken(subscription) {
		return transport.Invalid("redrive", subscription, "the name of a subscription with dead letters is made of letters, digits, '-' and '_'")
	}
	// The stream would store it for nobody, and confirm it.
	_, err := s.t().consumerInfo(ctx, s.t().redriveStream(), subscription)
	if consumerMissing(err) || streamMissing(err) {
		return &transport.Error{
			Op: "redrive", Address: subscription, Kind: transport.Permanent, Err: fmt.Errorf("%w: %w", transport.ErrUnroutable, err),
			Hint: "no such subscription takes dead letters back: Provision makes its consumer on " + s.t().redriveStream() +
				" if it is on this transport; one of another transport gets messages only where it listens",
		}
	}
	if err != nil {
		return seamError("redrive", subscription, err, false)
	}
	_, err = s.t().store(ctx, "redrive", s.t().redrivePrefix()+subscription, m, nil)
	if e, ok := errors.AsType[*transport.Error](err); ok && errors.Is(err, transport.ErrTooLarge) {
		e.Hint += "; raise max_payload on the server and redrive again: the dead letter stays where it is"
	}
	return hintMissing(err, s.t().redriveStream())
}

// storedMessage is a message as the management API returns it.
type storedMessage struct {
	Subject  string `json:"subject"`
	Sequence uint64 `json:"seq"`
	Header   []byte `json:"hdrs"`
	Data     []byte `json:"data"`
	Time     string `json:"time"`
}

type getRequest struct {
	Seq     uint64 `json:"seq,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
}

// get reads one stored message without a consumer: it touches nothing.
func (t *Transport) get(ctx context.Context, stream string, in getRequest) (*storedMessage, error) {
	var out struct {
		Message *storedMessage `json:"message"`
	}
	if err := t.manage(ctx, "STREAM.MSG.GET."+stream, in, &out); err != nil {
		return nil, err
	}
	if out.Message == nil {
		return nil, errBadAnswer
	}
	return out.Message, nil
}

func (s *deadStore) filter(f transport.LetterFilter) (string, error) {
	parts := []string{f.Subscription, f.Fingerprint, f.ID}
	for i, p := range parts {
		switch {
		case p == "":
			parts[i] = "*"
		case !validToken(p):
			return "", transport.Invalid("list dead letters", p, "a part of a dead letter's key is made of letters, digits, '-' and '_'")
		}
	}
	return s.t().deadPrefix() + strings.Join(parts, "."), nil
}

// Letters implements transport.DeadLetterStore. It reads one stored message at
// a time and changes nothing. A letter whose body is in parts that cannot be put
// together is left out, and told of as an error after all others.
func (s *deadStore) Letters(ctx context.Context, f transport.LetterFilter) iter.Seq2[transport.StoredLetter, error] {
	return func(yield func(transport.StoredLetter, error) bool) {
		filter, err := s.filter(f)
		if err != nil {
			yield(transport.StoredLetter{}, err)
			return
		}
		var broken error
		for seq := uint64(1); ; {
			m, err := s.t().get(ctx, s.t().deadStream(), getRequest{Seq: seq, NextFor: filter})
			if isCode(err, codeNoMessage) || streamMissing(err) {
				if broken != nil {
					yield(transport.StoredLetter{}, broken)
				}
				return
			}
			if err != nil {
				yield(transport.StoredLetter{}, seamError("list dead letters", filter, err, false))
				return
			}
			seq = m.Sequence + 1
			letter, ok := s.letter(m)
			if !ok {
				continue
			}
			if err := s.assemble(ctx, m.Subject, letter.Message); err != nil {
				broken = cmp.Or(broken, s.unless(ctx, m, err))
				continue
			}
			if !yield(letter, nil) {
				return
			}
		}
	}
}

// unless returns err, or nil when the letter was removed while it was read.
func (s *deadStore) unless(ctx context.Context, m *storedMessage, err error) error {
	if _, gone := s.t().get(ctx, s.t().deadStream(), getRequest{Seq: m.Sequence}); isCode(gone, codeNoMessage) {
		return nil
	}
	return err
}

// letter decodes a stored dead letter.
func (s *deadStore) letter(m *storedMessage) (transport.StoredLetter, bool) {
	key, ok := s.keyOf(m.Subject)
	if !ok {
		return transport.StoredLetter{}, false
	}
	msg, err := m.message()
	if err != nil {
		return transport.StoredLetter{}, false
	}
	return transport.StoredLetter{Key: key, Message: msg}, true
}

// Remove implements transport.DeadLetterStore.
func (s *deadStore) Remove(ctx context.Context, key transport.DeadKey) error {
	subject, err := s.subject("remove dead letter", key)
	if err != nil {
		return err
	}
	m, err := s.t().get(ctx, s.t().deadStream(), getRequest{LastFor: subject})
	if err == nil {
		err = s.removeStored(ctx, m)
	}
	if isCode(err, codeNoMessage) || streamMissing(err) {
		err = fmt.Errorf("%w: %w", transport.ErrNotFound, err)
		return &transport.Error{Op: "remove dead letter", Address: subject, Kind: transport.Permanent, Err: err}
	}
	return seamError("remove dead letter", subject, err, true)
}

// removeStored deletes a letter, and then what of its body lies beside it.
func (s *deadStore) removeStored(ctx context.Context, m *storedMessage) error {
	if err := s.t().deleteMessage(ctx, s.t().deadStream(), m.Sequence); err != nil {
		return err
	}
	letter, err := m.message()
	if err != nil {
		return nil // a foreign letter, whose headers are not ours
	}
	if p, ok := partsOf(letter.Header); ok {
		return s.removeParts(ctx, m.Subject, p)
	}
	return nil
}

// deleteMessage removes one message from a stream, without overwriting it.
func (t *Transport) deleteMessage(ctx context.Context, stream string, seq uint64) error {
	in := struct {
		Seq     uint64 `json:"seq"`
		NoErase bool   `json:"no_erase"`
	}{seq, true}
	return t.manage(ctx, "STREAM.MSG.DELETE."+stream, in, nil)
}

// Summary implements transport.DeadLetterStore, by counting subjects.
func (s *deadStore) Summary(ctx context.Context) ([]transport.LetterCount, error) {
	counts := map[transport.LetterCount]int{}
	for offset := 0; ; {
		page, total, err := s.subjects(ctx, offset)
		if streamMissing(err) {
			break
		}
		if err != nil {
			return nil, seamError("count dead letters", s.t().deadStream(), err, false)
		}
		for subject, n := range page {
			if key, ok := s.keyOf(subject); ok {
				counts[transport.LetterCount{Subscription: key.Subscription, Fingerprint: key.Fingerprint}] += int(n)
			}
		}
		offset += len(page)
		if len(page) == 0 || offset >= total {
			break
		}
	}
	out := make([]transport.LetterCount, 0, len(counts))
	for c, n := range counts {
		c.Count = n
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b transport.LetterCount) int {
		return strings.Compare(a.Subscription+"."+a.Fingerprint, b.Subscription+"."+b.Fingerprint)
	})
	return out, nil
}

// subjects returns one page of the subjects the dead-letter stream holds, with
// how many messages each has.
func (s *deadStore) subjects(ctx context.Context, offset int) (page map[string]uint64, total int, err error) {
	in := struct {
		Filter string `json:"subjects_filter"`
		Offset int    `json:"offset"`
	}{s.t().deadPrefix() + ">", offset}
	var out struct {
		Total int `json:"total"`
		State struct {
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
	}
	err = s.t().manage(ctx, "STREAM.INFO."+s.t().deadStream(), in, &out)
	return out.State.Subjects, out.Total, err
}

// message turns a stored message into one of the seam.
func (m *storedMessage) message() (*transport.Message, error) {
	out := &transport.Message{Subject: m.Subject, Body: m.Data}
	if len(m.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(m.Header)
		if err != nil {
			return nil, err
		}
		out.Header = transport.Header(h)
	}
	if err := json.Unmarshal([]byte(`"`+m.Time+`"`), &out.Time); err != nil {
		return nil, err
	}
	d := delivery{msg: *out, lane: &lane{}}
	d.readHeader(out.Header)
	*out = d.msg
	return out, nil
}
