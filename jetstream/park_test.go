package jetstream

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestParkNoteSaysAllItWasTold(t *testing.T) {
	t.Parallel()
	for _, n := range []parkNote{
		{deliveries: 1, delay: time.Hour, stored: time.Unix(1700000000, 123456789).UTC(), position: "ORDERS:17:1700000000123456789", subject: "orders.eu.placed"},
		{deliveries: math.MaxUint32, delay: math.MaxInt64, subject: "a"},
		{deliveries: 3, position: "S p:1:2", subject: "orders.\u00fc.%20 x"},
	} {
		got, ok := parseParkNote(n.String())
		if !ok || got != n {
			t.Errorf("%q became %+v, want %+v", n, got, n)
		}
	}
	for _, s := range []string{"", "1 2 3 4", "x 2 3 4 5", "1 -2 3 4 5", "-1 2 3 4 5", "1 2 3 4 ", "1 2 3 4 5 6", strings.Repeat("9", 30) + " 2 3 4 5"} {
		if n, ok := parseParkNote(s); ok {
			t.Errorf("%q is read as %+v", s, n)
		}
	}
}

// The first hand-over of a copy is none to a handler, and every other one is.
func TestParkedDeliveriesAreNeverUndercounted(t *testing.T) {
	t.Parallel()
	l := &lane{park: true}
	d := &delivery{lane: l, seq: 7, parkedAs: 4}
	for counted, want := range map[uint32]uint32{1: 5, 2: 5, 3: 6, 10: 13} {
		if got := d.charge(counted); got != want {
			t.Errorf("the server's %d is charged as %d, want %d", counted, got, want)
		}
	}
	l.returned.join([]uint64{7})
	for counted, want := range map[uint32]uint32{2: 5, 3: 5, 4: 6} {
		if got := d.charge(counted); got != want {
			t.Errorf("given back once, the server's %d is charged as %d, want %d", counted, got, want)
		}
	}
}

// What is known of the server's time depends neither on this machine's clock nor
// on how long an answer took.
func TestServerClockRunsBehindAndNeverAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c serverClock
		if got := c.now(); !got.Equal(time.Now()) {
			t.Errorf("before it was told it says %v", got)
		}
		// This machine is an hour ahead.
		server := func() time.Time { return time.Now().Add(-time.Hour) }
		slow := server()
		time.Sleep(300 * time.Millisecond)
		c.learn(slow)
		if got := server().Sub(c.now()); got != 300*time.Millisecond {
			t.Errorf("it runs %v behind after a slow answer", got)
		}
		time.Sleep(time.Minute)
		c.learn(server())
		if got := server().Sub(c.now()); got != 0 {
			t.Errorf("it runs %v behind after a fast answer", got)
		}
		slow = server()
		time.Sleep(900 * time.Millisecond)
		c.learn(slow)
		c.learn(time.Time{})
		if got := server().Sub(c.now()); got != 0 {
			t.Errorf("it runs %v behind after another slow answer", got)
		}
		c.learn(server().Add(-time.Minute)) // the server's clock was set back
		if got := server().Sub(c.now()); got != time.Minute {
			t.Errorf("it runs %v behind after the server was set back", got)
		}
	})
}

func TestScheduleSubjectsTellMessagesApart(t *testing.T) {
	t.Parallel()
	tr := &Transport{set: defaultSettings()}
	seen := map[string]string{}
	for _, c := range [][2]string{{"a", "x"}, {"a", "y"}, {"b", "x"}, {"a b", "x"}, {"a.b", "x"}, {"a>", "x"}, {"", "x"}, {strings.Repeat("a", 65), "x"}, {strings.Repeat("a", 66), "x"}} {
		s := tr.scheduleSubject("S", c[1], c[0])
		if before, ok := seen[s]; ok || !coveredBy(s, []string{tr.ScheduleSubjects("S")}) || strings.ContainsAny(s, " *>") {
			t.Errorf("%q is the subject of %q and %q", s, before, c)
		}
		seen[s] = c[0] + " " + c[1]
	}
}
