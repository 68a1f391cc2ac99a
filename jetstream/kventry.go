package jetstream

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// Codec turns values into bytes and back; every holdfast.Codec is one. It is
// safe for concurrent use.
type Codec interface {
	// Encode returns the bytes of v.
	Encode(v any) ([]byte, error)
	// Decode fills v, a pointer, from data.
	Decode(data []byte, v any) error
}

// Operation is what a revision did to its key.
type Operation uint8

// The operations.
const (
	// OpPut stored a value.
	OpPut Operation = iota
	// OpDelete deleted the key; its history stays.
	OpDelete
	// OpPurge removed the key with its history. So did the server when a value
	// expired, in buckets with LimitMarkerTTL.
	OpPurge
)

// String returns "put", "delete" or "purge".
func (o Operation) String() string {
	switch o {
	case OpDelete:
		return "delete"
	case OpPurge:
		return "purge"
	default:
		return "put"
	}
}

// Entry is one revision of a key. As the body of a message it is what a handler
// of a watch gets: holdfast.Message[jetstream.Entry[Price]].
type Entry[T any] struct {
	// Bucket and Key say where it belongs. In a bucket that mirrors another it
	// is that other's name.
	Bucket, Key string
	// Value is the decoded value; the zero value unless Operation is OpPut.
	Value T
	// Revision is its number, which rises with every write to the bucket.
	Revision uint64
	// Operation is what it did to the key.
	Operation Operation
	// Expired tells that it was the server that removed the value, when its time
	// was over.
	Expired bool
	// Time is when the server stored it.
	Time time.Time
}

var _ transport.Envelope = (*Entry[int])(nil)

// Fill implements transport.Envelope: it takes the key, the revision and the
// operation from a message of a watch. A message that is none is an error.
func (e *Entry[T]) Fill(m *transport.Message) (decode bool, err error) {
	bucket, key, ok := splitKVSubject(m.Subject)
	if !ok {
		return false, fmt.Errorf("the subject %q is not that of a key in a bucket: take Entry bodies from a watch", m.Subject)
	}
	e.Bucket, e.Key, e.Time, e.Revision = bucket, key, m.Time, revisionOf(m.Position)
	e.Operation, e.Expired = operationOf(m.Header)
	return e.Operation == OpPut, nil
}

// Body implements transport.Envelope: it is where the value is decoded to.
func (e *Entry[T]) Body() any { return &e.Value }

// Validate asks the value, if it is a holdfast.Validator and there is one.
func (e *Entry[T]) Validate() error {
	type validator interface{ Validate() error }
	if e.Operation != OpPut {
		return nil
	}
	if v, ok := any(&e.Value).(validator); ok {
		return v.Validate()
	}
	// A pointer has the methods of what it points to, except where that is an
	// interface or a pointer. To look at any other value itself would copy it.
	switch reflect.TypeFor[T]().Kind() {
	case reflect.Interface, reflect.Pointer:
		if v, ok := any(e.Value).(validator); ok {
			return v.Validate()
		}
	}
	return nil
}

// PendingOf returns how many messages waited behind this one when the server
// handed it out: how far a watch is from having seen everything. m is a message
// of a subscription, such as *holdfast.Message[T]. ok is false where it is not
// known.
func PendingOf(m interface{ Raw() any }) (pending uint64, ok bool) {
	raw, ok := m.Raw().(*nats.Msg)
	if !ok {
		return 0, false
	}
	return pendingIn(raw.Reply)
}

// pendingIn reads the number of pending messages from an ack subject of either
// form.
func pendingIn(reply string) (pending uint64, ok bool) {
	if _, err := parseAck(reply); err != nil {
		return 0, false
	}
	rest, skip := reply[len(ackPrefix):], 6
	if strings.Count(rest, ".") >= 8 {
		skip = 8
	}
	for range skip {
		_, rest = part(rest)
	}
	text, _ := part(rest)
	ok = number(text, &pending)
	return pending, ok
}

// splitKVSubject takes apart "$KV.<bucket>.<key>".
func splitKVSubject(subject string) (bucket, key string, ok bool) {
	rest, found := strings.CutPrefix(subject, kvSubjectPrefix)
	bucket, key, ok = strings.Cut(rest, ".")
	return bucket, key, found && ok && bucket != "" && key != ""
}

// revisionOf is the sequence in a position; 0 when there is none.
func revisionOf(position string) uint64 {
	_, rest, _ := strings.Cut(position, ":")
	seq, _, ok := strings.Cut(rest, ":")
	var n uint64
	if !ok || !number(seq, &n) {
		return 0
	}
	return n
}

