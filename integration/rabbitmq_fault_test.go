package integration_test

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// rabbitLoad publishes, fails one message in ten twice, and acks, until it is
// told to stop. It keeps the books.
type rabbitLoad struct {
	w    *rabbitWorld
	rx   transport.Receiver
	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	accepted map[string]bool
	handled  map[string]int
	received map[string]int
}

func startRabbitLoad(w *rabbitWorld, rx transport.Receiver) *rabbitLoad {
	l := &rabbitLoad{w: w, rx: rx, stop: make(chan struct{}), accepted: map[string]bool{}, handled: map[string]int{}, received: map[string]int{}}
	for p := range 3 {
		l.wg.Go(func() { l.publish(p) })
	}
	return l
}

func (l *rabbitLoad) publish(p int) {
	ctx := l.w.Context()
	for i := 0; ; i++ {
		m := &transport.Message{ID: fmt.Sprintf("%d-%d", p, i), Body: make([]byte, 256)}
		for l.w.rmq.Publish(ctx, rabbitmq.QueueAddress(l.w.name), m) != nil { // the same ID until it is confirmed
			select {
			case <-l.stop:
				return // not accepted
			case <-time.After(5 * time.Millisecond):
			}
		}
		l.mu.Lock()
		l.accepted[m.ID] = true
		l.mu.Unlock()
		select {
		case <-l.stop:
			return
		default:
		}
	}
}

// consume handles until every accepted message was handled and nothing is left
// to publish.
func (l *rabbitLoad) consume(ctx context.Context) {
	d, err := l.rx.Receive(ctx)
	if err != nil {
		return
	}
	id := d.Message().ID
	l.mu.Lock()
	l.received[id]++
	fail := strings.HasSuffix(id, "7") && l.received[id] < 3
	l.mu.Unlock()
	if fail {
		_ = d.Nack(ctx, time.Duration(20+len(id)%2*100)*time.Millisecond) // held, or copied; a lost one comes back
		return
	}
	if d.(transport.PipelinedAcker).AckLater() == nil {
		l.mu.Lock()
		l.handled[id]++
		l.mu.Unlock()
	}
}

func (l *rabbitLoad) counts() (accepted, missing int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.accepted {
		if l.handled[id] == 0 {
			missing++
		}
	}
	return len(l.accepted), missing
}

// run keeps the load going through what faults does, and then waits until
// everything that was accepted was handled.
func (l *rabbitLoad) run(faults func()) {
	l.w.Helper()
	ctx, cancel := context.WithCancel(l.w.Context())
	var consumers sync.WaitGroup
	for range 4 {
		consumers.Go(func() {
			for ctx.Err() == nil {
				l.consume(ctx)
			}
		})
	}
	l.progress()
	faults()
	l.progress()
	close(l.stop)
	l.wg.Wait()
	l.w.eventually("everything that was accepted is handled", func() bool { _, missing := l.counts(); return missing == 0 })
	cancel()
	consumers.Wait()
	n, _ := l.counts()
	l.mu.Lock()
	defer l.mu.Unlock()
	duplicates := 0
	for _, times := range l.handled {
		duplicates += times - 1
	}
	l.w.Logf("%d accepted, none lost, %d handled more than once", n, duplicates)
}

// progress waits until the load has made some way.
func (l *rabbitLoad) progress() {
	l.w.Helper()
	before, _ := l.counts()
	l.w.eventually("messages flow", func() bool {
		n, missing := l.counts()
		return n-missing > 0 && n > before+200
	})
}

func TestRabbitMQLosesNothingWhenTheBrokerIsKilled(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	w := newRabbitWorld(t, b)
	rx := w.open(w.queue(nil), 50)
	load := startRabbitLoad(w, rx)
	young := time.After(rabbitGrownUp)
	load.run(func() {
		<-young
		for range 2 {
			b.Kill()
			b.Restart(t)
			load.progress()
		}
	})
	w.shut(rx)
}

func TestRabbitMQLosesNothingWhenConnectionsAreCut(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 50)
	load := startRabbitLoad(w, rx)
	load.run(func() {
		for range 15 {
			if w.proxy.Cut() == 0 {
				t.Log("nothing to cut")
			}
			load.progress()
		}
	})
	w.shut(rx)
}

