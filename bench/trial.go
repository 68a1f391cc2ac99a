package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	durable    = "bench"
	trialLimit = 3 * time.Minute
	perSecond  = 2_000 // of the latency workload
)

var errFlaky = errors.New("this message fails for now")

// job is one trial, seen by a contender.
type job struct {
	url     string
	stream  string
	subject string
	queue   string // on RabbitMQ
	kind    rabbitmq.QueueType
	body    func(seq uint64) []byte
	backoff time.Duration
	tally   *tally

	pause   time.Duration
	fails   func(seq uint64) uint32 // how often a message fails
	repeats bool                    // what fails is handled again before the trial is over
	sent    []atomic.Int64          // when each was published, since epoch; nil unless wanted
	late    []time.Duration         // how long each took
	epoch   time.Time

	broken chan error // capacity 1: what ended the trial early
}

// handle is the handler of every consuming contender.
func (j *job) handle(seq uint64) error {
	if j.sent != nil && seq < uint64(len(j.sent)) {
		j.late[seq] = time.Since(j.epoch) - time.Duration(j.sent[seq].Load())
	}
	if j.pause > 0 {
		time.Sleep(j.pause)
	}
	n := j.tally.hit(seq)
	if j.fails != nil && n <= j.fails(seq) {
		return errFlaky
	}
	return nil
}

// fail ends the trial.
func (j *job) fail(err error) {
	select {
	case j.broken <- err:
	default:
	}
}

// wait waits for the last expected call.
func (j *job) wait(ctx context.Context) error {
	select {
	case <-j.tally.done:
		return nil
	case err := <-j.broken:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%d of %d handler calls by then: %w", j.tally.calls.Load(), j.tally.want, ctx.Err())
	}
}

// newJob makes a trial of g by c on the broker at url, whose process is pid. fails says how often each message fails before
// it is handled; a parked one fails once and does not come back.
func newJob(g *group, c *contender, url string, pid int) *job {
	n := g.messages(c)
	j := &job{url: url, body: g.body, backoff: g.backoff, pause: g.pause, broken: make(chan error, 1)}
	total, want := n+c.parked, int64(n+c.parked)
	if fails := max(g.fails, c.fails); fails > 0 {
		j.fails = func(seq uint64) uint32 {
			if seq%10 == 0 {
				return fails
			}
			return 0
		}
		j.repeats = true
		want += int64((n+9)/10) * int64(fails)
	}
	if c.parked > 0 {
		j.fails = func(seq uint64) uint32 {
			if seq < uint64(c.parked) {
				return 1
			}
			return 0
		}
	}
	warm := int64(c.parked) + (want-int64(c.parked))/20
	j.tally = newTally(pid, total, want, warm)
	return j
}

// expected is how often the handler is called for a message.
func (j *job) expected() func(uint64) uint32 {
	return func(seq uint64) uint32 {
		if j.repeats {
			return 1 + j.fails(seq)
		}
		return 1
	}
}

// consumeTrial lets c consume a stream that was filled before.
func consumeTrial(ctx context.Context, b *bench, g *group, c *contender) (sample, error) {
	j := newJob(g, c, b.broker.url, b.broker.pid)
	stream, err := b.filled(ctx, g, g.messages(c)+c.parked)
	if err != nil {
		return sample{}, err
	}
	j.stream, j.subject = stream, subjectOf(stream)
	runtime.GC()
	var heap *heapWatch
	if g.heap {
		heap = watchHeap()
	}
	err = c.run(ctx, j)
	var most uint64
	if heap != nil {
		most = heap.stop()
	}
	if err == nil {
		err = errors.Join(j.tally.check(j.expected()), b.settled(ctx, j, c.held()))
	}
	if err := errors.Join(err, b.js.DeleteConsumer(ctx, stream, durable)); err != nil {
		return sample{}, err
	}
	s := j.tally.sample()
	if c.parked > 0 { // only the fresh ones were measured
		s.msgs = float64(j.tally.want - j.tally.warm)
	}
	s.heap = most
	return s, nil
}

// held is how many parked messages stay with their consumer.
func (c *contender) held() int {
	if c.away {
		return 0
	}
	return c.parked
}

// settled waits until the server knows of no unsettled message but the parked.
func (b *bench) settled(ctx context.Context, j *job, parked int) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		cons, err := b.js.Consumer(ctx, j.stream, durable)
		if err != nil {
			return err
		}
		info := cons.CachedInfo()
		if info.NumAckPending == parked && info.NumPending == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server still has %d messages unacked (expected %d) and %d undelivered", info.NumAckPending, parked, info.NumPending)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// latencyTrial publishes at a fixed rate while c consumes.
func latencyTrial(ctx context.Context, b *bench, g *group, c *contender) (sample, error) {
	j := newJob(g, c, b.broker.url, b.broker.pid)
	j.stream = b.newName()
	j.subject = subjectOf(j.stream)
	j.sent, j.late, j.epoch = make([]atomic.Int64, j.tally.msgs), make([]time.Duration, j.tally.msgs), time.Now()
	if err := b.create(ctx, j.stream); err != nil {
		return sample{}, err
	}
	runtime.GC()
	paced, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := j.pace(paced); err != nil {
			j.fail(err)
		}
	})
	err := c.run(ctx, j)
	stop()
	wg.Wait()
	if err == nil {
		err = errors.Join(j.tally.check(j.expected()), b.settled(ctx, j, 0))
	}
	if err := errors.Join(err, b.js.DeleteStream(ctx, j.stream)); err != nil {
		return sample{}, err
	}
	s := j.tally.sample()
	late := slices.Sorted(slices.Values(j.late[j.tally.warm:]))
	s.p50, s.p99 = percentile(late, 0.5), percentile(late, 0.99)
	return s, nil
}

