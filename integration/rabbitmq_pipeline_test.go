package integration_test

import (
	"context"
	"errors"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

func typed(kind rabbitmq.QueueType) func(*rabbitmq.QueueConfig) {
	return func(c *rabbitmq.QueueConfig) { c.Type = kind }
}

func TestRabbitMQPipelineKeepsOrderWhenConnectionsAreCut(t *testing.T) {
	t.Parallel()
	for _, kind := range []rabbitmq.QueueType{rabbitmq.Quorum, rabbitmq.Classic} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newRabbitWorld(t, rabbittest.Shared(t))
			w.queue(typed(kind))
			r := w.row(w.toQueue)
			r.start(1 << 40)
			for range 10 {
				r.progress(300)
				w.proxy.Cut()
			}
			r.progress(300)
			r.finish()
			t.Logf("%d stored through %d pipelines, %d twice", r.stored, r.opens(), r.check(w.name))
		})
	}
}

func TestRabbitMQPipelineKeepsOrderWhenTheBrokerIsKilled(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	rows := map[rabbitmq.QueueType]*rabbitRow{}
	for _, kind := range []rabbitmq.QueueType{rabbitmq.Quorum, rabbitmq.Classic} {
		w := newRabbitWorld(t, b)
		w.queue(typed(kind))
		rows[kind] = w.row(w.toQueue)
	}
	young := time.After(rabbitGrownUp)
	for _, r := range rows {
		r.start(1 << 40)
	}
	<-young
	for range 2 {
		for _, r := range rows {
			r.progress(500)
		}
		b.Kill()
		b.Restart(t)
		back := time.Now()
		for kind, r := range rows {
			r.progress(1)
			t.Logf("%s: flows again %v after the broker is back", kind, time.Since(back).Round(time.Millisecond))
		}
	}
	for kind, r := range rows {
		r.progress(500)
		r.finish()
		t.Logf("%s: %d stored through %d pipelines, %d twice", kind, r.stored, r.opens(), r.check(r.name))
	}
}

func TestRabbitMQPipelineMatchesReturnsToTheirMessages(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	r := w.row(func(tag uint64) transport.Address {
		if tag%3 == 1 {
			return rabbitmq.QueueAddress(w.name + "-nobody")
		}
		return rabbitmq.QueueAddress(w.name)
	})
	const n = 3000
	r.all(n)
	for tag := range uint64(n) {
		err, _ := r.outcome(tag)
		if tag%3 == 1 {
			w.refused(err, transport.ErrUnroutable, transport.Permanent)
		} else if err != nil {
			t.Errorf("%d: %v", tag, err)
		}
	}
	if got := r.check(w.name); got != 0 || r.opens() != 1 {
		t.Errorf("%d duplicates, %d pipelines", got, r.opens())
	}
}

// An exchange that is not there costs nobody else anything; one that goes while
// messages are under way costs those a second copy at most. Trap 52: in a row.
func TestRabbitMQPipelineSurvivesAMissingExchange(t *testing.T) {
	t.Parallel()
	for _, deleted := range []bool{false, true} {
		name := "never there"
		if deleted {
			name = "deleted"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newRabbitWorld(t, rabbittest.Shared(t))
			w.queue(nil)
			missing := w.name + "-missing"
			r := w.row(func(tag uint64) transport.Address {
				if tag%50 == 7 {
					return rabbitmq.Exchange(missing, "k")
				}
				return rabbitmq.QueueAddress(w.name)
			})
			const n = 2000
			if deleted {
				if err := w.raw().ExchangeDeclare(missing, "fanout", true, false, false, false, nil); err != nil {
					t.Fatal(err)
				}
				if err := w.raw().ExchangeBind(missing, "k", missing, false, nil); err != nil {
					t.Fatal(err)
				}
				r.change = func(tag uint64, _ *transport.Message) {
					if tag == 700 {
						if err := w.raw().ExchangeDelete(missing, false, false); err != nil {
							t.Error(err)
						}
					}
				}
			}
			r.all(n)
			for tag := range uint64(n) {
				err, _ := r.outcome(tag)
				if tag%50 == 7 {
					w.refused(err, transport.ErrUnroutable, transport.Permanent)
				} else if err != nil {
					t.Errorf("%d: %v", tag, err)
				}
			}
			twice := r.check(w.name)
			t.Logf("%d pipelines, %d twice", r.opens(), twice)
			if !deleted && (twice != 0 || r.opens() != 1) || r.opens() > 3 {
				t.Errorf("%d pipelines", r.opens())
			}
		})
	}
}

