package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/spool"
	"github.com/holdfast-go/holdfast/transport"
)

// spoolGroups compare the disk log with what the disk gives to a bare loop that
// writes as much at once as there are producers, and syncs.
func spoolGroups() []*group {
	var all []*group
	for _, w := range []struct {
		producers, n int
		least        float64
	}{{1, 15_000, 0.8}, {16, 150_000, 0.5}, {64, 300_000, 0.5}} {
		goals := []goal{{metricRatio, atLeast, w.least}}
		all = append(all, &group{
			name: fmt.Sprintf("durable append, 1 KiB, %d at a time", w.producers), n: w.n, body: plain(kib), metric: metricRatio, trial: spoolTrial,
			contenders: []contender{
				{name: "the disk: write and fdatasync in a loop", run: bareCommit(w.producers)},
				{name: "spool.Append", run: spoolAppend(w.producers), goals: goals},
				{name: "holdfast's Publish with a Spool, broker away", run: spoolPublish(w.producers), goals: goals},
			},
		})
	}
	return append(all, &group{
		// 5,000 ns for each of 1,000,000 records are 5 s.
		name: "recovery of 1,000,000 waiting records, 1 KiB", n: backlog, body: plain(kib), metric: metricNanos, trial: recoveryTrial,
		contenders: []contender{
			{name: "spool.Open", goals: []goal{{metricNanos, atMost, 5000}, {metricHeap, atMost, 64}}},
		},
	})
}

// spoolTrial needs no server: a message is handled when it is durable.
func spoolTrial(ctx context.Context, b *bench, g *group, c *contender) (sample, error) {
	j := newJob(g, c, b.broker.url, b.broker.pid)
	runtime.GC()
	err := c.run(ctx, j)
	if err == nil {
		err = j.tally.check(j.expected())
	}
	return j.tally.sample(), err
}

// inScratch calls fn with a directory on the disk of TMPDIR.
func inScratch(fn func(dir string) error) (err error) {
	dir, err := os.MkdirTemp("", "holdfast-bench-spool")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return fn(dir)
}

func bareCommit(batch int) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return inScratch(func(dir string) (err error) {
			f, err := os.Create(filepath.Join(dir, "loop"))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			var buf []byte
			for seq := 0; seq < j.tally.msgs && ctx.Err() == nil; seq += batch {
				n := min(batch, j.tally.msgs-seq)
				buf = buf[:0]
				for i := range n {
					buf = append(buf, j.body(uint64(seq+i))...)
				}
				if _, err := f.Write(buf); err != nil {
					return err
				}
				if err := syncFile(f); err != nil {
					return err
				}
				for i := range n {
					j.tally.hit(uint64(seq + i))
				}
			}
			return ctx.Err()
		})
	}
}

// producers calls do for every message, from so many goroutines.
func producers(ctx context.Context, j *job, wide int, do func(seq uint64) error) error {
	var wg sync.WaitGroup
	for p := range wide {
		wg.Go(func() {
			for seq := p; seq < j.tally.msgs && ctx.Err() == nil; seq += wide {
				if err := do(uint64(seq)); err != nil {
					j.fail(err)
					return
				}
				j.tally.hit(uint64(seq))
			}
		})
	}
	wg.Wait()
	return j.wait(ctx)
}

func spoolAppend(wide int) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return inScratch(func(dir string) error {
			l, _, err := spool.Open(ctx, dir, spool.Options{MaxBytes: 1 << 40})
			if err != nil {
				return err
			}
			err = producers(ctx, j, wide, func(seq uint64) error {
				_, err := l.Append(ctx, j.body(seq))
				return err
			})
			return errors.Join(err, l.Close(ctx))
		})
	}
}

// spoolPublish leaves the broker out: what is measured is the time until the
// caller may go on.
func spoolPublish(wide int) func(context.Context, *job) error {
	return func(ctx context.Context, j *job) error {
		return inScratch(func(dir string) error {
			broker := memory.New()
			broker.Disconnect(nil)
			pub := holdfast.NewPublisher[[]byte](broker, transport.Address{Name: "bench"}, holdfast.Spool(dir), holdfast.SpoolLimit(1<<40))
			if err := pub.Err(); err != nil {
				return err
			}
			err := producers(ctx, j, wide, func(seq uint64) error { return pub.Publish(ctx, j.body(seq)) })
			closing, cancel := context.WithTimeout(ctx, time.Second) // the broker is away
			defer cancel()
			_, closed := pub.Close(closing)
			return errors.Join(err, closed)
		})
	}
}

// recoveryTrial fills a spool and measures how long it takes to open it, and the
// first record with it.
func recoveryTrial(ctx context.Context, b *bench, g *group, c *contender) (s sample, err error) {
	n := g.messages(c)
	opts := spool.Options{MaxBytes: 1 << 40}
	err = inScratch(func(dir string) error {
		if err := fillSpool(ctx, dir, opts, n, g.body); err != nil {
			return err
		}
		runtime.GC()
		heap := watchHeap()
		start := look(b.broker.pid, true)
		l, found, err := spool.Open(ctx, dir, opts)
		if err != nil {
			heap.stop()
			return err
		}
		_, err = l.Next(ctx)
		s = look(b.broker.pid, false).since(start, float64(n))
		s.heap = heap.stop()
		if err == nil && found.Pending != int64(n) {
			err = fmt.Errorf("%d of %d records were found", found.Pending, n)
		}
		return errors.Join(err, l.Close(ctx))
	})
	return s, err
}

func fillSpool(ctx context.Context, dir string, opts spool.Options, n int, body func(uint64) []byte) error {
	l, _, err := spool.Open(ctx, dir, opts)
	if err != nil {
		return err
	}
	var records [][]byte
	for seq := range n {
		records = append(records, body(uint64(seq)))
		if len(records) == 1000 || seq == n-1 {
			if _, err := l.Append(ctx, records...); err != nil {
				return errors.Join(err, l.Close(ctx))
			}
			records = records[:0]
		}
	}
	return l.Close(ctx)
}
