package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// value is what was read at one place of the file. ok is false when it could
// not be used; the error was reported then, and nothing may be concluded from
// the value.
type value struct {
	ok    bool
	node  *yaml.Node // where it stands
	key   *yaml.Node // the key before it, nil in a list
	text  string
	num   int
	yes   bool
	dur   time.Duration
	share float64
	grow  Backoff
	names map[string]string // of a mapping
	table map[string]any    // of a table
	unset *Diagnostic       // why it could not be used, where that is for whoever uses it to report
	items []*value          // of a list, and the delays of a backoff

	fields map[string]*value // of an object
}

// get returns the field, or nil when it is not there or could not be used.
func (v *value) get(name string) *value {
	if v == nil || !v.ok {
		return nil
	}
	if f := v.fields[name]; f != nil && f.ok {
		return f
	}
	return nil
}

// has tells whether the key is written in the file, usable or not.
func (v *value) has(name string) bool { return v != nil && v.fields[name] != nil }

// is tells whether the field is there and true.
func (v *value) is(name string) bool {
	f := v.get(name)
	return f != nil && f.yes
}

func (v *value) str() string {
	if v == nil {
		return ""
	}
	return v.text
}

func (v *value) strs() []string {
	if v == nil {
		return nil
	}
	var out []string
	for _, it := range v.items {
		out = append(out, it.text)
	}
	return out
}

// walker reads nodes against shapes and reports every error.
type walker struct {
	*report
	lookup func(string) (string, bool)
	named  Named
	// sources: only what names the broker and the sources is used.
	sources bool
	sub     string // the subscription being read

	warnings []Diagnostic
}

func (w *walker) fault(n *yaml.Node, code Code, hint, format string, args ...any) {
	w.add(w.diagnostic(n, code, hint, fmt.Sprintf(format, args...)))
}

// warn notes what is allowed and likely not meant.
func (w *walker) warn(n *yaml.Node, hint, format string, args ...any) {
	w.warnings = append(w.warnings, w.diagnostic(n, CodeContradicts, hint, fmt.Sprintf(format, args...)))
}

func (w *walker) diagnostic(n *yaml.Node, code Code, hint, message string) Diagnostic {
	return Diagnostic{
		File: w.file, Line: n.Line, Column: n.Column, width: width(n), Code: code, Hint: hint,
		Message: message, Subscription: w.sub,
	}
}

// width is how many characters of its line a node takes; 1 for what has no
// clear end.
func width(n *yaml.Node) int {
	if n.Kind != yaml.ScalarNode || strings.Contains(n.Value, "\n") {
		return 1
	}
	w := utf8.RuneCountInString(n.Value)
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		w += 2
	}
	return max(w, 1)
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	for range 10 {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

// read reads n as s says. where names the place for people.
func (w *walker) read(n *yaml.Node, s *shape, where string) *value {
	n = resolve(n)
	switch s.kind {
	case object:
		return w.object(n, s, where)
	case list:
		return w.list(n, s, where)
	case mapping:
		return w.mapping(n, s, where)
	case table:
		return w.table(n, where)
	case backoff:
		return w.backoff(n, where)
	case flag:
		return w.flag(n, where)
	default:
		return w.scalar(n, s, where)
	}
}

func (w *walker) object(n *yaml.Node, s *shape, where string) *value {
	v := &value{node: n, fields: map[string]*value{}}
	if n.Kind != yaml.MappingNode {
		w.fault(n, CodeValue, "write keys and values: "+strings.Join(s.names(), ", "), "%s must be a mapping, not %s", where, describe(n))
		return v
	}
	v.ok = true
	for _, p := range w.pairs(n, where) {
		name := p.key.Value
		fs := s.field(name)
		if fs == nil {
			w.unknown(p.key, s, where)
			continue
		}
		f := w.read(p.value, fs, name+" of "+where)
		f.key = p.key
		v.fields[name] = f
	}
	for _, f := range s.fields {
		if f.required && v.fields[f.name] == nil {
			w.fault(n, CodeMissing, "add "+example(f), "%s has no %q", where, f.name)
		}
	}
	return v
}

func example(f field) string {
	switch {
	case f.shape.sample != "":
		return fmt.Sprintf("%q, for example %s: %s", f.name, f.name, f.shape.sample)
	case len(f.shape.fields) > 0:
		return fmt.Sprintf("%q: %s", f.name, f.shape.doc)
	default:
		return strconv.Quote(f.name)
	}
}

func (w *walker) unknown(key *yaml.Node, s *shape, where string) {
	allowed := s.names()
	slices.Sort(allowed)
	hint := "(allowed: " + strings.Join(allowed, ", ") + ")"
	if near := nearest(key.Value, allowed); near != "" {
		hint = fmt.Sprintf("did you mean %q?   %s", near, hint)
	}
	w.fault(key, CodeUnknown, hint, "unknown key %q in %s", key.Value, where)
}

// pair is a key and its value.
type pair struct{ key, value *yaml.Node }

// pairs returns the pairs of a mapping, merges ("<<") included, and reports
// keys that are there twice or are no plain words.
func (w *walker) pairs(n *yaml.Node, where string) []pair {
	var own, merged []pair
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode:
			w.fault(k, CodeValue, "write a word", "a key of %s must be a word, not %s", where, describe(k))
		case k.Tag == "!!merge":
			merged = append(merged, w.merged(v, where)...)
		case seen[k.Value] != nil:
			w.fault(k, CodeDuplicate, "keep one of them", "key %q of %s is already on line %d", k.Value, where, seen[k.Value].Line)
		default:
			seen[k.Value] = k
			own = append(own, pair{k, v})
		}
	}
	for _, p := range merged {
		if seen[p.key.Value] == nil {
			seen[p.key.Value] = p.key
			own = append(own, p)
		}
	}
	return own
}