// What the broker refuses for what it is ends the channel. It is found out when
// what was under way with it is sent again one by one.
// Trap 64: whatever the server refuses a message for.
func TestRabbitMQPipelineFindsThePoisonMessage(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	r := w.row(w.toQueue)
	bad := func(tag uint64) bool { return tag == 300 || tag == 310 || tag == 1200 }
	r.change = func(tag uint64, m *transport.Message) {
		if bad(tag) {
			m.Header = transport.Header{rabbitmq.UserID: {"somebody-else"}}
		}
	}
	const n = 2000
	r.all(n)
	for tag := range uint64(n) {
		err, _ := r.outcome(tag)
		if bad(tag) {
			w.refused(err, transport.ErrInvalid, transport.Permanent)
		} else if err != nil {
			t.Errorf("%d: %v", tag, err)
		}
	}
	twice := r.check(w.name)
	t.Logf("%d pipelines, %d twice", r.opens(), twice)
	if r.opens() > 4 || twice > 2*r.window {
		t.Errorf("%d pipelines and %d second copies for 3 poison messages", r.opens(), twice)
	}
}

// Trap 59: in a row.
func TestRabbitMQPipelineTellsThatAQueueIsFull(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(func(c *rabbitmq.QueueConfig) {
		c.Type = rabbitmq.Classic
		c.Arguments = amqp.Table{"x-max-length": int64(20), "x-overflow": "reject-publish"}
	})
	r := w.row(w.toQueue)
	r.all(50)
	for tag := range uint64(50) {
		err, _ := r.outcome(tag)
		if tag < 20 && err != nil {
			t.Errorf("%d: %v", tag, err)
		}
		if tag >= 20 {
			w.refused(err, transport.ErrFull, transport.Temporary)
		}
	}
	r.check(w.name)
	again := w.row(w.toQueue)
	again.all(10)
	again.check(w.name)
	if again.stored != 10 || r.opens() != 1 {
		t.Errorf("%d of 10 stored when there is room again; %d pipelines", again.stored, r.opens())
	}
}

// What can be seen before it is sent is refused by Send, and the pipeline goes on.
// Trap 65: in a row.
func TestRabbitMQPipelineRefusesBeforeItSends(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t), rabbitmq.WithMaxMessageSize(1000))
	w.queue(nil)
	reported := make(chan error, 10)
	p, err := w.rmq.OpenPipeline(w.soon(), func(_ uint64, err error) { reported <- err })
	if err != nil {
		t.Fatal(err)
	}
	defer p.End(false)
	for name, bad := range map[string]*transport.Message{
		"a large body":       {Body: make([]byte, 1001)},
		"large headers":      {Header: transport.Header{"H": {strings.Repeat("h", 200_000)}}},
		"a long header name": {Header: transport.Header{strings.Repeat("h", 300): {"v"}}},
		"a broker's header":  {Header: transport.Header{"x-death": {"forged"}}},
		"a bad expiration":   {Header: transport.Header{rabbitmq.Expiration: {"5s"}}},
		"a long property":    {ContentType: strings.Repeat("c", 300)},
		"a negative TTL":     {TTL: -time.Second},
		"a TTL of a year":    {TTL: 365 * 24 * time.Hour},
		"a schedule":         {NotBefore: time.Now().Add(time.Hour)},
	} {
		err := p.Send(rabbitmq.QueueAddress(w.name), bad, 1)
		if err == nil || transport.KindOf(err) != transport.Permanent {
			t.Errorf("%s: %v", name, err)
		}
		if name == "a schedule" && !errors.Is(err, transport.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := p.Send(transport.Address{}, &transport.Message{}, 1); transport.KindOf(err) != transport.Permanent || err == nil {
		t.Errorf("no address: %v", err)
	}
	if err := p.Send(rabbitmq.QueueAddress(w.name), w.message("good"), 2); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Flush(), rabbitAwait(t, reported, "the outcome of the good one"), p.Err()); err != nil {
		t.Error(err)
	}
}

