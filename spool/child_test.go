//go:build linux || darwin

package spool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

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

// TestARealDiskThatIsFullLosesNothing limits the size of files by the kernel, in
// a process of its own.
func TestARealDiskThatIsFullLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := child(t, "limited", dir)
	text, err := out.CombinedOutput()
	if err != nil || !strings.Contains(string(text), "refused and healed") {
		t.Fatalf("%v\n%s", err, text)
	}
	if got := len(waiting(t, dir)); !strings.Contains(string(text), fmt.Sprintf("accepted %d,", got)) {
		t.Fatalf("%d are left of\n%s", got, text)
	}
}

// limited appends until the kernel refuses, lifts the limit and goes on.
func limited(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, _, err := spool.Open(ctx, dir, spool.Options{})
	if err != nil {
		return err
	}
	const limit = 100_000
	if err := limitFiles(limit); err != nil {
		return err
	}
	accepted := 0
	for ; ; accepted++ {
		if _, err = l.Append(ctx, make([]byte, 1000)); err != nil {
			break
		}
	}
	if !errors.Is(err, spool.ErrWrite) || !errors.Is(err, syscall.EFBIG) || accepted < 50 {
		return fmt.Errorf("after %d: %w", accepted, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "00000000000000000001.seg")); err != nil || info.Size() > int64(40+accepted*1032) {
		return fmt.Errorf("what was half written was not cut: %v, %w", info, err)
	}
	if err := limitFiles(1 << 40); err != nil {
		return err
	}
	for range 100 {
		if _, err := l.Append(ctx, make([]byte, 1000)); err != nil {
			return fmt.Errorf("not healed: %w", err)
		}
		accepted++
	}
	fmt.Printf("refused and healed, accepted %d,\n", accepted)
	return l.Close(ctx)
}

// TestNoAcceptedRecordIsLostByAKill kills a process ten times while it appends
// and marks. It writes the ID of each accepted record to a pipe.
func TestNoAcceptedRecordIsLostByAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := seed()
	rng := rand.New(rand.NewPCG(s, 6))
	led := &ledger{accepted: map[string]bool{}, sent: map[string]int{}}
	for n := range 10 {
		cmd := child(t, "killed", dir, fmt.Sprint(n))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		want := led.count() + 100 + rng.IntN(400)
		var wg sync.WaitGroup
		wg.Go(func() { led.read(out) })
		eventually(t, "enough is accepted", func() bool { return led.count() >= want })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		_ = cmd.Wait() // it was killed
	}
	began := time.Now()
	l, rec := open(t, dir, spool.Options{})
	if len(rec.Damage) > 0 || rec.BadMarks > 0 || time.Since(began) > patience {
		t.Errorf("recovery: %+v", rec)
	}
	led.drain(t, l)
	led.judge(t, s)
}