// merged returns the pairs that a "<<" brings in: those of one mapping, or of a
// list of mappings, the first of which wins.
func (w *walker) merged(n *yaml.Node, where string) []pair {
	n = resolve(n)
	var from []*yaml.Node
	switch n.Kind {
	case yaml.MappingNode:
		from = []*yaml.Node{n}
	case yaml.SequenceNode:
		from = n.Content
	}
	var out []pair
	for _, m := range from {
		m = resolve(m)
		for i := 0; m.Kind == yaml.MappingNode && i+1 < len(m.Content); i += 2 {
			if m.Content[i].Kind == yaml.ScalarNode && m.Content[i].Tag != "!!merge" {
				out = append(out, pair{m.Content[i], m.Content[i+1]})
			}
		}
	}
	if len(from) == 0 {
		w.fault(n, CodeValue, "write << : *name", "a merge in %s needs a mapping, not %s", where, describe(n))
	}
	return out
}

func (w *walker) list(n *yaml.Node, s *shape, where string) *value {
	v := &value{node: n}
	if n.Kind != yaml.SequenceNode {
		hint := "write a list"
		if n.Kind == yaml.ScalarNode && n.Tag != "!!null" && s.elem.kind == text {
			hint = "write a list: [" + strconv.Quote(n.Value) + "]"
		}
		w.fault(n, CodeValue, hint, "%s must be a list, not %s", where, describe(n))
		return v
	}
	if len(n.Content) < s.min {
		w.fault(n, CodeValue, "name at least one", "%s is empty", where)
		return v
	}
	v.ok = true
	for i, c := range n.Content {
		place := fmt.Sprintf("entry %d of %s", i+1, where)
		outer := w.sub
		if name := nameIn(c); s.elem.called != "" && name != "" {
			place = fmt.Sprintf("%s %q", s.elem.called, name)
			if s.elem.called == "subscription" {
				w.sub = name
			}
		}
		it := w.read(c, s.elem, place)
		w.sub = outer
		v.items = append(v.items, it)
		v.ok = v.ok && (it.ok || s.elem.kind == object)
	}
	return v
}

// nameIn returns the value of the key "name", so that errors can say which
// subscription they are about.
func nameIn(n *yaml.Node) string {
	n = resolve(n)
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "name" && n.Content[i+1].Kind == yaml.ScalarNode {
			return n.Content[i+1].Value
		}
	}
	return ""
}

func (w *walker) mapping(n *yaml.Node, s *shape, where string) *value {
	v := &value{node: n, names: map[string]string{}}
	if n.Kind != yaml.MappingNode {
		w.fault(n, CodeValue, "write names and values", "%s must be a mapping, not %s", where, describe(n))
		return v
	}
	v.ok = true
	for _, p := range w.pairs(n, where) {
		it := w.read(p.value, &shape{kind: text, secret: s.secret}, fmt.Sprintf("%q of %s", p.key.Value, where))
		v.ok = v.ok && it.ok
		v.names[p.key.Value] = it.text
	}
	return v
}