// A TTL, a priority and the mark of a second copy reach the broker and the
// receiver. What has expired is dropped when it is the next in its queue.
func TestRabbitMQHonoursWhatAMessageAsksFor(t *testing.T) {
	t.Parallel()
	for _, kind := range []rabbitmq.QueueType{rabbitmq.Quorum, rabbitmq.Classic} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newRabbitWorld(t, rabbittest.Shared(t))
			src := w.queue(func(c *rabbitmq.QueueConfig) {
				c.Type = kind
				if kind == rabbitmq.Classic {
					c.Arguments = amqp.Table{"x-max-priority": int64(9)}
				}
			})
			r := w.row(w.toQueue)
			r.change = func(tag uint64, m *transport.Message) {
				if kind == rabbitmq.Classic {
					m.Priority = uint8(9 - tag)
				}
				m.TTL = []time.Duration{1, 1, time.Hour, 0}[tag]
			}
			r.resent[2] = true
			r.all(4)
			w.eventually("what has expired is gone", func() bool { return w.depth(w.raw(), w.name) == 2 })
			if err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), &transport.Message{ID: "last", Priority: 1, TTL: time.Hour}); err != nil {
				t.Fatal(err)
			}
			rx := w.open(src, 1)
			for i, want := range []struct {
				id, ttl string
				resent  bool
			}{{"2", "3600000", true}, {"3", "", false}, {"last", "3600000", false}} {
				d := w.receive(rx)
				m := d.Message()
				if m.ID != want.id || m.Resent != want.resent || m.Header.Get(rabbitmq.Expiration) != want.ttl {
					t.Errorf("message %d is %q, resent %v, TTL %q", i, m.ID, m.Resent, m.Header.Get(rabbitmq.Expiration))
				}
				w.ack(d)
			}
		})
	}
}

// The highest priority goes first on a queue that has priorities.
func TestRabbitMQHonoursPriorities(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	src := w.queue(func(c *rabbitmq.QueueConfig) {
		c.Type, c.Arguments = rabbitmq.Classic, amqp.Table{"x-max-priority": int64(9)}
	})
	r := w.row(w.toQueue)
	r.change = func(tag uint64, m *transport.Message) { m.Priority = uint8(tag) }
	r.all(3)
	if err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), &transport.Message{ID: "high", Priority: 9}); err != nil {
		t.Fatal(err)
	}
	rx := w.open(src, 1)
	for _, want := range []string{"high", "2", "1", "0"} {
		d := w.receive(rx)
		if d.Message().ID != want {
			t.Errorf("got %q, want %q", d.Message().ID, want)
		}
		w.ack(d)
	}
}

// A permission that is taken away, an alarm, and a broker that is gone.
func TestRabbitMQPipelineSurvivesAnOperator(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	w := newRabbitWorld(t, b)
	w.queue(nil)
	w.exchange(w.name, "fanout", "")
	t.Run("permission", func(t *testing.T) { w.at(t).pipelinePermission() })
	t.Run("alarm", func(t *testing.T) { w.at(t).pipelineAlarm() })
	t.Run("gone", func(t *testing.T) { w.at(t).pipelineGone() })
}

// at is the same world for a part of the test.
func (w *rabbitWorld) at(t *testing.T) *rabbitWorld {
	part := *w
	part.TB = t
	return &part
}

// pipelinePermission: what goes to the exchange is refused message by message
// while it is forbidden, and what goes elsewhere is stored.
func (w *rabbitWorld) pipelinePermission() {
	mixed := func(tag uint64) transport.Address {
		if tag%10 == 3 {
			return rabbitmq.Exchange(w.name, "")
		}
		return rabbitmq.QueueAddress(w.name)
	}
	w.b.Ctl(w, "set_permissions", "guest", ".*", "^amq\\.default$", ".*")
	w.proxy.Cut() // the broker remembers for a while what a channel may do
	r := w.row(mixed)
	r.all(500)
	for tag := range uint64(500) {
		err, _ := r.outcome(tag)
		if tag%10 == 3 {
			w.refused(err, transport.ErrPermission, transport.Permanent)
		} else if err != nil {
			w.Errorf("%d: %v", tag, err)
		}
	}
	w.b.Ctl(w, "set_permissions", "guest", ".*", ".*", ".*")
	r.check(w.name)
	again := w.row(mixed)
	again.all(100)
	if again.stored != 100 {
		w.Errorf("%d of 100 stored with the permission", again.stored)
	}
	again.check(w.name)
}

