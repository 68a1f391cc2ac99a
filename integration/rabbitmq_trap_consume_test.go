package integration_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// rabbitWire stands between a client and its broker and knows frames: it keeps
// what clients say, and says what a newer broker would.
type rabbitWire struct {
	broker string
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	said    bytes.Buffer
	cancels []func() error // of the consumers, in the order in which they came
	conns   []net.Conn
}

// newRabbitWire returns a world whose connections go over the wire.
func newRabbitWire(t *testing.T) (*rabbitWorld, *rabbitWire) {
	t.Helper()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	wire := &rabbitWire{broker: w.b.Addr()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wire.wg.Go(func() { wire.accept(l) })
	t.Cleanup(func() {
		_ = l.Close()
		wire.mu.Lock()
		for _, c := range wire.conns {
			_ = c.Close()
		}
		wire.mu.Unlock()
		wire.wg.Wait()
	})
	w.rmq = rabbitConnect(t, "amqp://guest:guest@"+l.Addr().String())
	return w, wire
}

func (x *rabbitWire) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		broker, err := net.Dial("tcp", x.broker)
		if err != nil {
			_ = client.Close()
			continue
		}
		x.mu.Lock()
		x.conns = append(x.conns, client, broker)
		x.mu.Unlock()
		x.wg.Go(func() { _, _ = io.Copy(broker, io.TeeReader(client, x)); _ = broker.Close() })
		x.wg.Go(func() { x.answers(client, broker); _ = client.Close() })
	}
}

// Write notes what a client says.
func (x *rabbitWire) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.said.Write(b)
}

// settled counts the settlements of one method, all of which have a delivery tag
// and one octet of flags.
func (x *rabbitWire) settled(method byte) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return bytes.Count(x.said.Bytes(), []byte{0, 0, 0, 13, 0, 60, 0, method})
}

// answers passes on what the broker says, frame by frame, and notes consumers.
func (x *rabbitWire) answers(client io.Writer, broker io.Reader) {
	var order sync.Mutex // of frames to the client
	head := make([]byte, 7)
	for {
		if _, err := io.ReadFull(broker, head); err != nil {
			return
		}
		frame := make([]byte, 7+binary.BigEndian.Uint32(head[3:])+1)
		copy(frame, head)
		if _, err := io.ReadFull(broker, frame[7:]); err != nil {
			return
		}
		if frame[0] == 1 && bytes.HasPrefix(frame[7:], []byte{0, 60, 0, 21}) { // basic.consume-ok
			tag := frame[11 : 12+int(frame[11])]
			cancel := append([]byte{1, frame[1], frame[2], 0, 0, 0, byte(4 + len(tag) + 1), 0, 60, 0, 30}, tag...)
			cancel = append(cancel, 1, 0xCE) // no answer is wanted
			x.mu.Lock()
			x.cancels = append(x.cancels, func() error {
				order.Lock()
				defer order.Unlock()
				_, err := client.Write(cancel)
				return err
			})
			x.mu.Unlock()
		}
		order.Lock()
		_, err := client.Write(frame)
		order.Unlock()
		if err != nil {
			return
		}
	}
}

// cancel ends the first consumer, as the broker would.
func (x *rabbitWire) cancel() error {
	x.mu.Lock()
	cancel := x.cancels[0]
	x.mu.Unlock()
	return cancel()
}

// Trap 68: a handler whose Timeout is shorter than the broker's consumer_timeout is
// cancelled before that, and the channel with all that is on it stays.
func TestRabbitMQTrapHandlerIsCancelledBeforeTheBrokersLimit(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "[{rabbit, [{consumer_timeout, 10000}, {channel_tick_interval, 300}]}].")
	w := newRabbitWorld(t, b)
	w.queue(nil)
	stalled := rabbitEvents(t, w.rmq, transport.Stalled)
	var log rabbitLog
	app := holdfast.New(holdfast.Config{Name: "slow"})
	holdfast.Handle(app, w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name}), func(ctx context.Context, m *holdfast.Message[string]) error {
		log.add(fmt.Sprint(m.Body, m.Attempt))
		if m.Body == "slow" && m.Attempt == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}, holdfast.Timeout(500*time.Millisecond), holdfast.Concurrency(2), holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(20 * time.Millisecond)})
	runRabbit(t, app)
	w.publish("slow")
	w.publish("beside")
	w.eventually("both are handled", func() bool {
		all := log.all()
		return slices.Contains(all, "slow2") && slices.Contains(all, "beside1")
	})
	if len(stalled) > 0 {
		t.Errorf("the channel was lost: %+v", <-stalled)
	}
}

