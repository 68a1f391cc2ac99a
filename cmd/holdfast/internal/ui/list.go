package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"go.yaml.in/yaml/v4"
)

// Formats are the values of --output.
func Formats() []string { return []string{"table", "json", "jsonl", "yaml", "name"} }

// Column is one column of a table.
type Column[T any] struct {
	Name  string
	Value func(T) string
	// Whole is for what commands take: it is never cut.
	Whole bool
	// Spare is for what a narrow terminal has no room for.
	Spare bool
}

// List writes items as the format says: a table on a terminal, tab-separated
// values when piped, or machine-readable. name is what identifies an item.
func List[T any](u *UI, items []T, name func(T) string, columns ...Column[T]) error {
	switch u.Format {
	case "json":
		if items == nil {
			items = []T{}
		}
		return u.JSON(items)
	case "jsonl":
		for _, it := range items {
			if err := JSONLine(u.Out, it); err != nil {
				return err
			}
		}
		return nil
	case "yaml":
		return u.yaml(items)
	case "name":
		for _, it := range items {
			if _, err := fmt.Fprintln(u.Out, Line(name(it))); err != nil {
				return err
			}
		}
		return nil
	}
	if u.OutTTY || u.Format == "table" {
		return tabular(u, items, columns)
	}
	return separated(u.Out, items, columns)
}

// One writes one item as the format says; text is for people.
func (u *UI) One(item any, name string, text func(w io.Writer) error) error {
	switch u.Format {
	case "json":
		return u.JSON(item)
	case "jsonl":
		return JSONLine(u.Out, item)
	case "yaml":
		return u.yaml(item)
	case "name":
		_, err := fmt.Fprintln(u.Out, Line(name))
		return err
	default:
		return text(u.Out)
	}
}

// JSON writes v, indented, to stdout.
func (u *UI) JSON(v any) error {
	b, err := encodeJSON(v, "  ")
	if err != nil {
		return err
	}
	_, err = u.Out.Write(b)
	return err
}

// yaml writes v by its JSON names.
func (u *UI) yaml(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Load(b, &n); err != nil {
		return err
	}
	blockStyle(&n)
	quoteHidden(&n)
	out, err := yaml.Dump(&n)
	if err != nil {
		return err
	}
	_, err = u.Out.Write(numbered(out))
	return err
}

