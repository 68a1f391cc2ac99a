package holdfast_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// overcounter is a broker that says more deliveries than there were, as one
// whose receiver has not heard of what others gave back, and knows better when
// it is asked.
type overcounter struct {
	*memory.Broker
	extra int
	from  int // the delivery from which on there are more
	asked int
	fail  error
}

type overcounted struct {
	transport.Source
	b *overcounter
}

func (s overcounted) Transport() transport.Transport { return s.b }

func (b *overcounter) queue(name string) transport.Source {
	return overcounted{b.Queue(memory.QueueConfig{Name: name, Subjects: []string{name + ".>"}}), b}
}

func (b *overcounter) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	return b.Broker.Check(ctx, src.(overcounted).Source, want)
}

func (b *overcounter) Provision(ctx context.Context, src transport.Source, want transport.Want) (transport.Report, error) {
	return b.Broker.Provision(ctx, src.(overcounted).Source, want)
}

func (b *overcounter) Open(ctx context.Context, src transport.Source, want transport.Want) (transport.Receiver, error) {
	rx, err := b.Broker.Open(ctx, src.(overcounted).Source, want)
	return overcountingReceiver{rx, b}, err
}

type overcountingReceiver struct {
	transport.Receiver
	b *overcounter
}

func (r overcountingReceiver) Receive(ctx context.Context) (transport.Delivery, error) {
	d, err := r.Receiver.Receive(ctx)
	if err != nil {
		return nil, err
	}
	return overcountedDelivery{d, r.b}, nil
}

type overcountedDelivery struct {
	transport.Delivery
	b *overcounter
}

func (d overcountedDelivery) Deliveries() int {
	if d.b.asked > 0 || d.Delivery.Deliveries() < d.b.from { // it has learned
		return d.Delivery.Deliveries()
	}
	return d.Delivery.Deliveries() + d.b.extra
}

func (d overcountedDelivery) Recount(context.Context) (int, error) {
	d.b.asked++
	return d.Delivery.Deliveries(), d.b.fail
}

func TestUnknownDeliveriesAreRecountedBeforeTheMessageIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, extra := range map[string]int{"attempts": 3, "crash loop": 500} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				b := &overcounter{Broker: w.b, extra: extra}
				holdfast.Handle(w.app, b.queue("orders"), w.failsTimes(2, errFlaky), holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Second)})
				w.run()
				w.publish("m1")
				w.pass(time.Minute)
				check.Equal(t, len(w.letters()), 0, "dead letters")
				check.Equal(t, w.counts(), observe.Counts{Received: 3, Attempts: 3, Handled: 1, Retried: 2})
				check.Equal(t, b.asked, 1, "the broker is asked once")
			})
		})
	}
}

func TestACountThatCannotBeMendedCounts(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		b := &overcounter{Broker: w.b, extra: 3, fail: errors.New("no answer")}
		holdfast.Handle(w.app, b.queue("orders"), w.failsTimes(2, errFlaky), holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Second)})
		w.run()
		w.publish("m1")
		w.pass(time.Minute)
		check.Equal(t, w.letter().Attempts, 4, "attempts")
	})
}

func TestAMessageThatStopsCutIsNeverCharged(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{
		"plain": nil, "ordered": {holdfast.OrderByKey()}, "manual": {manual()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				for n := range 20 { // far beyond the policy and its crash guard
					app := newWorld(t, w.b)
					holdfast.Handle(app.app, app.queue("orders"), app.takes(time.Hour), append(opts, holdfast.Retry{Attempts: 2, Backoff: holdfast.Constant(time.Second)})...)
					app.run()
					if n == 0 {
						app.publishKeyed("a/1", "a/2", "b/1")
					}
					app.pass(time.Second)
					check.NoError(t, app.end())
				}
				holdfast.Handle(w.app, w.queue("orders"), w.fails(nil))
				w.run()
				w.pass(time.Minute)
				check.Equal(t, w.attempts(), []int{1, 1, 1})
				for _, v := range w.seen() {
					check.Equal(t, v.Deliveries, 1, v.ID)
				}
			})
		})
	}
}
