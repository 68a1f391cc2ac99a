package config

import (
	"fmt"
	"regexp"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Code is the stable name of an error in a file; `holdfast explain` tells more.
type Code string

// Errors in a file. Codes are never reused.
const (
	CodeSyntax        Code = "HF2001" // the file is not YAML
	CodeValue         Code = "HF2002" // a value of the wrong type or form
	CodeMissing       Code = "HF2003" // a key that must be there is not
	CodeUnknown       Code = "HF2004" // a key that does not exist
	CodeDuplicate     Code = "HF2005" // a key or name that is there twice
	CodeEnv           Code = "HF2006" // an environment variable that is not set
	CodeExclusive     Code = "HF2007" // keys that exclude each other
	CodeUnreadable    Code = "HF2008" // the file cannot be read
	CodeContradicts   Code = "HF2009" // settings that contradict each other
	CodeCommand       Code = "HF2010" // the command of an exec handler cannot be run
	CodeNotLoopback   Code = "HF2011" // the embedded server would listen beyond this machine
	CodeInUse         Code = "HF2012" // the address or the data of the embedded server is in use
	CodeNoRedelivery  Code = "HF1001" // retry on core NATS or a stream queue
	CodeNoDeadLetter  Code = "HF1002" // dead letters on core NATS
	CodeSharedDurable Code = "HF1110" // two subscriptions on one durable consumer or queue
)

// Codes returns every code this package reports.
func Codes() []Code {
	return []Code{
		CodeSyntax, CodeValue, CodeMissing, CodeUnknown, CodeDuplicate, CodeEnv, CodeExclusive,
		CodeUnreadable, CodeContradicts, CodeCommand, CodeNotLoopback, CodeInUse, CodeNoRedelivery, CodeNoDeadLetter, CodeSharedDurable,
	}
}

// Diagnostic is one error in a file.
type Diagnostic struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`   // from 1; 0: the file as a whole
	Column  int    `json:"column,omitempty"` // from 1, in characters
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to write instead
	// Subscription is the one concerned, when there is one.
	Subscription string `json:"subscription,omitempty"`

	width int // of the caret, in characters
}

// Errors is every error of one file, in the order of its lines.
type Errors struct {
	List  []Diagnostic
	lines []string // of the file, secrets masked
}

// Error returns the first error in one line and how many more there are.
func (e *Errors) Error() string {
	s := e.List[0].oneLine()
	if n := len(e.List) - 1; n > 0 {
		s += fmt.Sprintf(" (and %d more)", n)
	}
	return s
}

func (d Diagnostic) oneLine() string {
	s := d.position() + "  " + string(d.Code) + "  " + d.Message
	if d.Hint != "" {
		s += "; " + d.Hint
	}
	return s
}

func (d Diagnostic) position() string {
	if d.Line == 0 {
		return d.File
	}
	return fmt.Sprintf("%s:%d:%d", d.File, d.Line, d.Column)
}

// Paint colours parts of the text; a nil function leaves it plain.
type Paint struct {
	Title, Code, Caret, Faint func(string) string
}

func (p Paint) with(f func(string) string, s string) string {
	if f == nil {
		return s
	}
	return f(s)
}

// Render returns all errors with the lines they are about and a caret under
// each place.
func (e *Errors) Render(p Paint) string {
	var b strings.Builder
	for i, d := range e.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s  %s  %s\n", p.with(p.Title, d.position()), p.with(p.Code, string(d.Code)), d.Message)
		e.excerpt(&b, d, p)
	}
	return b.String()
}

// excerpt writes the line before, the line itself, and the caret with the hint.
func (e *Errors) excerpt(b *strings.Builder, d Diagnostic, p Paint) {
	if d.Line == 0 || d.Line > len(e.lines) {
		if d.Hint != "" {
			fmt.Fprintf(b, "      %s\n", d.Hint)
		}
		return
	}
	for n := max(d.Line-1, 1); n <= d.Line; n++ {
		text := strings.Map(visible, e.lines[n-1])
		fmt.Fprintf(b, "%s%s\n", p.with(p.Faint, fmt.Sprintf("%5d | ", n)), text)
	}
	line := []rune(e.lines[d.Line-1])
	start := min(max(d.Column-1, 0), len(line))
	width := max(d.width, 1)
	if start < len(line) {
		width = min(width, len(line)-start)
	} else {
		width = 1
	}
	caret := strings.Repeat("^", width)
	if d.Hint != "" {
		caret += " " + d.Hint
	}
	fmt.Fprintf(b, "%s%s%s\n", p.with(p.Faint, "      | "), strings.Repeat(" ", start), p.with(p.Caret, caret))
}

// visible keeps what a line of the file shows of itself; a tab and what would
// change the terminal take one column, so that carets stay where they belong.
func visible(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
		return '\ufffd'
	}
	return r
}

// report collects the errors of one file.
type report struct {
	file    string
	lines   []string
	list    []Diagnostic
	secrets []string // values that must not be shown
}

func (r *report) add(d Diagnostic) {
	d.File = r.file
	r.list = append(r.list, d)
}

// err returns what was collected, or nil.
func (r *report) err() error {
	if len(r.list) == 0 {
		return nil
	}
	return r.sorted(r.list)
}

// sorted puts diagnostics in the order of their places and hides secrets; nil
// when there are none.
func (r *report) sorted(list []Diagnostic) *Errors {
	if len(list) == 0 {
		return nil
	}
	sort.SliceStable(list, func(i, j int) bool {
		a, b := list[i], list[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	lines := make([]string, len(r.lines))
	for i, l := range r.lines {
		lines[i] = mask(l, r.secrets)
	}
	for i, d := range list {
		list[i].Message = maskKnown(d.Message, r.secrets)
		list[i].Hint = maskKnown(d.Hint, r.secrets)
	}
	return &Errors{List: list, lines: lines}
}

var (
	secretKey = regexp.MustCompile(`(?i)\b(secret|password|passwd|token|authorization|api[-_]?key)("?'?\s*:\s*)("[^"]*"|'[^']*'|[^\s,}\]#][^,}\]#]*)`)
	variable  = regexp.MustCompile(`^["']?\$\{[^}]*\}["']?\s*$`)
)

// mask hides what looks like a secret and every value known to be one, without
// moving the rest of the line: carets stay where they belong. A reference to an
// environment variable is no secret.
func mask(line string, secrets []string) string {
	line = secretKey.ReplaceAllStringFunc(line, func(m string) string {
		parts := secretKey.FindStringSubmatch(m)
		if variable.MatchString(parts[3]) {
			return m
		}
		return parts[1] + parts[2] + stars(parts[3])
	})
	return maskKnown(line, secrets)
}

// maskKnown hides every value known to be a secret and users in URLs.
func maskKnown(line string, secrets []string) string {
	for _, s := range secrets {
		line = strings.ReplaceAll(line, s, stars(s))
	}
	return rewriteUsers(line, " \t\"'", func(user string) string { return stars(user) + "@" })
}

func stars(s string) string { return strings.Repeat("*", utf8.RuneCountInString(s)) }

// nearest returns the allowed word closest to a misspelt one, or "" when none
// is close enough to be meant.
func nearest(word string, allowed []string) string {
	best, least := "", len(word)/2+1
	if least > 3 {
		least = 3
	}
	low := strings.ToLower(strings.ReplaceAll(word, "-", "_"))
	for _, a := range allowed {
		if strings.EqualFold(low, a) || (len(low) >= 4 && strings.HasPrefix(a, low)) {
			return a
		}
		if d := distance(low, a); d <= least && (best == "" || d < distance(low, best)) {
			best = a
		}
	}
	return best
}

// Nearest returns the allowed word closest to a misspelt one, or "".
func Nearest(word string, allowed []string) string { return nearest(word, allowed) }

// distance is the number of letters to insert, delete, change or swap with
// their neighbour to turn a into b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	prev2, prev, cur := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(x); i++ {
		cur[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(y)]
}
