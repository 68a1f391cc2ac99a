package natstest

import (
	"fmt"
	"slices"
	"sync"
)

// Complaints is a logger of a server that keeps what is worse than a notice. It is
// safe for concurrent use.
type Complaints struct {
	mu    sync.Mutex // guards lines
	lines []string
}

// All returns what was said so far.
func (c *Complaints) All() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

func (c *Complaints) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, fmt.Sprintf(format, args...))
}

// Warnf implements server.Logger.
func (c *Complaints) Warnf(format string, args ...any) { c.add(format, args...) }

// Errorf implements server.Logger.
func (c *Complaints) Errorf(format string, args ...any) { c.add(format, args...) }

// Fatalf implements server.Logger. It ends nothing.
func (c *Complaints) Fatalf(format string, args ...any) { c.add(format, args...) }

// Noticef implements server.Logger.
func (c *Complaints) Noticef(string, ...any) {}

// Debugf implements server.Logger.
func (c *Complaints) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (c *Complaints) Tracef(string, ...any) {}
