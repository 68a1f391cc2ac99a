//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"time"
)

const (
	// flowAim is how soon messages are to flow again after a fault is over, and
	// flowBound when they must: it is for machines with other work.
	flowAim   = 2 * time.Second
	flowBound = 10 * time.Second
	// patience is when something that should happen soon is taken for never.
	patience = time.Minute
	// window is what a publisher of default settings has unconfirmed.
	window = 256
)

// errStalled ends a trial whose messages do not flow: what is broken is noted.
var errStalled = errors.New("stalled")

// trial is one row on one broker.
type trial struct {
	ctx  context.Context
	b    broker
	size sizes
	rnd  *rand.Rand
	name string // of its queue or stream

	led        *ledger
	terms      terms
	recoveries []time.Duration
	plain      []time.Duration // until the broker took a message of a plain client
	notes      []string
	broken     []string
	pubs       []*publisher
	proxies    []*proxy
	before     []func() // the publishers are killed in the end
	cleanups   []func() // after that
	tally      tally
	noStore    bool // there is no queue to read in the end
	notRun     bool // this machine does not let it
}

func (t *trial) broke(format string, args ...any) {
	t.broken = append(t.broken, fmt.Sprintf(format, args...))
}

func (t *trial) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

// absent says that the row could not be run here, and why.
func (t *trial) absent(format string, args ...any) {
	t.note(format, args...)
	t.notRun, t.noStore = true, true
}

// dir makes a directory that ends with the trial.
func (t *trial) dir() (string, error) {
	d, err := os.MkdirTemp("", "fault")
	if err == nil {
		t.cleanups = append(t.cleanups, func() { _ = os.RemoveAll(d) })
	}
	return d, err
}

