package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
)

// objectUnit is what counts as one message of the object workloads.
const objectUnit = 128 * kib

// nearly are the goals of what is written here on top of the same requests.
func nearly(more ...goal) []goal { return append([]goal{{metricRatio, atLeast, 0.9}}, more...) }

// storeGroups are the workloads on key-value buckets and object stores.
func storeGroups() []*group {
	flat := nearly(goal{metricHeap, atMost, 32})
	return []*group{
		{
			name: "KV put, 1 KiB, one by one", n: 15_000, body: plain(kib), metric: metricRatio, trial: kvTrial,
			contenders: []contender{{name: "raw nats.go", run: rawPut(1)}, {name: "holdfast", run: holdPut(1), goals: nearly()}},
		},
		{
			name: "KV put, 1 KiB, 64 goroutines", n: 100_000, body: plain(kib), metric: metricRatio, trial: kvTrial,
			contenders: []contender{{name: "raw nats.go", run: rawPut(64)}, {name: "holdfast", run: holdPut(64), goals: nearly()}},
		},
		{
			name: "KV get, 1 KiB, one by one", n: 15_000, body: plain(kib), stored: true, metric: metricRatio, trial: kvTrial,
			contenders: []contender{{name: "raw nats.go", run: rawGet(1)}, {name: "holdfast", run: holdGet(1), goals: nearly()}},
		},
		{
			name: "KV get, 1 KiB, 64 goroutines", n: 100_000, body: plain(kib), stored: true, metric: metricRatio, trial: kvTrial,
			contenders: []contender{{name: "raw nats.go", run: rawGet(64)}, {name: "holdfast", run: holdGet(64), goals: nearly()}},
		},
		{
			name: "KV watch, 1 KiB, all current values", n: 200_000, body: plain(kib), stored: true, metric: metricRatio, trial: kvTrial,
			contenders: []contender{
				{name: "raw nats.go, a durable consumer with acks", run: rawWatchAcked()},
				{name: "raw nats.go, WatchAll, which acks nothing", run: rawWatch()},
				{name: "holdfast", run: holdWatch(holdfast.Concurrency(1), holdfast.Prefetch(511)), goals: nearly()},
			},
		},
		{
			name: "object put, 256 MiB in 128 KiB", n: 2048, body: plain(objectUnit), heap: true, metric: metricRatio, trial: objectTrial,
			contenders: []contender{{name: "raw nats.go", run: rawObjectPut()}, {name: "holdfast", run: holdObjectPut(), goals: flat}},
		},
		{
			name: "object get, 256 MiB in 128 KiB", n: 2048, body: plain(objectUnit), stored: true, heap: true, metric: metricRatio, trial: objectTrial,
			contenders: []contender{{name: "raw nats.go", run: rawObjectGet()}, {name: "holdfast", run: holdObjectGet(), goals: flat}},
		},
	}
}

// kvTrial lets c use a bucket, which is filled where the group says so.
func kvTrial(ctx context.Context, b *bench, g *group, c *contender) (sample, error) {
	j := newJob(g, c, b.broker.url, b.broker.pid)
	j.stream = b.newName()
	kv, err := b.js.CreateKeyValue(ctx, natsjs.KeyValueConfig{Bucket: j.stream})
	if err != nil {
		return sample{}, err
	}
	if g.stored {
		if err := b.fillBucket(g, j); err != nil {
			return sample{}, err
		}
	}
	runtime.GC()
	err = c.run(ctx, j)
	if err == nil {
		err = errors.Join(j.tally.check(j.expected()), holds(ctx, kv, j.tally.msgs))
	}
	return j.tally.sample(), errors.Join(err, b.js.DeleteKeyValue(ctx, j.stream))
}

// fillBucket writes the value of every key.
func (b *bench) fillBucket(g *group, j *job) error {
	const lot = 2000 // more at once than the server takes would stall
	for seq := range j.tally.msgs {
		if _, err := b.js.PublishAsync("$KV."+j.stream+"."+keyOf(uint64(seq)), g.body(uint64(seq)), patient); err != nil {
			return err
		}
		if seq%lot == lot-1 {
			<-b.js.PublishAsyncComplete()
		}
	}
	<-b.js.PublishAsyncComplete()
	return nil
}

// holds compares what a bucket holds with what was written.
func holds(ctx context.Context, kv natsjs.KeyValue, n int) error {
	status, err := kv.Status(ctx)
	if err == nil && status.Values() != uint64(n) {
		err = fmt.Errorf("%d values were confirmed and %d are stored", n, status.Values())
	}
	return err
}

func keyOf(seq uint64) string { return "key." + strconv.FormatUint(seq, 36) }

