package rabbitmq

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// quietConn counts what reaches a connection.
type quietConn struct {
	net.Conn
	data      *bytes.Reader
	reads     int
	deadlines []time.Time
}

func (c *quietConn) Read(b []byte) (int, error) {
	c.reads++
	return c.data.Read(b)
}

func (c *quietConn) SetReadDeadline(t time.Time) error {
	c.deadlines = append(c.deadlines, t)
	return nil
}

func (*quietConn) SetWriteDeadline(time.Time) error { return nil }
func (*quietConn) Close() error                     { return nil }

func TestThePipeReadsMoreThanItIsAskedFor(t *testing.T) {
	t.Parallel()
	want := bytes.Repeat([]byte("0123456789"), 10_000)
	c := &quietConn{data: bytes.NewReader(want)}
	p := newPipe(c)
	defer p.Close()
	var got []byte
	small := make([]byte, 1000)
	for {
		n, err := p.Read(small)
		got = append(got, small[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived instead of %d, or in another order", len(got), len(want))
	}
	if most := len(want)/readBuffer + 3; c.reads > most {
		t.Errorf("%d reads instead of %d at most", c.reads, most)
	}
}

// The heartbeater of the client library pushes the deadline on for every frame,
// as soon as the last push has returned.
func TestThePipeSetsADeadlineAtOnceAndTheNextOneLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &quietConn{data: bytes.NewReader(nil)}
		p := newPipe(c)
		start := time.Now()
		for time.Since(start) < time.Second {
			if err := p.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		if len(c.deadlines) > int(time.Second/deadlinePause) || !c.deadlines[0].Equal(start.Add(time.Minute)) {
			t.Errorf("%d deadlines in a second, the first of them %v", len(c.deadlines), c.deadlines[0])
		}
		_ = p.Close()
		end := time.Now()
		_ = p.SetReadDeadline(end)
		if time.Since(end) > 0 {
			t.Error("a closed pipe keeps the heartbeater")
		}
	})
}
