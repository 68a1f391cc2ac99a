package holdfast_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

// graceOf sets the grace of the app.
func graceOf(d time.Duration) func(*holdfast.Config) {
	return func(c *holdfast.Config) { c.Grace = d }
}

// stopTakes stops the app and returns how long that took.
func (w *world) stopTakes() (time.Duration, error) {
	began := time.Now()
	err := w.end()
	return time.Since(began), err
}

func TestGivingBackAtTheStopIsBoundedByTheGrace(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{"ordered": {holdfast.OrderByKey()}, "manual": {manual(), holdfast.Concurrency(50)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promise(t, func(t *testing.T, w *world) {
				holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
					if name == "ordered" {
						wait(ctx, 10*time.Second)
					}
					return nil
				}, opts...)
				w.run()
				for i := range 50 {
					w.publishKeyed(fmt.Sprintf("a/%d", i))
				}
				w.pass(time.Second)
				release := w.b.Stall(memory.OpNack)
				took, _ := w.stopTakes()
				check.True(t, took <= 20*time.Second, "the stop took "+took.String())
				release()
				w.pass(time.Minute)
				check.True(t, w.b.Len("orders") >= 49, "nothing is lost")
			}, graceOf(20*time.Second))
		})
	}
}

func TestClosingTheReceiverIsPartOfTheGrace(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		holdfast.Handle(w.app, w.queue("orders"), func(ctx context.Context, m *holdfast.Message[string]) error {
			if m.Body == "quick" {
				w.b.Disconnect(nil) // its ack cannot be confirmed
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}, holdfast.Concurrency(2))
		w.run()
		w.publish("slow", "quick")
		w.pass(time.Second)
		took, _ := w.stopTakes()
		check.True(t, took <= 2*time.Second+200*time.Millisecond, "the stop took "+took.String())
		w.b.Reconnect()
		w.pass(time.Minute)
	}, graceOf(2*time.Second))
}

func TestLaterStopMayShortenTheGrace(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		s := holdfast.Handle(w.app, w.queue("orders"), w.takes(time.Hour))
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		done := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
			defer cancel()
			done <- s.Stop(ctx)
		}()
		w.pass(time.Second)
		took, err := w.stopTakes()
		check.NoError(t, err)
		check.True(t, took <= 5*time.Second, "Run ended after "+took.String())
		check.NoError(t, <-done)
		check.Equal(t, w.b.Len("orders"), 1, "the message is given back")
	}, graceOf(5*time.Second))
}

func TestLaterStopNeverLengthensTheGrace(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		s := holdfast.Handle(w.app, w.queue("orders"), w.takes(time.Hour))
		w.run()
		w.publish("m1")
		w.pass(time.Second)
		done := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			check.NoError(t, s.Stop(ctx))
			done <- time.Since(began)
		}()
		w.pass(time.Second)
		check.NoError(t, w.end())
		check.True(t, <-done <= 5*time.Second)
	}, graceOf(time.Hour))
}

func TestNothingIsToldOrSettledAfterRunGaveUp(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{"plain": nil, "ordered": {holdfast.OrderByKey()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, memory.New(), graceOf(time.Second))
				release := make(chan struct{})
				holdfast.Handle(w.app, w.queue("orders"), w.hanging(release), append(opts, slow(), holdfast.Timeout(10*time.Second))...)
				w.run()
				w.publish("hangs")
				w.pass(time.Second)
				check.True(t, w.end() != nil, "Run tells of the handler")
				n := len(w.diary.all())
				w.pass(time.Minute) // its timeout passes, and its lease ends
				close(release)
				w.pass(time.Minute)
				for _, e := range w.diary.all()[n:] {
					t.Errorf("event after Run returned: %s %v", e.Kind, e.Verdict.Action)
				}
				check.Equal(t, w.b.Stats("orders"), memory.Stats{Waiting: 1}, "the broker has it back")
				check.NoError(t, w.b.Close(t.Context()))
			})
		})
	}
}

// deaf is a broker whose receivers do not hear the end of a context.
type deaf struct {
	*memory.Broker
	over chan struct{} // ends Receive
}

type deafSource struct {
	transport.Source
	b *deaf
}

type deafReceiver struct {
	transport.Receiver
	b *deaf
}

func (s deafSource) Transport() transport.Transport { return s.b }

func (b *deaf) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	return b.Broker.Check(ctx, src.(deafSource).Source, want)
}

func (b *deaf) Provision(ctx context.Context, src transport.Source, want transport.Want) (transport.Report, error) {
	return b.Broker.Provision(ctx, src.(deafSource).Source, want)
}

func (b *deaf) Open(ctx context.Context, src transport.Source, want transport.Want) (transport.Receiver, error) {
	rx, err := b.Broker.Open(ctx, src.(deafSource).Source, want)
	return deafReceiver{rx, b}, err
}

func (r deafReceiver) Receive(context.Context) (transport.Delivery, error) {
	<-r.b.over
	return nil, transport.ErrClosed
}

func (r deafReceiver) Close(context.Context) error {
	<-r.b.over
	return nil
}

func TestTransportThatDoesNotHearTheStopDoesNotHoldItUp(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]holdfast.Option{"plain": nil, "ordered": {holdfast.OrderByKey()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, memory.New(), graceOf(5*time.Second))
				b := &deaf{Broker: w.b, over: make(chan struct{})}
				holdfast.Handle(w.app, deafSource{w.queue("orders"), b}, w.fails(nil), opts...)
				w.run()
				took, err := w.stopTakes()
				check.True(t, took <= 5*time.Second+200*time.Millisecond, "the stop took "+took.String())
				check.True(t, err != nil, "Run tells of it")
				close(b.over)
				synctest.Wait()
				check.NoError(t, w.b.Close(t.Context()))
			})
		})
	}
}
