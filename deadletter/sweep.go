package deadletter

import (
	"context"
	"fmt"

	"github.com/holdfast-go/holdfast/transport"
)

// sweep changes the planned letters in one pass over a store that has no index, and
// writes down what became of each. The error is one of the pass itself.
func (s *Store) sweep(ctx context.Context, store transport.LetterSweeper, q Query, planned []Outcome, c change) error {
	waiting := make(map[name]int, len(planned))
	for i, o := range planned {
		waiting[name{o.Subscription, o.ID}] = i
	}
	removed := map[name]bool{}
	err := store.Sweep(ctx, transport.LetterFilter{Subscription: q.Subscription}, func(stored transport.StoredLetter) (bool, error) {
		n := name{stored.Key.Subscription, stored.Key.ID}
		i, ok := waiting[n]
		if !ok {
			return removed[n], nil // filed a second time, elsewhere
		}
		delete(waiting, n)
		o := s.sweepOne(ctx, planned[i], read(stored), c)
		planned[i] = o
		removed[n] = o.State == c.done
		s.audit(ctx, Event{Op: c.op, Outcome: o, Reason: c.reason})
		return removed[n], nil
	})
	for _, i := range waiting {
		s.leave(ctx, &planned[i], err, c)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s dead letters: what was done before may be listed again: %w", c.op, err)
	}
	return nil
}

// sweepOne does to a letter what comes before its removal.
func (s *Store) sweepOne(ctx context.Context, o Outcome, l Letter, c change) Outcome {
	if c.first != nil {
		if err := c.first(ctx, l); err != nil {
			o.State, o.Err = Failed, err
			return o
		}
		o.Published = true
	}
	o.State = c.done
	return o
}

// leave says why a letter was not reached.
func (s *Store) leave(ctx context.Context, o *Outcome, err error, c change) {
	switch {
	case ctx.Err() != nil:
		o.State = Skipped
		return
	case err != nil:
		o.State, o.Err = Failed, err
	default:
		o.State = Gone
	}
	s.audit(ctx, Event{Op: c.op, Outcome: *o, Reason: c.reason})
}
