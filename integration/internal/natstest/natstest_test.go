package natstest_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
)

func TestPortIsKeptOverRestarts(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	url := s.URL()
	s.Restart()
	if s.URL() != url {
		t.Fatalf("the server moved from %s to %s", url, s.URL())
	}
	nc := s.Conn()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}
