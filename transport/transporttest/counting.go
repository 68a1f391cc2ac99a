package transporttest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// RunCountStore runs the promises of a transport.CountStore. open returns a
// store that counts nothing yet; it is called for each promise. Calls take real
// time: do not run it in a synctest bubble.
func RunCountStore(t *testing.T, open func(*testing.T) transport.CountStore) {
	for _, p := range []struct {
		name string
		run  func(countWorld)
	}{
		{"AttemptsAreCountedOnceEach", attemptsAreCountedOnceEach},
		{"KeysAreApart", keysAreApart},
		{"RemovedAttemptsDoNotCount", removedAttemptsDoNotCount},
		{"ForgottenMessagesStartAnew", forgottenMessagesStartAnew},
		{"CountsExpireAfterTheLastAttempt", countsExpireAfterTheLastAttempt},
		{"ManyAtOnceMissNobody", manyAtOnceMissNobody},
		{"EndedContextIsAnError", endedContextIsAnError},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.run(countWorld{t, open(t)})
		})
	}
}

// countWorld is a store under test.
type countWorld struct {
	*testing.T
	s transport.CountStore
}

// counted is the only expectation: so many attempts, and no error.
func (w countWorld) counted(what string, n int, err error, want int) {
	w.Helper()
	if err != nil || n != want {
		w.Fatalf("%s: %d attempts are counted (%v), want %d", what, n, err, want)
	}
}

func (w countWorld) add(key transport.CountKey, attempt string, want int) {
	w.Helper()
	n, err := w.s.Add(w.Context(), key, attempt, time.Hour)
	w.counted("add "+attempt, n, err, want)
}

func (w countWorld) has(key transport.CountKey, want int) {
	w.Helper()
	n, err := w.s.Count(w.Context(), key)
	w.counted("count", n, err, want)
}

var someKey = transport.CountKey{Subscription: "billing", Message: "order-1"}

func attemptsAreCountedOnceEach(w countWorld) {
	w.has(someKey, 0)
	w.add(someKey, "a", 1)
	w.add(someKey, "b", 2)
	w.add(someKey, "a", 2) // the same again: nobody knew whether it had worked
	w.add(someKey, "c", 3)
	w.has(someKey, 3)
}

func keysAreApart(w countWorld) {
	keys := []transport.CountKey{
		someKey,
		{Subscription: "billing", Message: "order-10"},
		{Subscription: "billing2", Message: "order-1"},
		{Subscription: "billing", Message: "a b"},
		{Subscription: "billing", Message: "a.b>*"},
		{Subscription: "billing", Message: "a/b\x00\n"},
		{Subscription: "billing", Message: "\xff\xfe"},
		{Subscription: "billing", Message: "ORDER-1"},
		{Subscription: "billing", Message: strings.Repeat("x", 5000)},
		{Subscription: "billing", Message: strings.Repeat("x", 5001)},
		{Subscription: "billing", Message: ""},
	}
	for _, key := range keys {
		w.add(key, "a", 1)
	}
	for _, key := range keys {
		w.has(key, 1)
	}
}

func removedAttemptsDoNotCount(w countWorld) {
	if err := w.s.Remove(w.Context(), someKey, "never"); err != nil {
		w.Fatal(err)
	}
	w.add(someKey, "a", 1)
	w.add(someKey, "b", 2)
	for range 2 {
		if err := w.s.Remove(w.Context(), someKey, "b"); err != nil {
			w.Fatal(err)
		}
		w.has(someKey, 1)
	}
	if err := w.s.Remove(w.Context(), someKey, "a"); err != nil {
		w.Fatal(err)
	}
	w.has(someKey, 0)
	w.add(someKey, "c", 1)
}

func forgottenMessagesStartAnew(w countWorld) {
	for range 2 {
		w.add(someKey, "a", 1)
		w.add(someKey, "b", 2)
		for range 2 {
			if err := w.s.Forget(w.Context(), someKey); err != nil {
				w.Fatal(err)
			}
		}
		w.has(someKey, 0)
	}
}

// countsExpireAfterTheLastAttempt holds for stores that take any expiry; others
// expire by themselves, and bound it with CountLimiter.
func countsExpireAfterTheLastAttempt(w countWorld) {
	if l, ok := w.s.(transport.CountLimiter); ok && l.MaxExpiry() > 0 {
		_, err := w.s.Add(w.Context(), someKey, "a", l.MaxExpiry()+time.Hour)
		if err == nil {
			w.Errorf("an expiry beyond MaxExpiry %v was taken", l.MaxExpiry())
		}
		return
	}
	const brief = time.Second // the least that every store can keep
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !w.refreshed(brief, tick.C) { // a machine that stalls lets a count expire
		if err := w.s.Forget(w.Context(), someKey); err != nil {
			w.Fatal(err)
		}
	}
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		n, err := w.s.Count(w.Context(), someKey)
		if err != nil {
			w.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			w.Fatalf("%d attempts are still counted long after their expiry", n)
		}
	}
}

// refreshed counts attempts for longer than one expiry: each refreshes it. It reports
// false when one came so late that nothing can be said.
func (w countWorld) refreshed(expiry time.Duration, tick <-chan time.Time) bool {
	w.Helper()
	began := time.Now()
	last := began
	for i := 1; time.Since(began) < 2*expiry; i++ {
		n, err := w.s.Add(w.Context(), someKey, fmt.Sprint(i), expiry)
		if time.Since(last) > expiry/2 {
			return false
		}
		w.counted("add", n, err, i)
		last = time.Now()
		<-tick
	}
	return true
}

func manyAtOnceMissNobody(w countWorld) {
	const workers, each = 8, 10
	var mu sync.Mutex // guards given
	given := map[int]int{}
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			for i := range each {
				n, err := w.s.Add(w.Context(), someKey, fmt.Sprint(k, "-", i), time.Hour)
				if err != nil {
					w.Errorf("add: %v", err)
					return
				}
				mu.Lock()
				given[n]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n := 1; n <= workers*each; n++ {
		if given[n] != 1 {
			w.Fatalf("the count %d was given out %d times", n, given[n])
		}
	}
}

func endedContextIsAnError(w countWorld) {
	ctx, cancel := context.WithCancel(w.Context())
	cancel()
	if _, err := w.s.Add(ctx, someKey, "a", time.Hour); err == nil {
		w.Error("an attempt was counted for a caller who has gone")
	}
}
