//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// result is what became of one row on one broker.
type result struct {
	row    row
	column string
	trial  *trial
	took   time.Duration
	err    error
}

func (r *result) verdict() string {
	switch {
	case r.err != nil:
		return "ERROR"
	case len(r.trial.broken) > 0:
		return "BROKEN"
	case r.trial.notRun:
		return "NOT RUN"
	}
	return "kept"
}

// table writes all results as a table of Markdown.
func table(w io.Writer, results []*result) {
	lines := [][]string{{"row", "fault", "broker", "faults", "accepted", "lost", "duplicated", "reordered", "refused", "unknown", "flow after", "plain client", "took", "promise", "notes"}}
	for _, r := range results {
		t := r.trial
		n := func(i int) string { return fmt.Sprint(i) }
		lines = append(lines, []string{
			r.row.number, r.row.name, r.column, n(len(t.terms.faults)), n(t.tally.Accepted), n(t.tally.Lost), n(t.tally.Duplicated),
			n(t.tally.Reordered), n(t.tally.Refused), n(t.tally.Unknown), flow(t.recoveries), flow(t.plain), fmt.Sprintf("%.0f s", r.took.Seconds()), r.verdict(), strings.Join(t.notes, ", "),
		})
	}
	width := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, cell := range l {
			width[i] = max(width[i], len(cell))
		}
	}
	for i, l := range lines {
		for j, cell := range l {
			fmt.Fprintf(w, "| %-*s ", width[j], cell)
		}
		fmt.Fprintln(w, "|")
		if i > 0 {
			continue
		}
		for _, n := range width {
			fmt.Fprintf(w, "|%s", strings.Repeat("-", n+2))
		}
		fmt.Fprintln(w, "|")
	}
}

// flow is how long it took until messages flowed again: half of the times, and in
// the worst case.
func flow(all []time.Duration) string {
	if len(all) == 0 {
		return "-"
	}
	all = slices.Sorted(slices.Values(all))
	text := fmt.Sprintf("%.2f / %.2f s", all[len(all)/2].Seconds(), all[len(all)-1].Seconds())
	late := 0
	for _, d := range all {
		if d > flowAim {
			late++
		}
	}
	if late > 0 {
		text += fmt.Sprintf(" (%d of %d beyond %v)", late, len(all), flowAim)
	}
	return text
}

// totals writes the last line.
func totals(w io.Writer, results []*result) {
	var accepted, lost, duplicated, reordered int
	for _, r := range results {
		accepted += r.trial.tally.Accepted
		lost += r.trial.tally.Lost
		duplicated += r.trial.tally.Duplicated
		reordered += r.trial.tally.Reordered
	}
	fmt.Fprintf(w, "accepted=%d lost=%d duplicated=%d reordered=%d\n", accepted, lost, duplicated, reordered)
}
