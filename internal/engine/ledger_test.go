package engine

import (
	"fmt"
	"sync"
	"testing"

	"github.com/holdfast-go/holdfast/internal/check"
)

func TestLedgerRemembersByPosition(t *testing.T) {
	t.Parallel()
	var l ledger
	check.Equal(t, l.look("S:1"), note{})
	l.change("S:1", func(n *note) { n.retries++ })
	l.change("S:1", func(n *note) { n.retries++ })
	check.Equal(t, l.look("S:1").retries, 2)
	check.Equal(t, l.look("S:2"), note{})
	copied := l.look("S:1")
	copied.retries = 99
	check.Equal(t, l.look("S:1").retries, 2, "look returns a copy")
	l.forget("S:1")
	l.forget("S:1")
	check.Equal(t, l.look("S:1"), note{})
	check.Equal(t, l.size.Load(), 0)
}

func TestLedgerKeepsNothingOfMessagesWithoutAPosition(t *testing.T) {
	t.Parallel()
	var l ledger
	l.change("", func(n *note) { n.retries++ })
	l.forget("")
	check.Equal(t, l.look(""), note{})
	check.Equal(t, l.size.Load(), 0)
}

func TestLedgerIsBoundedAndForgetsTheOldest(t *testing.T) {
	t.Parallel()
	var l ledger
	for i := range ledgerSize + 10 {
		l.change(fmt.Sprint(i), func(n *note) { n.retries = i + 1 })
	}
	check.Equal(t, l.size.Load(), ledgerSize)
	check.Equal(t, len(l.notes), ledgerSize)
	check.Equal(t, l.order.Len(), ledgerSize)
	check.Equal(t, l.look("9"), note{})
	check.Equal(t, l.look("10").retries, 11)
	check.Equal(t, l.look(fmt.Sprint(ledgerSize+9)).retries, ledgerSize+10)
}

func TestLedgerIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	var l ledger
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1000 {
				position := fmt.Sprint(i % 50)
				l.change(position, func(n *note) { n.returned++ })
				l.look(position)
				l.forget(position)
			}
		})
	}
	wg.Wait()
	check.Equal(t, l.size.Load(), 0)
}
