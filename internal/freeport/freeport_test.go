package freeport

import (
	"net"
	"strconv"
	"testing"
)

func TestAPortIsGivenOnceAndCanBeListenedOnAgainAndAgain(t *testing.T) {
	t.Parallel()
	p, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	for range 3 {
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Number())))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := claim(p.Number()); err == nil {
		t.Fatal("a second claim of the same port was granted")
	}
}

func TestAPortThatSomebodyListensOnIsNotGiven(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := claim(l.Addr().(*net.TCPAddr).Port); err == nil {
		t.Fatal("a port was granted on which somebody listens")
	}
}