// Trap 69: a broker that only cancels the consumer, as RabbitMQ 4.3 does when a
// handler takes too long, leaves neither a silent receiver nor a lost message: it
// is told, another consumer takes over, and what the first one gave is settled.
func TestRabbitMQTrapCancelledConsumerIsReplaced(t *testing.T) {
	t.Parallel()
	w, wire := newRabbitWire(t)
	rx := w.open(w.queue(nil), 1)
	held := w.publish("held")
	d := w.receive(rx)
	stalled, flowing := rabbitEvents(t, w.rmq, transport.Stalled), rabbitEvents(t, w.rmq, transport.Flowing)
	if err := wire.cancel(); err != nil {
		t.Fatal(err)
	}
	if e := rabbitAwait(t, stalled, "the cancellation is told"); e.Subscription != w.name || !strings.Contains(fmt.Sprint(e.Err), "cancelled") {
		t.Errorf("the event is %+v", e)
	}
	rabbitAwait(t, flowing, "there is another consumer")
	w.ack(d)
	after := w.publish("after")
	if again := w.receive(rx); again.Message().ID != after.ID {
		t.Errorf("got %q; %q was settled", again.Message().ID, held.ID)
	}
}

// Trap 73: what is given back to its queue is rejected and never nacked: from 4.3
// on a nack counts towards no limit, and a poison message would come back for
// ever.
func TestRabbitMQTrapGivenBackIsCountedByEveryBroker(t *testing.T) {
	t.Parallel()
	const reject, nack = 90, 120
	w, wire := newRabbitWire(t)
	rx := w.open(w.queue(nil), 4)
	w.publish("poison")
	for round, give := range []func(transport.Delivery) error{
		func(d transport.Delivery) error { return d.Nack(w.soon(), 0) },
		func(d transport.Delivery) error { return d.Nack(w.soon(), 20*time.Millisecond) }, // held, and given back then
		func(d transport.Delivery) error { return d.(transport.Requeuer).Requeue(w.soon()) },
	} {
		d := w.receive(rx)
		if d.Deliveries() != round+1 {
			t.Errorf("round %d is delivery %d", round, d.Deliveries())
		}
		if err := give(d); err != nil {
			t.Fatal(err)
		}
	}
	if d := w.receive(rx); d.Deliveries() != 4 {
		t.Errorf("the last one is delivery %d", d.Deliveries())
	}
	if rejects, nacks := wire.settled(reject), wire.settled(nack); rejects != 3 || nacks != 0 {
		t.Errorf("%d rejects and %d nacks were sent for 3 messages", rejects, nacks)
	}
}

// died is an x-death that a message brings along.
func died(times int64) amqp.Table {
	return amqp.Table{
		"x-first-death-queue": "forged", "x-first-death-reason": "rejected", "x-first-death-exchange": "",
		"x-death": []any{amqp.Table{
			"queue": "forged", "reason": "rejected", "exchange": "", "count": times, "time": time.Unix(1_700_000_000, 0), "routing-keys": []any{"k"},
		}},
	}
}

