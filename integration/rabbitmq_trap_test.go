package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// Trap 51: a message that came back is never a success. Of many at once a return
// and its confirmation are there to be read together.
func TestRabbitMQTrapReturnIsSeenBeforeItsConfirmation(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	w.exchange(w.name, "direct", "bound")
	if err := w.rmq.Publish(w.soon(), rabbitmq.Exchange(w.name, "bound"), w.message("kept")); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				err := w.rmq.Publish(w.soon(), rabbitmq.Exchange(w.name, "unbound"), &transport.Message{ID: fmt.Sprint(i)})
				w.refused(err, transport.ErrUnroutable, transport.Temporary)
			})
		}
		wg.Wait()
	}
	if n := w.depth(w.raw(), w.name); n != 1 {
		t.Errorf("%d messages are there, want the one that is routed", n)
	}
}

// Trap 53: what was published and not confirmed when its connection was lost is
// stored, in its order and under its ID, whether the broker had it or not.
// Trap 62: also when nobody has told us of the loss.
func TestRabbitMQTrapUnconfirmedSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mute, silent bool
	}{
		"before the broker had it":        {},
		"before its confirmation came":    {mute: true},
		"a network that swallows packets": {silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Only where nobody else tells it is the loss found out by the heartbeat.
			heartbeat := time.Minute
			if c.silent {
				heartbeat = 5 * time.Second
			}
			w := newRabbitWorld(t, rabbittest.Shared(t), rabbitmq.WithHeartbeat(heartbeat))
			w.queue(nil)
			p := holdfast.NewPublisher[string](w.rmq, rabbitmq.QueueAddress(w.name), holdfast.PublishTimeout(rabbitPatience))
			defer p.Close(w.soon())
			const before, all = 5, 63
			futures := w.async(p, 0, before)
			w.stored(futures)
			lost := rabbitEvents(t, w.rmq, transport.Disconnected)
			freeze := w.proxy.Freeze
			if c.mute {
				freeze = w.proxy.Mute
			}
			thaw := freeze()
			futures = append(futures, w.async(p, before, all)...)
			if c.mute {
				w.eventually("the broker has them all", func() bool { return w.depth(w.raw(), w.name) == all })
			}
			for _, f := range futures[before:] {
				if isDone(f.Done()) {
					t.Fatalf("%s has the outcome %v, and the broker has said nothing", f.ID(), f.Err())
				}
			}
			if !c.silent {
				w.proxy.Cut()
			}
			rabbitAwait(t, lost, "the loss is noticed")
			thaw()
			w.stored(futures)
			w.inOrder(futures)
		})
	}
}

// async publishes the numbers from first to end.
func (w *rabbitWorld) async(p *holdfast.Publisher[string], first, end int) (futures []*holdfast.Future) {
	w.Helper()
	for i := first; i < end; i++ {
		f, err := p.PublishAsync(w.soon(), fmt.Sprint(i))
		if err != nil {
			w.Fatal(err)
		}
		futures = append(futures, f)
	}
	return futures
}

func (w *rabbitWorld) stored(futures []*holdfast.Future) {
	w.Helper()
	for _, f := range futures {
		if err := f.Wait(w.soon()); err != nil {
			w.Fatalf("%s: %v", f.ID(), err)
		}
	}
}

// inOrder empties the queue: the first copies of all messages are there in order,
// and no copy has another ID.
func (w *rabbitWorld) inOrder(futures []*holdfast.Future) {
	w.Helper()
	next, copies := 0, 0
	for _, d := range w.empty(w.name) {
		switch at := slices.IndexFunc(futures, func(f *holdfast.Future) bool { return f.ID() == d.MessageId }); {
		case at < 0 || string(d.Body) != fmt.Sprint(at):
			w.Errorf("%q is stored under the ID %q", d.Body, d.MessageId)
		case at > next:
			w.Errorf("%d is stored where %d should be", at, next)
		case at == next:
			next++
		default:
			copies++
		}
	}
	if next != len(futures) {
		w.Errorf("%d of %d are stored", next, len(futures))
	}
	w.Logf("%d second copies", copies)
}

