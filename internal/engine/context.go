package engine

import (
	"context"
	"sync"
	"time"
)

// Context is the context of one attempt. It ends when the attempt is over, when
// its timeout passes, when its lease is lost, or when a stop runs out of grace.
// It is made to be embedded in a task, so that an attempt costs one allocation:
// the channel of Done is made when somebody asks for it.
//
// It is safe for concurrent use.
type Context struct {
	base     context.Context // values only; its Done is never used
	deadline time.Time
	own      any // see Own

	mu    sync.Mutex // guards what follows; the last in the lock order
	done  chan struct{}
	err   error
	after map[*func()]struct{}
}

// start makes c ready for an attempt.
func (c *Context) start(base context.Context, deadline time.Time) {
	c.base, c.deadline = base, deadline
}

// Deadline returns when the attempt times out, if it does.
func (c *Context) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// OwnKey is the key under which a context has what its task gave it.
type OwnKey struct{}

// Own gives the context a value of the attempt, found under OwnKey. It is called
// before the attempt starts.
func (c *Context) Own(v any) { c.own = v }

// Value returns the value of the app's context for key.
func (c *Context) Value(key any) any {
	if _, ok := key.(OwnKey); ok {
		return c.own
	}
	return c.base.Value(key)
}

// Err returns why the attempt's time is over, or nil.
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Done returns a channel that is closed when the attempt's time is over.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	return c.done
}

// AfterFunc lets package context derive from c without a goroutine.
func (c *Context) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f() // nobody waits: package context asks for exactly this
		return func() bool { return false }
	}
	if c.after == nil {
		c.after = make(map[*func()]struct{})
	}
	key := &f
	c.after[key] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, pending := c.after[key]
		delete(c.after, key)
		return pending
	}
}

// end makes the context over with err, once.
func (c *Context) end(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	after := c.after
	c.after = nil
	c.mu.Unlock()
	for f := range after {
		(*f)()
	}
}
