//go:build linux

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// book makes a ledger of lines; times are milliseconds.
func book(lines ...string) *ledger {
	l := newLedger()
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) >= 4 {
			f[2], f[3] = f[2]+"000000", f[3]+"000000"
		}
		l.add(strings.Join(f, " "))
	}
	return l
}

func ms(from, to int64) span { return span{time.UnixMilli(from), time.UnixMilli(to)} }

func TestTheCheckerNoticesWhatIsBroken(t *testing.T) {
	t.Parallel()
	three := []string{"a m-0 1 5", "a m-1 2 6", "a m-2 3 20"}
	for _, c := range []struct {
		name   string
		lines  []string
		stored []string
		terms  terms
		want   tally
		broken string // part of what is said; empty when all is well
	}{
		{"all is well", three, []string{"m-0", "m-1", "m-2"}, terms{}, tally{Accepted: 3, Stored: 3}, ""},
		{"overtaken where that is allowed", three, []string{"m-1", "m-0", "m-2"}, terms{overtaken: 1}, tally{Accepted: 3, Stored: 3, Overtaken: 1}, ""},
		{"a lost message", three, []string{"m-0", "m-2"}, terms{}, tally{Accepted: 3, Stored: 2, Lost: 1}, "[m-1]"},
		{"lost, but set aside", three, []string{"m-0", "m-2"}, terms{aside: 1}, tally{Accepted: 3, Stored: 2}, ""},
		{
			"a duplicate of what was under way at a fault", three,
			[]string{"m-0", "m-1", "m-2", "m-2"},
			terms{faults: []span{ms(10, 12)}, window: 2},
			tally{Accepted: 3, Stored: 3, Duplicated: 1},
			"",
		},
		{
			"a duplicate of what was confirmed before the fault", three,
			[]string{"m-0", "m-1", "m-1", "m-2"},
			terms{faults: []span{ms(10, 12)}, window: 2},
			tally{Accepted: 3, Stored: 3, Duplicated: 1, Unasked: 1},
			"not under way",
		},
		{
			"more duplicates than a window", three,
			[]string{"m-0", "m-1", "m-2", "m-2", "m-2"},
			terms{faults: []span{ms(10, 12)}, window: 1},
			tally{Accepted: 3, Stored: 3, Duplicated: 2},
			"more than the 1",
		},
		{
			"too many copies of one", three,
			[]string{"m-0", "m-1", "m-2", "m-2", "m-2"},
			terms{faults: []span{ms(10, 12)}, window: 9, copies: 2},
			tally{Accepted: 3, Stored: 3, Duplicated: 2},
			"stored 3 times",
		},
		{"out of order", three, []string{"m-1", "m-0", "m-2"}, terms{}, tally{Accepted: 3, Stored: 3, Reordered: 1}, "behind m-1"},
		{"lanes do not mix", []string{"a m-0 1 2", "a n-9 1 2"}, []string{"n-9", "m-0"}, terms{}, tally{Accepted: 2, Stored: 2}, ""},
		{"an order of first copies", three, []string{"m-0", "m-1", "m-0", "m-2"}, terms{spooled: true, faults: []span{ms(0, 1)}, window: 1}, tally{Accepted: 3, Stored: 3, Duplicated: 1}, ""},
		{"refused without leave", []string{"r m-0 1 2 refused full"}, nil, terms{}, tally{Refused: 1}, "should not have been refused"},
		{"refused with leave", []string{"r m-0 1 2 refused full"}, nil, terms{mayRefuse: func(id) bool { return true }}, tally{Refused: 1}, ""},
		{
			"refused and stored",
			[]string{"r m-0 1 2 refused full"},
			[]string{"m-0"},
			terms{mayRefuse: func(id) bool { return true }},
			tally{Refused: 1, Phantom: 1, Stored: 1},
			"is stored and was refused",
		},
		{"unknown and stored", []string{"r m-0 1 2 uncertain cut"}, []string{"m-0"}, terms{mayRefuse: func(id) bool { return true }}, tally{Unknown: 1, Stored: 1}, ""},
		{"what the harness deleted", three, []string{"m-2"}, terms{gone: func(i id, _ span) bool { return i.n < 2 }}, tally{Accepted: 1, Stored: 1}, ""},
		{"what nobody published", nil, []string{"who"}, terms{}, tally{}, "no ID of ours"},
		{"a line that makes no sense", []string{"z m-0 1 2"}, nil, terms{}, tally{}, "not understood"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := check(book(c.lines...), c.stored, c.terms)
			said := strings.Join(got.broken, "\n")
			if (said == "") != (c.broken == "") || !strings.Contains(said, c.broken) {
				t.Errorf("it said %q and should say %q", said, c.broken)
			}
			got.broken = nil
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("it found %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestEveryMutantHasItsGuardAndARow(t *testing.T) {
	t.Parallel()
	for _, m := range mutants() {
		if _, err := m.overlay(filepath.Join("..", ".."), t.TempDir()); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if !slices.ContainsFunc(rows(), func(r row) bool { return r.name == m.row }) {
			t.Errorf("%s is to be noticed by %s, which is no row", m.name, m.row)
		}
	}
}
