package memory

import (
	"sync"

	"github.com/holdfast-go/holdfast/transport"
)

// observers are those who are told of events.
type observers struct {
	// mu guards the rest. It is taken after Broker.mu or alone, and not held
	// while an observer runs.
	mu   sync.Mutex
	next int
	list []observer
}

type observer struct {
	id int
	fn func(transport.Event)
}

// Observe implements transport.Observable.
func (b *Broker) Observe(fn func(transport.Event)) (stop func()) {
	o := &b.observers
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next++
	id := o.next
	o.list = append(o.list, observer{id, fn})
	return func() { o.remove(id) }
}

func (o *observers) remove(id int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var left []observer
	for _, other := range o.list {
		if other.id != id {
			left = append(left, other)
		}
	}
	o.list = left
}

// emit tells every observer of every event. Broker.mu is not held.
func (o *observers) emit(events ...transport.Event) {
	if len(events) == 0 {
		return
	}
	o.mu.Lock()
	list := o.list[:len(o.list):len(o.list)]
	o.mu.Unlock()
	for _, event := range events {
		for _, other := range list {
			other.fn(event)
		}
	}
}
