package rabbitmq

import (
	"sync"

	"github.com/holdfast-go/holdfast/transport"
)

// observers passes events on. It is safe for concurrent use.
type observers struct {
	mu   sync.RWMutex // guards what follows; observers are called without it
	next int
	fns  map[int]func(transport.Event)
}

// add registers fn and returns the function that removes it.
func (o *observers) add(fn func(transport.Event)) (stop func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fns == nil {
		o.fns = map[int]func(transport.Event){}
	}
	id := o.next
	o.next++
	o.fns[id] = fn
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.fns, id)
	}
}

// emit calls every observer.
func (o *observers) emit(e transport.Event) {
	o.mu.RLock()
	fns := make([]func(transport.Event), 0, len(o.fns))
	for _, fn := range o.fns {
		fns = append(fns, fn)
	}
	o.mu.RUnlock()
	for _, fn := range fns {
		fn(e)
	}
}
