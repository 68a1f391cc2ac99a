package holdfast

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/holdfast-go/holdfast/internal/engine"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/recovery"
)

// outbox is what the handler of one message publishes. It is part of the
// attempt, and empty for most.
type outbox struct {
	id           string // of the message that is handled
	subscription string

	sent atomic.Pointer[outgoings] // nil before the first, so that most need no lock
	mu   sync.Mutex                // guards changes of sent, and what it points to
}

// outgoings is what was published so far.
type outgoings struct {
	pending []*Future
	alike   map[[sha256.Size]byte]uint64 // how often the very same thing was published
}

// handled returns the outbox of the message that is handled under ctx; nil where
// none is.
func handled(ctx context.Context) *outbox {
	b, _ := ctx.Value(engine.OwnKey{}).(*outbox)
	return b
}

// derive returns the ID of a message that a handler publishes. It comes from the
// message that is handled and from all that is published, so that a second
// attempt gives what it publishes again the same ID, and another message never
// has it.
func (b *outbox) derive(o *outgoing) string {
	h := sha256.New()
	part := func(s []byte) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(s)))
		h.Write(size[:])
		h.Write(s)
	}
	for _, s := range [...]string{b.id, b.subscription, o.to.Name, o.to.Key, o.m.Key, o.m.ContentType} {
		part([]byte(s))
	}
	part(o.m.Body)
	for _, name := range slices.Sorted(maps.Keys(o.m.Header)) {
		if ofTheAttempt(name) {
			continue
		}
		part([]byte(name))
		for _, value := range o.m.Header[name] {
			part([]byte(value))
		}
		part(nil) // the values end here
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	if n := b.count(sum); n > 0 {
		binary.BigEndian.PutUint64(sum[:8], binary.BigEndian.Uint64(sum[:8])+n)
	}
	return encodeID([16]byte(sum[:16]))
}

// ofTheAttempt tells whether a header differs from attempt to attempt and says
// nothing of the message: the trace context of the W3C, and what is ours.
func ofTheAttempt(name string) bool {
	switch strings.ToLower(name) {
	case "traceparent", "tracestate", "baggage":
		return true
	}
	return wire.Reserved(name)
}

// count returns how often the very same thing was published before.
func (b *outbox) count(sum [sha256.Size]byte) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.open()
	if s.alike == nil {
		s.alike = make(map[[sha256.Size]byte]uint64)
	}
	s.alike[sum]++
	return s.alike[sum] - 1
}

func (b *outbox) open() *outgoings {
	s := b.sent.Load()
	if s == nil {
		s = &outgoings{}
		b.sent.Store(s)
	}
	return s
}

// add notes a publish whose outcome the attempt waits for.
func (b *outbox) add(f *Future) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.open()
	s.pending = append(s.pending, f)
}

// settled waits for what was published, whatever the attempt ended with: an error
// may settle the message as well. It returns the outcome of the attempt. One that
// would discard the message does not, when something is not stored.
func (b *outbox) settled(ctx context.Context, err error) error {
	lost := b.wait(ctx)
	if lost == nil {
		return err
	}
	if err == nil {
		return lost
	}
	if class, _ := recovery.Classify(err); class == recovery.ClassDiscard {
		return fmt.Errorf("not discarded (%v): %w", err, lost)
	}
	return err
}

// wait waits until everything that was published has its outcome. One that is
// not stored is an error of the attempt.
func (b *outbox) wait(ctx context.Context) error {
	s := b.sent.Load()
	if s == nil {
		return nil
	}
	b.mu.Lock()
	pending := s.pending
	s.pending = nil
	b.mu.Unlock()
	var faults []error
	for _, f := range pending {
		if err := f.Wait(ctx); err != nil {
			faults = append(faults, fmt.Errorf("publish %s: %w", f.ID(), err))
		}
	}
	return errors.Join(faults...)
}