// Trap 54: the recovery of the client library is never used, neither at first nor
// after a loss. Nobody can ask for it: no option and no function of the package
// takes a configuration or a connection of the client library.
func TestRabbitMQTrapClientLibraryRecoversNothing(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	for range 3 {
		conn := w.rmq.Connection()
		if conn == nil || conn.Config.Recovery != nil {
			t.Fatalf("the client library would recover the connection: %+v", conn)
		}
		back := rabbitEvents(t, w.rmq, transport.Reconnected)
		w.proxy.Cut()
		rabbitAwait(t, back, "the connection is back")
		if w.rmq.Connection() == conn || !conn.IsClosed() {
			t.Error("a connection that was lost is used again")
		}
	}
}

// Trap 56: while the broker is away publishes are taken up to a bound and not one
// more; what was taken is stored when it is back. Without a spool callers wait and
// learn that nothing was sent, with one they are refused at its limit.
func TestRabbitMQTrapBrokerAwayIsBounded(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	lost := rabbitEvents(t, w.rmq, transport.Disconnected)
	w.proxy.Refuse(true)
	w.proxy.Cut()
	rabbitAwait(t, lost, "the broker is away")

	const window, limit = 10, 64 << 10
	to, patient := rabbitmq.QueueAddress(w.name), holdfast.PublishTimeout(rabbitPatience)
	direct := holdfast.NewPublisher[string](w.rmq, to, holdfast.Window(window, 0), patient)
	futures := w.async(direct, 0, window)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := direct.PublishAsync(ctx, "one more")
		cancel()
		if holdfast.OutcomeOf(err) != holdfast.NotSent {
			t.Fatalf("a publish beyond the window: %v", err)
		}
	}
	spooled := holdfast.NewPublisher[[]byte](w.rmq, to, holdfast.Spool(t.TempDir()), holdfast.SpoolLimit(limit), patient)
	kept, body := 0, make([]byte, 1000)
	for ; kept <= limit/len(body); kept++ {
		err := spooled.Publish(w.soon(), body)
		if err == nil {
			continue
		}
		if holdfast.OutcomeOf(err) != holdfast.Refused {
			t.Errorf("a publish beyond the spool: %v", err)
		}
		break
	}
	if kept == 0 || kept > limit/len(body) {
		t.Errorf("a spool of %d bytes took %d messages of %d", limit, kept, len(body))
	}

	w.proxy.Refuse(false)
	w.stored(futures)
	w.eventually("what was taken is stored", func() bool { return w.depth(w.raw(), w.name) >= window+kept })
	for _, end := range []func(context.Context) ([]holdfast.Unpublished, error){direct.Close, spooled.Close} {
		if left, err := end(w.soon()); len(left) > 0 || err != nil {
			t.Errorf("%d are left: %v", len(left), err)
		}
	}
}

// Trap 57: the reader of a connection waits for nobody: while those who are told
// outcomes do not listen, others on the connection go on, and of what came back
// meanwhile nothing is forgotten.
func TestRabbitMQTrapSlowListenerStallsNobody(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	const n = 600
	listen, outcomes := make(chan struct{}), make(chan error, n)
	p, err := w.rmq.OpenPipeline(w.soon(), func(tag uint64, err error) {
		<-listen
		if odd := tag%2 == 1; odd != errors.Is(err, transport.ErrUnroutable) || !odd && err != nil {
			err = fmt.Errorf("the outcome of %d is: %v", tag, err)
		} else {
			err = nil
		}
		outcomes <- err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.End(false)
	for tag := range uint64(n) {
		to := rabbitmq.QueueAddress(w.name)
		if tag%2 == 1 {
			to = rabbitmq.QueueAddress(w.name + "-nobody")
		}
		if err := p.Send(to, w.message(""), tag); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	w.eventually("the broker has answered", func() bool { return w.depth(w.raw(), w.name) == n/2 })
	for range 20 {
		w.publish("beside them")
	}
	close(listen)
	for range n {
		if err := rabbitAwait(t, outcomes, "an outcome"); err != nil {
			t.Error(err)
		}
	}
}

// Trap 63: whatever is stored survives a broker that is killed, on a classic
// queue too: what we publish, and the retry copy of what a stranger published to
// be forgotten. That one itself does not.
func TestRabbitMQTrapNothingOfOursIsTransient(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	w := newRabbitWorld(t, b)
	src := w.queue(typed(rabbitmq.Classic))
	stranger := func(body string, depth int) {
		if err := w.raw().Publish("", w.name, true, false, amqp.Publishing{MessageId: body, Body: []byte(body), DeliveryMode: amqp.Transient}); err != nil {
			t.Fatal(err)
		}
		w.eventually(body+" is there", func() bool { return w.depth(w.raw(), w.name) == depth })
	}
	stranger("copied", 1)
	rx := w.open(src, 1)
	if err := w.receive(rx).Nack(w.soon(), 150*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	w.shut(rx)
	w.eventually("the copy is back", func() bool { return w.depth(w.raw(), w.name) == 1 })
	stranger("forgotten", 2)
	w.publish("published")
	r := w.row(w.toQueue)
	r.all(1)
	b.Kill()
	b.Restart(t)
	var left []string
	for _, d := range w.empty(w.name) {
		left = append(left, string(d.Body))
	}
	if fmt.Sprint(left) != "[copied published 0]" {
		t.Errorf("after the restart there are %q", left)
	}
}

// Trap 64: a body that is too large for this server, whose limit is lower than
// that of its version, fails alone, and is not sent for ever.
func TestRabbitMQTrapOversizeFailsAlone(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "[{rabbit, [{max_message_size, 100000}]}].")
	w := newRabbitWorld(t, b)
	w.queue(nil)
	p := holdfast.NewPublisher[[]byte](w.rmq, rabbitmq.QueueAddress(w.name), holdfast.PublishTimeout(rabbitPatience))
	defer p.Close(w.soon())
	const n, large = 100, 40
	var futures []*holdfast.Future
	for i := range n {
		body := make([]byte, 10)
		if i == large {
			body = make([]byte, 200_000)
		}
		f, err := p.PublishAsync(w.soon(), body)
		if err != nil {
			t.Fatal(err)
		}
		futures = append(futures, f)
	}
	if err := futures[large].Wait(w.soon()); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("the large one: %v", err)
	}
	w.stored(slices.Delete(futures, large, large+1))
	w.refused(w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), &transport.Message{Body: make([]byte, 129<<20)}), transport.ErrTooLarge, transport.Permanent)
}

