package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// recorder is a broker that notes what is sent to it.
type recorder struct {
	*memory.Broker

	mu   sync.Mutex
	sent []*transport.Message
}

// recorded is a pipeline of a recorder.
type recorded struct {
	transport.Pipeline
	r *recorder
}

func (r *recorder) OpenPipeline(ctx context.Context, report func(uint64, error)) (transport.Pipeline, error) {
	p, err := r.Broker.OpenPipeline(ctx, report)
	if err != nil {
		return nil, err
	}
	return recorded{p, r}, nil
}

func (p recorded) Send(to transport.Address, m *transport.Message, tag uint64) error {
	copied := *m
	p.r.mu.Lock()
	p.r.sent = append(p.r.sent, &copied)
	p.r.mu.Unlock()
	return p.Pipeline.Send(to, m, tag)
}

// market is a recorder with a queue for orders, in virtual time.
func market(t *testing.T, f func(t *testing.T, r *recorder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{Broker: memory.New()}
		_, err := r.Provision(t.Context(), r.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"orders.>"}}), transport.Want{})
		check.NoError(t, err)
		f(t, r)
		check.NoError(t, r.Close(t.Context()))
	})
}

// ids are the distinct IDs that were sent.
func (r *recorder) ids() []string {
	var ids []string
	for _, m := range r.sent {
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

var placed = transport.Address{Name: "orders.placed"}

func TestPublishRepeatsUnderTheSameIDUntilItIsConfirmed(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[order](r, placed)
		r.Fail(memory.OpPublish, errors.New("no leader"), 2)
		r.LoseAnswer(memory.OpPublish, errors.New("connection reset"), 2)
		check.NoError(t, p.Publish(t.Context(), order{Number: 7}))
		check.Equal(t, len(r.sent), 5, "tries")
		check.Equal(t, len(r.ids()), 1, "under one ID")
		check.Equal(t, r.Len("orders"), 1, "the broker stores one copy")
		check.Equal(t, string(r.sent[0].Body), `{"number":7}`)
		check.Equal(t, r.sent[0].ContentType, "application/json")
	})
}

func TestPublishWhoseOutcomeIsUnknownSaysSo(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed, holdfast.PublishTimeout(5*time.Second))
		r.LoseAnswer(memory.OpPublish, errors.New("connection reset"), 1)
		r.Fail(memory.OpPublish, errors.New("no leader"), 1000)
		began := time.Now()
		err := p.Publish(t.Context(), "hello")
		took := time.Since(began)
		check.True(t, took >= 5*time.Second && took <= 5200*time.Millisecond, took)
		check.True(t, holdfast.Unknown(err), err)
		check.ErrorIs(t, err, context.DeadlineExceeded)
		check.True(t, strings.Contains(err.Error(), "same ID"), err)
	})
}

func TestPublishThatDidNotHappenIsNotUnknown(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed)
		r.Disconnect(errors.New("cable cut"))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := p.Publish(ctx, "hello")
		check.ErrorIs(t, err, context.DeadlineExceeded)
		check.True(t, !holdfast.Unknown(err), err)
		check.True(t, strings.Contains(err.Error(), "no connection"), err)
		check.Equal(t, len(r.sent), 0)
		check.True(t, !holdfast.Unknown(nil), "no error")
	})
}

func TestPublishSurvivesABrokerThatIsGoneForAWhile(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed, holdfast.PublishTimeout(time.Hour))
		r.Disconnect(nil)
		done := make(chan error)
		go func() { done <- p.Publish(t.Context(), "hello") }()
		time.Sleep(10 * time.Minute) // virtual
		r.Reconnect()
		check.NoError(t, <-done)
		check.Equal(t, r.Len("orders"), 1)
	})
}

func TestPublishWithAContextThatEndedSendsNothing(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := holdfast.NewPublisher[string](r, placed).Publish(ctx, "hello")
		check.ErrorIs(t, err, context.Canceled)
		check.Equal(t, r.Len("orders"), 0)
	})
}

