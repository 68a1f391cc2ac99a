package deadletter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// Store is the dead letters of one broker. Its methods are safe for concurrent
// use, by several processes too.
type Store struct {
	store transport.DeadLetterStore
	log   *slog.Logger
	audit func(context.Context, Event)
}

// Option changes how a Store reports what it does. The options of this package
// are all there are.
type Option interface{ apply(*Store) }

type option func(*Store)

func (o option) apply(s *Store) { o(s) }

// WithLogger logs one line for each call that changed something. The default is
// to log nothing.
func WithLogger(l *slog.Logger) Option {
	return option(func(s *Store) {
		if l != nil {
			s.log = l
		}
	})
}

// WithAudit calls fn for each letter that was changed, or that should have been
// and was not, before the call goes on to the next. fn is called by the
// goroutine that made the call.
func WithAudit(fn func(context.Context, Event)) Option {
	return option(func(s *Store) {
		if fn != nil {
			s.audit = fn
		}
	})
}

// Open returns the dead letters of a store. It does no I/O, and there is
// nothing to close.
func Open(store transport.DeadLetterStore, opts ...Option) *Store {
	s := &Store{
		store: store,
		log:   slog.New(slog.DiscardHandler),
		audit: func(context.Context, Event) {},
	}
	for _, o := range opts {
		o.apply(s)
	}
	return s
}

// Query selects dead letters; an empty field matches all.
type Query struct {
	Subscription string
	Fingerprint  string
	Reason       string
	// IDs are dead IDs, or beginnings of them that fit one letter only. Those
	// that fit none are reported after all others were found.
	IDs []string
	// Since and Before select by Letter.When: at or after the one, before the
	// other.
	Since, Before time.Time
	// Limit is how many are taken at most, oldest first. Zero means all.
	Limit int
	// All must be set to change everything there is. A change whose query
	// selects by nothing else is refused without it. It means nothing to
	// listings.
	All bool
}

// selective reports whether q leaves anything out, Limit aside.
func (q Query) selective() bool {
	return q.Subscription != "" || q.Fingerprint != "" || q.Reason != "" || len(q.IDs) > 0 ||
		!q.Since.IsZero() || !q.Before.IsZero()
}

func (q Query) filter() transport.LetterFilter {
	return transport.LetterFilter{Subscription: q.Subscription, Fingerprint: q.Fingerprint}
}

// matches decides about what the store's own filter does not know.
func (q Query) matches(l Letter) bool {
	when := l.When()
	return (q.Reason == "" || q.Reason == l.Reason) &&
		(q.Since.IsZero() || !when.Before(q.Since)) &&
		(q.Before.IsZero() || when.Before(q.Before))
}

// List yields the letters that match, oldest first, until the caller stops or
// an error was yielded. A letter that was stored twice is yielded once. What is
// listed may be a foreign message; it is never left out.
func (s *Store) List(ctx context.Context, q Query) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		ids, missing, err := s.resolve(ctx, q)
		if err != nil {
			yield(Letter{}, err)
			return
		}
		taken := 0
		for l, err := range s.each(ctx, q, ids) {
			if q.Limit > 0 && taken == q.Limit {
				break
			}
			taken++
			if !yield(l, err) || err != nil {
				return
			}
		}
		if missing != nil {
			yield(Letter{}, missing)
		}
	}
}

// ListAll is List as a slice. On an error it returns what came before as well.
func (s *Store) ListAll(ctx context.Context, q Query) ([]Letter, error) {
	var letters []Letter
	for l, err := range s.List(ctx, q) {
		if err != nil {
			return letters, err
		}
		letters = append(letters, l)
	}
	return letters, nil
}

// name identifies a letter, whatever it is filed under.
type name struct{ subscription, id string }

// each yields every letter once that matches q and is one of ids; nil ids mean
// all.
func (s *Store) each(ctx context.Context, q Query, ids map[name]bool) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		if ids != nil && len(ids) == 0 {
			return
		}
		seen := map[name]bool{}
		for stored, err := range s.letters(ctx, q.filter()) {
			if err != nil {
				yield(Letter{}, err)
				return
			}
			n := name{stored.Key.Subscription, stored.Key.ID}
			if seen[n] || ids != nil && !ids[n] {
				continue
			}
			seen[n] = true
			if l := read(stored); q.matches(l) && !yield(l, nil) {
				return
			}
		}
	}
}

