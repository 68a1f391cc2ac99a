//go:build linux

package main

import "time"

// row is a fault and what is promised about it.
type row struct {
	number   string // in the goals of the fault tests
	name     string
	protocol string // the only one it is for; empty for both
	run      func(*trial) error
	calm     bool // there is no moment at which something breaks
}

// sizes are how much of everything a run does.
type sizes struct {
	messages    int
	brokerKills int
	spoolKills  int // of the broker, while a spool takes messages
	childKills  int
	powerCuts   int
	cutting     time.Duration
	outages     int
	away        time.Duration
	slow        time.Duration
	frozen      time.Duration
	alarm       time.Duration
}

func short() sizes {
	return sizes{
		messages: 100_000, brokerKills: 5, spoolKills: 2, childKills: 10, powerCuts: 3, cutting: 10 * time.Second,
		outages: 2, away: 8 * time.Second, slow: 3 * time.Second, frozen: 6 * time.Second, alarm: 20 * time.Second,
	}
}

func long() sizes {
	return sizes{
		messages: 300_000, brokerKills: 20, spoolKills: 10, childKills: 50, powerCuts: 20, cutting: time.Minute,
		outages: 10, away: 45 * time.Second, slow: 20 * time.Second, frozen: 10 * time.Second, alarm: time.Minute,
	}
}

// rows returns all of them, in the order of their numbers.
func rows() []row {
	return []row{
		{"1", "broker-kill", "", killBroker, false},
		{"1", "broker-away", "", awayBroker, false},
		{"4", "cut", "", cutConnections, false},
		{"5", "half-open", "", halfOpen, false},
		{"5", "slow", "", slowed, true},
		{"6", "publisher-kill", "", killPublisher, false},
		{"6", "publisher-kill-spool", "", killSpool, false},
		{"11", "alarm", "amqp", alarm, false},
		{"11", "full", "", full, false},
		{"12", "disk-full", "", diskFull, false},
		{"12", "disk-hung", "", diskHung, false},
		{"12", "file-limit", "", fileLimit, false},
		{"13", "power-loss", "", powerLoss, false},
		{"15", "broker-stop", "", pauseBroker, false},
		{"15", "publisher-stop", "", pausePublisher, false},
		{"17", "unroutable", "", unroutable, true},
		{"17", "deleted", "", deleted, false},
		{"22", "broker-kill-spool", "", killBrokerSpool, false},
	}
}

// killBroker: the broker is killed while the window of a publisher that does not
// wait is full, and under another one whose callers wait.
func killBroker(t *trial) error {
	const callers = 8
	t.terms.window = window + callers
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	if _, err := t.publish(order{Lane: "waiting", Callers: callers, Rate: 50}); err != nil {
		return err
	}
	if _, err := t.publish(order{Count: t.size.messages}); err != nil {
		return err
	}
	for i := range t.size.brokerKills {
		if err := t.accepted(t.size.messages * (i + 1) / (t.size.brokerKills + 2)); err != nil {
			return err
		}
		if err := t.restart(func() error { return nil }); err != nil {
			return err
		}
	}
	return t.accepted(t.size.messages)
}

// awayBroker: the broker is away for so long that whoever tries to reach it makes
// the longest pauses.
func awayBroker(t *trial) error {
	t.terms.window = window
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	if _, err := t.publish(order{Rate: 1000}); err != nil {
		return err
	}
	if err := t.accepted(500); err != nil {
		return err
	}
	if err := t.restart(func() error { return t.pause(t.size.away) }); err != nil {
		return err
	}
	return t.more(500)
}