func TestPublishThatCanNeverWorkFailsAtOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		to     string
		body   string
		opts   []holdfast.PublishOption
		target error
	}{
		{"nobody takes it", "bills.placed", "", nil, holdfast.ErrUnroutable},
		{"too large", "orders.placed", strings.Repeat("x", 2<<20), nil, holdfast.ErrTooLarge},
		{"a wildcard", "orders.*", "", nil, holdfast.ErrInvalid},
		{"no subject", "", "", nil, holdfast.ErrInvalid},
		{"a header of NATS", "orders.placed", "", []holdfast.PublishOption{holdfast.SetHeader("Nats-Msg-Id", "x")}, holdfast.ErrInvalid},
		{"a header of NATS in small letters", "orders.placed", "", []holdfast.PublishOption{holdfast.SetHeader("nats-rollup", "all")}, holdfast.ErrInvalid},
		{"a header of holdfast", "orders.placed", "", []holdfast.PublishOption{holdfast.SetHeader("Holdfast-Id", "x")}, holdfast.ErrInvalid},
		{"the content type as a header", "orders.placed", "", []holdfast.PublishOption{holdfast.SetHeader("content-type", "x")}, holdfast.ErrInvalid},
		{"a header with a line break", "orders.placed", "", []holdfast.PublishOption{holdfast.SetHeader("X-A", "a\r\nb")}, holdfast.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			market(t, func(t *testing.T, r *recorder) {
				began := time.Now()
				err := holdfast.NewPublisher[string](r, transport.Address{Name: c.to}).Publish(t.Context(), c.body, c.opts...)
				check.ErrorIs(t, err, c.target)
				check.True(t, !holdfast.Unknown(err), err)
				check.Equal(t, time.Since(began), 0, "tried for")
				check.Equal(t, r.Len("orders"), 0)
			})
		})
	}
}

func TestBodyThatCannotBeEncodedIsNotSent(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		err := holdfast.NewPublisher[func()](r, placed).Publish(t.Context(), func() {})
		check.True(t, err != nil && strings.Contains(err.Error(), "encode body"), err)
		check.True(t, !holdfast.Unknown(err), err)
		check.Equal(t, len(r.sent), 0)
	})
}

func TestPublishOptions(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		diary := &diary{}
		p := holdfast.NewPublisher[*pb](r, placed, holdfast.PublishCodec(holdfast.Protobuf(protoMarshal, protoUnmarshal)), holdfast.PublishObserver(diary))
		err := p.Publish(t.Context(), &pb{"hi"}, holdfast.ID("m1"), holdfast.Key("k"), holdfast.SetHeader("X-A", "1"), holdfast.SetHeader("X-A", "2"), holdfast.To(transport.Address{Name: "orders.other"}))
		check.NoError(t, err)
		got := r.sent[0]
		check.Equal(t, got.ID, "m1")
		check.Equal(t, got.Key, "k")
		check.Equal(t, got.ContentType, "application/protobuf")
		check.Equal(t, string(got.Body), "pb:hi")
		check.Equal(t, got.Header, transport.Header{"X-A": {"1", "2"}})
		e := diary.of(observe.Published)[0]
		check.Equal(t, []any{e.Subject, e.MessageID, e.Attempt, e.Err}, []any{"orders.other", "m1", 1, nil})

		r.Fail(memory.OpPublish, &transport.Error{Op: "publish", Kind: transport.Permanent, Err: transport.ErrPermission}, 1)
		check.ErrorIs(t, p.Publish(t.Context(), &pb{"hi"}), transport.ErrPermission)
		check.ErrorIs(t, diary.of(observe.Published)[1].Err, transport.ErrPermission)
	})
}

func TestIDsAreNewAndSortByTime(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed)
		var ids []string
		for range 100 {
			check.NoError(t, p.Publish(t.Context(), ""))
			ids = append(ids, r.sent[len(r.sent)-1].ID)
			time.Sleep(time.Millisecond) // virtual
		}
		check.True(t, slices.IsSorted(ids), "sorted")
		check.Equal(t, len(r.ids()), 100)
		check.Equal(t, len(ids[0]), 26)
	})
}

func TestPublisherIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := memory.New()
		_, err := b.Provision(t.Context(), b.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"orders.>"}}), transport.Want{})
		check.NoError(t, err)
		p := holdfast.NewPublisher[string](b, placed)
		done := make(chan error)
		for i := range 20 {
			go func() { done <- p.Publish(t.Context(), fmt.Sprint(i), holdfast.SetHeader("X-N", fmt.Sprint(i))) }()
		}
		for range 20 {
			check.NoError(t, <-done)
		}
		check.Equal(t, b.Len("orders"), 20)
		check.NoError(t, b.Close(t.Context()))
	})
}
