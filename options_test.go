package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

// attemptsOf is a policy that can be told by its number of attempts.
func attemptsOf(n int) holdfast.Option {
	return holdfast.Retry{Attempts: n, Backoff: holdfast.Constant(time.Second)}
}

func TestNearestOptionCounts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                     string
		app, group, inner, local []holdfast.Option
		attempts                 int
	}{
		{"nothing said: the default", nil, nil, nil, nil, 5},
		{"the app's", []holdfast.Option{attemptsOf(2)}, nil, nil, nil, 2},
		{"the group's over the app's", []holdfast.Option{attemptsOf(2)}, []holdfast.Option{attemptsOf(3)}, nil, nil, 3},
		{"the inner group's over the outer one's", []holdfast.Option{attemptsOf(2)}, []holdfast.Option{attemptsOf(3)}, []holdfast.Option{attemptsOf(4)}, nil, 4},
		{"the subscription's over all", []holdfast.Option{attemptsOf(2)}, []holdfast.Option{attemptsOf(3)}, []holdfast.Option{attemptsOf(4)}, []holdfast.Option{attemptsOf(6)}, 6},
		{"an ack policy without retries puts the app's retries aside", []holdfast.Option{attemptsOf(3)}, nil, nil, []holdfast.Option{holdfast.Ack(holdfast.RejectOnError)}, 1},
		{"and the group's those of the app", []holdfast.Option{attemptsOf(3)}, []holdfast.Option{holdfast.Ack(holdfast.AckAlways)}, nil, nil, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				g := w.app.Group("", c.group...).Group("", c.inner...)
				holdfast.Handle(g, w.queue("orders"), w.fails(errFlaky), c.local...)
				w.run()
				w.publish("m1")
				w.pass(time.Hour)
				check.Equal(t, len(w.seen()), c.attempts, "attempts")
			}, func(cfg *holdfast.Config) { cfg.Options = c.app })
		})
	}
}

func TestRetriesBesideAnAckPolicyWithoutThemAreRefused(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil), attemptsOf(3), holdfast.Ack(holdfast.AckFirst))
		check.True(t, w.app.Run(t.Context()) != nil, "said in one place, it is a contradiction")
	})
}

// tracing is middleware that notes when it is entered and left.
func tracing(trace *[]string, name string) holdfast.Option {
	return holdfast.Use(func(next holdfast.HandlerFunc) holdfast.HandlerFunc {
		return func(ctx context.Context, m *holdfast.Meta) error {
			*trace = append(*trace, name)
			err := next(ctx, m)
			*trace = append(*trace, "/"+name)
			return err
		}
	})
}

func TestMiddlewareRunsFromTheAppInwardsOnceForEachAttempt(t *testing.T) {
	t.Parallel()
	var trace []string
	promise(t, func(t *testing.T, w *world) {
		g := w.app.Group("", tracing(&trace, "group")).Group("", tracing(&trace, "inner"))
		holdfast.Handle(g, w.queue("orders"), func(context.Context, *holdfast.Message[string]) error {
			trace = append(trace, "handler")
			return errFlaky
		}, tracing(&trace, "first"), tracing(&trace, "second"), holdfast.Retry{Attempts: 2, Immediate: 1})
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		once := []string{"app", "group", "inner", "first", "second", "handler", "/second", "/first", "/inner", "/group", "/app"}
		check.Equal(t, trace, append(append([]string(nil), once...), once...))
	}, func(cfg *holdfast.Config) { cfg.Options = []holdfast.Option{tracing(&trace, "app")} })
}

func TestMiddlewareSeesAndMayChangeEveryOutcome(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		var seen []error
		holdfast.Handle(w.app, w.queue("orders"), func(context.Context, *holdfast.Message[order]) error { return nil },
			holdfast.Use(func(next holdfast.HandlerFunc) holdfast.HandlerFunc {
				return func(ctx context.Context, m *holdfast.Meta) error {
					err := next(ctx, m)
					seen = append(seen, err)
					if err != nil {
						return holdfast.Discard(err)
					}
					return nil
				}
			}))
		w.run()
		w.send("orders.placed", &transport.Message{ID: "broken", Body: []byte("{")})
		w.send("orders.placed", &transport.Message{ID: "fine", Body: []byte("{}")})
		w.pass(time.Second)
		check.Equal(t, len(seen), 2)
		check.True(t, seen[0] != nil && seen[1] == nil, "it sees the body that cannot be decoded")
		check.Equal(t, w.counts().Discarded, 1)
		check.Equal(t, w.counts().Handled, 1)
	})
}

func TestMiddlewareThatPanicsIsAFailureOfTheMessage(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), w.fails(nil), holdfast.NoRetry(), holdfast.Use(func(holdfast.HandlerFunc) holdfast.HandlerFunc {
			return func(context.Context, *holdfast.Meta) error { return explode() }
		}))
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		check.Equal(t, w.letter().Class, "panic")
	})
}

func TestGroupPrefixesSubjectsAndNames(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		eu := w.app.Group("eu.").Group("shop.")
		a := holdfast.Handle(eu, w.queue("orders"), w.fails(nil))
		b := holdfast.Handle(eu, w.queue("bills"), w.fails(nil), holdfast.Name("accounting"))
		check.Equal(t, a.Name(), "eu-shop-orders")
		check.Equal(t, b.Name(), "eu-shop-accounting")
		w.run()
		w.send("eu.shop.orders.placed", &transport.Message{ID: "m1"})
		w.pass(time.Second)
		check.Equal(t, w.ids(), []string{"m1"})
		err := w.b.Publish(t.Context(), transport.Address{Name: "orders.placed"}, &transport.Message{ID: "m2"})
		check.ErrorIs(t, err, holdfast.ErrUnroutable)
	})
}

func TestPerSubscriptionAndPerAppCodecs(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		got := map[string]string{}
		keep := func(_ context.Context, m *holdfast.Message[order]) error {
			got[m.ID] = m.Body.Item
			return nil
		}
		holdfast.Handle(w.app, w.queue("orders"), keep)
		holdfast.Handle(w.app, w.queue("bills"), keep, holdfast.WithCodec(upperCodec{}))
		w.run()
		w.send("orders.a", &transport.Message{ID: "json", ContentType: "application/json", Body: []byte(`{"item":"tea"}`)})
		w.send("orders.a", &transport.Message{ID: "own type", ContentType: "application/x-upper", Body: []byte("tea")})
		w.send("orders.a", &transport.Message{ID: "none named", Body: []byte(`{"item":"tea"}`)})
		w.pass(time.Second)
		w.send("bills.a", &transport.Message{ID: "codec of the subscription", Body: []byte("tea")})
		w.pass(time.Second)
		check.Equal(t, got, map[string]string{"json": "tea", "own type": "TEA", "none named": "tea", "codec of the subscription": "TEA"})
	}, func(cfg *holdfast.Config) { cfg.Codecs = []holdfast.Codec{upperCodec{}} })
}

// upperCodec is a codec of the application's own.
type upperCodec struct{}

func (upperCodec) ContentType() string { return "application/x-upper" }
func (upperCodec) Encode(v any) ([]byte, error) {
	return []byte(fmt.Sprint(v)), nil
}

func (upperCodec) Decode(data []byte, v any) error {
	o, ok := v.(*order)
	if !ok {
		return errors.New("upperCodec fills orders")
	}
	for _, c := range data {
		o.Item += string(rune(c - 'a' + 'A'))
	}
	return nil
}
