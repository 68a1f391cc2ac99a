package main

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// windowGroups publish with many messages unconfirmed at once.
func windowGroups() []*group {
	return []*group{
		{
			name: "publish, 1 KiB, window 256", n: 400_000, body: plain(kib), metric: metricRatio, trial: publishTrial,
			contenders: []contender{
				{name: "raw nats.go PublishAsync, with a Nats-Msg-Id", run: rawWindow(window, true)},
				{name: "raw nats.go PublishAsync, without", run: rawWindow(window, false)},
				{name: "holdfast's PublishAsync", run: holdWindow(window), goals: []goal{{metricRatio, atLeast, 1.1}, {metricCPURatio, atMost, 0.8}, {metricAllocs, atMost, 10}}},
				{name: "holdfast's pipeline without the publisher", run: holdPipeline(window, true)},
				{name: "the same, without an ID", run: holdPipeline(window, false)},
			},
		},
		{
			name: "publish, 1 KiB, window 256, sync_interval: always", n: 40_000, body: plain(kib), metric: metricRatio, trial: syncedTrial,
			contenders: []contender{
				{name: "raw nats.go PublishAsync, with a Nats-Msg-Id", n: 12_000, run: rawWindow(window, true)},
				{name: "holdfast's PublishAsync", n: 12_000, run: holdWindow(window)},
				{name: "holdfast's PublishAsync, AtomicBatches", run: holdWindow(window, jetstream.AtomicBatches()), goals: []goal{{metricRatio, atLeast, 3}}},
				{name: "holdfast's pipeline without the publisher, AtomicBatches", run: holdPipeline(window, true, jetstream.AtomicBatches())},
			},
		},
	}
}

// rawWindow publishes with the client library's own window. It looks at no
// future: an error of any of them ends the trial. A window that stays full for the
// client's 200 ms is tried again.
func rawWindow(wide int, withID bool) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		nc, err := nats.Connect(j.url, nats.MaxReconnects(-1))
		if err != nil {
			return err
		}
		defer nc.Close()
		js, err := natsjs.New(nc, natsjs.WithPublishAsyncMaxPending(wide), natsjs.WithPublishAsyncErrHandler(
			func(_ natsjs.JetStream, _ *nats.Msg, err error) { j.fail(err) }))
		if err != nil {
			return err
		}
		for seq := range uint64(j.tally.msgs) {
			body := j.body(seq)
			for stalled := true; stalled; stalled = errors.Is(err, natsjs.ErrTooManyStalledMsgs) {
				if withID {
					_, err = js.PublishAsync(j.subject, body, natsjs.WithMsgID(strconv.FormatUint(seq, 36)))
				} else {
					_, err = js.PublishAsync(j.subject, body)
				}
			}
			if err != nil {
				return err
			}
			j.tally.hit(seq)
		}
		select {
		case <-js.PublishAsyncComplete():
		case <-ctx.Done():
			return ctx.Err()
		}
		return j.wait(ctx)
	}
}

// holdWindow publishes as a program does, with IDs that the publisher makes, and
// looks at every outcome.
func holdWindow(wide int, opts ...jetstream.Option) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		js, err := jetstream.Connect(ctx, j.url, opts...)
		if err != nil {
			return err
		}
		p := holdfast.NewPublisher[[]byte](js, transport.Address{Name: j.subject}, holdfast.Window(wide, 0))
		err = windowThrough(ctx, j, p, wide)
		_, left := p.Close(ctx)
		return errors.Join(err, left, js.Close(ctx))
	}
}

func windowThrough(ctx context.Context, j *job, p *holdfast.Publisher[[]byte], wide int) error {
	under := make([]*holdfast.Future, wide)
	msgs := uint64(j.tally.msgs)
	for seq := range msgs + uint64(wide) {
		slot := &under[seq%uint64(wide)]
		if *slot != nil {
			if err := (*slot).Wait(ctx); err != nil {
				return err
			}
			j.tally.hit(seq - uint64(wide))
			*slot = nil
		}
		if seq >= msgs {
			continue
		}
		f, err := p.PublishAsync(ctx, j.body(seq))
		if err != nil {
			return err
		}
		*slot = f
	}
	return j.wait(ctx)
}

// holdPipeline publishes through the transport's pipeline and a window that
// counts: what stands below holdfast's publisher.
func holdPipeline(wide int, withID bool, opts ...jetstream.Option) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		js, err := jetstream.Connect(ctx, j.url, opts...)
		if err != nil {
			return err
		}
		return errors.Join(pipeThrough(ctx, j, js, wide, withID), js.Close(ctx))
	}
}

// outcomes counts what a pipeline tells, and makes room.
func (j *job) outcomes(room *room) func(tag uint64, err error) {
	return func(tag uint64, err error) {
		if err != nil {
			j.fail(err)
		}
		j.tally.hit(tag)
		room.leave()
	}
}

func pipeThrough(ctx context.Context, j *job, js *jetstream.Transport, wide int, withID bool) error {
	room := newRoom(wide)
	p, err := js.OpenPipeline(ctx, j.outcomes(room))
	if err != nil {
		return err
	}
	to := transport.Address{Name: j.subject}
	for seq := range uint64(j.tally.msgs) {
		room.enter()
		m := &transport.Message{Body: j.body(seq)}
		if withID {
			m.ID = strconv.FormatUint(seq, 36)
		}
		if err := p.Send(to, m, seq); err != nil {
			return err
		}
	}
	err = errors.Join(p.Flush(), j.wait(ctx))
	p.End(false)
	return err
}

// room lets so many in at once. One goroutine enters.
type room struct {
	taken atomic.Int64
	wide  int64
	free  chan struct{} // capacity 1: somebody left a full room
}

func newRoom(wide int) *room { return &room{wide: int64(wide), free: make(chan struct{}, 1)} }

func (r *room) enter() {
	for r.taken.Load() >= r.wide {
		<-r.free
	}
	r.taken.Add(1)
}

func (r *room) leave() {
	if r.taken.Add(-1) == r.wide-1 {
		select {
		case r.free <- struct{}{}:
		default:
		}
	}
}

// syncedTrial is publishTrial on a server that syncs every write to disk.
func syncedTrial(ctx context.Context, b *bench, g *group, c *contender) (s sample, err error) {
	br, err := startBroker(syncEnv + "=1")
	if err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, br.stop()) }()
	nc, err := nats.Connect(br.url)
	if err != nil {
		return sample{}, err
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		return sample{}, err
	}
	synced := &bench{cfg: b.cfg, broker: br, js: js, log: b.log}
	j := newJob(g, c, br.url, br.pid)
	j.stream = synced.newName()
	j.subject = subjectOf(j.stream)
	if _, err := js.CreateStream(ctx, natsjs.StreamConfig{
		Name: j.stream, Subjects: []string{j.subject}, Storage: natsjs.FileStorage, Discard: natsjs.DiscardNew, AllowAtomicPublish: true,
	}); err != nil {
		return sample{}, err
	}
	runtime.GC()
	if err := c.run(ctx, j); err != nil {
		return sample{}, err
	}
	return j.tally.sample(), errors.Join(j.tally.check(j.expected()), synced.stored(ctx, j))
}
