package natsconn

import (
	"sync"

	"github.com/holdfast-go/holdfast/transport"
)

// events hands each event to every observer.
type events struct {
	mu   sync.Mutex // guards the fields below; a leaf: never held across a call
	next int
	fns  map[int]func(transport.Event)
}

func (e *events) observe(fn func(transport.Event)) (stop func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fns == nil {
		e.fns = make(map[int]func(transport.Event))
	}
	id := e.next
	e.next++
	e.fns[id] = fn
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.fns, id)
	}
}

func (e *events) emit(ev transport.Event) {
	for _, fn := range e.observers() {
		fn(ev)
	}
}

// observers returns a copy, so that no lock is held while they are called.
func (e *events) observers() []func(transport.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fns := make([]func(transport.Event), 0, len(e.fns))
	for _, fn := range e.fns {
		fns = append(fns, fn)
	}
	return fns
}
