package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/rabbitmq"
)

// group is one workload and those who do it.
type group struct {
	name    string
	n       int // messages
	body    func(seq uint64) []byte
	headers bool          // the messages carry the headers that holdfast writes
	fails   uint32        // each tenth message fails so often
	backoff time.Duration // before a failed message is handled again
	pause   time.Duration // how long the handler waits
	heap    bool          // watch the heap
	parked  bool          // contenders park messages, see contender.parked
	broker  brokerKind
	queue   rabbitmq.QueueType // on RabbitMQ
	stored  bool               // the messages are there before the trial begins
	metric  metric             // what the first column and its ratio show
	trial   func(context.Context, *bench, *group, *contender) (sample, error)
	// contenders: the first is what the others are compared with, unless the
	// metric is absolute.
	contenders []contender
}

// contender does a workload in one way.
type contender struct {
	name   string
	n      int    // messages, where not those of the group
	parked int    // messages before the others that fail and wait until the trial is over
	away   bool   // the parked ones leave their consumer while they wait
	fails  uint32 // each tenth message fails so often, where not as in the group
	run    func(context.Context, *job) error
	goals  []goal
}

// brokerKind is where a workload runs.
type brokerKind uint8

const (
	onNATS brokerKind = iota
	onRabbit
)

func (g *group) messages(c *contender) int {
	if c.n > 0 {
		return c.n
	}
	return g.n
}

const (
	kib     = 1024
	minute  = time.Minute
	backlog = 1_000_000
	parkers = 10_000
)

// plan lists all workloads, with scale times their messages.
func plan(scale float64) []*group {
	var all []*group
	all = append(all, engineGroups()...)
	all = append(all, consumeGroups()...)
	all = append(all, batchGroups()...)
	all = append(all, failureGroups()...)
	all = append(all, memoryGroups()...)
	all = append(all, publishGroups()...)
	all = append(all, storeGroups()...)
	all = append(all, windowGroups()...)
	all = append(all, rabbitGroups()...)
	all = append(all, spoolGroups()...)
	for _, g := range all {
		g.n = scaled(g.n, scale)
		for i := range g.contenders {
			c := &g.contenders[i]
			c.n = scaled(c.n, scale)
			if scale < 1 {
				c.parked = min(c.parked, scaled(c.parked, scale))
			}
		}
	}
	return all
}

// scaled keeps 0, which says that nothing was set, and does not go below what
// passes through every stage.
func scaled(n int, scale float64) int {
	if n == 0 || scale == 1 {
		return n
	}
	return max(int(float64(n)*scale), 200)
}

func engineGroups() []*group {
	var all []*group
	for _, workers := range []int{1, 16} {
		g := &group{
			name: fmt.Sprintf("engine over a no-op transport, concurrency %d", workers),
			n:    2_000_000, metric: metricNanos, trial: engineTrial,
		}
		g.contenders = []contender{
			{name: "holdfast", run: engineOnly(workers, 0), goals: []goal{{metricNanos, atMost, 400}, {metricAllocs, atMost, 2}}},
			{name: "holdfast, handler timeout", run: engineOnly(workers, minute), goals: []goal{{metricNanos, atMost, 900}}},
		}
		all = append(all, g)
	}
	return all
}

// parity are the goals of consuming with a raw-bytes handler.
func parity() []goal {
	return []goal{{metricRatio, atLeast, 1}, {metricCPURatio, atMost, 1.15}, {metricMoreAllocs, atMost, 2}}
}

func consumeGroups() []*group {
	return []*group{
		{
			name: "consume and ack, 1 KiB, window 256", n: 400_000, body: plain(kib), metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "raw nats.go", run: rawBytes(rawMode{})},
				{name: "raw nats.go, DoubleAck", n: 15_000, run: rawBytes(rawMode{confirmed: true})},
				{name: "holdfast", run: holdBytes(holdfast.Concurrency(1), holdfast.Prefetch(255)), goals: parity()},
				{name: "holdfast's transport without the engine", run: holdTransport(255)},
			},
		},
		{
			name: "the same, messages with Nats-Msg-Id and Content-Type", n: 150_000, body: plain(kib), headers: true, metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "raw nats.go", run: rawBytes(rawMode{})},
				{name: "holdfast", run: holdBytes(holdfast.Concurrency(1), holdfast.Prefetch(255))},
			},
		},
		{
			name: "consume and ack, 1 KiB, 16 workers", n: 400_000, body: plain(kib), metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "raw nats.go, 16 goroutines behind a channel", run: rawBytes(rawMode{workers: 16})},
				{name: "holdfast", run: holdBytes(holdfast.Concurrency(16), holdfast.Prefetch(240)), goals: parity()},
			},
		},
		{
			name: "typed JSON handler, 1 KiB order", n: 80_000, body: orderBody, metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "raw nats.go + encoding/json", run: rawJSON()},
				{name: "holdfast", run: holdJSON(holdfast.Concurrency(1), holdfast.Prefetch(255)), goals: []goal{{metricRatio, atLeast, 0.95}}},
			},
		},
		{
			name: "handler waits 1 ms, 64 wide", n: 60_000, body: plain(kib), pause: time.Millisecond, metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "raw nats.go, a goroutine each and a semaphore", run: rawBytes(rawMode{wide: 64})},
				{name: "holdfast", run: holdBytes(holdfast.Concurrency(64), holdfast.Prefetch(192)), goals: []goal{{metricRatio, atLeast, 1}}},
			},
		},
		{
			name: "latency publish to handler, 2,000/s", n: 10_000, body: plain(kib), metric: metricP50, trial: latencyTrial,
			contenders: []contender{
				{name: "raw nats.go", run: rawBytes(rawMode{})},
				{name: "holdfast", run: holdBytes(holdfast.Concurrency(1), holdfast.Prefetch(255)), goals: []goal{{metricRatio, atMost, 1.1}}},
			},
		},
	}
}

