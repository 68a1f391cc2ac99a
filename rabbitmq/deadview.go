package rabbitmq

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// turns lets one look at a time happen in this process. A view, whose caller may
// take his time and may ask for more in between, gives its turn to whoever asks.
type turns struct {
	turn chan struct{} // capacity 1
	mu   sync.Mutex    // guards view
	view *view         // who holds the turn, if it is a view
}

func newTurns() turns { return turns{turn: make(chan struct{}, 1)} }

// take waits for the turn and returns the function that gives it back.
func (t *turns) take(ctx context.Context) (release func(), err error) {
	t.mu.Lock()
	v := t.view
	t.mu.Unlock()
	if v != nil {
		v.suspend(ctx)
	}
	select {
	case t.turn <- struct{}{}:
		return sync.OnceFunc(func() { <-t.turn }), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// lend notes that a view holds the turn.
func (t *turns) lend(v *view) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.view = v
}

// keep is the end of lend.
func (t *turns) keep(v *view) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.view == v {
		t.view = nil
	}
}

// view is one listing of dead letters.
type view struct {
	s    *deadStore
	f    transport.LetterFilter
	seen map[transport.DeadKey]bool // a letter that was buried twice is listed once

	mu        sync.Mutex // guards what follows; held while letters are read
	reading   *merged    // nil when nothing is held any more
	suspended bool
	release   func()
	rest      []letter // read when the view was suspended
	broken    error    // why rest is not all
}

const listing = "list dead letters"

// Letters implements transport.DeadLetterStore. A queue is read as far as the
// caller goes, and gets everything back at the end; meanwhile others wait. When
// this process asks the store for something else meanwhile, all that is left is
// read into memory first. A look that is cut off by the end of the process or of
// the connection may leave the letters it has read behind the others.
func (s *deadStore) Letters(ctx context.Context, f transport.LetterFilter) iter.Seq2[transport.StoredLetter, error] {
	return func(yield func(transport.StoredLetter, error) bool) {
		v := &view{s: s, f: f, seen: map[transport.DeadKey]bool{}}
		var stopped bool
		err := alone(ctx, func() (err error) {
			stopped, err = v.stream(ctx, yield)
			return err
		})
		if err != nil && !stopped {
			yield(transport.StoredLetter{}, err)
		}
	}
}

// stream yields letters while it reads them. stopped tells that the caller wants
// no more.
func (v *view) stream(ctx context.Context, yield func(transport.StoredLetter, error) bool) (stopped bool, err error) {
	release, err := v.s.turns.take(ctx)
	if err != nil {
		return false, seamError(listing, "", err, false)
	}
	defer release()
	defer v.s.turns.keep(v)
	err = v.s.t.look(ctx, listing, "", func(grace context.Context, a *admin) error {
		m, err := a.merge(ctx, v.s.work(v.f))
		if err != nil {
			return err
		}
		v.begin(m, release)
		defer v.end(grace)
		for {
			l, ok, err := v.next(ctx)
			if err != nil || !ok {
				return err
			}
			if !yield(l.StoredLetter, nil) {
				stopped = true
				return nil
			}
		}
	})
	return stopped, err
}

// begin notes that the view holds letters and the turn.
func (v *view) begin(m *merged, release func()) {
	v.mu.Lock()
	v.reading, v.release, v.suspended, v.rest, v.broken = m, release, false, nil, nil
	v.mu.Unlock()
	v.s.turns.lend(v)
}

// next returns the next letter to be listed.
func (v *view) next(ctx context.Context) (l letter, ok bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.suspended {
		if len(v.rest) == 0 {
			return letter{}, false, v.broken
		}
		l, v.rest = v.rest[0], v.rest[1:]
		return l, true, nil
	}
	for {
		l, ok, err = v.reading.next(ctx)
		if err != nil || !ok {
			return l, ok, err
		}
		if v.first(l) {
			return l, true, nil
		}
	}
}

// first tells whether a letter is to be listed, and notes it.
func (v *view) first(l letter) bool {
	if !l.matches(v.f) || v.seen[l.Key] {
		return false
	}
	v.seen[l.Key] = true
	return true
}

// suspend reads what is left into memory, gives everything back, and the turn to
// somebody else.
func (v *view) suspend(ctx context.Context) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.reading == nil {
		return
	}
	v.broken = v.reading.end(ctx, func(l letter) {
		if v.first(l) {
			v.rest = append(v.rest, l)
		}
	})
	v.reading, v.suspended = nil, true
	v.release()
}

// end gives everything back.
func (v *view) end(ctx context.Context) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.reading != nil {
		_ = v.reading.end(ctx, nil)
		v.reading = nil
	}
}

// giveBack is how long what a look holds may take to go back in its order.
const giveBack = 5 * time.Second

// look is admin for what takes letters from a queue: grace lasts longer than ctx,
// for as long as it takes to give them back.
func (t *Transport) look(ctx context.Context, op, address string, do func(grace context.Context, a *admin) error) error {
	grace, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		pause(grace, giveBack)
		cancel(context.Cause(ctx))
	})
	defer stop()
	return t.admin(grace, op, address, func(a *admin) error { return do(grace, a) })
}

// alone does something again for as long as others disturb it.
func alone(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !errors.Is(err, errDisturbed) || !pause(ctx, jittered(500*time.Millisecond)) {
			return err
		}
	}
}

// each reads the letters of one work queue, and drops those that visit says. It
// stops when ctx ends, and still drops what visit has said by then.
func (s *deadStore) each(ctx context.Context, op, queue, subscription string, visit func(letter) (drop bool, err error)) error {
	release, err := s.turns.take(ctx)
	if err != nil {
		return seamError(op, deadName(queue), err, false)
	}
	defer release()
	return alone(ctx, func() error {
		return s.t.look(ctx, op, deadName(queue), func(grace context.Context, a *admin) error {
			p, err := a.pass(ctx, queue, subscription)
			if err != nil {
				return err
			}
			defer p.end(grace)
			return p.each(ctx, visit)
		})
	})
}

func (p *pass) each(ctx context.Context, visit func(letter) (drop bool, err error)) error {
	for {
		l, ok, err := p.next(ctx)
		if err != nil || !ok {
			return err
		}
		drop, err := visit(l)
		if drop {
			err = errors.Join(err, p.drop(l))
		}
		if err != nil {
			return err
		}
	}
}

// Sweep implements transport.LetterSweeper.
func (s *deadStore) Sweep(ctx context.Context, f transport.LetterFilter, visit func(transport.StoredLetter) (remove bool, err error)) error {
	for queue, subscription := range s.work(f) {
		decided := map[transport.DeadKey]bool{}
		err := s.each(ctx, "sweep dead letters", queue, subscription, func(l letter) (bool, error) {
			drop, again := decided[l.Key]
			if again || !l.matches(f) {
				return drop, nil
			}
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			drop, err := visit(l.StoredLetter)
			decided[l.Key] = drop
			return drop, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
