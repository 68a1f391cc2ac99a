package rabbitmq

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
)

// contentID names a message by what its sender gave it: the same bytes, sent to
// the same place at the same time and under the same ID, if any, have the same one.
// It is the ID of a message without one, and the position of one that no holdfast
// sent. Each such message pays for
// it: what stands before the body is gathered on the stack.
func contentID(raw *amqp.Delivery) string {
	var room [256]byte
	head := room[:0]
	for _, s := range [...]string{raw.Exchange, raw.RoutingKey, raw.CorrelationId, raw.Type, raw.ContentType} {
		head = addSized(head, s)
	}
	if raw.MessageId != "" {
		head = addSized(head, raw.MessageId)
	}
	var digits [20]byte
	head = addSized(head, strconv.AppendInt(digits[:0], raw.Timestamp.Unix(), 10))
	for _, name := range ownHeaders(raw.Headers) {
		head = addSized(head, name)
		head = addSized(head, text(raw.Headers[name]))
	}
	hash := sha256.New()
	hash.Write(head)
	hash.Write(raw.Body)
	var sum [sha256.Size]byte
	return nameOf(hash.Sum(sum[:0]))
}

// addSized appends a text with its length before it, so that no two lists of
// texts have the same bytes.
func addSized[T string | []byte](head []byte, s T) []byte {
	head = binary.BigEndian.AppendUint64(head, uint64(len(s)))
	return append(head, s...)
}

// ownHeaders returns the names of the headers that the sender wrote, sorted.
func ownHeaders(table amqp.Table) []string {
	if len(table) == 0 {
		return nil
	}
	names := make([]string, 0, len(table))
	for name := range table {
		if !wire.BrokerOwned(name) && !strings.HasPrefix(name, wire.Prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// nameOf writes 160 bits of a hash as 32 digits, five bits each, as base32hex in
// lower case does.
func nameOf(sum []byte) string {
	const digits, prefix = "0123456789abcdefghijklmnopqrstuv", "content-"
	var name [len(prefix) + 32]byte
	out := append(name[:0], prefix...)
	for ; len(out) < len(name); sum = sum[5:] {
		word := uint64(sum[0])<<32 | uint64(binary.BigEndian.Uint32(sum[1:]))
		for shift := 35; shift >= 0; shift -= 5 {
			out = append(out, digits[word>>shift&31])
		}
	}
	return string(out)
}
