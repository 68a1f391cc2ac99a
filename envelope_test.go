package holdfast_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

// parcel is a body that takes its label from the message. What is marked as empty
// has nothing to decode.
type parcel[T any] struct {
	Label string
	Value T
}

// Fill implements transport.Envelope.
func (p *parcel[T]) Fill(m *transport.Message) (decode bool, err error) {
	p.Label = m.Header.Get("Label")
	if p.Label == "" {
		return false, errors.New("it has no label")
	}
	return !strings.HasPrefix(p.Label, "empty"), nil
}

// Body implements transport.Envelope.
func (p *parcel[T]) Body() any { return &p.Value }

func TestEnvelopeTakesAPartOfTheBodyFromTheMessage(t *testing.T) {
	t.Parallel()
	labelled := func(label, body string) *transport.Message {
		return &transport.Message{ID: "1", Header: transport.Header{"Label": {label}}, Body: []byte(body)}
	}
	number, reason := receive[parcel[int]](t, labelled("a", "7"))
	check.Equal(t, number, parcel[int]{"a", 7})
	check.Equal(t, reason, "")
	empty, reason := receive[parcel[int]](t, labelled("empty", ""))
	check.Equal(t, empty, parcel[int]{"empty", 0}, "what has no value is not decoded")
	check.Equal(t, reason, "")
	text, reason := receive[parcel[string]](t, labelled("b", "plain"))
	check.Equal(t, text, parcel[string]{"b", "plain"}, "the codec is that of the value")
	check.Equal(t, reason, "")
	_, reason = receive[parcel[int]](t, labelled("c", "x"))
	check.Equal(t, reason, "undecodable")
	_, reason = receive[parcel[int]](t, &transport.Message{ID: "1", Body: []byte("7")})
	check.Equal(t, reason, "undecodable", "the message does not fit")
}
