package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// stored is a message as a stream holds it.
type stored struct {
	subject string
	header  transport.Header
	data    []byte
	seq     uint64
	time    time.Time
	pending uint64 // how many are behind it in a scan
}

// read returns a revision of a key, 0 being the last one.
func (b *bucket) read(ctx context.Context, op, key string, revision uint64) (r stored, err error) {
	err = b.t.persist(ctx, func() error {
		var err error
		if b.direct == "" {
			r, err = b.byLeader(ctx, key, revision)
		} else {
			r, err = b.directly(ctx, key, revision)
		}
		if isCode(err, codeNoMessage) || err == nil && r.subject != b.pre+key {
			return b.noKey(op, key)
		}
		return b.fault(ctx, op, key, err)
	})
	return r, err
}

// last returns the last revision of a key by the word of the leader.
func (b *bucket) last(ctx context.Context, key string) (stored, error) {
	r, err := b.byLeader(ctx, key, 0)
	if isCode(err, codeNoMessage) {
		return r, b.noKey("get", key)
	}
	return r, b.fault(ctx, "get", key, err)
}

func (b *bucket) byLeader(ctx context.Context, key string, revision uint64) (stored, error) {
	in := getRequest{Seq: revision}
	if revision == 0 {
		in.LastFor = b.pre + key
	}
	m, err := b.t.get(ctx, b.stream, in)
	if err != nil {
		return stored{}, err
	}
	return m.stored()
}

// stored returns m in the form of this package.
func (m *storedMessage) stored() (stored, error) {
	r := stored{subject: m.Subject, seq: m.Sequence, data: m.Data}
	var err error
	if r.time, err = time.Parse(time.RFC3339Nano, m.Time); err != nil {
		return r, errBadAnswer
	}
	if len(m.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(m.Header)
		if err != nil {
			return r, errBadAnswer
		}
		r.header = transport.Header(h)
	}
	return r, nil
}

// directly asks whichever replica answers.
func (b *bucket) directly(ctx context.Context, key string, revision uint64) (stored, error) {
	m := &nats.Msg{Subject: b.direct + b.pre + key}
	if revision > 0 {
		body, err := json.Marshal(getRequest{Seq: revision})
		if err != nil {
			return stored{}, err
		}
		m.Subject, m.Data = b.direct[:len(b.direct)-1], body
	}
	reply, _, err := b.t.ask(ctx, m, apiTimeout)
	if err != nil {
		return stored{}, err
	}
	return parseDirect(reply)
}

// Headers of a message that was read directly.
const (
	directSubject  = "Nats-Subject"
	directSequence = "Nats-Sequence"
	directTime     = "Nats-Time-Stamp"
)

// errNoDirect is the cause when a server did not understand a direct read.
var errNoDirect = errors.New("the server refused the question")

// parseDirect reads the answer to a direct read.
func parseDirect(m *nats.Msg) (stored, error) {
	h := transport.Header(m.Header)
	if len(m.Data) == 0 && h.Get(directSequence) == "" {
		if h.Get("Status") == "404" {
			return stored{}, errNoMessage()
		}
		return stored{}, errNoDirect
	}
	r := stored{subject: h.Get(directSubject), header: h, data: m.Data}
	var err error
	if r.seq, err = strconv.ParseUint(h.Get(directSequence), 10, 64); err != nil {
		return r, errBadAnswer
	}
	if r.time, err = time.Parse(time.RFC3339Nano, h.Get(directTime)); err != nil {
		return r, errBadAnswer
	}
	return r, nil
}
