//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// The environment variables that make this program a child of itself.
const (
	publisherVar = "HOLDFAST_FAULT_PUBLISHER"
	serverVar    = "HOLDFAST_FAULT_SERVER"
)

// order is what a publisher process is told to do.
type order struct {
	Protocol string // "nats" or "amqp"
	URL      string
	To       string // the subject or the queue
	Lane     string
	First    int
	Count    int // 0 for until it is told to stop
	Rate     int // a second; 0 for as fast as it goes
	Spool    string
	Callers  int // goroutines that publish one by one, each with a lane of its own; 0 for one that does not wait, if there is no spool
	Confirm  time.Duration
	Timeout  time.Duration
	Batches  bool
	Size     int // of a body
}

// child is the publisher process.
type child struct {
	order
	pub       *holdfast.Publisher[[]byte]
	broker    transport.Transport
	submitted atomic.Int64
	told      atomic.Int64 // outcomes
	stop      context.Context
	writing   sync.Mutex

	mu    sync.Mutex // guards what follows
	times []time.Duration
}

// runPublisher is the main function of a publisher process. It publishes until it
// has published what it was told, or reads "stop", or "close" with a deadline. When
// its standard input ends, it ends like a process that was killed.
func runPublisher(setting string) error {
	c := &child{}
	if err := json.Unmarshal([]byte(setting), &c.order); err != nil {
		return err
	}
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.stop = stop
	within := make(chan time.Duration, 1)
	go listen(cancel, within)
	before := runtime.NumGoroutine()
	if err := c.connect(); err != nil {
		return err
	}
	c.write(markReady)
	end := endReport{}
	limit := c.publish(within)
	c.finish(&end, limit)
	end.Goroutines, end.Stacks = leftBehind(before)
	text, err := json.Marshal(end)
	if err != nil {
		return err
	}
	c.write(markEnd, string(text))
	return nil
}

// listen obeys what comes on standard input.
func listen(stop context.CancelFunc, within chan<- time.Duration) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		verb, rest, _ := strings.Cut(in.Text(), " ")
		d := time.Minute
		if verb == "close" {
			var err error
			if d, err = time.ParseDuration(rest); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(2)
			}
		}
		select {
		case within <- d:
		default:
		}
		stop()
	}
	os.Exit(3) // nobody is left to tell
}

func (c *child) connect() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var to transport.Address
	var err error
	switch c.Protocol {
	case "nats":
		to = jetstream.Subject(c.To)
		opts := []jetstream.Option{jetstream.WaitForBroker()}
		if c.Batches {
			opts = append(opts, jetstream.AtomicBatches())
		}
		c.broker, err = jetstream.Connect(ctx, c.URL, opts...)
	default:
		to = rabbitmq.QueueAddress(c.To)
		c.broker, err = rabbitmq.Connect(ctx, c.URL, rabbitmq.WaitForBroker())
	}
	if err != nil {
		return err
	}
	opts := []holdfast.PublisherOption{holdfast.ConfirmTimeout(c.Confirm), holdfast.PublishTimeout(c.Timeout)}
	if c.Spool != "" {
		opts = append(opts, holdfast.Spool(c.Spool))
	}
	c.pub = holdfast.NewPublisher[[]byte](c.broker, to, opts...)
	return c.pub.Err()
}

// publish does the work. It returns how long closing may take.
func (c *child) publish(within <-chan time.Duration) time.Duration {
	if c.Spool == "" && c.Callers == 0 {
		futures := make(chan *sent, 4096)
		var collecting sync.WaitGroup
		collecting.Go(func() { c.collect(futures) })
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.submit(futures)
			close(futures)
			collecting.Wait()
		}()
		return c.await(done, within)
	}
	done := make(chan struct{})
	var callers sync.WaitGroup
	for n := range max(c.Callers, 1) {
		callers.Go(func() { c.call(n) })
	}
	go func() { callers.Wait(); close(done) }()
	over := make(chan struct{})
	var telling sync.WaitGroup
	if c.Spool != "" {
		telling.Go(func() { c.tellStored(over) })
	}
	d := c.await(done, within)
	close(over)
	telling.Wait()
	return d
}

// await waits for the end of the work, or for the order to close before it.
func (c *child) await(done <-chan struct{}, within <-chan time.Duration) time.Duration {
	select {
	case <-done:
		return time.Minute
	case d := <-within:
		if d == time.Minute {
			<-done // "stop": what is under way gets its outcome first
		}
		return d
	}
}

// sent is one publish under way.
type sent struct {
	name id
	at   time.Time
	f    *holdfast.Future
}

// submit publishes one after the other without waiting for the broker.
func (c *child) submit(futures chan<- *sent) {
	pace := newPace(c.Rate)
	for i := 0; (c.Count == 0 || i < c.Count) && c.stop.Err() == nil; i++ {
		pace.wait()
		name := id{c.Lane, c.First + i}
		at := time.Now()
		c.submitted.Add(1)
		f, err := c.pub.PublishAsync(context.Background(), c.body(name), holdfast.ID(name.String()))
		if err != nil {
			c.tell(name, at, err)
			continue
		}
		futures <- &sent{name, at, f}
	}
}

func (c *child) collect(futures <-chan *sent) {
	for s := range futures {
		<-s.f.Done()
		c.tell(s.name, s.at, s.f.Err())
	}
}

