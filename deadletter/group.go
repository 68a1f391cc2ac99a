package deadletter

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// Group is the letters of one cause: of one subscription and fingerprint.
type Group struct {
	Fingerprint  string
	Subscription string
	// Reason is the most frequent of its letters.
	Reason string
	// Count is how many letters it has.
	Count int
	// Error is the masked text of the error that they share, and ErrorType its
	// Go type.
	Error, ErrorType string
	// First and Last are the earliest and the latest Letter.When.
	First, Last time.Time
	// Samples are the IDs of its oldest letters, three at most.
	Samples []string
}

const samples = 3

// Groups returns the groups of the letters that match, the largest first and of
// equal ones the latest first. Query.Limit is how many groups are returned at
// most. It reads every letter that matches; [Store.Counts] does not.
func (s *Store) Groups(ctx context.Context, q Query) ([]Group, error) {
	limit := q.Limit
	q.Limit = 0
	type id struct{ subscription, fingerprint string }
	tallies := map[id]*tally{}
	for l, err := range s.List(ctx, q) {
		if err != nil {
			return nil, err
		}
		at := id{l.Subscription, l.Fingerprint}
		if tallies[at] == nil {
			tallies[at] = newTally(l)
		}
		tallies[at].add(l)
	}
	groups := make([]Group, 0, len(tallies))
	for _, t := range tallies {
		groups = append(groups, t.done())
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(
			cmp.Compare(b.Count, a.Count),
			b.Last.Compare(a.Last),
			cmp.Compare(a.Subscription, b.Subscription),
			cmp.Compare(a.Fingerprint, b.Fingerprint),
		)
	})
	if limit > 0 && len(groups) > limit {
		groups = groups[:limit]
	}
	return groups, nil
}

// Counts returns how many letters each group has without reading them. A letter
// that was stored twice may count twice.
func (s *Store) Counts(ctx context.Context) ([]transport.LetterCount, error) {
	return s.store.Summary(ctx)
}

// tally is a group that is being counted.
type tally struct {
	group   Group
	reasons map[string]int
}

func newTally(l Letter) *tally {
	return &tally{
		group: Group{
			Fingerprint:  l.Fingerprint,
			Subscription: l.Subscription,
			Error:        l.MaskedError(),
			ErrorType:    l.ErrorType,
			First:        l.When(),
			Last:         l.When(),
		},
		reasons: map[string]int{},
	}
}

func (t *tally) add(l Letter) {
	g, when := &t.group, l.When()
	g.Count++
	t.reasons[l.Reason]++
	if when.Before(g.First) {
		g.First = when
	}
	if when.After(g.Last) {
		g.Last = when
	}
	if len(g.Samples) < samples {
		g.Samples = append(g.Samples, l.ID)
	}
}

func (t *tally) done() Group {
	most := 0
	for reason, n := range t.reasons {
		if n > most || n == most && reason < t.group.Reason {
			t.group.Reason, most = reason, n
		}
	}
	return t.group
}
