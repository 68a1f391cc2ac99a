package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

func TestParametersOfAnAddressReachTheHandler(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := w.b.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"orders.{region}.{id}", "bills.{rest...}"}})
		var got []string
		holdfast.Handle(w.app.Group("test."), src, func(_ context.Context, m *holdfast.Message[string]) error {
			got = append(got, strings.Join([]string{m.Param("region"), m.Param("id"), m.Param("rest"), m.Param("other"), fmt.Sprint(m.Params())}, "|"))
			return nil
		})
		w.run()
		w.send("test.orders.eu.7", &transport.Message{ID: "1"})
		w.pass(time.Second)
		w.send("test.bills.a.b", &transport.Message{ID: "2"})
		w.pass(time.Second)
		check.Equal(t, got, []string{"eu|7|||map[id:7 region:eu]", "||a.b||map[rest:a.b]"})
	})
}

func TestAnAddressThatIsNoTemplateIsRefusedAtStart(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		src := w.b.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"orders.{region"}})
		holdfast.Handle(w.app, src, func(context.Context, *holdfast.Message[string]) error { return nil })
		err := w.app.Run(t.Context())
		check.True(t, err != nil && strings.Contains(err.Error(), "whole token"), err)
	})
}

func TestAPublisherFillsInTheParameters(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, transport.Address{Name: "orders.{region}.{id}"})
		check.NoError(t, p.Publish(t.Context(), "a", holdfast.Param("region", "eu"), holdfast.Param("id", "7")))
		check.Equal(t, r.Len("orders"), 1)
		for _, opts := range [][]holdfast.PublishOption{
			nil,
			{holdfast.Param("region", "eu")},
			{holdfast.Param("region", "e.u"), holdfast.Param("id", "7")},
			{holdfast.Param("region", "*"), holdfast.Param("id", "7")},
			{holdfast.Param("region", "eu"), holdfast.Param("id", "7"), holdfast.Param("typo", "7")},
			{holdfast.To(placed), holdfast.Param("region", "eu")},
		} {
			err := p.Publish(t.Context(), "a", opts...)
			check.ErrorIs(t, err, holdfast.ErrInvalid)
			check.Equal(t, holdfast.OutcomeOf(err), holdfast.Refused)
		}
		check.Equal(t, r.Len("orders"), 1)
	})
}

func TestTransformAcksWhenItsOutputsAreStored(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		_, err := w.b.Provision(t.Context(), w.queue("bills"), transport.Want{})
		check.NoError(t, err)
		bills := holdfast.NewPublisher[string](w.b, transport.Address{Name: "bills.{region}"})
		holdfast.Transform(w.app, w.queue("orders"), func(_ context.Context, m *holdfast.Message[string]) ([]holdfast.Output, error) {
			out := []holdfast.Output{
				{},
				bills.Output("bill for "+m.Body, holdfast.Param("region", "eu")),
				bills.Output("copy for "+m.Body, holdfast.Param("region", "us")),
			}
			if m.Attempt == 1 {
				return out, errors.New("not yet")
			}
			if m.Body == "bad" {
				out = append(out, bills.Output("no region"))
			}
			return out, nil
		}, holdfast.Retry{Attempts: 3, Backoff: holdfast.Exponential(time.Second, time.Minute)})
		w.run()
		w.publish("good")
		w.pass(time.Minute)
		check.Equal(t, w.b.Len("bills"), 2)
		check.Equal(t, len(w.letters()), 0)
		w.publish("bad")
		w.pass(time.Minute)
		check.Equal(t, len(w.letters()), 1)
		check.Equal(t, w.b.Len("bills"), 4, "two attempts published the same two, once each")
	})
}
