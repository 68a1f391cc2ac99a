package main

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// window is how many messages a consumer may have asked for.
const window = 256

// rawMode is how a handler is put behind the client library.
type rawMode struct {
	confirmed bool // wait for the server's answer to each ack
	workers   int  // fixed goroutines behind a channel
	wide      int  // a goroutine for each message, so many at once
	lot       int  // so many are gathered before the first is handled and acked
}

// rawBytes consumes with the client library as its users do.
func rawBytes(mode rawMode) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return consumeRaw(ctx, j, mode, func(m jetstream.Msg) error { return j.handle(numberOf(m.Data())) })
	}
}

// rawJSON decodes each body first.
func rawJSON() func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return consumeRaw(ctx, j, rawMode{}, func(m jetstream.Msg) error {
			var o order
			if err := json.Unmarshal(m.Data(), &o); err != nil {
				return err
			}
			return j.handle(o.Number)
		})
	}
}

func consumeRaw(ctx context.Context, j *job, mode rawMode, handle func(jetstream.Msg) error) error {
	nc, err := nats.Connect(j.url, nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	cons, err := js.CreateConsumer(ctx, j.stream, jetstream.ConsumerConfig{
		Durable: durable, FilterSubject: j.subject, AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: 50_000,
	})
	if err != nil {
		return err
	}
	settle := func(m jetstream.Msg) {
		var err error
		switch failed := handle(m); {
		case failed != nil:
			err = m.NakWithDelay(j.backoff)
		case mode.confirmed:
			err = m.DoubleAck(ctx)
		default:
			err = m.Ack()
		}
		if err != nil {
			j.fail(err)
		}
	}
	handler, wait := spreadOver(mode, settle)
	ahead := window
	if mode.lot > 0 {
		handler, ahead = inLots(mode.lot, j.tally.msgs, settle), 2*mode.lot
	}
	cc, err := cons.Consume(handler, jetstream.PullMaxMessages(ahead))
	if err != nil {
		return err
	}
	err = j.wait(ctx)
	cc.Drain()
	<-cc.Closed()
	wait()
	if err != nil {
		return err
	}
	return nc.FlushWithContext(ctx)
}

// inLots gathers so many messages, or what is left of n, and settles them together.
func inLots[M any](lot, n int, settle func(M)) func(M) {
	var gathered []M
	return func(m M) {
		gathered = append(gathered, m)
		if n--; len(gathered) < lot && n > 0 {
			return
		}
		for _, m := range gathered {
			settle(m)
		}
		gathered = gathered[:0]
	}
}

// spreadOver puts settle behind goroutines, as mode says. wait ends them; nothing
// may be handed to them any more by then.
func spreadOver[M any](mode rawMode, settle func(M)) (handler func(M), wait func()) {
	var wg sync.WaitGroup
	switch {
	case mode.workers > 0:
		ch := make(chan M, mode.workers)
		for range mode.workers {
			wg.Go(func() {
				for m := range ch {
					settle(m)
				}
			})
		}
		return func(m M) { ch <- m }, func() { close(ch); wg.Wait() }
	case mode.wide > 0:
		sem := make(chan struct{}, mode.wide)
		return func(m M) {
			sem <- struct{}{}
			wg.Go(func() {
				settle(m)
				<-sem
			})
		}, wg.Wait
	default:
		return settle, wg.Wait
	}
}

// rawPublish publishes from so many goroutines, each waiting for its
// confirmations.
func rawPublish(wide int, withID bool) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		nc, err := nats.Connect(j.url, nats.MaxReconnects(-1))
		if err != nil {
			return err
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		return j.publishAll(ctx, wide, func(ctx context.Context, seq uint64, body []byte) error {
			if withID {
				_, err := js.Publish(ctx, j.subject, body, jetstream.WithMsgID(strconv.FormatUint(seq, 36)))
				return err
			}
			_, err := js.Publish(ctx, j.subject, body)
			return err
		})
	}
}

// publishAll publishes every message of the job once.
func (j *job) publishAll(ctx context.Context, wide int, publish func(context.Context, uint64, []byte) error) error {
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range wide {
		wg.Go(func() {
			for ctx.Err() == nil {
				seq := next.Add(1) - 1
				if seq >= uint64(j.tally.msgs) {
					return
				}
				if err := publish(ctx, seq, j.body(seq)); err != nil {
					j.fail(err)
					return
				}
				j.tally.hit(seq)
			}
		})
	}
	wg.Wait()
	return j.wait(ctx)
}
