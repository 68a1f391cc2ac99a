package rabbitmq

import "testing"

// A pass needs few consumers for any number of letters, and holds little of them in
// memory where they are large.
func TestWindowsAreFewAndSmall(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ letters, size, most int }{
		{1, 10, 1}, {63, 10, 64}, {1_000, 10, 1_000}, {20_000, 1_024, 1_000}, {100, 16 << 20, 5}, {1_000_000, 10, 40_000},
	} {
		left, consumers := c.letters, 0
		for read := 0; left > 0; consumers++ {
			n := nextWindow(left, consumers, read, read*c.size)
			if n < 1 || n > left || consumers > 0 && n > max(c.most, 1) {
				t.Fatalf("%d letters of %d: window %d of %d", c.letters, c.size, consumers, n)
			}
			left -= n
			read += n
		}
		if consumers > mostConsumers {
			t.Errorf("%d letters of %d bytes took %d consumers", c.letters, c.size, consumers)
		}
	}
}