// An operator closes every connection, and takes a permission away and gives it
// back.
func TestRabbitMQSurvivesAnOperator(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	w := newRabbitWorld(t, b)
	rx := w.open(w.queue(nil), 50)
	load := startRabbitLoad(w, rx)
	load.run(func() {
		b.Ctl(t, "close_all_connections", "for a test")
		load.progress()
	})
	stalled := rabbitEvents(t, w.rmq, transport.Stalled)
	flowing := rabbitEvents(t, w.rmq, transport.Flowing)
	b.Ctl(t, "set_permissions", "guest", ".*", "nothing", "nothing")
	b.Ctl(t, "close_all_connections", "for a test")
	w.eventually("a publish without permission says so", func() bool {
		err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), w.message("forbidden"))
		return errors.Is(err, transport.ErrPermission) && transport.KindOf(err) == transport.Permanent
	})
	if e := rabbitAwait(t, stalled, "the receiver says that it may not consume"); !errors.Is(e.Err, transport.ErrPermission) {
		t.Errorf("the event is %+v", e)
	}
	b.Ctl(t, "set_permissions", "guest", ".*", ".*", ".*")
	rabbitAwait(t, flowing, "the receiver works again")
	m := w.publish("allowed")
	for w.receiveAck(rx) != m.ID {
	}
}

func (w *rabbitWorld) receiveAck(rx transport.Receiver) string {
	w.Helper()
	d := w.receive(rx)
	w.ack(d)
	return d.Message().ID
}

// A memory alarm: publishers wait and are told why, consumers go on, nothing
// accepted is lost, a connection that is cut meanwhile comes back, and Close
// returns. Trap 55.
func TestRabbitMQAlarmBlocksPublishersOnly(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	w := newRabbitWorld(t, b)
	src := w.queue(nil)
	rx := w.open(src, 10)
	failing := w.publish("failing")
	failed := w.receive(rx)
	before := w.publish("before")
	stalled := rabbitEvents(t, w.rmq, transport.Stalled)
	flowing := rabbitEvents(t, w.rmq, transport.Flowing)
	b.Ctl(t, "set_vm_memory_high_watermark", "absolute", "1MB")
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	// The broker blocks a connection when it publishes.
	first := w.rmq.Publish(short(), rabbitmq.QueueAddress(w.name), w.message("during"))
	rabbitAwait(t, stalled, "the alarm is told")
	w.eventually("a publish during the alarm says that it is blocked", func() bool {
		err := w.rmq.Publish(short(), rabbitmq.QueueAddress(w.name), w.message("refused"))
		if err == nil {
			t.Fatalf("a publish during the alarm is reported as stored; the first one: %v", first)
		}
		return transport.KindOf(err) == transport.Temporary && errors.Is(err, context.DeadlineExceeded) && strings.Contains(err.Error(), "blocked")
	})
	if w.receiveAck(rx) != before.ID {
		t.Error("the consumer was blocked as well")
	}
	// A message that fails now cannot be copied: it waits for the end of the alarm,
	// and its worker does not.
	if err := failed.Nack(w.soon(), 200*time.Millisecond); err != nil {
		t.Errorf("nack during the alarm: %v", err)
	}
	b.Ctl(t, "set_vm_memory_high_watermark", "absolute", "4GB")
	rabbitAwait(t, flowing, "the end of the alarm is told")
	w.eventually("the message that failed comes back", func() bool {
		d := w.receive(rx)
		w.ack(d)
		return d.Message().ID == failing.ID && d.Deliveries() == 2
	})
	b.Ctl(t, "set_vm_memory_high_watermark", "absolute", "1MB")
	_ = w.rmq.Publish(short(), rabbitmq.QueueAddress(w.name), w.message("during"))
	w.proxy.Cut()
	w.eventually("both connections are back", func() bool { return w.rmq.ServerVersion() != "" })
	other := rabbitConnect(t, b.URL())
	_ = other.Publish(short(), rabbitmq.QueueAddress(w.name), w.message("on another connection"))
	start := time.Now()
	if err := other.Close(short()); time.Since(start) > rabbitPatience/3 {
		t.Errorf("Close took %v: %v", time.Since(start), err)
	}
	b.Ctl(t, "set_vm_memory_high_watermark", "absolute", "4GB")
	w.eventually("publishing works again", func() bool {
		return w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), w.message("after")) == nil
	})
}

func TestRabbitMQCloseReturnsWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	w := newRabbitWorld(t, b)
	rx := w.open(w.queue(nil), 10)
	w.publish("held")
	d := w.receive(rx)
	lost := rabbitEvents(t, w.rmq, transport.Disconnected)
	b.Kill()
	rabbitAwait(t, lost, "the loss is told")
	w.eventually("a publish knows that it did not happen", func() bool {
		err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), w.message("nowhere"))
		return err != nil && transport.KindOf(err) == transport.Temporary
	})
	w.eventually("the consumer's connection is gone as well", func() bool { return w.rmq.ServerVersion() == "" && w.rmq.Connection() == nil })
	w.eventually("its channels go right after it", func() bool {
		err := d.Ack(w.soon())
		if err == nil {
			t.Fatal("an ack succeeded without a broker")
		}
		return errors.Is(err, transport.ErrLeaseLost) && transport.KindOf(err) == transport.Permanent
	})
	start := time.Now()
	_ = rx.Close(w.soon())
	_ = w.rmq.Close(w.soon())
	if took := time.Since(start); took > rabbitPatience/3 {
		t.Errorf("Close took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := rabbitmq.Connect(ctx, "amqp://guest:canary@"+b.Addr()); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("connect to nobody: %v", err)
	}
}

