//go:build linux

package main

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// confirmSoon is a confirm timeout for outages that are shorter than the default.
const confirmSoon = 2 * time.Second

// cutConnections: every connection lives for half a second to one and a half, and
// ends in the middle of a frame.
func cutConnections(t *trial) error {
	t.terms.window = window
	p, url, err := t.behindProxy(order{Rate: 2000})
	if err != nil {
		return err
	}
	if err := t.accepted(100); err != nil {
		return err
	}
	_, before := p.history()
	p.set(func(p *proxy) { p.chaos = true })
	p.cutAll() // those of before live long
	if err := t.pause(t.size.cutting); err != nil {
		return err
	}
	p.set(func(p *proxy) { p.chaos = false })
	if err := t.pause(2 * time.Second); err != nil { // the last ones end too
		return err
	}
	if err := t.more(500); err != nil {
		return err
	}
	cuts, joined := p.history()
	t.terms.faults = append(t.terms.faults, cuts...)
	t.note("%d connections for %d cuts", joined-before, len(cuts))
	if len(cuts) < 3 {
		return fmt.Errorf("only %d connections were cut", len(cuts))
	}
	// A machine that stalls breaks a few handshakes by itself.
	if joined-before > len(cuts)+2+len(cuts)/10 {
		t.broke("%d connections were made after %d cuts: there should be one for each at most (%s)", joined-before, len(cuts), url)
	}
	t.afterCuts(cuts)
	return nil
}

// behindProxy starts a publisher behind a proxy.
func (t *trial) behindProxy(o order) (*proxy, string, error) {
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return nil, "", err
	}
	p, url, err := t.proxied()
	if err != nil {
		return nil, "", err
	}
	o.URL = url
	_, err = t.publish(o)
	return p, url, err
}

// afterCuts notes how long it took after each cut until something was accepted
// that was published before or after it.
func (t *trial) afterCuts(cuts []span) {
	t.led.mu.Lock()
	times := make([]time.Time, 0, len(t.led.accepted))
	for _, s := range t.led.accepted {
		times = append(times, s.to)
	}
	t.led.mu.Unlock()
	slices.SortFunc(times, time.Time.Compare)
	for _, c := range cuts {
		i, _ := slices.BinarySearchFunc(times, c.to, time.Time.Compare)
		if i < len(times) {
			t.recovered(times[i].Sub(c.to))
		}
	}
}

