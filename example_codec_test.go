package holdfast_test

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"

	"github.com/holdfast-go/holdfast"
)

// XML is a codec of the application's own.
type XML struct{}

func (XML) ContentType() string             { return "application/xml" }
func (XML) Encode(v any) ([]byte, error)    { return xml.Marshal(v) }
func (XML) Decode(data []byte, v any) error { return xml.Unmarshal(data, v) }

func ExampleWithCodec() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[Order]) error {
		fmt.Println(m.Body.Number, m.Body.Item)
		return nil
	}, holdfast.WithCodec(XML{}))
	s.handle("<Order><Number>7</Number><Item>tea</Item></Order>")
	// Output: 7 tea
}

func ExampleProtobuf() {
	// protoMarshal and protoUnmarshal stand for proto.Marshal and
	// proto.Unmarshal, pb for a generated message.
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[*pb]) error {
		fmt.Println(m.Body.text)
		return nil
	}, holdfast.WithCodec(holdfast.Protobuf(protoMarshal, protoUnmarshal)))
	s.handle("pb:hello")
	// Output: hello
}

// Payment is a body that can tell whether it makes sense.
type Payment struct{ Cents int }

func (p Payment) Validate() error {
	if p.Cents <= 0 {
		return errors.New("cents must be positive")
	}
	return nil
}

func ExampleValidator() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[Payment]) error {
		fmt.Println(m.Body.Cents, "cents")
		return nil
	})
	s.handle(`{"Cents":250}`, `{"Cents":-1}`)
	s.printDead()
	// Output:
	// 250 cents
	// dead: {"Cents":-1} invalid after attempt 1 <nil>
}

func ExampleBytes() {
	s := newShop()
	holdfast.Handle(s.app, s.words, func(_ context.Context, m *holdfast.Message[[]byte]) error {
		fmt.Printf("%x\n", m.Body) // []byte bodies are passed through as they are
		return nil
	})
	s.handle("tea")
	// Output: 746561
}
