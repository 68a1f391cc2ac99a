package rabbitmq

import "testing"

// The decisions that depend on the version of the server, for each version that
// differs in one of them. Trap 64: the sizes. Trap 73: what costs no count.
func TestDecisionsFollowTheServerVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text        string
		want        version
		maxSize     int
		unlimited   bool
		atLeastOnce bool
		quietReturn bool
	}{
		{"3.9.29", version{3, 9}, 128 << 20, false, false, false},
		{"3.10.8", version{3, 10}, 128 << 20, false, true, false},
		{"3.13.7", version{3, 13}, 128 << 20, false, true, false},
		{"4.0.5", version{4, 0}, 16 << 20, true, true, false},
		{"4.2.0-rc.1", version{4, 2}, 16 << 20, true, true, false},
		{"4.3.5+7.gabc", version{4, 3}, 16 << 20, true, true, true},
		{"5.0", version{5, 0}, 16 << 20, true, true, true},
		{"", version{}, 128 << 20, false, false, false},
		{"four", version{}, 128 << 20, false, false, false},
		{"4.x.1", version{}, 128 << 20, false, false, false},
	} {
		v := parseVersion(c.text)
		if v != c.want {
			t.Errorf("%q is read as %v, want %v", c.text, v, c.want)
		}
		if v.maxMessageSize() != c.maxSize || v.unlimited() != c.unlimited || v.atLeastOnce() != c.atLeastOnce || v.quietReturn() != c.quietReturn {
			t.Errorf("%q: size %d, unlimited %v, at least once %v, quiet return %v", c.text,
				v.maxMessageSize(), v.unlimited(), v.atLeastOnce(), v.quietReturn())
		}
	}
}

// What the brokers write on a delivery, by version, and what it means.
// Trap 73: 4.3 counts what is nacked elsewhere.
func TestDeliveriesAreNeverUnderCounted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		in    counts
		want  int
		exact bool
	}{
		{"3.10 quorum, first", counts{hasDelivery: true}, 1, true},
		{"3.10 quorum, third", counts{hasDelivery: true, delivery: 2, redelivered: true}, 3, true},
		{"4.0 quorum, first, without the header", counts{}, 1, true},
		{"4.2 quorum, second", counts{hasDelivery: true, delivery: 1, redelivered: true}, 2, true},
		{"4.3 quorum, returned by a nack, which does not count as a failure", counts{hasDelivery: true, acquired: 1, redelivered: true}, 2, true},
		{"4.3 quorum, three returns, one of them a failure", counts{hasDelivery: true, delivery: 1, acquired: 3, redelivered: true}, 4, true},
		{"4.3 quorum, the acquired count alone", counts{acquired: 2, redelivered: true}, 3, true},
		{"classic, first", counts{}, 1, true},
		{"classic, again", counts{redelivered: true}, 2, false},
		{"redelivered with a count of nothing", counts{hasDelivery: true, redelivered: true}, 2, true},
	} {
		if n, exact := c.in.handed(); n != c.want || exact != c.exact {
			t.Errorf("%s: %d, exact %v; want %d, %v", c.name, n, exact, c.want, c.exact)
		}
	}
}
