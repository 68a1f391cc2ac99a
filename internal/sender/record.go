package sender

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// recordVersion is the first byte of every record. Another form gets another
// number, and this one stays readable.
const recordVersion = 1

// ErrRecord is returned for a record that no version of this package wrote.
var ErrRecord = errors.New("the record is not a message")

// AppendRecord appends a message and where it goes as one record, to be kept
// until it can be sent: strings and the body with their lengths before them,
// numbers as varints, headers in the order of their names.
func AppendRecord(b []byte, to transport.Address, m *transport.Message) []byte {
	b = slices.Grow(b, 256+len(m.Body)+len(m.ID)+len(to.Name)+len(to.Key))
	b = append(b, recordVersion)
	for _, s := range [...]string{to.Name, to.Key, m.ID, m.DedupID, m.Key, m.ContentType} {
		b = appendString(b, s)
	}
	due := int64(0)
	if !m.NotBefore.IsZero() {
		due = m.NotBefore.UnixNano()
	}
	b = binary.AppendVarint(b, due)
	b = binary.AppendVarint(b, int64(m.TTL))
	b = append(b, m.Priority)
	names := slices.Sorted(maps.Keys(m.Header))
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		b = appendString(b, name)
		b = binary.AppendUvarint(b, uint64(len(m.Header[name])))
		for _, value := range m.Header[name] {
			b = appendString(b, value)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(m.Body)))
	return append(b, m.Body...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Decode reads what AppendRecord wrote. The body is part of record.
func Decode(record []byte) (transport.Address, *transport.Message, error) {
	r := reader{rest: record}
	if r.byte() != recordVersion {
		return transport.Address{}, nil, ErrRecord
	}
	var to transport.Address
	m := &transport.Message{}
	for _, s := range [...]*string{&to.Name, &to.Key, &m.ID, &m.DedupID, &m.Key, &m.ContentType} {
		*s = string(r.bytes())
	}
	if due := r.varint(); due != 0 {
		m.NotBefore = time.Unix(0, due)
	}
	m.TTL = time.Duration(r.varint())
	m.Priority = r.byte()
	for range r.count() {
		name := string(r.bytes())
		for range r.count() {
			value := string(r.bytes())
			if m.Header == nil {
				m.Header = make(transport.Header)
			}
			m.Header.Add(name, value)
		}
	}
	m.Body = r.bytes()
	if r.bad || len(r.rest) > 0 {
		return transport.Address{}, nil, ErrRecord
	}
	return to, m, nil
}

// reader takes a record apart. After a mistake it gives zero values.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) fail() { r.bad, r.rest = true, nil }

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	c := r.rest[0]
	r.rest = r.rest[1:]
	return c
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads how many items follow. Each takes a byte at least, so a number that
// is larger than the rest is a mistake and not a reason to make room for it.
func (r *reader) count() int {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > uint64(len(r.rest)-n) {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return int(v)
}

func (r *reader) bytes() []byte {
	n := r.count()
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}
