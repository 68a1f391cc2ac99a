package rabbitmq

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

func TestThePipeKeepsEveryByteInOrder(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	p := newPipe(ours)
	var got bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(&got, theirs) })
	var want bytes.Buffer
	for i := range 10_000 {
		b := bytes.Repeat([]byte{byte(i)}, i%97)
		want.Write(b)
		if n, err := p.Write(b); n != len(b) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal("a second Close:", err)
	}
	wg.Wait()
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes arrived, %d were written, or in another order", got.Len(), want.Len())
	}
	if _, err := p.Write([]byte("late")); err == nil {
		t.Error("a write after Close succeeded")
	}
}

// TestAWriteNeverWaitsForThePeer: nobody reads, and neither Write nor Close hang.
func TestAWriteNeverWaitsForThePeer(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	p := newPipe(ours)
	for range 1000 {
		if _, err := p.Write(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAWindowServesInTurn(t *testing.T) {
	t.Parallel()
	w := window{limit: 2, limitBytes: 10}
	if !w.take(20) {
		t.Fatal("a message larger than the window never goes")
	}
	if w.take(1) {
		t.Fatal("the bytes are not bounded")
	}
	first, second := w.wait(), w.wait()
	w.free(20)
	select {
	case <-first:
	default:
		t.Fatal("the first waiter was not told")
	}
	select {
	case <-second:
		t.Fatal("the second waiter was told before its turn")
	default:
	}
	w.forget(first) // it has given up, and hands its turn on
	select {
	case <-second:
	default:
		t.Fatal("the turn of a waiter that gave up was lost")
	}
	for range 2 {
		if !w.take(4) {
			t.Fatal("there is room, and it is refused")
		}
	}
	if w.take(1) {
		t.Fatal("the count is not bounded")
	}
}

func TestCredentialsAreNeverShown(t *testing.T) {
	t.Parallel()
	const secret = "canary"
	for _, raw := range []string{
		"amqp://user:" + secret + "@host:5672/v", "amqp://" + secret + "@host", "amqp://u:p@" + secret + "@host/v",
		"user:" + secret + "@host", "amqp://host/?password=" + secret, "amqp://u:" + secret + "#x@host",
		"http://u:" + secret + "@host", "amqp://u:" + secret + "@ho st",
		"amqp://u:" + secret + ",x@ho st", "amqp://u:x," + secret + "@ho st", "amqp://a, amqp://u:" + secret + ",x@ho st",
	} {
		if got := redact(raw); bytes.Contains([]byte(got), []byte(secret)) {
			t.Errorf("%q shows %q", raw, got)
		}
		if _, err := splitURLs(raw, defaultSettings()); err != nil && bytes.Contains([]byte(err.Error()), []byte(secret)) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}