func failureGroups() []*group {
	retry := holdfast.Retry{Attempts: 5, Backoff: holdfast.Constant(10 * time.Millisecond)}
	return []*group{{
		name: "one in ten fails twice, 10 ms backoff", n: 60_000, body: plain(kib), fails: 2, backoff: 10 * time.Millisecond,
		metric: metricRatio, stored: true, trial: consumeTrial,
		contenders: []contender{
			{name: "raw nats.go, NakWithDelay", run: rawBytes(rawMode{})},
			{name: "holdfast", run: holdBytes(holdfast.Concurrency(1), holdfast.Prefetch(255), retry), goals: []goal{{metricRatio, atLeast, 1}}},
		},
	}}
}

func memoryGroups() []*group {
	park := holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Hour)}
	one := []holdfast.Option{holdfast.Concurrency(1), holdfast.Prefetch(255), park}
	return []*group{
		{
			name: "flat memory: a backlog of 1,000,000", n: backlog, body: plain(128), heap: true, metric: metricHeap, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "raw nats.go", run: rawBytes(rawMode{})},
				{name: "holdfast", run: holdBytes(holdfast.Concurrency(1), holdfast.Prefetch(255)), goals: []goal{{metricHeap, atMost, 64}}},
			},
		},
		{
			name: "fresh messages beside 10,000 parked retries, raw", n: 100_000, body: plain(kib), backoff: time.Hour, parked: true,
			metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "raw nats.go, nothing parked", run: rawBytes(rawMode{})},
				{name: "raw nats.go, 10,000 parked", parked: parkers, run: rawBytes(rawMode{})},
			},
		},
		{
			name: "fresh messages beside 10,000 parked retries", n: 100_000, body: plain(kib), backoff: time.Hour, parked: true,
			metric: metricRatio, stored: true, trial: consumeTrial,
			contenders: []contender{
				{name: "holdfast, nothing parked", run: holdBytes(one...)},
				{name: "holdfast, 10,000 parked", parked: parkers, away: true, run: holdBytes(one...), goals: []goal{{metricRatio, atLeast, 0.9}}},
			},
		},
	}
}

func publishGroups() []*group {
	var all []*group
	for _, w := range []struct {
		name string
		n    int
		wide int
	}{{"publish confirmed one by one", 15_000, 1}, {"publish confirmed, 256 goroutines", 150_000, 256}} {
		all = append(all, &group{
			name: w.name, n: w.n, body: plain(kib), metric: metricRatio, trial: publishTrial,
			contenders: []contender{
				{name: "raw nats.go", run: rawPublish(w.wide, false)},
				{name: "raw nats.go, with a Nats-Msg-Id", run: rawPublish(w.wide, true)},
				{name: "holdfast", run: holdPublish(w.wide)},
			},
		})
	}
	return all
}

// plain returns bodies of this size that begin with their number.
func plain(size int) func(uint64) []byte {
	return func(seq uint64) []byte {
		b := make([]byte, size)
		binary.BigEndian.PutUint64(b, seq)
		return b
	}
}

func numberOf(body []byte) uint64 {
	if len(body) < 8 {
		return ^uint64(0)
	}
	return binary.BigEndian.Uint64(body)
}

// order is the body of the typed workload: about 1 KiB as JSON.
type order struct {
	Number   uint64    `json:"number"`
	Customer string    `json:"customer"`
	Placed   time.Time `json:"placed"`
	Currency string    `json:"currency"`
	Lines    []line    `json:"lines"`
	Note     string    `json:"note"`
}

type line struct {
	SKU      string  `json:"sku"`
	Title    string  `json:"title"`
	Quantity int     `json:"quantity"`
	Price    float64 `json:"price"`
}

func orderBody(seq uint64) []byte {
	o := order{
		Number: seq, Customer: "customer-4711", Placed: time.Date(2025, 5, 4, 12, 30, 0, 0, time.UTC), Currency: "EUR",
		Note: "Please leave the parcel with the neighbours on the ground floor if nobody is at home, and ring twice.",
	}
	for i := range 9 {
		o.Lines = append(o.Lines, line{SKU: fmt.Sprintf("SKU-%06d", i*7919), Title: "Teapot, stoneware, 1.2 l", Quantity: i + 1, Price: 19.95})
	}
	data, err := json.Marshal(o)
	if err != nil {
		return nil // a struct of plain fields is always encodable
	}
	return data
}
