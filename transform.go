package holdfast

import "context"

// Output is a message that a handler returns to be published: see Transform and
// Publisher.Output.
type Output struct {
	start func(ctx context.Context) error
}

// Output returns a message for Transform to publish with p. Nothing is sent yet.
func (p *Publisher[T]) Output(body T, opts ...PublishOption) Output {
	return Output{func(ctx context.Context) error {
		_, err := p.PublishAsync(ctx, body, opts...)
		return err
	}}
}

// Transform registers a handler that returns messages to publish: one or many, to
// one address or many, on the same broker or another. They are published side by
// side, in order for each publisher, and the message that was handled is acked
// only when all of them are stored; if one is not, the attempt has failed and the
// policy decides. Their IDs are derived from the message that was handled, so that
// a second attempt publishes the same ones, and a broker that deduplicates keeps
// one copy. Messages returned together with an error are not published.
//
// Everything else is as for Handle.
func Transform[T any](on Registrar, src Source, handler func(ctx context.Context, m *Message[T]) ([]Output, error), opts ...Option) *Subscription {
	if handler == nil {
		return Handle[T](on, src, nil, opts...)
	}
	return Handle(on, src, func(ctx context.Context, m *Message[T]) error {
		outputs, err := handler(ctx, m)
		if err != nil {
			return err
		}
		for _, o := range outputs {
			if o.start == nil {
				continue // a zero Output publishes nothing
			}
			if err := o.start(ctx); err != nil {
				return err
			}
		}
		return nil
	}, opts...)
}