// publish starts a publisher and waits until it is connected.
func (t *trial) publish(o order) (*publisher, error) {
	o.Protocol, o.Batches = t.b.protocol(), t.b.batches()
	if o.To == "" {
		o.To = t.name
	}
	if o.URL == "" {
		o.URL = t.b.url(t.b.addr())
	}
	if o.Lane == "" {
		o.Lane = "m"
	}
	if o.Size == 0 {
		o.Size = 256
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	before := t.led.connected()
	p, err := startPublisher(o, t.led)
	if err != nil {
		return nil, err
	}
	t.pubs = append(t.pubs, p)
	err = t.until("the publisher is connected", func() bool {
		select {
		case <-p.done:
			return true
		default:
			return t.led.connected() > before
		}
	})
	if err == nil && t.led.connected() == before {
		err = fmt.Errorf("%w ended: %v: %s", errChild, p.err, p.stderr)
	}
	return p, err
}

// proxied starts a proxy in front of the broker.
func (t *trial) proxied() (*proxy, string, error) {
	p, err := newProxy(t.b.addr(), rand.New(rand.NewPCG(t.rnd.Uint64(), 0)))
	if err != nil {
		return nil, "", err
	}
	t.proxies = append(t.proxies, p)
	return p, t.b.url(p.addr()), nil
}

// until polls for something that belongs to the harness.
func (t *trial) until(what string, ok func() bool) error {
	end := time.Now().Add(patience)
	for !ok() {
		if err := t.pause(time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v until %s", patience, what)
		}
	}
	return nil
}

// expect polls for something that is promised.
func (t *trial) expect(what string, ok func() bool) error {
	end := time.Now().Add(patience)
	for !ok() {
		if err := t.pause(time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(end) {
			t.broke("not in %v: %s", patience, what)
			return errStalled
		}
	}
	return nil
}

// accepted waits until n messages are accepted, for as long as they flow.
func (t *trial) accepted(n int) error {
	for {
		before, _, _ := t.led.counts()
		if before >= n {
			return nil
		}
		err := t.expect(fmt.Sprintf("more than %d of %d messages are accepted", before, n), func() bool {
			a, _, _ := t.led.counts()
			return a > before
		})
		if err != nil {
			return err
		}
	}
}

// more waits until n more messages are accepted.
func (t *trial) more(n int) error {
	a, _, _ := t.led.counts()
	return t.accepted(a + n)
}

// pause waits for d, or for the end of the trial.
func (t *trial) pause(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
}

// within returns a random time below d.
func (t *trial) within(d time.Duration) time.Duration { return time.Duration(t.rnd.Int64N(int64(d))) }

// fault does something bad, which is over when do returns, and waits until
// messages flow again.
func (t *trial) fault(do func() error) error {
	from := time.Now()
	if err := do(); err != nil {
		return err
	}
	return t.flows(from)
}

// restart kills the broker, does something, and starts it again. Beside the publisher a plain
// client tries what it can do with the broker when that is back.
func (t *trial) restart(meanwhile func() error) error {
	took := make(chan time.Duration, 1)
	began := false
	err := t.fault(func() error {
		t.b.kill()
		if c, err := net.DialTimeout("tcp", t.b.addr(), time.Second); err == nil {
			_ = c.Close()
			return errors.New("the broker answers after it was killed")
		}
		if err := meanwhile(); err != nil {
			return err
		}
		if err := t.b.start(); err != nil {
			return err
		}
		began = true
		go func() { // awaited below; bounded by the row
			at := time.Now()
			for t.b.put(t.ctx, t.name, fmt.Appendf(nil, "plain-%d ", len(t.plain))) != nil && t.ctx.Err() == nil {
				<-time.After(10 * time.Millisecond)
			}
			took <- time.Since(at)
		}()
		return nil
	})
	if began {
		t.plain = append(t.plain, <-took)
	}
	return err
}

// flows waits until messages flow again after what was broken is mended.
func (t *trial) flows(from time.Time) error {
	back := time.Now()
	a, s, _ := t.led.counts()
	err := t.expect("messages flow again after a fault", func() bool {
		accepted, stored, _ := t.led.counts()
		if t.terms.spooled {
			return stored > s
		}
		return accepted > a
	})
	took := time.Since(back)
	t.terms.faults = append(t.terms.faults, span{from, time.Now()})
	if err != nil {
		return err
	}
	t.recovered(took)
	return nil
}

// recovered notes how long it took until messages flowed.
func (t *trial) recovered(took time.Duration) {
	t.recoveries = append(t.recoveries, took)
	if took > flowBound {
		t.broke("messages flowed again after %v, and %v is the bound", took.Round(time.Millisecond), flowBound)
	}
}

// run runs a row to its end, whatever happens in it. An error is one of the
// harness.
func (t *trial) run(r row) error {
	defer t.cleanup()
	err := r.run(t)
	switch {
	case errors.Is(err, errStalled):
		t.killAll()
		err = nil
	case err != nil:
		return err
	default:
		t.endAll()
	}
	var stored []string
	if !t.noStore {
		if stored, err = t.b.stored(t.ctx, t.name); err != nil {
			return fmt.Errorf("read what is stored: %w", err)
		}
	}
	if t.b.protocol() == "nats" {
		t.terms.window = 0 // every ID is stored once
	}
	t.tally = check(t.led, stored, t.terms)
	t.broken = append(t.broken, t.tally.broken...)
	if !t.notRun && err == nil {
		t.proves(r)
	}
	return nil
}

// proves makes sure that a row had something to lose, and that something was done
// to it.
func (t *trial) proves(r row) {
	if t.tally.Accepted == 0 {
		t.broke("nothing was accepted: the row proves nothing")
	}
	if len(t.terms.faults) == 0 && !r.calm {
		t.broke("nothing was broken: the row proves nothing")
	}
}

// endAll lets every publisher end in peace, and judges how it did.
func (t *trial) endAll() {
	for _, p := range t.pubs {
		select {
		case <-p.done:
			continue
		default:
		}
		_ = p.say("stop") // it may be about to end
	}
	for _, p := range t.pubs {
		if p.killed {
			continue
		}
		if err := p.end(4 * time.Minute); err != nil {
			t.broke("%v", err)
			p.kill()
		}
	}
	for _, e := range t.led.reports() {
		t.judge(e)
		if e.P99 > 0 {
			t.note("publish to the spool: p99 %.1f ms, slowest %.0f ms", float64(e.P99)/1e3, float64(e.Slowest)/1e3)
		}
	}
}

func (t *trial) judge(e endReport) {
	if e.Silent != 0 {
		t.broke("%d publishes have no outcome", e.Silent)
	}
	if e.Goroutines > 0 {
		t.broke("%d goroutines are left behind by a closed publisher:\n%s", e.Goroutines, e.Stacks)
	}
	if e.FlushErr != "" {
		t.broke("a publisher did not end well: %s", e.FlushErr)
	}
}

func (t *trial) killAll() {
	for _, p := range t.pubs {
		p.kill()
	}
}

func (t *trial) cleanup() {
	// A process that waits for a frozen disk cannot be killed: the disk first.
	for _, c := range slices.Backward(t.before) {
		c()
	}
	t.killAll()
	for _, p := range t.proxies {
		p.close()
	}
	for _, c := range slices.Backward(t.cleanups) {
		c()
	}
}
