package spool_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/spool"
)

const childVar = "HOLDFAST_SPOOL_TEST"

// TestMain lets the test program be its own child.
func TestMain(m *testing.M) {
	args := strings.Split(os.Getenv(childVar), "\n")
	var err error
	switch args[0] {
	case "limited":
		err = limited(args[1])
	case "killed":
		err = killed(args[1], args[2])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child is this test program in another role.
func child(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childVar+"="+strings.Join(args, "\n"))
	cmd.Stderr = nil
	return cmd
}

// limitFiles bounds the size of every file this process writes.
func limitFiles(n uint64) error {
	lim := syscall.Rlimit{Cur: n, Max: 1 << 62}
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &lim); err != nil {
		return err
	}
	lim.Cur = min(n, lim.Max)
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &lim)
}

// killed appends until it is killed, and says what was accepted and what sent.
func killed(dir, life string) error {
	ctx := context.Background()
	l, _, err := spool.Open(ctx, dir, spool.Options{SegmentBytes: 32 << 10})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = os.Stdout.Write(fmt.Appendf(nil, format+"\n", args...)) // one write for each
	}
	var wg sync.WaitGroup
	for p := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", life, p, i)
				if _, err := l.Append(ctx, []byte(id+strings.Repeat(" ", i%700))); err != nil {
					say("error %v", err)
					return
				}
				say("accepted %s", id)
			}
		})
	}
	for {
		r, err := l.Next(ctx)
		if err != nil {
			return err
		}
		say("sent %s", strings.TrimRight(string(r.Data), " "))
		if err := l.Done(r.Seq); err != nil {
			return err
		}
	}
}

// read takes in what a child says until it ends.
func (l *ledger) read(out io.Reader) {
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		verb, id, _ := strings.Cut(sc.Text(), " ")
		l.mu.Lock()
		switch verb {
		case "accepted":
			l.accepted[id] = true
		case "sent":
			l.sent[id]++
		}
		l.mu.Unlock()
	}
}
