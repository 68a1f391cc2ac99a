package jetstream

import (
	"errors"
	"strconv"
	"strings"
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
	stored           int64 // nanoseconds since 1970
}

var errAckSubject = errors.New("the ack subject has an unknown form")

// parseAck reads both forms of the subject:
//
//	$JS.ACK.<stream>.<consumer>.<deliveries>.<sseq>.<cseq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<deliveries>.<sseq>.<cseq>.<time>.<pending>[.<token>]
func parseAck(subject string) (ackInfo, error) {
	var a ackInfo
	if !strings.HasPrefix(subject, ackPrefix) {
		return a, errAckSubject
	}
	var parts [12]string
	n, rest := 0, subject[len(ackPrefix):]
	for n < len(parts) {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			parts[n] = rest
			n++
			break
		}
		parts[n], rest = rest[:i], rest[i+1:]
		n++
	}
	p := parts[:n]
	switch {
	case n == 7:
	case n >= 9:
		p = p[2:]
	default:
		return a, errAckSubject
	}
	a.stream, a.consumer = p[0], p[1]
	var stored uint64
	if !number(p[2], &a.deliveries) || !number(p[3], &a.streamSeq) || !number(p[4], &a.consumerSeq) || !number(p[5], &stored) {
		return a, errAckSubject
	}
	a.stored = int64(stored)
	return a, nil
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
func (a *ackInfo) position() string {
	buf := make([]byte, 0, 96)
	buf = append(buf, a.stream...)
	buf = append(buf, ':')
	buf = strconv.AppendUint(buf, a.streamSeq, 10)
	buf = append(buf, ':')
	buf = strconv.AppendInt(buf, a.stored, 10)
	return string(buf)
}

func (a *ackInfo) time() time.Time { return time.Unix(0, a.stored).UTC() }