// letters is the store's own listing with errors that say what we were doing.
func (s *Store) letters(ctx context.Context, f transport.LetterFilter) iter.Seq2[transport.StoredLetter, error] {
	return func(yield func(transport.StoredLetter, error) bool) {
		for stored, err := range s.store.Letters(ctx, f) {
			if err != nil {
				yield(transport.StoredLetter{}, fmt.Errorf("list dead letters: %w", err))
				return
			}
			if !yield(stored, nil) {
				return
			}
		}
	}
}

// Get returns the letter with this ID, or the only one whose ID begins so. An
// error is ErrNotFound when there is none, and an [*AmbiguousError] when there
// are several.
func (s *Store) Get(ctx context.Context, id string) (Letter, error) {
	for l, err := range s.List(ctx, Query{IDs: []string{id}}) {
		return l, err
	}
	// It was removed between the two looks that List takes.
	return Letter{}, notFound(id)
}

// AmbiguousError is returned when the beginning of an ID fits several letters.
type AmbiguousError struct {
	Prefix string
	// Candidates are some of those it fits, each as "ID (subscription)".
	Candidates []string
	// More is how many others there are.
	More int
}

// Error names the candidates.
func (e *AmbiguousError) Error() string {
	text := fmt.Sprintf("dead letter %s: the ID is ambiguous: %s", e.Prefix, strings.Join(e.Candidates, ", "))
	if e.More > 0 {
		text += fmt.Sprintf(" and %d more", e.More)
	}
	return text + "; write more of it, or name the subscription"
}

func notFound(id string) error {
	return &transport.Error{
		Op: "find dead letter", Address: id, Kind: transport.Permanent, Err: transport.ErrNotFound,
		Hint: "it may have been redriven or discarded; list the dead letters to see what is there",
	}
}

// resolve finds the letters that q.IDs mean; nil when q names none. missing
// joins one error for each ID that fits nothing.
func (s *Store) resolve(ctx context.Context, q Query) (found map[name]bool, missing, err error) {
	if len(q.IDs) == 0 {
		return nil, nil, nil
	}
	fits := make(map[string]*fit, len(q.IDs))
	_, scans := s.store.(transport.LetterSweeper) // to ask for one costs a look at everything
	exact := !scans
	for _, id := range q.IDs {
		if id == "" {
			return nil, nil, transport.Invalid("find dead letter", "", "an ID is empty")
		}
		f := q.filter()
		f.ID = id
		fits[id] = &fit{}
		if scans {
			continue
		}
		if err := s.match(ctx, f, fits); err != nil {
			return nil, nil, err
		}
		exact = exact && len(fits[id].exact) > 0
	}
	// Only the beginning of an ID needs a look at everything.
	if !exact {
		if err := s.match(ctx, q.filter(), fits); err != nil {
			return nil, nil, err
		}
	}
	return settleFits(q.IDs, fits)
}

// match notes which IDs of fits each stored letter fits.
func (s *Store) match(ctx context.Context, f transport.LetterFilter, fits map[string]*fit) error {
	for stored, err := range s.letters(ctx, f) {
		if err != nil {
			return err
		}
		n := name{stored.Key.Subscription, stored.Key.ID}
		for id, fit := range fits {
			fit.add(id, n)
		}
	}
	return nil
}

// fit is the letters that one ID fits, each once.
type fit struct{ exact, prefix []name }

func (f *fit) add(id string, n name) {
	switch {
	case n.id == id:
		f.exact = appendOnce(f.exact, n)
	case strings.HasPrefix(n.id, id):
		f.prefix = appendOnce(f.prefix, n)
	}
}

func appendOnce(names []name, n name) []name {
	for _, other := range names {
		if other == n {
			return names
		}
	}
	return append(names, n)
}

// settleFits decides which letter each ID means. A whole ID wins over the
// beginning of a longer one.
func settleFits(ids []string, fits map[string]*fit) (found map[name]bool, missing, err error) {
	found = map[name]bool{}
	var lost []error
	reported := map[string]bool{}
	for _, id := range ids {
		if reported[id] {
			continue
		}
		reported[id] = true
		names := fits[id].exact
		if len(names) == 0 {
			names = fits[id].prefix
		}
		switch len(names) {
		case 0:
			lost = append(lost, notFound(id))
		case 1:
			found[names[0]] = true
		default:
			return nil, nil, ambiguous(id, names)
		}
	}
	return found, errors.Join(lost...), nil
}

func ambiguous(prefix string, names []name) error {
	const shown = 5
	e := &AmbiguousError{Prefix: prefix}
	for _, n := range names[:min(len(names), shown)] {
		e.Candidates = append(e.Candidates, n.id+" ("+n.subscription+")")
	}
	e.More = len(names) - len(e.Candidates)
	return e
}