func rawPut(wide int) func(context.Context, *job) error {
	return withRawKV(func(ctx context.Context, j *job, kv natsjs.KeyValue) error {
		return j.publishAll(ctx, wide, func(ctx context.Context, seq uint64, body []byte) error {
			_, err := kv.Put(ctx, keyOf(seq), body)
			return err
		})
	})
}

func holdPut(wide int) func(context.Context, *job) error {
	return withHoldKV(func(ctx context.Context, j *job, kv *jetstream.KV[[]byte]) error {
		return j.publishAll(ctx, wide, func(ctx context.Context, seq uint64, body []byte) error {
			_, err := kv.Put(ctx, keyOf(seq), body)
			return err
		})
	})
}

func rawGet(wide int) func(context.Context, *job) error {
	return withRawKV(func(ctx context.Context, j *job, kv natsjs.KeyValue) error {
		return j.readAll(ctx, wide, func(ctx context.Context, key string) ([]byte, error) {
			e, err := kv.Get(ctx, key)
			if err != nil {
				return nil, err
			}
			return e.Value(), nil
		})
	})
}

func holdGet(wide int) func(context.Context, *job) error {
	return withHoldKV(func(ctx context.Context, j *job, kv *jetstream.KV[[]byte]) error {
		return j.readAll(ctx, wide, func(ctx context.Context, key string) ([]byte, error) {
			e, err := kv.Get(ctx, key)
			return e.Value, err
		})
	})
}

// readAll reads every key once and looks at its value.
func (j *job) readAll(ctx context.Context, wide int, read func(context.Context, string) ([]byte, error)) error {
	body := j.body
	j.body = func(uint64) []byte { return nil }
	defer func() { j.body = body }()
	return j.publishAll(ctx, wide, func(ctx context.Context, seq uint64, _ []byte) error {
		value, err := read(ctx, keyOf(seq))
		if err == nil && numberOf(value) != seq {
			err = fmt.Errorf("the value of %s is that of %d", keyOf(seq), numberOf(value))
		}
		return err
	})
}

func rawWatch() func(context.Context, *job) error {
	return withRawKV(func(ctx context.Context, j *job, kv natsjs.KeyValue) error {
		w, err := kv.WatchAll(ctx)
		if err != nil {
			return err
		}
		for e := range w.Updates() {
			if e == nil {
				break
			}
			if err := j.handle(numberOf(e.Value())); err != nil {
				return err
			}
		}
		return errors.Join(j.wait(ctx), w.Stop())
	})
}

// rawWatchAcked is the watch that goes on where it stood, as a user of the client
// library has to make it.
func rawWatchAcked() func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return withRaw(j, func(js natsjs.JetStream) error {
			cons, err := js.CreateConsumer(ctx, "KV_"+j.stream, natsjs.ConsumerConfig{
				Durable: durable, FilterSubject: "$KV." + j.stream + ".>", DeliverPolicy: natsjs.DeliverLastPerSubjectPolicy,
				AckPolicy: natsjs.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: 50_000,
			})
			if err != nil {
				return err
			}
			cc, err := cons.Consume(func(m natsjs.Msg) {
				if err := errors.Join(j.handle(numberOf(m.Data())), m.Ack()); err != nil {
					j.fail(err)
				}
			}, natsjs.PullMaxMessages(2*window))
			if err != nil {
				return err
			}
			err = j.wait(ctx)
			cc.Drain()
			<-cc.Closed()
			return err
		})
	}
}

func holdWatch(opts ...holdfast.Option) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		js, err := jetstream.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		app := holdfast.New(holdfast.Config{Name: "bench"})
		holdfast.Handle(app, js.WatchKV(jetstream.WatchConfig{
			Bucket: jetstream.BucketConfig{Bucket: j.stream}, Durable: durable, Start: jetstream.StartLastPerSubject(),
		}), func(_ context.Context, m *holdfast.Message[jetstream.Entry[[]byte]]) error {
			return j.handle(numberOf(m.Body.Value))
		}, opts...)
		return errors.Join(runApp(ctx, app, j), js.Close(ctx))
	}
}

func withRawKV(do func(context.Context, *job, natsjs.KeyValue) error) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return withRaw(j, func(js natsjs.JetStream) error {
			kv, err := js.KeyValue(ctx, j.stream)
			if err != nil {
				return err
			}
			return do(ctx, j, kv)
		})
	}
}

func withHoldKV(do func(context.Context, *job, *jetstream.KV[[]byte]) error) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		js, err := jetstream.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		kv, err := jetstream.OpenKV[[]byte](ctx, js, jetstream.BucketConfig{Bucket: j.stream})
		if err == nil {
			err = do(ctx, j, kv)
		}
		return errors.Join(err, js.Close(ctx))
	}
}

