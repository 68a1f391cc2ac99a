package holdfast

import "github.com/holdfast-go/holdfast/transport"

// decodeBody fills body, a pointer. A body that is an envelope takes what the
// message says besides, and may have nothing to decode.
func decodeBody(codec Codec, m *Meta, body any) error {
	envelope, ok := body.(transport.Envelope)
	if !ok {
		return codec.Decode(m.Data(), body)
	}
	full, err := envelope.Fill(m.delivery.Message())
	if err != nil || !full {
		return err
	}
	return codec.Decode(m.Data(), envelope.Body())
}