// blockStyle undoes the style that comes from reading JSON.
func blockStyle(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

func tabular[T any](u *UI, items []T, columns []Column[T]) error {
	if len(items) == 0 {
		return nil // heads alone tell a person nothing
	}
	st := u.Styles(true)
	heads, rows := fit(items, columns, u.Width)
	for i, h := range heads {
		heads[i] = st.Bold(h)
	}
	t := table.New().Headers(heads...).Rows(rows...).
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).
		BorderColumn(false).BorderHeader(false).BorderRow(false).
		Wrap(false).
		StyleFunc(func(int, int) lipgloss.Style { return lipgloss.NewStyle().PaddingRight(2) })
	for _, line := range strings.Split(t.Render(), "\n") {
		if _, err := fmt.Fprintln(u.Out, strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

const (
	gutter   = 2  // between columns
	mostCell = 60 // of a column but the last
	mostLast = 100
	fairLast = 24 // before columns are spared, the last one is cut to this
	least    = 8  // what a cut leaves
)

// fit returns heads and cells such that a row fits on a line of a terminal of this
// width, 0 meaning any: the last column is cut first, then spare columns are left
// out, then whatever is widest is cut.
func fit[T any](items []T, columns []Column[T], width int) (heads []string, rows [][]string) {
	rows = make([][]string, len(items))
	for i, c := range columns {
		most := mostCell
		if i == len(columns)-1 {
			most = mostLast
		}
		heads = append(heads, strings.ToUpper(c.Name))
		for n, it := range items {
			rows[n] = append(rows[n], cell(c.Value(it), most))
		}
	}
	widths := widest(heads, rows)
	keep, limits := room(columns, widths, width)
	return only(heads, keep, limits), mapped(rows, func(row []string) []string { return only(row, keep, limits) })
}

func mapped(rows [][]string, f func([]string) []string) [][]string {
	for i, row := range rows {
		rows[i] = f(row)
	}
	return rows
}

// widest is the width of each column.
func widest(heads []string, rows [][]string) []int {
	widths := make([]int, len(heads))
	for _, row := range append(slices.Clone(rows), heads) {
		for i, c := range row {
			widths[i] = max(widths[i], lipgloss.Width(c))
		}
	}
	return widths
}

// room decides which columns are shown, and how wide each may be.
func room[T any](columns []Column[T], widths []int, width int) (keep, limits []int) {
	for i := range columns {
		keep = append(keep, i)
	}
	limits = slices.Clone(widths)
	over := func() int {
		if width == 0 || len(keep) == 0 {
			return 0
		}
		sum := gutter * (len(keep) - 1)
		for _, i := range keep {
			sum += limits[i]
		}
		return sum - width + 1 // a full line would wrap on some terminals
	}
	cut := func(i, floor int) {
		if n := over(); n > 0 && limits[i] > floor {
			limits[i] = max(limits[i]-n, floor)
		}
	}
	last := len(columns) - 1
	cut(last, fairLast)
	for i := last; i >= 0 && over() > 0; i-- {
		if columns[i].Spare {
			keep = slices.DeleteFunc(keep, func(k int) bool { return k == i })
		}
	}
	for over() > 0 {
		wide := -1
		for _, i := range keep {
			if !columns[i].Whole && limits[i] > least && (wide < 0 || limits[i] > limits[wide]) {
				wide = i
			}
		}
		if wide < 0 {
			break
		}
		limits[wide]--
	}
	return keep, limits
}

// only returns the cells that are kept, cut to their limits.
func only(row []string, keep, limits []int) []string {
	var out []string
	for _, i := range keep {
		out = append(out, shorten(row[i], limits[i]))
	}
	return out
}

func separated[T any](w io.Writer, items []T, columns []Column[T]) error {
	heads := make([]string, len(columns))
	for i, c := range columns {
		heads[i] = strings.ToUpper(c.Name)
	}
	if _, err := fmt.Fprintln(w, strings.Join(heads, "\t")); err != nil {
		return err
	}
	for _, it := range items {
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = cell(c.Value(it), 0)
		}
		if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return nil
}

// cell makes text fit for one cell: one line, control characters escaped, at most
// limit columns wide unless that is 0.
func cell(s string, limit int) string {
	s = Clean(strings.Join(strings.Fields(s), " "))
	if limit == 0 {
		return s
	}
	return shorten(s, limit)
}

// shorten cuts text to so many columns of a terminal, and marks that.
func shorten(s string, limit int) string {
	if len(s) <= limit || lipgloss.Width(s) <= limit {
		return s
	}
	r := []rune(s)
	r = r[:min(len(r), limit-1)]
	for len(r) > 0 && lipgloss.Width(string(r)) > limit-1 {
		r = r[:len(r)-1]
	}
	return string(r) + "…"
}

// Clean escapes what a message must not do to whoever looks at it: control
// characters other than newline and tab, which move the cursor or change the
// terminal, characters that reorder or hide text, and bytes that are not UTF-8.
// They are written as Go would, such as \x1b.
func Clean(s string) string { return escape(s, "\n\t") }

// Line is Clean for a place that has one line: newlines and tabs are escaped, too,
// so that nothing can look like a line of ours.
func Line(s string) string { return escape(s, "") }

func escape(s, allowed string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd"):
			fmt.Fprintf(&b, "\\x%02x", s[i])
		case strings.ContainsRune(allowed, r) || !unseen(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// unseen tells whether a character does something other than to be seen:
// controls, and formats such as the reversal of text. Joiners belong to words of
// several scripts and to emoji.
func unseen(r rune) bool {
	const joiner, nonJoiner = '\u200d', '\u200c'
	return r != joiner && r != nonJoiner && (unicode.Is(unicode.C, r) || r == '\u2028' || r == '\u2029')
}

// Ago says how long ago t was, in one unit.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := now.Sub(t)
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd ago", int(d.Hours()/24))
	}
}

// Count writes a number with its word, "1 message" or "1,204 messages".
func Count(n int, word string) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if n == 1 {
		return s + " " + word
	}
	return s + " " + word + "s"
}
