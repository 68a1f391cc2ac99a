package transporttest

import (
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// Spec says which source a promise needs.
type Spec struct {
	// Name names the place that messages are published to, made of letters,
	// digits and '-'. Sources of one Name have one address, and it routes to
	// them and to no other source.
	Name string
	// Group names who takes the messages. Receivers on sources of one Name and
	// one Group share the messages; every other Group gets its own copy.
	Group string
	// Lease is how long a delivery is leased: Harness.Lease, or much longer.
	// It is zero, and means nothing, when Harness.Lease is zero.
	Lease time.Duration
	// Priorities: the source is one where they count, if there are others. It is
	// false where Capabilities deny them.
	Priorities bool
}

// Harness is a transport and what the suite must know and be able to do beside
// it.
type Harness struct {
	// Transport is the one under test, connected. Required. A promise may close
	// it. Whoever opened the harness closes it with t.Cleanup as well.
	Transport transport.Transport

	// Source returns the source of spec and the address that routes to it.
	// Required. It must make nothing at the broker, which Provision does: until
	// then the address of a broker that stores routes nowhere.
	Source func(t testing.TB, spec Spec) (transport.Source, transport.Address)

	// Lease is the lease that sources have in most promises: short, since the
	// suite waits for it to end, and at least 100 milliseconds. Zero means that
	// deliveries are not leased; receivers then do not implement
	// transport.Leased nor deliveries transport.LeaseExtender.
	Lease time.Duration

	// RedeliverWithin is after what time at most an abandoned message is back
	// on an idle machine, the lease included. It is also how long the suite
	// watches that what is settled does not come back. Required, also where
	// nothing is redelivered; longer than Lease.
	RedeliverWithin time.Duration

	// Abandon stops using rx without settling or handing back anything, as a
	// crash would. Nil means that not to call it any more is enough. What it
	// needs to clean up it leaves to t.Cleanup.
	Abandon func(t testing.TB, rx transport.Receiver)

	// Restart cuts every connection of Transport, restarts the broker if it can
	// be, and returns once it is back. It must not disturb other harnesses. Nil
	// is for transports that neither store nor can lose a connection, and a
	// failure where Capabilities say that something is stored.
	Restart func(t testing.TB)

	// FailSettles makes every settlement fail until restore is called, at the
	// latest at the end of the settlement's context. Nil means that the suite
	// has only contexts that have ended to fail a settlement with.
	FailSettles func(t testing.TB) (restore func())

	// Second returns a second harness on the same broker, with a connection of
	// its own, that names the same places and groups as the first. Nil is for
	// transports that are their own broker.
	Second func(t testing.TB) Harness

	// MaxSize is the largest message in bytes that the broker takes, without
	// headers. Required: at least 64 KiB.
	MaxSize int

	// Deduplicates: of two publishes with one DedupID the second is suppressed.
	Deduplicates bool

	// TextHeaders: header values that are not UTF-8 are refused with
	// ErrInvalid. Otherwise they arrive as they are.
	TextHeaders bool

	// InvalidAddresses are refused with ErrInvalid. Nil means what is invalid
	// on NATS: wildcards, empty tokens, white space, and a routing key.
	InvalidAddresses []transport.Address

	// Delay is what a Nack waits for in the suite. Zero means 300 milliseconds.
	Delay time.Duration

	// Patience is how long the suite waits for what should happen at once. Zero
	// means ten seconds. Only failures take that long.
	Patience time.Duration

	// Quiet is how long the suite watches that nothing happens, where that has
	// nothing to do with leases. Zero means 200 milliseconds.
	Quiet time.Duration
}

// faults lists what is missing in h.
func (h Harness) faults() []string {
	var out []string
	if h.Transport == nil {
		return append(out, "Transport is nil")
	}
	caps := h.Transport.Capabilities()
	if h.Source == nil {
		out = append(out, "Source is nil")
	}
	if h.RedeliverWithin <= h.Lease {
		out = append(out, "RedeliverWithin is not longer than Lease")
	}
	if h.Lease != 0 && h.Lease < 100*time.Millisecond {
		out = append(out, "Lease is shorter than 100 milliseconds")
	}
	if h.MaxSize < 64<<10 {
		out = append(out, "MaxSize is smaller than 64 KiB")
	}
	if h.Restart == nil && (caps.Durable || caps.Stores) {
		out = append(out, "Restart is nil although Capabilities say that messages are stored")
	}
	if h.Second == nil && caps.Durable {
		out = append(out, "Second is nil although Capabilities say that messages outlive the process")
	}
	return out
}

// filled returns h with its defaults.
func (h Harness) filled() Harness {
	if h.InvalidAddresses == nil {
		h.InvalidAddresses = natsInvalid()
	}
	h.Delay = orElse(h.Delay, 300*time.Millisecond)
	h.Patience = orElse(h.Patience, 10*time.Second)
	h.Quiet = orElse(h.Quiet, 200*time.Millisecond)
	return h
}

func orElse(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// natsInvalid are addresses that no NATS subject is like.
func natsInvalid() []transport.Address {
	return []transport.Address{
		{Name: ""},
		{Name: "."},
		{Name: ".a"},
		{Name: "a."},
		{Name: "a..b"},
		{Name: "a.*"},
		{Name: "a.>"},
		{Name: "a b"},
		{Name: "a\tb"},
		{Name: "a\r\nPUB b 0"},
		{Name: "a", Key: "routing.key"},
	}
}
