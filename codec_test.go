package holdfast_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

// receive handles one message with bodies of type T, and returns the body and
// the reason of the dead letter if there is one.
func receive[T any](t *testing.T, m *transport.Message, opts ...holdfast.Option) (body T, reason string) {
	t.Helper()
	promise(t, func(t *testing.T, w *world) {
		handled := false
		holdfast.Handle(w.app, w.queue("orders"), func(_ context.Context, got *holdfast.Message[T]) error {
			body, handled = got.Body, true
			return nil
		}, opts...)
		w.run()
		w.send("orders.placed", m)
		w.pass(time.Hour)
		for _, l := range w.letters() {
			reason = l.Reason
			check.Equal(t, l.Attempts, 1, "a body that cannot be read is not tried again")
			check.Equal(t, l.Stage, "decode")
			check.Equal(t, string(l.Body), string(m.Body), "the bytes are kept")
			check.Equal(t, l.ContentType, m.ContentType)
		}
		check.Equal(t, handled, reason == "", "handled")
		w.idle()
	})
	return body, reason
}

func TestContentTypesASubscriptionReads(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		contentType string
		reads       bool
	}{
		{"", true},
		{"application/json", true},
		{"application/json; charset=utf-8", true},
		{"Application/JSON", true},
		{"application/vnd.shop.order+json", true},
		{"application/octet-stream", true},
		{"text/plain", true},
		{"application/protobuf", false},
		{"application/vnd.shop.order+xml", false},
		{"nonsense", false},
		{";;;", false},
	} {
		t.Run(c.contentType, func(t *testing.T) {
			t.Parallel()
			got, reason := receive[order](t, &transport.Message{ID: "m1", ContentType: c.contentType, Body: []byte(`{"number":7}`)})
			if c.reads {
				check.Equal(t, got, order{Number: 7})
				check.Equal(t, reason, "")
				return
			}
			check.Equal(t, reason, "undecodable")
		})
	}
}

