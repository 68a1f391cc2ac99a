package holdfast

import (
	"encoding/json"
	"fmt"
	"mime"
	"reflect"
	"strings"

	"github.com/holdfast-go/holdfast/transport"
)

// Codec turns bodies into bytes and back. It is safe for concurrent use.
type Codec interface {
	// ContentType is the media type that is written on messages and looked for
	// on received ones.
	ContentType() string
	// Encode returns the bytes of v.
	Encode(v any) ([]byte, error)
	// Decode fills v, a pointer, from data.
	Decode(data []byte, v any) error
}

// JSON is the default codec: encoding/json.
func JSON() Codec { return jsonCodec{} }

type jsonCodec struct{}

func (jsonCodec) ContentType() string             { return "application/json" }
func (jsonCodec) Encode(v any) ([]byte, error)    { return json.Marshal(v) }
func (jsonCodec) Decode(data []byte, v any) error { return json.Unmarshal(data, v) }

// Bytes passes bodies through as they are; for bodies of type []byte, whose
// default it is. Any content type is accepted. A decoded body shares the
// message's memory: treat it as read only. A published one is not copied: leave it
// as it is until its outcome is there, and for good when that is Uncertain.
func Bytes() Codec { return bytesCodec{} }

type bytesCodec struct{}

func (bytesCodec) ContentType() string { return "application/octet-stream" }

func (bytesCodec) Encode(v any) ([]byte, error) {
	if b, ok := v.([]byte); ok {
		return b, nil
	}
	return nil, fmt.Errorf("codec Bytes takes []byte, not %T", v)
}

func (bytesCodec) Decode(data []byte, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("codec Bytes fills *[]byte, not %T", v)
	}
	*p = data
	return nil
}

// Text takes bodies of type string, whose default it is, as UTF-8 or whatever
// the sender wrote.
func Text() Codec { return textCodec{} }

type textCodec struct{}

func (textCodec) ContentType() string { return "text/plain; charset=utf-8" }

func (textCodec) Encode(v any) ([]byte, error) {
	if s, ok := v.(string); ok {
		return []byte(s), nil
	}
	return nil, fmt.Errorf("codec Text takes string, not %T", v)
}

func (textCodec) Decode(data []byte, v any) error {
	p, ok := v.(*string)
	if !ok {
		return fmt.Errorf("codec Text fills *string, not %T", v)
	}
	*p = string(data)
	return nil
}

// Protobuf returns a codec over a pair of functions such as proto.Marshal and
// proto.Unmarshal of google.golang.org/protobuf, so that holdfast does not link
// that library for those who do not use it:
//
//	holdfast.WithCodec(holdfast.Protobuf(proto.Marshal, proto.Unmarshal))
//
// The body's type is a pointer to a generated message.
func Protobuf[M any](marshal func(M) ([]byte, error), unmarshal func([]byte, M) error) Codec {
	return protoCodec[M]{marshal, unmarshal}
}

type protoCodec[M any] struct {
	marshal   func(M) ([]byte, error)
	unmarshal func([]byte, M) error
}

func (protoCodec[M]) ContentType() string { return "application/protobuf" }

func (c protoCodec[M]) Encode(v any) ([]byte, error) {
	m, ok := v.(M)
	if !ok {
		return nil, fmt.Errorf("codec Protobuf takes a message, not %T", v)
	}
	return c.marshal(m)
}

// Decode makes a message where v points to a nil one.
func (c protoCodec[M]) Decode(data []byte, v any) error {
	p := reflect.ValueOf(v).Elem()
	if p.Kind() == reflect.Pointer && p.IsNil() {
		p.Set(reflect.New(p.Type().Elem()))
	}
	m, ok := p.Interface().(M)
	if !ok {
		return fmt.Errorf("codec Protobuf fills a pointer to a message, not %T", v)
	}
	return c.unmarshal(data, m)
}

// codecFor is the codec of bodies of type T when none was chosen.
func codecFor[T any](chosen Codec) Codec {
	if chosen != nil {
		return chosen
	}
	var body any = (*T)(nil)
	if envelope, ok := any(new(T)).(transport.Envelope); ok {
		body = envelope.Body()
	}
	switch body.(type) {
	case *[]byte:
		return Bytes()
	case *string:
		return Text()
	default:
		return JSON()
	}
}

// codecs picks the codec for a content type: that of the subscription if it
// fits or the sender named none, else one that the app accepts besides.
type codecs struct {
	own  Codec
	more []Codec
}

func (c codecs) pick(contentType string) (Codec, error) {
	if contentType == "" || contentType == c.own.ContentType() {
		return c.own, nil
	}
	if _, passes := c.own.(bytesCodec); passes {
		return c.own, nil
	}
	got := mediaType(contentType)
	for _, candidate := range append([]Codec{c.own}, c.more...) {
		if sameMedia(got, mediaType(candidate.ContentType())) {
			return candidate, nil
		}
	}
	// Many senders do not know what they send, and say so.
	if got == "application/octet-stream" || got == "text/plain" {
		return c.own, nil
	}
	return nil, fmt.Errorf("content type %q is none that this subscription reads: it reads %s", contentType, c.own.ContentType())
}

func mediaType(s string) string {
	if t, _, err := mime.ParseMediaType(s); err == nil {
		return t
	}
	return strings.ToLower(strings.TrimSpace(s))
}

// sameMedia compares media types; one that ends in +json is JSON, and so on.
func sameMedia(got, want string) bool {
	if got == want {
		return true
	}
	_, suffix, found := strings.Cut(got, "+")
	return found && want == "application/"+suffix
}
