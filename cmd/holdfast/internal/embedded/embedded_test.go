package embedded_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/embedded"
)

func start(t *testing.T, data string) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{Listen: "127.0.0.1:0", Data: data})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(t.Context()) })
	return s
}

func dial(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestMessagesSurviveARestart(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	first := start(t, data)
	js := dial(t, first.URL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s.1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := start(t, data)
	s, err := dial(t, second.URL()).Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("%d messages after the restart, want 1", n)
	}
}

func TestTwoServersNeverShareADataDirectory(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	start(t, data)
	if _, err := embedded.Start(t.Context(), embedded.Config{Listen: "127.0.0.1:0", Data: data}); !errors.Is(err, embedded.ErrLocked) {
		t.Errorf("Start = %v, want ErrLocked", err)
	}
}

func TestOtherMachinesAreNotLetInUnasked(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{
		"127.0.0.1:0": true, "localhost:4222": true, "[::1]:1": true, "127.9.9.9:-1": true,
		"0.0.0.0:0": false, ":4222": false, "192.0.2.1:1": false, "example.org:1": false, "127.0.0.1": false, "127.0.0.1:70000": false,
	} {
		if err := embedded.Check(addr, false); (err == nil) != want {
			t.Errorf("Check(%q) = %v, want ok %v", addr, err, want)
		}
	}
	if err := embedded.Check("0.0.0.0:1", true); err != nil {
		t.Error(err)
	}
}

func TestADirectoryOfSomethingElseIsNotTakenForOurs(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if err := embedded.Kept(data); !errors.Is(err, embedded.ErrNoData) {
		t.Errorf("an empty directory: %v", err)
	}
	if err := embedded.Kept(data + "/none"); !errors.Is(err, embedded.ErrNoData) {
		t.Errorf("no directory: %v", err)
	}
	s := start(t, data)
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := embedded.Kept(data); err != nil {
		t.Errorf("one of ours: %v", err)
	}
}

func TestAnAddressInUseIsAClearErrorAndFreesTheDirectory(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // a test
	data := t.TempDir()
	_, err = embedded.Start(t.Context(), embedded.Config{Listen: l.Addr().String(), Data: data})
	if !errors.Is(err, embedded.ErrListen) || !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("Start = %v", err)
	}
	if err := embedded.Free(l.Addr().String()); !errors.Is(err, embedded.ErrListen) {
		t.Errorf("Free = %v", err)
	}
	if err := embedded.Free("127.0.0.1:0"); err != nil {
		t.Errorf("Free of any port = %v", err)
	}
	start(t, data)
}