func TestBodiesThatCannotBeDecodedAreDeadLettersAtOnce(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"cut off": `{"number":`, "empty": "", "another shape": `{"number":"seven"}`, "not JSON": "\xff\xfe\x00", "two values": `{} {}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, reason := receive[order](t, &transport.Message{ID: "m1", Body: []byte(body)})
			check.Equal(t, reason, "undecodable")
		})
	}
}

func TestEmptyBodyWithAStatusHeaderIsAMessageLikeAnyOther(t *testing.T) {
	t.Parallel()
	m := &transport.Message{ID: "m1", Header: transport.Header{"Status": {"503"}}}
	_, reason := receive[order](t, m)
	check.Equal(t, reason, "undecodable")
	body, reason := receive[[]byte](t, m)
	check.Equal(t, reason, "")
	check.Equal(t, len(body), 0)
}

func TestBytesAndTextTakeAnyBody(t *testing.T) {
	t.Parallel()
	m := &transport.Message{ID: "m1", ContentType: "application/protobuf", Body: []byte("\x00\xff")}
	raw, reason := receive[[]byte](t, m)
	check.Equal(t, reason, "")
	check.Equal(t, raw, []byte("\x00\xff"))
	text, _ := receive[string](t, &transport.Message{ID: "m1", ContentType: "text/plain; charset=utf-8", Body: []byte("grüß")})
	check.Equal(t, text, "grüß")
	text, _ = receive[string](t, &transport.Message{ID: "m1"})
	check.Equal(t, text, "")
	_, reason = receive[string](t, m)
	check.Equal(t, reason, "undecodable", "a string of another media type")
}

func TestBodyOfOneMebibyteArrivesWhole(t *testing.T) {
	t.Parallel()
	body := []byte(strings.Repeat("0123456789abcdef", 1<<16))
	got, reason := receive[[]byte](t, &transport.Message{ID: "m1", Body: body})
	check.Equal(t, reason, "")
	check.True(t, string(got) == string(body), "the body is what was sent")
	_, reason = receive[order](t, &transport.Message{ID: "m2", Body: body})
	check.Equal(t, reason, "undecodable")
}

// pb stands for a generated message of google.golang.org/protobuf.
type pb struct{ text string }

func (p *pb) Reset() { p.text = "" }

// protoMessage stands for proto.Message, protoMarshal and protoUnmarshal for
// the functions of that library.
type protoMessage interface{ Reset() }

func protoMarshal(m protoMessage) ([]byte, error) {
	if m.(*pb) == nil {
		return nil, errors.New("nil message")
	}
	return []byte("pb:" + m.(*pb).text), nil
}

func protoUnmarshal(data []byte, m protoMessage) error {
	text, ok := strings.CutPrefix(string(data), "pb:")
	if !ok {
		return errors.New("not a message")
	}
	m.(*pb).text = text
	return nil
}

func TestProtobufThroughItsTwoFunctions(t *testing.T) {
	t.Parallel()
	codec := holdfast.Protobuf(protoMarshal, protoUnmarshal)
	m := &transport.Message{ID: "m1", ContentType: "application/protobuf", Body: []byte("pb:hello")}
	got, reason := receive[*pb](t, m, holdfast.WithCodec(codec))
	check.Equal(t, reason, "")
	check.Equal(t, got, &pb{"hello"})
	_, reason = receive[*pb](t, &transport.Message{ID: "m1", Body: []byte("hello")}, holdfast.WithCodec(codec))
	check.Equal(t, reason, "undecodable")
	_, reason = receive[order](t, m, holdfast.WithCodec(codec))
	check.Equal(t, reason, "undecodable", "a body that is no message")
	data, err := codec.Encode(&pb{"hello"})
	check.NoError(t, err)
	check.Equal(t, string(data), "pb:hello")
	_, err = codec.Encode(order{})
	check.True(t, err != nil, "a body that is no message")
}

func TestCodecsRefuseOtherTypes(t *testing.T) {
	t.Parallel()
	for _, c := range []holdfast.Codec{holdfast.Bytes(), holdfast.Text()} {
		_, err := c.Encode(order{})
		check.True(t, err != nil, c.ContentType()+" encodes an order")
		check.True(t, c.Decode([]byte("x"), &order{}) != nil, c.ContentType()+" decodes an order")
	}
	_, err := holdfast.JSON().Encode(func() {})
	check.True(t, err != nil, "JSON encodes a function")
}

// byValue and byPointer are bodies that can tell whether they make sense.
type byValue struct{ N int }

func (v byValue) Validate() error { return positive(v.N) }

type byPointer struct{ N int }

func (v *byPointer) Validate() error { return positive(v.N) }

func positive(n int) error {
	if n <= 0 {
		return errors.New("N must be positive")
	}
	return nil
}

func TestBodiesAreValidatedByValueAndByPointer(t *testing.T) {
	t.Parallel()
	good, bad := &transport.Message{ID: "m1", Body: []byte(`{"N":1}`)}, &transport.Message{ID: "m1", Body: []byte(`{"N":-1}`)}
	_, reason := receive[byValue](t, good)
	check.Equal(t, reason, "")
	_, reason = receive[byValue](t, bad)
	check.Equal(t, reason, "invalid")
	_, reason = receive[byPointer](t, good)
	check.Equal(t, reason, "")
	_, reason = receive[byPointer](t, bad)
	check.Equal(t, reason, "invalid")
	_, reason = receive[*byPointer](t, bad)
	check.Equal(t, reason, "invalid")
	_, reason = receive[*byValue](t, bad)
	check.Equal(t, reason, "invalid")
	p, reason := receive[*byPointer](t, good)
	check.Equal(t, reason, "")
	check.Equal(t, p, &byPointer{1})
	_, reason = receive[*byValue](t, &transport.Message{ID: "m1", Body: []byte("null")})
	check.Equal(t, reason, "invalid", "null where a body is needed")
}

func TestDecodeErrorNamesWhatIsRead(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(context.Context, *holdfast.Message[order]) error { return nil })
		w.run()
		w.send("orders.placed", &transport.Message{ID: "m1", ContentType: "application/xml", Body: []byte("<a/>")})
		w.pass(time.Second)
		check.Equal(t, w.letter().Error, `decode body: content type "application/xml" is none that this subscription reads: it reads application/json`)
	})
}

func TestJSONIsWhatTheStandardLibraryWrites(t *testing.T) {
	t.Parallel()
	want, err := json.Marshal(order{Number: 1})
	check.NoError(t, err)
	got, err := holdfast.JSON().Encode(order{Number: 1})
	check.NoError(t, err)
	check.Equal(t, string(got), string(want))
}