// pace publishes the first message, waits until it was handled, and then
// publishes the others at their times.
func (j *job) pace(ctx context.Context) error {
	nc, err := nats.Connect(j.url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	var start time.Time
	for seq := range j.sent {
		if seq == 1 {
			for j.tally.calls.Load() == 0 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			start = time.Now()
		}
		if seq > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(seq) * time.Second / perSecond)))
		}
		body := j.body(uint64(seq))
		j.sent[seq].Store(int64(time.Since(j.epoch)))
		if _, err := js.PublishAsync(j.subject, body); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
	}
	return nil
}

// publishTrial lets c publish into an empty stream.
func publishTrial(ctx context.Context, b *bench, g *group, c *contender) (sample, error) {
	j := newJob(g, c, b.broker.url, b.broker.pid)
	j.stream = b.newName()
	j.subject = subjectOf(j.stream)
	if err := b.create(ctx, j.stream); err != nil {
		return sample{}, err
	}
	runtime.GC()
	err := c.run(ctx, j)
	if err == nil {
		err = errors.Join(j.tally.check(j.expected()), b.stored(ctx, j))
	}
	return j.tally.sample(), errors.Join(err, b.js.DeleteStream(ctx, j.stream))
}

// stored compares what the stream holds with what was confirmed.
func (b *bench) stored(ctx context.Context, j *job) error {
	s, err := b.js.Stream(ctx, j.stream)
	if err != nil {
		return err
	}
	if got := s.CachedInfo().State.Msgs; got != uint64(j.tally.msgs) {
		return fmt.Errorf("%d messages were confirmed and %d stored", j.tally.msgs, got)
	}
	return nil
}

// engineTrial needs no server.
func engineTrial(ctx context.Context, _ *bench, g *group, c *contender) (sample, error) {
	j := &job{broken: make(chan error, 1), tally: &tally{msgs: g.messages(c), done: make(chan struct{})}}
	runtime.GC()
	if err := c.run(ctx, j); err != nil {
		return sample{}, err
	}
	return j.tally.end.since(j.tally.start, float64(j.tally.msgs-j.tally.msgs/20)), nil
}

// inProcessTrial is for a broker inside this process: c fills and consumes it.
func inProcessTrial(ctx context.Context, _ *bench, g *group, c *contender) (sample, error) {
	j := newJob(g, c, "", 0)
	runtime.GC()
	if err := c.run(ctx, j); err != nil {
		return sample{}, err
	}
	return j.tally.sample(), j.tally.check(j.expected())
}

// patient waits for room among what is not confirmed, where the client library gives
// up after 200 ms: a busy machine takes longer.
var patient = jetstream.WithStallWait(time.Minute)

func subjectOf(stream string) string { return "bench." + stream }

// newName returns a name for a stream.
func (b *bench) newName() string {
	b.streams++
	return "BENCH" + strconv.Itoa(b.streams)
}

func (b *bench) create(ctx context.Context, name string) error {
	_, err := b.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: name, Subjects: []string{subjectOf(name)}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
	})
	return err
}

// filled returns a stream that holds n messages of the group. It is made once
// for all trials of the group.
func (b *bench) filled(ctx context.Context, g *group, n int) (string, error) {
	if name, ok := b.fixtures[n]; ok {
		return name, nil
	}
	name := b.newName()
	if err := b.create(ctx, name); err != nil {
		return "", err
	}
	b.fixtures[n] = name
	for seq := range n {
		m := &nats.Msg{Subject: subjectOf(name), Data: g.body(uint64(seq))}
		if g.headers {
			m.Header = nats.Header{"Nats-Msg-Id": {strconv.Itoa(seq)}, "Content-Type": {"application/octet-stream"}}
		}
		if _, err := b.js.PublishMsgAsync(m, patient); err != nil {
			return "", fmt.Errorf("fill a stream: %w", err)
		}
	}
	select {
	case <-b.js.PublishAsyncComplete():
	case <-ctx.Done():
		return "", ctx.Err()
	}
	s, err := b.js.Stream(ctx, name)
	if err != nil {
		return "", err
	}
	if got := s.CachedInfo().State.Msgs; got != uint64(n) {
		return "", fmt.Errorf("fill a stream: it holds %d of %d messages", got, n)
	}
	return name, nil
}

// clear deletes the streams of the group that is done.
func (b *bench) clear(ctx context.Context) error {
	var failed []error
	for _, name := range b.fixtures {
		failed = append(failed, b.js.DeleteStream(ctx, name))
	}
	clear(b.fixtures)
	if b.rabbit != nil && !b.cfg.quick {
		failed = append(failed, b.rabbit.clear())
	}
	return errors.Join(failed...)
}
