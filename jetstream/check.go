package jetstream

import (
	"context"

	"github.com/holdfast-go/holdfast/transport"
)

// Check implements transport.Transport.
func (t *Transport) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	_ = ctx
	_, err := t.sourceOf("check", src)
	return nil, err
}
