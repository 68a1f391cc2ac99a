// Package eventlog keeps the events of a transport for tests to look at.
package eventlog

import (
	"strings"
	"sync"

	"github.com/holdfast-go/holdfast/transport"
)

// Log keeps events. The zero value is ready, and safe for concurrent use.
type Log struct {
	mu     sync.Mutex // guards events
	events []transport.Event
}

// Add keeps an event. It is what a transport's Observe is given.
func (l *Log) Add(e transport.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// All returns the events of a kind whose detail contains a text, in their order.
func (l *Log) All(kind transport.EventKind, detail string) []transport.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []transport.Event
	for _, e := range l.events {
		if e.Kind == kind && strings.Contains(e.Detail, detail) {
			out = append(out, e)
		}
	}
	return out
}

// Sum adds up the counts of the events of a kind.
func (l *Log) Sum(kind transport.EventKind) int {
	n := 0
	for _, e := range l.All(kind, "") {
		n += e.Count
	}
	return n
}

// Text joins the details of the events of a kind.
func (l *Log) Text(kind transport.EventKind) string {
	var out []string
	for _, e := range l.All(kind, "") {
		out = append(out, e.Detail)
	}
	return strings.Join(out, "; ")
}