// call publishes one after the other, each when the one before has its outcome.
func (c *child) call(n int) {
	lane := c.Lane
	if n > 0 {
		lane += strconv.Itoa(n)
	}
	pace := newPace(c.Rate)
	for i := 0; (c.Count == 0 || i < c.Count) && c.stop.Err() == nil; i++ {
		pace.wait()
		name := id{lane, c.First + i}
		at := time.Now()
		c.submitted.Add(1)
		err := c.pub.Publish(context.Background(), c.body(name), holdfast.ID(name.String()))
		took := time.Since(at)
		c.tell(name, at, err)
		c.mu.Lock()
		c.times = append(c.times, took)
		c.mu.Unlock()
		if err != nil {
			<-time.After(5 * time.Millisecond) // a disk that refuses does so quickly
		}
	}
}

// body is the name of the message and padding.
func (c *child) body(name id) []byte {
	b := make([]byte, 0, max(c.Size, 32))
	b = append(append(b, name.String()...), ' ')
	for len(b) < c.Size {
		b = append(b, '.')
	}
	return b
}

// tell writes an outcome to the ledger.
func (c *child) tell(name id, at time.Time, err error) {
	now := time.Now().UnixNano()
	if err == nil {
		c.write(markAccepted, fmt.Sprintf("%v %d %d", name, at.UnixNano(), now))
	} else {
		text := strings.ReplaceAll(err.Error(), "\n", "; ")
		c.write(markRefused, fmt.Sprintf("%v %d %d %s %s", name, at.UnixNano(), now, holdfast.OutcomeOf(err), text[:min(len(text), 400)]))
	}
	c.told.Add(1)
}

// write is one write(2).
func (c *child) write(mark string, rest ...string) {
	line := strings.Join(append([]string{mark}, rest...), " ") + "\n"
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, err := io.WriteString(os.Stdout, line); err != nil {
		os.Exit(3)
	}
}

// tellStored tells how much of a spool has reached the broker.
func (c *child) tellStored(over <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for last := uint64(0); ; {
		select {
		case <-tick.C:
		case <-over:
			return
		}
		if n := c.pub.Stats().Confirmed; n != last {
			last = n
			c.write(markStored, strconv.FormatUint(n, 10))
		}
	}
}

// finish closes everything, with a bound for each step.
func (c *child) finish(end *endReport, limit time.Duration) {
	if c.Spool != "" && limit >= time.Minute {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		if err := c.pub.Flush(ctx); err != nil {
			end.FlushErr = err.Error()
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	began := time.Now()
	left, err := c.pub.Close(ctx)
	end.CloseTook = time.Since(began).Milliseconds()
	cancel()
	if err != nil && len(left) == 0 {
		end.FlushErr += "close: " + err.Error()
	}
	for _, u := range left {
		c.write(markHanded, u.ID)
	}
	st := c.pub.Stats()
	end.Resent, end.Connections, end.SetAside = st.Resent, st.Connections, st.Spool.SetAside
	if st.Spool.Err != nil {
		end.SpoolErr = st.Spool.Err.Error()
	}
	ctx, cancel = context.WithTimeout(context.Background(), limit)
	defer cancel()
	began = time.Now()
	_ = c.broker.Close(ctx) // what it could not wait for shows as goroutines
	end.EndTook = time.Since(began).Milliseconds()
	c.settled(30 * time.Second)
	end.Submitted = int(c.submitted.Load())
	end.Silent = end.Submitted - int(c.told.Load())
	if c.Spool != "" {
		end.P99, end.Slowest = c.slowest()
	}
}

// settled waits until the collector has told every outcome there is.
func (c *child) settled(limit time.Duration) {
	for end := time.Now().Add(limit); time.Now().Before(end) && c.told.Load() < c.submitted.Load(); {
		<-time.After(5 * time.Millisecond)
	}
}

func (c *child) slowest() (p99, most int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.times) == 0 {
		return 0, 0
	}
	slices.Sort(c.times)
	return c.times[len(c.times)*99/100].Microseconds(), c.times[len(c.times)-1].Microseconds()
}

// leftBehind waits for goroutines to end, and returns how many did not.
func leftBehind(before int) (int, string) {
	for end := time.Now().Add(30 * time.Second); ; <-time.After(10 * time.Millisecond) {
		n := runtime.NumGoroutine() - before
		if n <= 0 {
			return 0, ""
		}
		if time.Now().After(end) {
			b := make([]byte, 64<<10)
			return n, string(b[:runtime.Stack(b, true)])
		}
	}
}

// pace spreads work evenly.
type pace struct {
	every time.Duration
	next  time.Time
}

func newPace(rate int) *pace {
	if rate == 0 {
		return &pace{}
	}
	return &pace{every: time.Second / time.Duration(rate), next: time.Now()}
}

// wait waits for the next turn. Turns that were missed are not made up for.
func (p *pace) wait() {
	if p.every == 0 {
		return
	}
	now := time.Now()
	if d := p.next.Sub(now); d > time.Millisecond {
		<-time.After(d)
	}
	if p.next = p.next.Add(p.every); p.next.Before(now.Add(-100 * time.Millisecond)) {
		p.next = now
	}
}

// errChild says that a child did not do as told.
var errChild = errors.New("the publisher process")
