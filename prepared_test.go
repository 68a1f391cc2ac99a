package holdfast_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

// preparedStore is a store that has to be prepared, and notes for whom it was.
type preparedStore struct {
	transport.DeadLetterStore
	findings         []transport.Finding
	checkErr         error
	report           transport.Report
	checked, readied []string
}

func (s *preparedStore) CheckStore(_ context.Context, subscription string) ([]transport.Finding, error) {
	s.checked = append(s.checked, subscription)
	return s.findings, s.checkErr
}

func (s *preparedStore) ProvisionStore(_ context.Context, subscription string) (transport.Report, error) {
	s.readied = append(s.readied, subscription)
	return s.report, nil
}

func TestAStoreElsewhereIsPreparedWithItsSubscription(t *testing.T) {
	t.Parallel()
	promise(t, func(t *testing.T, w *world) {
		store := &preparedStore{
			DeadLetterStore: memory.New().DeadLetters(),
			findings:        []transport.Finding{{Code: transport.CodeDeadCreated, Level: transport.LevelInfo}},
			report:          transport.Report{Created: []string{"a place for dead letters"}},
		}
		holdfast.Handle(w.app, w.queue("orders"), w.condemnsBad(), holdfast.DeadLetterTo(store))
		holdfast.Handle(w.app, w.queue("other"), w.condemnsBad())
		found, err := w.app.Check(t.Context())
		check.NoError(t, err)
		found = slices.DeleteFunc(found, func(f holdfast.Finding) bool { return f.Code != transport.CodeDeadCreated })
		check.Equal(t, len(found), 1)
		check.Equal(t, found[0].Subscription, "orders")
		check.Equal(t, len(store.readied), 0, "prepared by a check")
		w.run()
		check.Equal(t, store.checked, []string{"orders", "orders"})
		check.Equal(t, store.readied, []string{"orders"})
	})
}

func TestAStoreElsewhereThatCannotServeIsRefused(t *testing.T) {
	t.Parallel()
	bad := []transport.Finding{{Code: transport.CodeDeadMissing, Level: transport.LevelError, Fact: "no place"}}
	for name, store := range map[string]*preparedStore{
		"by its check":     {findings: bad},
		"by what was made": {report: transport.Report{Findings: bad}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, memory.New())
			store.DeadLetterStore = memory.New().DeadLetters()
			holdfast.Handle(w.app, w.queue("orders"), w.condemnsBad(), holdfast.DeadLetterTo(store))
			refused, ok := errors.AsType[*holdfast.ContractError](w.app.Run(t.Context()))
			if !ok || !refused.Has(transport.CodeDeadMissing) || refused.Findings[0].Subscription != "orders" {
				t.Errorf("the app said %v", refused)
			}
		})
	}
	w := newWorld(t, memory.New())
	store := &preparedStore{DeadLetterStore: memory.New().DeadLetters(), checkErr: errors.New("nobody answers")}
	holdfast.Handle(w.app, w.queue("orders"), w.condemnsBad(), holdfast.DeadLetterTo(store))
	err := w.app.Run(t.Context())
	if !errors.Is(err, store.checkErr) || !strings.Contains(err.Error(), "dead-letter store of subscription orders") {
		t.Errorf("a store that cannot be checked: %v", err)
	}
}
