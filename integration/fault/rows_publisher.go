//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"
)

// generation leaves room for what a killed publisher had published and not noted:
// numbers of the next one are greater.
const generation = 1_000_000

// killPublisher: the publisher is killed while its window is full, and another one
// takes its place.
func killPublisher(t *trial) error {
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	for k := range t.size.childKills + 1 {
		p, err := t.publish(order{Lane: fmt.Sprintf("p%d.", k)})
		if err != nil {
			return err
		}
		if err := t.dieSoon(p, k < t.size.childKills); err != nil {
			return err
		}
	}
	return nil
}

// dieSoon waits until p has done something, and kills it then.
func (t *trial) dieSoon(p *publisher, die bool) error {
	if err := t.more(50 + t.rnd.IntN(300)); err != nil || !die {
		return err
	}
	from := time.Now()
	if err := t.pause(t.within(20 * time.Millisecond)); err != nil {
		return err
	}
	p.kill()
	t.terms.faults = append(t.terms.faults, span{from, time.Now()})
	return nil
}

// killSpool: the publisher with a spool is killed, and the next one on the same
// spool sends what is left, before anything new.
func killSpool(t *trial) error {
	// Besides what is under way: what was confirmed right before the kill, and
	// whose mark was not written yet.
	t.terms.window, t.terms.spooled = 2*window, true
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	dir, err := t.dir()
	if err != nil {
		return err
	}
	for k := range t.size.childKills + 1 {
		p, err := t.publish(order{Lane: "s", First: k * generation, Spool: dir, Callers: 4})
		if err != nil {
			return err
		}
		if err := t.dieSoon(p, k < t.size.childKills); err != nil {
			return err
		}
	}
	return nil
}

// killBrokerSpool: with a spool nothing is refused and nobody waits while the
// broker is away.
func killBrokerSpool(t *trial) error {
	t.terms.window, t.terms.spooled = window, true
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	dir, err := t.dir()
	if err != nil {
		return err
	}
	if _, err := t.publish(order{Spool: dir, Callers: 4, Rate: 250}); err != nil {
		return err
	}
	var meanwhile []string
	for range t.size.spoolKills {
		if err := t.more(500); err != nil {
			return err
		}
		before, _, _ := t.led.counts()
		if err := t.restart(func() error { return t.more(100) }); err != nil { // with nobody there
			return err
		}
		during, _, _ := t.led.counts()
		meanwhile = append(meanwhile, fmt.Sprint(during-before))
	}
	t.note("%s accepted while it was away", strings.Join(meanwhile, "+"))
	return t.more(100)
}

// full: a stream or a queue that takes no more is an outcome without a spool, and
// something to wait for with one.
func full(t *trial) error {
	const limit = 500
	t.terms.mayRefuse = func(i id) bool { return i.lane == "direct" }
	if err := t.b.create(t.ctx, t.name, limit); err != nil {
		return err
	}
	dir, err := t.dir()
	if err != nil {
		return err
	}
	if _, err := t.publish(order{Rate: 300, Lane: "direct"}); err != nil {
		return err
	}
	if _, err := t.publish(order{Rate: 100, Lane: "spool", Spool: dir}); err != nil {
		return err
	}
	from := time.Now()
	if err := t.expect("a full queue refuses", func() bool { _, _, r := t.led.counts(); return r >= 200 }); err != nil {
		return err
	}
	if err := t.b.unlimit(t.ctx, t.name); err != nil {
		return err
	}
	back := time.Now()
	direct := func(i id) bool { return i.lane == "direct" }
	before := t.led.count(direct)
	if err := t.expect("messages flow again when there is room", func() bool { return t.led.count(direct) > before+100 }); err != nil {
		return err
	}
	t.recovered(time.Since(back))
	t.terms.faults = append(t.terms.faults, span{from, time.Now()})
	t.outcomes("refused", time.Time{})
	return nil
}

// outcomes judges what those who published after a time and were refused were told.
func (t *trial) outcomes(want string, after time.Time) {
	t.led.mu.Lock()
	defer t.led.mu.Unlock()
	for name, r := range t.led.refused {
		if r.outcome != want && r.from.After(after) {
			t.broke("%v is %s and should be %s: %s", name, r.outcome, want, r.err)
			return
		}
	}
}

// unroutable: nobody takes the messages. A publish says so, and a spool sets them
// aside.
func unroutable(t *trial) error {
	const direct, spooled = 100, 20
	t.noStore = true
	t.terms.mayRefuse = func(i id) bool { return i.lane == "direct" }
	dir, err := t.dir()
	if err != nil {
		return err
	}
	if _, err := t.publish(order{Count: direct, Lane: "direct"}); err != nil {
		return err
	}
	s, err := t.publish(order{Count: spooled, Lane: "spool", Spool: dir})
	if err != nil {
		return err
	}
	told := func() bool {
		_, _, refused := t.led.counts()
		return refused+t.led.count(func(i id) bool { return i.lane == "direct" }) >= direct
	}
	if err := t.expect("every publish that nobody takes has an outcome", told); err != nil {
		return err
	}
	t.outcomes("unroutable", time.Time{})
	if err := s.end(patience); err != nil {
		t.broke("%v", err)
		return errStalled
	}
	for _, e := range t.led.reports() {
		t.terms.aside += e.SetAside
	}
	t.note("%d set aside by the spool", t.terms.aside)
	if t.terms.aside != spooled {
		t.broke("%d records were set aside and not %d", t.terms.aside, spooled)
	}
	return nil
}

// deleted: the queue or the stream is deleted under a publisher, and comes back.
func deleted(t *trial) error {
	t.terms.mayRefuse = func(id) bool { return true }
	// While a stream is made anew, some are refused for a moment and others not.
	t.terms.overtaken = window
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	if _, err := t.publish(order{Rate: 200}); err != nil {
		return err
	}
	if err := t.accepted(300); err != nil {
		return err
	}
	from := time.Now()
	if err := t.b.remove(t.ctx, t.name); err != nil {
		return err
	}
	removed := time.Now()
	t.terms.gone = func(_ id, s span) bool { return s.from.Before(removed) }
	if err := t.expect("publishes to what was deleted are told so", func() bool { _, _, r := t.led.counts(); return r >= 100 }); err != nil {
		return err
	}
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	if err := t.flows(from); err != nil {
		return err
	}
	// RabbitMQ refuses what was under way to a quorum queue when that was deleted.
	t.outcomes("unroutable", removed)
	return t.more(300)
}
