package jetstream

import (
	"errors"
	"strings"
	"sync"
	"time"
)

// ackPrefix starts the reply subject of every delivery. What comes to a pull
// inbox with another reply, or none, is a status of the server; a message with
// an empty body and a Status header is still a delivery.
const ackPrefix = "$JS.ACK."

// ackInfo is what the reply subject of a delivery says about it.
type ackInfo struct {
	stream, consumer string
	deliveries       uint64
	streamSeq        uint64
	consumerSeq      uint64
	stored           uint64 // nanoseconds since 1970

	seqText, storedText string // as they stand in the subject
}

var errAckSubject = errors.New("the ack subject has an unknown form")

// parseAck reads both forms of the subject:
//
//	$JS.ACK.<stream>.<consumer>.<deliveries>.<sseq>.<cseq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<deliveries>.<sseq>.<cseq>.<time>.<pending>[.<token>]
//
// It runs once for each message, and neither allocates nor copies.
func parseAck(subject string) (a ackInfo, err error) {
	if !strings.HasPrefix(subject, ackPrefix) {
		return a, errAckSubject
	}
	rest := subject[len(ackPrefix):]
	switch dots := strings.Count(rest, "."); {
	case dots == 6:
	case dots >= 8:
		_, rest = part(rest)
		_, rest = part(rest)
	default:
		return a, errAckSubject
	}
	var deliveries, consumerSeq string
	a.stream, rest = part(rest)
	a.consumer, rest = part(rest)
	deliveries, rest = part(rest)
	a.seqText, rest = part(rest)
	consumerSeq, rest = part(rest)
	a.storedText, _ = part(rest)
	if !number(deliveries, &a.deliveries) || !number(a.seqText, &a.streamSeq) || !number(consumerSeq, &a.consumerSeq) || !number(a.storedText, &a.stored) {
		return a, errAckSubject
	}
	return a, nil
}

// part returns s up to its first dot and what follows it.
func part(s string) (first, rest string) {
	i := strings.IndexByte(s, '.')
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i+1:]
}

func number(s string, to *uint64) bool {
	var n uint64
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			return false
		}
		n = n*10 + uint64(c)
	}
	*to = n
	return s != ""
}

// position names the stored copy for ever: a stream that was deleted and made
// again starts its sequences anew, and the time of storage tells them apart.
//
// Every message has one and few are ever looked at, so they are cut from chunks:
// a chunk is one allocation, and a position that is kept keeps its chunk.
func (a *ackInfo) position() string {
	b := positions.Get().(*strings.Builder)
	if need := len(a.stream) + len(a.seqText) + len(a.storedText) + 2; b.Cap()-b.Len() < need {
		b.Reset()
		b.Grow(max(need, positionChunk))
	}
	from := b.Len()
	b.WriteString(a.stream)
	b.WriteByte(':')
	b.WriteString(a.seqText)
	b.WriteByte(':')
	b.WriteString(a.storedText)
	s := b.String()[from:]
	positions.Put(b)
	return s
}

const positionChunk = 256

// positions is shared by all transports: it holds memory, not state.
var positions = sync.Pool{New: func() any { return new(strings.Builder) }}

func (a *ackInfo) time() time.Time { return time.Unix(0, int64(a.stored)).UTC() }
