package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// codedError is an error of an application that gives its errors codes.
type codedError struct{ code string }

func (e *codedError) Error() string { return "no such order" }
func (e *codedError) Code() string  { return e.code }

// reply answers orders.find with the item of an order, or fails by its number.
func (w *world) reply(opts ...holdfast.Option) {
	holdfast.Reply(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[order]) (order, error) {
		w.see(&m.Meta)
		switch m.Body.Number {
		case 404:
			return order{}, fmt.Errorf("find: %w", &codedError{"not-found"})
		case 500:
			panic("secret detail of the other side")
		case 501:
			return order{}, errors.New("broken\nin two lines, 100 %")
		case 502:
			runtime.Goexit()
		case 504:
			wait(ctx, time.Hour)
		}
		return order{Number: m.Body.Number, Item: "tea"}, nil
	}, opts...)
}

func (w *world) ask(body order) (order, error) {
	return holdfast.Request[order, order](w.t.Context(), w.b, transport.Address{Name: "orders.find"}, body)
}

func TestRequestGetsItsAnswer(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		w.reply()
		w.run()
		got, err := w.ask(order{Number: 7})
		check.NoError(t, err)
		check.Equal(t, got, order{Number: 7, Item: "tea"})
		w.pass(time.Second)
		check.Equal(t, w.counts(), observe.Counts{Received: 1, Attempts: 1, Handled: 1})
		w.idle()
	})
}

func TestErrorsAreCarriedBackAndNotRetried(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		number int
		want   holdfast.RemoteError
		counts observe.Counts
	}{
		{404, holdfast.RemoteError{Message: "find: no such order", Code: "not-found"}, observe.Counts{Received: 1, Attempts: 1, Handled: 1}},
		{501, holdfast.RemoteError{Message: "broken\nin two lines, 100 %"}, observe.Counts{Received: 1, Attempts: 1, Handled: 1}},
		{500, holdfast.RemoteError{Message: "the handler failed", Code: holdfast.CodeInternal}, observe.Counts{Received: 1, Attempts: 1, Discarded: 1}},
	} {
		t.Run(fmt.Sprint(c.number), func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				w.reply()
				w.run()
				_, err := w.ask(order{Number: c.number})
				var remote *holdfast.RemoteError
				check.True(t, errors.As(err, &remote), err)
				check.Equal(t, *remote, c.want)
				w.pass(time.Hour)
				check.Equal(t, w.counts(), c.counts)
				check.Equal(t, len(w.letters()), 0)
				w.idle()
			})
		})
	}
}

func TestRequestThatCannotBeDecodedIsAnsweredSo(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		w.reply()
		w.run()
		_, err := holdfast.Request[string, order](t.Context(), w.b, transport.Address{Name: "orders.find"}, "{")
		var remote *holdfast.RemoteError
		check.True(t, errors.As(err, &remote), err)
		check.Equal(t, remote.Code, holdfast.CodeBadRequest)
		check.Equal(t, len(w.seen()), 0)
		w.pass(time.Hour)
		w.idle()
	})
}

func TestRequestThatIsNotValidIsAnsweredSo(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Reply(w.app, w.queue("orders"), func(context.Context, *holdfast.Message[byValue]) (string, error) { return "fine", nil })
		w.run()
		_, err := holdfast.Request[byValue, string](t.Context(), w.b, transport.Address{Name: "orders.find"}, byValue{-1})
		var remote *holdfast.RemoteError
		check.True(t, errors.As(err, &remote), err)
		check.Equal(t, *remote, holdfast.RemoteError{Message: "validate body: N must be positive", Code: holdfast.CodeBadRequest})
		check.Equal(t, remote.Error(), "remote: validate body: N must be positive (bad-request)")
	})
}

func TestAnswerThatCannotBeDecodedIsAnError(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		w.reply()
		w.run()
		_, err := holdfast.Request[order, int](t.Context(), w.b, transport.Address{Name: "orders.find"}, order{Number: 7})
		check.True(t, err != nil && !holdfast.Unknown(err), err)
	})
}

func TestRequestNobodyListensToFailsAtOnce(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		began := time.Now()
		_, err := w.ask(order{})
		check.ErrorIs(t, err, holdfast.ErrUnroutable)
		check.Equal(t, time.Since(began), 0)
	})
}

func TestRequestEndsWithItsContextAndItsOutcomeIsUnknown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ given, waits time.Duration }{
		{0, holdfast.DefaultPublishTimeout}, {time.Second, time.Second}, {10 * time.Minute, 10 * time.Minute},
	} {
		t.Run(c.given.String(), func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				w.reply()
				w.run()
				ctx := t.Context()
				if c.given > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.given)
					defer cancel()
				}
				began := time.Now()
				_, err := holdfast.Request[order, order](ctx, w.b, transport.Address{Name: "orders.find"}, order{Number: 504})
				check.ErrorIs(t, err, context.DeadlineExceeded)
				check.True(t, holdfast.Unknown(err), err)
				check.Equal(t, time.Since(began), c.waits)
			})
		})
	}
}

func TestHandlerOfARequestThatCallsGoexitIsAnswered(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		w.reply()
		w.run()
		_, err := w.ask(order{Number: 502})
		var remote *holdfast.RemoteError
		check.True(t, errors.As(err, &remote), err)
		_, err = w.ask(order{Number: 7})
		check.NoError(t, err, "the next request")
	})
}

func TestMessageThatAsksForNoAnswerIsDiscarded(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		w.reply()
		w.run()
		w.send("orders.find", &transport.Message{ID: "m1", Body: []byte("{}")})
		w.pass(time.Second)
		check.Equal(t, len(w.seen()), 0)
		check.Equal(t, w.counts().Discarded, 1)
	})
}

func TestRequestOnABrokerWithoutThemIsUnsupported(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		_, err := holdfast.Request[string, string](t.Context(), struct{ transport.Transport }{w.b}, placed, "")
		check.ErrorIs(t, err, holdfast.ErrUnsupported)
	})
}

// unranked is a broker without priorities.
type unranked struct{ *memory.Broker }

func (u unranked) Capabilities() transport.Capabilities {
	can := u.Broker.Capabilities()
	can.Priorities = false
	return can
}

func TestRequestRefusesWhatItCannotKeep(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opt  holdfast.PublishOption
		want error
	}{
		"After":           {holdfast.After(time.Hour), holdfast.ErrInvalid},
		"negative Expiry": {holdfast.Expiry(-time.Second), holdfast.ErrInvalid},
		"Priority":        {holdfast.Priority(3), holdfast.ErrUnsupported},
	} {
		_, err := holdfast.Request[order, order](t.Context(), unranked{memory.New()}, transport.Address{Name: "orders.find"}, order{}, c.opt)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestRequestRefusesReservedHeaders(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		w.reply()
		w.run()
		_, err := holdfast.Request[order, order](t.Context(), w.b, transport.Address{Name: "orders.find"}, order{}, holdfast.SetHeader("Nats-Reply", "x"))
		check.ErrorIs(t, err, holdfast.ErrInvalid)
	})
}