// pipelineAlarm: nothing is lost, and Waiting says why nothing moves.
func (w *rabbitWorld) pipelineAlarm() {
	flowing := rabbitEvents(w, w.rmq, transport.Flowing)
	r := w.row(w.toQueue)
	r.start(1 << 40)
	r.progress(100)
	if err := r.pipe().Waiting(); err != nil {
		w.Errorf("Waiting without an alarm: %v", err)
	}
	w.b.Ctl(w, "set_vm_memory_high_watermark", "absolute", "1MB")
	w.eventually("Waiting tells the alarm", func() bool {
		err := r.pipe().Waiting()
		return err != nil && strings.Contains(err.Error(), "blocked") && transport.KindOf(err) == transport.Temporary
	})
	if err := r.pipe().Err(); err != nil || isDone(r.pipe().Done()) {
		w.Errorf("the alarm ended the pipeline: %v", err)
	}
	// Another one is given up while it is blocked.
	began := time.Now()
	ctx, cancel := context.WithTimeout(w.Context(), 300*time.Millisecond)
	defer cancel()
	if p, err := w.rmq.OpenPipeline(ctx, func(uint64, error) {}); err == nil {
		p.End(false)
	} else if !strings.Contains(err.Error(), "blocked") {
		w.Errorf("open during the alarm: %v", err)
	}
	other := rabbitConnect(w, w.b.URL())
	p, err := other.OpenPipeline(w.soon(), func(uint64, error) {})
	if err != nil {
		w.Fatal(err)
	}
	for tag := range uint64(10) {
		if err := p.Send(rabbitmq.QueueAddress(w.name+"-nobody"), w.message("blocked"), tag); err != nil {
			w.Error(err)
		}
	}
	p.End(false)
	short, cancel := context.WithTimeout(w.Context(), time.Second)
	defer cancel()
	_ = other.Close(short)
	if took := time.Since(began); took > rabbitPatience/3 {
		w.Errorf("End and Close took %v during the alarm", took)
	}
	w.b.Ctl(w, "set_vm_memory_high_watermark", "absolute", "4GB")
	rabbitAwait(w, flowing, "the end of the alarm is told")
	r.progress(100)
	if err := r.pipe().Waiting(); err != nil {
		w.Errorf("Waiting after the alarm: %v", err)
	}
	r.finish()
	if r.opens() != 1 {
		w.Errorf("%d pipelines", r.opens())
	}
	r.check(w.name)
}

// pipelineGone: End returns while the broker is away, and nothing is left behind.
func (w *rabbitWorld) pipelineGone() {
	const label = "pipeline-left"
	pprof.Do(w.Context(), pprof.Labels(label, label), func(ctx context.Context) {
		rmq, err := rabbitmq.Connect(ctx, w.b.URL())
		if err != nil {
			w.Fatal(err)
		}
		var pipes []transport.Pipeline
		for range 3 {
			p, err := rmq.OpenPipeline(ctx, func(uint64, error) {})
			if err != nil {
				w.Fatal(err)
			}
			pipes = append(pipes, p)
			for tag := range uint64(100) {
				if err := p.Send(w.toQueue(tag), w.message("x"), tag); err != nil {
					w.Error(err)
				}
			}
		}
		w.b.Kill()
		pipes[0].End(false)
		pipes[1].End(true)
		rabbitAwait(w, pipes[2].Done(), "a pipeline ends with its connection")
		for i, p := range pipes {
			err := p.Err()
			if err == nil || transport.KindOf(err) != transport.Temporary {
				w.Errorf("pipeline %d ended with %v", i, err)
			}
			if err := p.Send(w.toQueue(1), w.message("x"), 1); err == nil || transport.KindOf(err) == transport.Permanent {
				w.Errorf("send on an ended pipeline: %v", err)
			}
			p.End(false)
		}
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if _, err := rmq.OpenPipeline(short, func(uint64, error) {}); err == nil || transport.KindOf(err) != transport.Temporary || !errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("open without a broker: %v", err)
		}
		_ = rmq.Close(short)
		if _, err := rmq.OpenPipeline(ctx, func(uint64, error) {}); !errors.Is(err, transport.ErrClosed) || transport.KindOf(err) != transport.Permanent {
			w.Errorf("open on a closed transport: %v", err)
		}
	})
	w.eventually("no goroutine is left", func() bool {
		var all strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
			w.Fatal(err)
		}
		return !strings.Contains(all.String(), label)
	})
}

// A network that swallows everything: whoever finds out ends the pipeline as
// stuck, and the next one is on a connection that works.
func TestRabbitMQPipelineThatIsStuckIsCut(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	w.queue(nil)
	r := w.row(w.toQueue)
	r.start(1 << 40)
	r.progress(100)
	thaw := w.proxy.Freeze()
	lost := rabbitEvents(t, w.rmq, transport.Disconnected)
	r.pipe().End(true)
	rabbitAwait(t, lost, "the connection is given up")
	thaw()
	r.progress(100)
	r.finish()
	t.Logf("%d stored through %d pipelines, %d twice", r.stored, r.opens(), r.check(w.name))
}