// No goroutine is left after a Close while the broker is away, with a delivery
// unsettled and a copy under way.
func TestRabbitMQCloseWhileTheBrokerIsAwayLeavesNoGoroutine(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	const label = "rabbitmq-left"
	pprof.Do(t.Context(), pprof.Labels(label, label), func(ctx context.Context) {
		rmq, err := rabbitmq.Connect(ctx, b.URL())
		if err != nil {
			t.Fatal(err)
		}
		w := &rabbitWorld{TB: t, b: b, rmq: rmq, name: "left"}
		rx := w.open(w.queue(nil), 10)
		for range 3 {
			w.publish("one")
		}
		w.receive(rx)
		if err := w.receive(rx).Nack(ctx, time.Second); err != nil {
			t.Fatal(err)
		}
		b.Kill()
		_ = w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), w.message("nowhere"))
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_ = rx.Close(short)
		_ = rmq.Close(short)
	})
	w := &rabbitWorld{TB: t}
	w.eventually("no goroutine is left", func() bool {
		var all strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
			t.Fatal(err)
		}
		return !strings.Contains(all.String(), label)
	})
}

func TestRabbitMQBadCredentialsAreNamedAndNotShown(t *testing.T) {
	t.Parallel()
	b := rabbittest.Shared(t)
	for _, url := range []string{"amqp://guest:canary@" + b.Addr(), "amqp://canary:guest@" + b.Addr(), "amqp://guest:guest@" + b.Addr() + "/canary-vhost"} {
		ctx, cancel := context.WithTimeout(t.Context(), rabbitPatience)
		_, err := rabbitmq.Connect(ctx, url)
		cancel()
		if !errors.Is(err, transport.ErrPermission) || transport.KindOf(err) != transport.Permanent {
			t.Errorf("connect: %v", err)
		}
		if strings.Contains(fmt.Sprint(err), ":canary") || strings.Contains(fmt.Sprint(err), "canary:") {
			t.Errorf("the error shows credentials: %v", err)
		}
	}
}

// Of several URLs the first one that answers is taken.
func TestRabbitMQTriesItsURLsInTurn(t *testing.T) {
	t.Parallel()
	b := rabbittest.Shared(t)
	rmq := rabbitConnect(t, "amqp://guest:guest@127.0.0.1:1, "+b.URL())
	if rmq.ServerVersion() != "3.10" {
		t.Errorf("connected to %q", rmq.ServerVersion())
	}
}

// A delivery that is held for longer than the broker allows costs its own
// subscription its channel and no other, is told by name, and comes again. Trap 68.
func TestRabbitMQConsumerTimeoutHurtsNobodyElse(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "[{rabbit, [{consumer_timeout, 1500}, {channel_tick_interval, 300}]}].")
	w := newRabbitWorld(t, b)
	slow := w.open(w.queue(nil), 1)
	other := &rabbitWorld{TB: t, b: b, proxy: w.proxy, rmq: w.rmq, name: w.name + "-other"}
	neighbour := other.open(other.queue(nil), 1)
	stalled := rabbitEvents(t, w.rmq, transport.Stalled)
	m := w.publish("slow")
	held := w.receive(slow)
	e := rabbitAwait(t, stalled, "the timeout is told")
	if e.Subscription != w.name || !strings.Contains(e.Err.Error(), "consumer_timeout") {
		t.Errorf("the event is %+v", e)
	}
	w.refused(held.Ack(w.soon()), transport.ErrLeaseLost, transport.Permanent)
	w.eventually("it comes again and is acked", func() bool { // a machine that stalls holds it too long as well
		again := w.receive(slow)
		if again.Message().ID != m.ID || again.Deliveries() < 2 {
			t.Fatalf("got %q, delivery %d", again.Message().ID, again.Deliveries())
		}
		return again.Ack(w.soon()) == nil
	})
	other.publish("next door")
	if d := other.receive(neighbour); d.Deliveries() != 1 {
		t.Errorf("the neighbour was disturbed: delivery %d", d.Deliveries())
	}
}