// Headers of the entries in a bucket, and what stands in them.
const (
	kvOperation   = "KV-Operation"
	kvDelete      = "DEL"
	kvPurge       = "PURGE"
	markerExpired = "MaxAge"
	markerRemoved = "Remove"
	expiredHeader = "KV-Expired" // ours, on copies: the server's own would be acted upon
)

// operationOf reads what a revision did to its key.
func operationOf(h transport.Header) (op Operation, expired bool) {
	if len(h) == 0 {
		return OpPut, false
	}
	switch h.Get(kvOperation) {
	case kvDelete:
		return OpDelete, false
	case kvPurge:
		return OpPurge, h.Get(expiredHeader) != "" || h.Get(markerHeader) == markerExpired
	}
	switch h.Get(markerHeader) {
	case "":
		return OpPut, false
	case markerRemoved:
		return OpDelete, false
	case markerExpired:
		return OpPurge, true
	default:
		return OpPurge, false
	}
}

// markedHeader adds to the headers of a server's marker what a client would have
// written, which stays when a copy drops everything the server would act upon.
func markedHeader(h transport.Header) transport.Header {
	op, expired := operationOf(h)
	h = h.Clone()
	if op == OpDelete {
		h.Set(kvOperation, kvDelete)
		return h
	}
	h.Set(kvOperation, kvPurge)
	if expired {
		h.Set(expiredHeader, "1")
	}
	return h
}

// checkKey returns an error of op for a key that the server or another client
// would refuse.
func checkKey(op, bucket, key string) error {
	if fault := keyFault(key, ""); fault != "" {
		return transport.Invalid(op, bucket+"/"+short(key), "the key %s", fault)
	}
	return nil
}

// keyFault says what is wrong with a key, or with a pattern when wildcards are
// given; "" means nothing.
func keyFault(key, wildcards string) string {
	switch {
	case key == "":
		return "is empty"
	case len(key) > maxKey:
		return fmt.Sprintf("has %d bytes; at most %d are taken", len(key), maxKey)
	case key[0] == '.' || key[len(key)-1] == '.' || strings.Contains(key, ".."):
		return "has a dot at its start or end, or two in a row"
	}
	for i := range len(key) {
		if c := key[i]; !keyByte(c) && strings.IndexByte(wildcards, c) < 0 {
			return fmt.Sprintf("has %q at byte %d; keys are made of letters, digits and - / _ = .", key[i:i+1], i)
		}
	}
	return ""
}

// maxKey keeps every subject a key is part of below what a protocol line holds.
const maxKey = 1024

func keyByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-/_=.", c) >= 0
}

// short is s for an error, cut where it is longer than anybody reads.
func short(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// codecOf is the codec for values of type T when none was chosen.
func codecOf[T any](chosen Codec) Codec {
	if chosen != nil {
		return chosen
	}
	switch any((*T)(nil)).(type) {
	case *[]byte, *string:
		return rawCodec{}
	default:
		return jsonCodec{}
	}
}

type jsonCodec struct{}

func (jsonCodec) Encode(v any) ([]byte, error)    { return json.Marshal(v) }
func (jsonCodec) Decode(data []byte, v any) error { return json.Unmarshal(data, v) }

// rawCodec passes []byte and string through as they are.
type rawCodec struct{}

func (rawCodec) Encode(v any) ([]byte, error) {
	switch v := v.(type) {
	case []byte:
		return v, nil
	case string:
		return []byte(v), nil
	}
	return nil, fmt.Errorf("%T is neither []byte nor string", v)
}

func (rawCodec) Decode(data []byte, v any) error {
	switch v := v.(type) {
	case *[]byte:
		*v = data
	case *string:
		*v = string(data)
	default:
		return fmt.Errorf("%T is neither *[]byte nor *string", v)
	}
	return nil
}

// ConflictError tells that a key was not at the revision it was to be changed
// from. Nothing was written. Read the key and decide anew.
type ConflictError struct {
	Bucket, Key string
	// Expected is the revision that was asked for; 0: the key must not exist.
	Expected uint64
}

// Error says which key, and what was expected of it.
func (e *ConflictError) Error() string {
	if e.Expected == 0 {
		return fmt.Sprintf("the key %s exists already", e.Key)
	}
	return fmt.Sprintf("the key %s is not at revision %d any more", e.Key, e.Expected)
}

// wrongRevision tells whether err is the server's word that a key is not at the
// expected revision. Replicated streams have a code of their own for it.
func wrongRevision(err error) bool {
	return isCode(err, natsjs.JSErrCodeStreamWrongLastSequence, natsjs.JSErrCodeStreamWrongLastSequenceConstant)
}
