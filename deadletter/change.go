package deadletter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// Op names a change.
type Op string

// The changes there are.
const (
	OpRedrive Op = "redrive"
	OpDiscard Op = "discard"
)

// removeTimeout bounds the removal that follows a confirmed redrive.
const removeTimeout = 10 * time.Second

// State is what became of one letter.
type State string

// The states of a letter after a change.
const (
	Planned   State = "planned"   // a dry run: it would have been changed
	Redriven  State = "redriven"  // published to its subscription and removed
	Discarded State = "discarded" // removed
	Gone      State = "gone"      // somebody else removed it meanwhile
	Failed    State = "failed"    // Err says why; it is still there
	Skipped   State = "skipped"   // the context ended before its turn
)

// Outcome is what became of one letter.
type Outcome struct {
	ID           string
	MessageID    string
	Subscription string
	Fingerprint  string
	State        State
	// Err is set when State is Failed.
	Err error
	// Published is true when the redrive was confirmed, even if the letter could
	// not be removed after that.
	Published bool
}

// Event is one change of one letter, for an audit trail. It holds no bodies.
type Event struct {
	Op Op
	Outcome
	// Reason is why it was done, for OpDiscard.
	Reason string
}

// Result says what a change did. It is complete even when the change returned
// an error as well.
type Result struct {
	Matched int // letters that were selected
	Done    int // redriven or discarded; in a dry run those that would be
	Gone    int // removed by somebody else meanwhile
	Failed  int // still there, with an error
	Skipped int // not tried because the context ended
	// Outcomes has one entry for each letter that matched, oldest first.
	Outcomes []Outcome
}

func (r *Result) add(o Outcome) {
	r.Outcomes = append(r.Outcomes, o)
	switch o.State {
	case Gone:
		r.Gone++
	case Failed:
		r.Failed++
	case Skipped:
		r.Skipped++
	default:
		r.Done++
	}
}

// RedriveOptions changes how letters are redriven. The zero value works.
type RedriveOptions struct {
	// DryRun selects and changes nothing.
	DryRun bool
}

// DiscardOptions says how letters are discarded.
type DiscardOptions struct {
	// Reason is why, for the log and the audit. It is required.
	Reason string
	// DryRun selects and changes nothing.
	DryRun bool
}

// Redrive sends the selected letters back to the subscription that failed and
// to no other, oldest first: the message as it first was, under its own ID, with
// a new budget of attempts. Each letter is removed after its redrive was
// confirmed.
//
// Letters are selected before the first is sent, so that one which fails again
// at once is not redriven twice. One that cannot be redriven does not stop the
// others; the errors are joined. To call it again after an interruption is
// safe.
func (s *Store) Redrive(ctx context.Context, q Query, o RedriveOptions) (Result, error) {
	return s.change(ctx, q, change{op: OpRedrive, dry: o.DryRun, one: s.redrive, first: s.publish, done: Redriven})
}

// Discard removes the selected letters for ever, oldest first. One that cannot
// be removed does not stop the others; the errors are joined.
func (s *Store) Discard(ctx context.Context, q Query, o DiscardOptions) (Result, error) {
	if strings.TrimSpace(o.Reason) == "" {
		return Result{}, transport.Invalid("discard dead letters", "", "a reason is required")
	}
	return s.change(ctx, q, change{op: OpDiscard, reason: o.Reason, dry: o.DryRun, one: s.discard, done: Discarded})
}

// change is one call that changes letters; one does it to one letter. In one pass
// over all of them, first is done to a letter before it is removed, if anything is,
// and done is what it is after that.
type change struct {
	op     Op
	reason string
	dry    bool
	one    func(context.Context, target) Outcome
	first  func(context.Context, Letter) error
	done   State
}

func (s *Store) change(ctx context.Context, q Query, c change) (Result, error) {
	var r Result
	if !q.All && !q.selective() {
		return r, transport.Invalid(string(c.op)+" dead letters", "", "the query selects everything; set All if that is meant")
	}
	planned, missing, err := s.plan(ctx, q)
	if err != nil {
		return r, err
	}
	r.Matched = len(planned)
	errs := []error{missing}
	if sweeper, ok := s.store.(transport.LetterSweeper); ok && !c.dry && len(planned) > 0 {
		errs = append(errs, s.sweep(ctx, sweeper, q, planned, c))
		c.one = nil
	}
	for _, o := range planned {
		if c.one != nil {
			o = s.step(ctx, o, c)
		}
		r.add(o)
		if o.Err != nil {
			errs = append(errs, fmt.Errorf("%s dead letter %s: %w", c.op, o.ID, o.Err))
		}
	}
	if r.Skipped > 0 {
		errs = append(errs, fmt.Errorf("%s dead letters: %d of %d not tried: %w", c.op, r.Skipped, r.Matched, context.Cause(ctx)))
	}
	s.report(ctx, c, r)
	return r, errors.Join(errs...)
}

