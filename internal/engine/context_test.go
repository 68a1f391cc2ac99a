package engine

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/internal/check"
)

var _ context.Context = (*Context)(nil)

type key struct{}

// newContext is a context as a worker starts one.
func newContext(t *testing.T, deadline time.Time) *Context {
	c := &Context{}
	c.start(context.WithoutCancel(context.WithValue(t.Context(), key{}, "value")), deadline)
	return c
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestContextMakesItsChannelWhenSomebodyAsks(t *testing.T) {
	t.Parallel()
	c := newContext(t, time.Time{})
	check.True(t, c.done == nil, "no channel yet")
	done := c.Done()
	check.True(t, done == c.Done(), "the same channel each time")
	check.True(t, !closed(done), "open")
	c.end(context.Canceled)
	check.True(t, closed(done), "closed")
}

func TestContextThatEndedBeforeAnybodyAskedIsDone(t *testing.T) {
	t.Parallel()
	c := newContext(t, time.Time{})
	c.end(context.DeadlineExceeded)
	check.True(t, closed(c.Done()), "done")
	check.ErrorIs(t, c.Err(), context.DeadlineExceeded)
}

func TestContextEndsOnceForTheFirstReason(t *testing.T) {
	t.Parallel()
	c := newContext(t, time.Time{})
	check.NoError(t, c.Err())
	done := c.Done()
	c.end(context.DeadlineExceeded)
	c.end(context.Canceled)
	check.ErrorIs(t, c.Err(), context.DeadlineExceeded)
	check.ErrorIs(t, context.Cause(c), context.DeadlineExceeded)
	check.True(t, closed(done), "done")
}

func TestContextShowsDeadlineAndValues(t *testing.T) {
	t.Parallel()
	deadline, ok := newContext(t, time.Time{}).Deadline()
	check.True(t, !ok && deadline.IsZero(), "none")
	soon := time.Now().Add(time.Minute)
	c := newContext(t, soon)
	deadline, ok = c.Deadline()
	check.True(t, ok && deadline.Equal(soon), "the one it was given")
	check.Equal(t, c.Value(key{}), any("value"))
	check.Equal(t, c.Value("other"), nil)
}

func TestChildContextsEndWithIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newContext(t, time.Time{})
		child, cancel := context.WithCancel(c)
		defer cancel()
		grandchild, cancel2 := context.WithTimeout(child, time.Hour)
		defer cancel2()
		check.Equal(t, len(c.after), 1, "the child needs no goroutine")
		c.end(context.DeadlineExceeded)
		check.ErrorIs(t, child.Err(), context.DeadlineExceeded)
		check.ErrorIs(t, grandchild.Err(), context.DeadlineExceeded)
		late, cancel3 := context.WithCancel(c)
		defer cancel3()
		check.ErrorIs(t, late.Err(), context.DeadlineExceeded)
	})
}

func TestChildThatEndsFirstLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	c := newContext(t, time.Time{})
	for range 100 {
		_, cancel := context.WithTimeout(c, time.Hour)
		cancel()
	}
	check.Equal(t, len(c.after), 0)
	check.NoError(t, c.Err())
}

func TestAfterFuncRunsOnceUnlessItIsStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newContext(t, time.Time{})
		var mu sync.Mutex // some run on goroutines of their own
		ran := map[string]int{}
		note := func(name string) func() {
			return func() {
				mu.Lock()
				defer mu.Unlock()
				ran[name]++
			}
		}
		stopped := c.AfterFunc(note("stopped"))
		kept := c.AfterFunc(note("kept"))
		context.AfterFunc(c, note("of package context"))
		check.True(t, stopped(), "stopped in time")
		check.True(t, !stopped(), "a second stop")
		c.end(context.Canceled)
		synctest.Wait()
		check.True(t, !kept(), "too late to stop")
		c.AfterFunc(note("late"))
		synctest.Wait()
		check.Equal(t, ran, map[string]int{"kept": 1, "of package context": 1, "late": 1})
	})
}

func TestAfterFuncMayUseTheContext(t *testing.T) {
	t.Parallel()
	c := newContext(t, time.Time{})
	var err error
	c.AfterFunc(func() { err = c.Err(); <-c.Done() })
	c.end(context.Canceled)
	check.True(t, errors.Is(err, context.Canceled), "no deadlock")
}
