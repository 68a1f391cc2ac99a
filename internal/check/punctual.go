package check

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Punctual runs a test of what happens in real time, such as the end of a lease,
// and runs it again when it failed while the machine was late: when a goroutine
// that was to wake every few milliseconds did not for longer than late. Such a
// failure proves nothing. After many of them t fails.
//
// What test leaves to Cleanup is done at the end of each run.
func Punctual(t testing.TB, late time.Duration, test func(t testing.TB)) {
	t.Helper()
	punctual(t, late, test, watch)
}

func punctual(t testing.TB, late time.Duration, test func(testing.TB), watch func() (stop func() time.Duration)) {
	t.Helper()
	const runs = 20
	var last *attempt
	for range runs {
		last = &attempt{TB: t}
		stop := watch()
		last.run(test)
		if worst := stop(); !last.Failed() || worst <= late {
			break
		} else {
			t.Logf("it was run on a machine that was late by %v, and failed: %q", worst.Round(time.Millisecond), last.said)
		}
	}
	for _, text := range last.said {
		t.Error(text)
	}
}

// watch measures until stop is called, which returns by how much the machine was
// late at most.
func watch() (stop func() time.Duration) {
	const pause = 5 * time.Millisecond
	var worst time.Duration
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		last, over := time.Now(), false
		for !over {
			select {
			case <-ended:
				over = true // the machine may have been late until now
			case <-timer.C:
			}
			worst = max(worst, time.Since(last)-pause)
			last = time.Now()
			timer.Reset(pause)
		}
	})
	return func() time.Duration {
		close(ended)
		wg.Wait()
		return worst
	}
}

// attempt is a testing.TB whose failures fail nothing.
type attempt struct {
	testing.TB

	mu       sync.Mutex // guards what follows
	failed   bool
	said     []string
	cleanups []func()
}

// run runs test and what it left to Cleanup, each on a goroutine of its own, which
// FailNow may end.
func (a *attempt) run(test func(testing.TB)) {
	var wg sync.WaitGroup
	wg.Go(func() { test(a) })
	wg.Wait()
	for last := a.cleanup(); last != nil; last = a.cleanup() {
		wg.Go(last)
		wg.Wait()
	}
}

// cleanup takes the cleanup that was given last, or nil.
func (a *attempt) cleanup() func() {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.cleanups)
	if n == 0 {
		return nil
	}
	last := a.cleanups[n-1]
	a.cleanups = a.cleanups[:n-1]
	return last
}

func (a *attempt) fail(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed = true
	a.said = append(a.said, text)
}

func (a *attempt) Cleanup(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cleanups = append(a.cleanups, f)
}

func (a *attempt) Failed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

func (a *attempt) Error(args ...any)                 { a.fail(fmt.Sprint(args...)) }
func (a *attempt) Errorf(format string, args ...any) { a.fail(fmt.Sprintf(format, args...)) }
func (a *attempt) Fail()                             { a.fail("it failed") }
func (a *attempt) FailNow()                          { a.fail("it failed"); runtime.Goexit() }
func (a *attempt) Fatal(args ...any)                 { a.fail(fmt.Sprint(args...)); runtime.Goexit() }

func (a *attempt) Fatalf(format string, args ...any) {
	a.fail(fmt.Sprintf(format, args...))
	runtime.Goexit()
}