// table reads names with typed values. What comes from the environment is text.
func (w *walker) table(n *yaml.Node, where string) *value {
	v := &value{node: n, table: map[string]any{}}
	if n.Kind != yaml.MappingNode {
		w.fault(n, CodeValue, "write names and values", "%s must be a mapping, not %s", where, describe(n))
		return v
	}
	v.ok = true
	for _, p := range w.pairs(n, where) {
		typed, ok := w.typed(resolve(p.value), fmt.Sprintf("%q of %s", p.key.Value, where))
		v.ok = v.ok && ok
		v.table[p.key.Value] = typed
	}
	return v
}

// typed reads one value of a table.
func (w *walker) typed(n *yaml.Node, where string) (any, bool) {
	wrong := func() (any, bool) {
		w.fault(n, CodeValue, "write text, a number, or true or false", "%s must be one value, not %s", where, describe(n))
		return nil, false
	}
	if n.Kind != yaml.ScalarNode {
		return wrong()
	}
	switch n.Tag {
	case "!!int":
		i, err := strconv.ParseInt(n.Value, 0, 64)
		if err != nil {
			return wrong()
		}
		return i, true
	case "!!float":
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil {
			return wrong()
		}
		return f, true
	case "!!bool":
		return strings.EqualFold(n.Value, "true"), true
	case "!!null":
		return wrong()
	default:
		v := w.scalar(n, &shape{kind: text}, where)
		return v.text, v.ok
	}
}

func (w *walker) flag(n *yaml.Node, where string) *value {
	v := &value{node: n, ok: n.Kind == yaml.MappingNode && len(n.Content) == 0}
	if !v.ok {
		w.fault(n, CodeValue, "write {}", "%s takes no settings and must be {}, not %s", where, describe(n))
	}
	return v
}

// backoff reads one delay, a list of delays, or {first, max}.
func (w *walker) backoff(n *yaml.Node, where string) *value {
	delay := &shape{kind: duration, sample: "1s"}
	v := &value{node: n}
	switch n.Kind {
	case yaml.SequenceNode:
		l := w.list(n, &shape{kind: list, min: 1, elem: delay}, where)
		v.ok, v.items = l.ok, l.items
		for _, it := range l.items {
			v.grow.Delays = append(v.grow.Delays, it.dur)
		}
	case yaml.MappingNode:
		o := w.object(n, growthShape(), where)
		first, longest := o.get("first"), o.get("max")
		if first == nil || longest == nil {
			return v
		}
		v.ok, v.grow = true, Backoff{First: first.dur, Max: longest.dur}
		if first.dur > longest.dur {
			v.ok = false
			w.fault(longest.node, CodeContradicts, "max must be at least first", "%s begins with %s and is limited to %s", where, first.dur, longest.dur)
		}
	default:
		d := w.scalar(n, delay, where)
		v.ok, v.grow.Delays = d.ok, []time.Duration{d.dur}
	}
	return v
}

func (w *walker) scalar(n *yaml.Node, s *shape, where string) *value {
	v := &value{node: n}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		w.fault(n, CodeValue, "write "+s.expects(), "%s must be %s, not %s", where, s.noun(), describe(n))
		return v
	}
	if s.secret && len(n.Value) >= 4 && !variable.MatchString(n.Value) {
		w.secrets = append(w.secrets, n.Value)
	}
	e := expand(n.Value, w.lookup)
	if e.fault != "" {
		d := Diagnostic{
			Line: n.Line, Column: n.Column + e.at + quote(n), width: e.width, Code: CodeEnv, Subscription: w.sub,
			Message: fmt.Sprintf("%s: %s", where, e.fault), Hint: "set it, or write ${NAME:-default}; $${ stands for a plain ${",
		}
		if w.sources {
			v.unset = &d
			return v
		}
		w.add(d)
		return v
	}
	v.text = e.value
	problem, hint := s.parse(v, n.Tag, len(e.vars) > 0)
	if problem == "" {
		v.ok = true
		return v
	}
	shown := strconv.Quote(v.text)
	switch {
	case len(e.vars) > 0:
		shown = "the value of ${" + strings.Join(e.vars, "}, ${") + "}"
	case s.secret:
		shown = "its value"
	}
	w.fault(n, CodeValue, hint, "%s: %s %s", where, shown, problem)
	return v
}

func quote(n *yaml.Node) int {
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		return 1
	}
	return 0
}