// plan selects letters and keeps what names them, not their bodies.
func (s *Store) plan(ctx context.Context, q Query) (planned []Outcome, missing, err error) {
	ids, missing, err := s.resolve(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	for l, err := range s.each(ctx, q, ids) {
		if err != nil {
			return nil, nil, err
		}
		planned = append(planned, Outcome{
			ID: l.ID, MessageID: l.MessageID, Subscription: l.Subscription, Fingerprint: l.Fingerprint, State: Planned,
		})
		if q.Limit > 0 && len(planned) == q.Limit {
			break
		}
	}
	return planned, missing, nil
}

// step changes one letter, reads it again first, and reports it.
func (s *Store) step(ctx context.Context, o Outcome, c change) Outcome {
	if c.dry {
		return o
	}
	if ctx.Err() != nil {
		o.State = Skipped
		return o
	}
	t, err := s.load(ctx, o)
	switch {
	case err != nil:
		o.State, o.Err = Failed, err
	case len(t.keys) == 0:
		o.State = Gone
	default:
		o = c.one(ctx, t)
	}
	s.audit(ctx, Event{Op: c.op, Outcome: o, Reason: c.reason})
	return o
}

// target is one letter and every place it is filed under.
type target struct {
	letter  Letter
	keys    []transport.DeadKey
	outcome Outcome
}

func (s *Store) load(ctx context.Context, o Outcome) (target, error) {
	t := target{outcome: o}
	for stored, err := range s.letters(ctx, transport.LetterFilter{Subscription: o.Subscription, ID: o.ID}) {
		if err != nil {
			return t, err
		}
		// An empty filter matches all, and the parts of a foreign key may be
		// empty.
		if stored.Key.Subscription != o.Subscription || stored.Key.ID != o.ID {
			continue
		}
		if len(t.keys) == 0 {
			t.letter = read(stored)
		}
		t.keys = append(t.keys, stored.Key)
	}
	return t, nil
}

// redrive publishes first and removes after.
func (s *Store) redrive(ctx context.Context, t target) Outcome {
	o := t.outcome
	if err := s.publish(ctx, t.letter); err != nil {
		o.State, o.Err = Failed, err
		return o
	}
	o.State, o.Published = Redriven, true
	// The message is on its way: to stop now would leave a letter that is
	// redriven twice.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	if _, err := s.remove(ctx, t.keys); err != nil {
		o.State = Failed
		o.Err = fmt.Errorf("redriven and not removed, so redrive it again or discard it: %w", err)
	}
	return o
}

func (s *Store) discard(ctx context.Context, t target) Outcome {
	o := t.outcome
	removed, err := s.remove(ctx, t.keys)
	switch {
	case err != nil:
		o.State, o.Err = Failed, err
	case removed:
		o.State = Discarded
	default:
		o.State = Gone
	}
	return o
}

// publish redrives one letter. A redrive whose outcome is unknown is repeated:
// the broker suppresses the second copy.
func (s *Store) publish(ctx context.Context, l Letter) error {
	if l.Raw == nil || l.Subscription == "" {
		return transport.Invalid("redrive", l.ID, "the store does not say what or to whom")
	}
	m := wire.RedriveMessage(l.Raw, l.envelope)
	const tries = 3
	var err error
	for range tries {
		err = s.store.Redrive(ctx, l.Subscription, m)
		if err == nil || transport.KindOf(err) != transport.Unknown || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// remove removes a letter from everywhere. What is gone already is as good as
// removed; removed says whether anything was there.
func (s *Store) remove(ctx context.Context, keys []transport.DeadKey) (removed bool, err error) {
	var errs []error
	for _, key := range keys {
		err := s.store.Remove(ctx, key)
		switch {
		case err == nil:
			removed = true
		case !errors.Is(err, transport.ErrNotFound):
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

// report logs one line for the whole call. The errors are the caller's.
func (s *Store) report(ctx context.Context, c change, r Result) {
	if c.dry || r.Matched == 0 {
		return
	}
	attrs := []slog.Attr{
		slog.String("op", string(c.op)),
		slog.Int("matched", r.Matched), slog.Int("done", r.Done), slog.Int("gone", r.Gone),
		slog.Int("failed", r.Failed), slog.Int("skipped", r.Skipped),
	}
	if c.reason != "" {
		attrs = append(attrs, slog.String("reason", c.reason))
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "dead letters changed", attrs...)
}