// Trap 74: attempts are counted by a header of our own: the history that a message
// brings along counts for nothing, whether the broker continues it (3.x) or not.
func TestRabbitMQTrapHistoryIsNoCount(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 1)
	if err := w.raw().Publish("", w.name, true, false, amqp.Publishing{MessageId: "m", Headers: died(40)}); err != nil {
		t.Fatal(err)
	}
	for want := 1; want <= 3; want++ {
		d := w.receive(rx)
		if d.Deliveries() != want {
			t.Errorf("delivery %d of it says that it is %d", want, d.Deliveries())
		}
		if err := d.Nack(w.soon(), 150*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

// Trap 75: a copy starts with no history, neither a forged one nor that of the
// copy before it: what the broker writes down is one death in the retry queue,
// however often it went there.
func TestRabbitMQTrapCopiesInheritNoHistory(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 1)
	if err := w.raw().Publish("", w.name, true, false, amqp.Publishing{MessageId: "m", Headers: died(40)}); err != nil {
		t.Fatal(err)
	}
	d := w.receive(rx)
	for round := range 4 {
		if err := d.Nack(w.soon(), 150*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		d = w.receive(rx)
		headers := d.(transport.Native).Native().(amqp.Delivery).Headers
		deaths, _ := headers["x-death"].([]any)
		if len(deaths) != 1 || deaths[0].(amqp.Table)["count"] != int64(1) || deaths[0].(amqp.Table)["queue"] != w.name+".retry.1000" ||
			headers["x-first-death-queue"] != w.name+".retry.1000" {
			t.Errorf("round %d: the history is %v", round, headers)
		}
	}
}

// Trap 76: the original is settled only when its copy is confirmed: while the
// retry queue takes nothing it stays where it is, and comes again when everything
// is lost in that moment.
func TestRabbitMQTrapOriginalStaysUntilItsCopyIsStored(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 1)
	retry, ch := w.name+".retry.1000", w.raw()
	if _, err := ch.QueueDelete(retry, false, false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(retry, true, false, false, false, amqp.Table{"x-max-length": int32(1), "x-overflow": "reject-publish"}); err != nil {
		t.Fatal(err)
	}
	if err := ch.Publish("", retry, true, false, amqp.Publishing{Body: []byte("there is no room")}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the retry queue is full", func() bool { return w.depth(ch, retry) == 1 })
	m := w.publish("failing")
	stalled := rabbitEvents(t, w.rmq, transport.Stalled)
	if err := w.receive(rx).Nack(w.soon(), time.Second); err != nil {
		t.Fatal(err)
	}
	rabbitAwait(t, stalled, "the copy is refused")
	w.proxy.Cut()
	again := w.receive(rx)
	if again.Message().ID != m.ID || again.Deliveries() != 2 {
		t.Errorf("got %q, delivery %d", again.Message().ID, again.Deliveries())
	}
	w.ack(again)
	if n := w.depth(ch, retry); n != 1 {
		t.Errorf("%d messages are in the retry queue", n)
	}
}

// ours are the arguments of a quorum queue as they are declared here.
func (w *rabbitWorld) ours() amqp.Table {
	return amqp.Table{
		"x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": w.name + ".dead", "x-delivery-limit": int64(100),
		"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
	}
}

// Trap 81: the queue that is consumed has no time to live and no bound of ours,
// and one of somebody else is found, with its value.
func TestRabbitMQTrapTimeToLiveIsNeverSetAndFound(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	if _, err := w.raw().QueueDeclare(w.name, true, false, false, false, w.ours()); err != nil {
		t.Errorf("the queue has other arguments: %v", err)
	}
	w.name += "-expires"
	args := w.ours()
	args["x-message-ttl"] = int32(60_000)
	if _, err := w.raw().QueueDeclare(w.name, true, false, false, false, args); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []rabbitmq.DeclareMode{rabbitmq.DeclareEnsure, rabbitmq.DeclareVerify} {
		found, err := w.rmq.Check(w.soon(), w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name, Declare: mode}), w.want())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(found, func(f transport.Finding) bool {
			return f.Code == transport.CodeQueueDrift && f.Level == transport.LevelError && strings.Contains(fmt.Sprint(f.Diff), "x-message-ttl: want none, have 60000")
		}) {
			t.Errorf("%v: found %v", mode, found)
		}
	}
}

// Trap 83: a queue that would dead-letter at most once in silence is refused before
// it is made.
func TestRabbitMQTrapAtMostOnceIsRefused(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	for _, overflow := range []string{"drop-head", "reject-publish-dlx"} {
		app := holdfast.New(holdfast.Config{})
		holdfast.Handle(app, w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name, Arguments: amqp.Table{"x-overflow": overflow}}),
			func(context.Context, *holdfast.Message[string]) error { return nil })
		var refused *holdfast.ContractError
		if err := app.Run(w.soon()); !errors.As(err, &refused) || !refused.Has(transport.CodeAtMostOnce) {
			t.Errorf("%s: Run returned %v", overflow, err)
		}
	}
	var said *amqp.Error
	if _, err := w.raw().QueueDeclarePassive(w.name, true, false, false, false, nil); !errors.As(err, &said) || said.Code != amqp.NotFound {
		t.Errorf("the queue was made all the same: %v", err)
	}
}

// Trap 84: a dead letter that cannot be stored is neither acked nor tried in a hot
// loop: the subscription is stuck and says why, and goes on when it can.
func TestRabbitMQTrapNoDeadLetterQueueIsNoLoss(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	var runs atomic.Int32
	app := holdfast.New(holdfast.Config{Name: "stuck"})
	sub := holdfast.Handle(app, w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name}), func(context.Context, *holdfast.Message[string]) error {
		runs.Add(1)
		return holdfast.Permanent(errors.New("it never works"))
	})
	w.queue(nil)
	runRabbit(t, app)
	w.eventually("it runs", func() bool { return sub.Health().State == observe.StateRunning })
	if _, err := w.raw().QueueDelete(w.name+".dead", false, false, false); err != nil {
		t.Fatal(err)
	}
	m := w.publish("bad")
	w.eventually("it is stuck and says why", func() bool {
		h := sub.Health()
		return h.State == observe.StateStuck && strings.Contains(h.Reason, w.name+".dead")
	})
	w.queue(nil)
	w.eventually("it is stored", func() bool { l := w.letters(); return len(l) == 1 && l[0].Message.ID == m.ID })
	w.eventually("it runs again", func() bool { return sub.Health().State == observe.StateRunning })
	if n := runs.Load(); n > 3 {
		t.Errorf("the handler ran %d times for one message that fails for good", n)
	}
}

// Trap 90: a queue that a restart forgets, which RabbitMQ 4.3 does not make any
// more, is never declared; one that is there is found, with a way out.
func TestRabbitMQTrapQueueThatARestartForgetsIsFound(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	if _, err := w.raw().QueueDeclare(w.name, false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []rabbitmq.QueueType{rabbitmq.Quorum, rabbitmq.Classic} {
		found, err := w.rmq.Check(w.soon(), w.rmq.Queue(rabbitmq.QueueConfig{Name: w.name, Type: kind}), w.want())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(found, func(f transport.Finding) bool {
			return f.Code == transport.CodeQueueDrift && f.Level == transport.LevelError && strings.Contains(fmt.Sprint(f.Diff), "durable: want true, have false") &&
				strings.Contains(f.Fix, "4.3") && strings.Contains(f.Fix, "x-expires")
		}) {
			t.Errorf("%s: found %v", kind, found)
		}
	}
}