// halfOpen: what the broker says is swallowed, so that confirmations are lost, or
// what the publisher says, in turns; and in the end the connections are gone.
func halfOpen(t *trial) error {
	t.terms.window = window
	p, _, err := t.behindProxy(order{Rate: 1000, Confirm: confirmSoon})
	if err != nil {
		return err
	}
	for i := range t.size.outages {
		if err := t.more(500); err != nil {
			return err
		}
		if err := t.pause(t.within(200 * time.Millisecond)); err != nil {
			return err
		}
		err := t.fault(func() error {
			before, _ := p.bent()
			p.set(func(p *proxy) { p.deaf, p.mute = i%2 == 0, i%2 == 1 })
			err := t.pause(confirmSoon + 1500*time.Millisecond)
			p.set(func(p *proxy) { p.deaf, p.mute = false, false })
			p.cutAll() // what is missing will not come
			if after, _ := p.bent(); err == nil && after == before {
				err = errors.New("nothing was swallowed")
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	t.terms.copies = 1 + t.size.outages
	t.note("each ID sent again once per outage at most")
	return t.more(500)
}

// slowed: everything comes late and in small pieces, and nothing breaks.
func slowed(t *trial) error {
	p, _, err := t.behindProxy(order{Rate: 1000})
	if err != nil {
		return err
	}
	if err := t.more(100); err != nil {
		return err
	}
	p.set(func(p *proxy) { p.slow = true })
	if err := t.more(100); err != nil {
		return err
	}
	if err := t.pause(t.size.slow); err != nil {
		return err
	}
	if err := t.more(100); err != nil {
		return err
	}
	p.set(func(p *proxy) { p.slow = false })
	if _, dripped := p.bent(); dripped == 0 {
		return errors.New("nothing came slowly")
	}
	return t.more(500)
}

// pauseBroker: the broker stands still for longer than a confirmation may take.
func pauseBroker(t *trial) error {
	t.terms.window = window
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	if _, err := t.publish(order{Rate: 2000}); err != nil {
		return err
	}
	if err := t.accepted(1000); err != nil {
		return err
	}
	err := t.fault(func() error {
		if err := t.b.pause(); err != nil {
			return err
		}
		err := t.still(t.size.frozen)
		if again := t.b.resume(); err == nil {
			err = again
		}
		return err
	})
	if err != nil {
		return err
	}
	return t.more(1000)
}

// still waits for d, in whose second half nothing may be accepted: somebody stands
// still.
func (t *trial) still(d time.Duration) error {
	if err := t.pause(d / 2); err != nil {
		return err
	}
	before, _, _ := t.led.counts()
	if err := t.pause(d / 2); err != nil {
		return err
	}
	if after, _, _ := t.led.counts(); after > before {
		return fmt.Errorf("%d messages were accepted while somebody stood still", after-before)
	}
	return nil
}

// pausePublisher: the publisher stands still.
func pausePublisher(t *trial) error {
	t.terms.window = window
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	p, err := t.publish(order{Rate: 2000})
	if err != nil {
		return err
	}
	if err := t.accepted(1000); err != nil {
		return err
	}
	err = t.fault(func() error {
		if err := p.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		err := t.still(t.size.frozen)
		if again := p.signal(syscall.SIGCONT); err == nil {
			err = again
		}
		return err
	})
	if err != nil {
		return err
	}
	return t.more(1000)
}

// alarm: the memory alarm of the broker blocks three publishers: one waits, one is
// closed with a deadline, and one has a spool.
func alarm(t *trial) error {
	t.terms.window = window
	const deadline = 2 * time.Second
	t.terms.mayRefuse = func(i id) bool { return i.lane == "closing" }
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	dir, err := t.dir()
	if err != nil {
		return err
	}
	if _, err := t.publish(order{Rate: 500, Lane: "waiting"}); err != nil {
		return err
	}
	if _, err := t.publish(order{Rate: 200, Lane: "spool", Spool: dir}); err != nil {
		return err
	}
	closing, err := t.publish(order{Rate: 500, Lane: "closing"})
	if err != nil {
		return err
	}
	if err := t.accepted(500); err != nil {
		return err
	}
	waiting := func(i id) bool { return i.lane == "waiting" }
	from := time.Now()
	if err := t.alarmed(closing, deadline); err != nil {
		return err
	}
	t.closedWithin(deadline)
	back, before := time.Now(), t.led.count(waiting)
	if err := t.expect("messages flow again after the alarm", func() bool { return t.led.count(waiting) > before }); err != nil {
		return err
	}
	t.terms.faults = append(t.terms.faults, span{from, time.Now()})
	t.recovered(time.Since(back))
	return t.more(500)
}

// alarmed raises the alarm, closes a publisher under it, and ends it.
func (t *trial) alarmed(closing *publisher, deadline time.Duration) error {
	if err := t.b.alarm(true); err != nil {
		return err
	}
	over := time.Now().Add(t.size.alarm)
	err := t.pause(time.Second)
	if err == nil {
		err = closing.say("close " + deadline.String())
	}
	if err == nil {
		err = closing.end(deadline + patience)
	}
	if err == nil {
		err = t.pause(time.Until(over))
	}
	if again := t.b.alarm(false); err == nil {
		err = again
	}
	return err
}

// closedWithin judges the publisher that was closed under the alarm: its report is
// the only one yet.
func (t *trial) closedWithin(deadline time.Duration) {
	e := t.led.reports()[0]
	t.led.mu.Lock()
	handed := len(t.led.handed)
	t.led.mu.Unlock()
	t.note("Close(%v) took %.2f s and gave back %d, the transport %.2f s", deadline, float64(e.CloseTook)/1e3, handed, float64(e.EndTook)/1e3)
	// Far less than the alarm lasts.
	late := (deadline + 8*time.Second).Milliseconds()
	if e.CloseTook > late || e.EndTook > late {
		t.broke("closing under an alarm took %d ms and %d ms with a deadline of %v", e.CloseTook, e.EndTook, deadline)
	}
	if handed == 0 {
		t.broke("nothing was given back by a close under an alarm: %s", fmt.Sprint(e))
	}
}

// count counts accepted messages.
func (l *ledger) count(which func(id) bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for i := range l.accepted {
		if which(i) {
			n++
		}
	}
	return n
}