func withRaw(j *job, do func(natsjs.JetStream) error) error {
	nc, err := nats.Connect(j.url, nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		return err
	}
	return do(js)
}

// objectTrial lets c put or get one object.
func objectTrial(ctx context.Context, b *bench, g *group, c *contender) (sample, error) {
	j := newJob(g, c, b.broker.url, b.broker.pid)
	j.stream = b.newName()
	store, err := b.js.CreateObjectStore(ctx, natsjs.ObjectStoreConfig{Bucket: j.stream})
	if err != nil {
		return sample{}, err
	}
	size := int64(j.tally.msgs) * objectUnit
	if g.stored {
		if _, err := store.Put(ctx, natsjs.ObjectMeta{Name: objectName}, io.LimitReader(zeros{}, size)); err != nil {
			return sample{}, err
		}
	}
	runtime.GC()
	heap := watchHeap()
	err = c.run(ctx, j)
	most := heap.stop()
	if err == nil {
		info, infoErr := store.GetInfo(ctx, objectName)
		if infoErr == nil && info.Size != uint64(size) {
			infoErr = fmt.Errorf("%d bytes of %d are stored", info.Size, size)
		}
		err = errors.Join(j.tally.check(j.expected()), infoErr)
	}
	s := j.tally.sample()
	s.heap = most
	return s, errors.Join(err, b.js.DeleteObjectStore(ctx, j.stream))
}

const objectName = "dir/object.bin"

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// units counts what passes, in units. The last one is left to whoever knows that
// all is done.
type units struct {
	j     *job
	seq   uint64
	bytes int
}

func (u *units) passed(n int) {
	for u.bytes += n; u.bytes >= objectUnit; u.bytes -= objectUnit {
		if u.seq++; u.seq < uint64(u.j.tally.msgs) {
			u.j.tally.hit(u.seq - 1)
		}
	}
}

// Read and Write make it the source and the destination of an object.
func (u *units) Read(p []byte) (int, error) {
	left := (u.j.tally.msgs-int(u.seq))*objectUnit - u.bytes
	if left <= 0 {
		return 0, io.EOF
	}
	n := min(len(p), left, objectUnit)
	clear(p[:n])
	u.passed(n)
	return n, nil
}

func (u *units) Write(p []byte) (int, error) {
	u.passed(len(p))
	return len(p), nil
}

// complete counts the last unit.
func (u *units) complete(err error) error {
	if err == nil && (u.seq != uint64(u.j.tally.msgs) || u.bytes != 0) {
		err = fmt.Errorf("%d units and %d bytes have passed", u.seq, u.bytes)
	}
	if err == nil {
		u.j.tally.hit(u.seq - 1)
	}
	return err
}

func rawObjectPut() func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return withRaw(j, func(js natsjs.JetStream) error {
			store, err := js.ObjectStore(ctx, j.stream)
			if err != nil {
				return err
			}
			u := &units{j: j}
			_, err = store.Put(ctx, natsjs.ObjectMeta{Name: objectName}, u)
			return u.complete(err)
		})
	}
}

func rawObjectGet() func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return withRaw(j, func(js natsjs.JetStream) error {
			store, err := js.ObjectStore(ctx, j.stream)
			if err != nil {
				return err
			}
			r, err := store.Get(ctx, objectName)
			if err != nil {
				return err
			}
			u := &units{j: j}
			_, err = io.CopyBuffer(u, r, make([]byte, objectUnit))
			return errors.Join(u.complete(err), r.Close())
		})
	}
}

func holdObjectPut() func(context.Context, *job) error {
	return withHoldObjects(func(ctx context.Context, j *job, s *jetstream.ObjectStore) error {
		u := &units{j: j}
		_, err := s.Put(ctx, jetstream.ObjectMeta{Name: objectName}, u)
		return u.complete(err)
	})
}

func holdObjectGet() func(context.Context, *job) error {
	return withHoldObjects(func(ctx context.Context, j *job, s *jetstream.ObjectStore) error {
		r, err := s.Get(ctx, objectName)
		if err != nil {
			return err
		}
		u := &units{j: j}
		_, err = io.Copy(u, r)
		return errors.Join(u.complete(err), r.Close())
	})
}

func withHoldObjects(do func(context.Context, *job, *jetstream.ObjectStore) error) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		js, err := jetstream.Connect(ctx, j.url)
		if err != nil {
			return err
		}
		s, err := jetstream.OpenObjectStore(ctx, js, jetstream.ObjectStoreConfig{Bucket: j.stream})
		if err == nil {
			err = do(ctx, j, s)
		}
		return errors.Join(err, js.Close(ctx))
	}
}
