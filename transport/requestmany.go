package transport

import (
	"context"
	"iter"
)

// ManyRequester is a Transport on which many can answer one request.
type ManyRequester interface {
	// RequestMany publishes m and yields every answer until ctx ends, which is
	// yielded as an error like any other that ends it. ErrUnroutable means that
	// nobody listens. The caller stops when it has enough.
	RequestMany(ctx context.Context, to Address, m *Message) iter.Seq2[*Message, error]
}