// Trap 71: no way of asking leads to a prefetch of zero, which has no bound.
func TestRabbitMQTrapPrefetchIsNeverUnbounded(t *testing.T) {
	t.Parallel()
	b := rabbittest.Shared(t)
	var names []string
	for _, want := range []transport.Want{
		{},
		{Concurrency: -1, Prefetch: -1},
		{Concurrency: 1 << 16},
		{Concurrency: 1, Prefetch: 1<<16 - 1},
		{Concurrency: 1, Prefetch: math.MaxInt},
		{Concurrency: math.MaxInt, Prefetch: math.MaxInt},
	} {
		w := newRabbitWorld(t, b)
		src := w.queue(nil)
		want.Subscription = w.name
		rx, err := w.rmq.Open(w.soon(), src, want)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rx.Close(w.soon()) }()
		names = append(names, w.name)
	}
	prefetch := map[string]string{}
	for line := range strings.Lines(b.Ctl(t, "list_consumers", "queue_name", "prefetch_count", "--quiet")) {
		if f := strings.Fields(line); len(f) == 2 {
			prefetch[f[0]] = f[1]
		}
	}
	for i, want := range []string{"1", "1", "65535", "65535", "65535", "65535"} {
		if got := prefetch[names[i]]; got != want {
			t.Errorf("consumer %d has the prefetch %s, want %s", i, got, want)
		}
	}
}

// Trap 72: a message that always fails is neither hot nor endless: each retry
// waits for its delay, and after the last attempt it is a dead letter.
func TestRabbitMQTrapPoisonIsNeitherHotNorEndless(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	const attempts, delay = 4, 200 * time.Millisecond
	begun := make(chan time.Time, 100)
	app := holdfast.New(holdfast.Config{Name: "poison"})
	holdfast.Handle(app, w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name}), func(context.Context, *holdfast.Message[string]) error {
		begun <- time.Now()
		return errors.New("it never works")
	}, holdfast.Retry{Attempts: attempts, Backoff: holdfast.Constant(delay)})
	w.queue(nil)
	w.publish("poison")
	stop := runRabbit(t, app)
	w.eventually("the dead letter", func() bool { return len(w.letters()) == 1 })
	stop()
	if len(begun) != attempts {
		t.Errorf("it ran %d times, want %d", len(begun), attempts)
	}
	for last := <-begun; len(begun) > 0; {
		next := <-begun
		if waited := next.Sub(last); waited < delay {
			t.Errorf("it came again after %v", waited)
		}
		last = next
	}
	if n := w.depth(w.raw(), w.name); n != 0 {
		t.Errorf("%d messages are left", n)
	}
}
