package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxSize bounds a file; more than that is not a configuration.
const maxSize = 4 << 20

// Named is a broker that the command line names: it is used in place of the one
// in the file. Its zero value names none.
type Named struct {
	URL string
	By  string // what names it: "--broker" or an environment variable
}

// Load reads the file at path, "-" meaning stdin. The sources must be of the kind
// of the broker: the one that is named, or that of the file. The error is an
// [*Errors] with everything that is wrong.
func Load(path string, stdin io.Reader, lookup func(string) (string, bool), named Named) (*Config, error) {
	return load(path, stdin, &walker{lookup: lookup, named: named})
}

// LoadSources is Load for commands that need the broker and the sources only: a
// variable that neither needs may be unset.
func LoadSources(path string, stdin io.Reader, lookup func(string) (string, bool), named Named) (*Config, error) {
	return load(path, stdin, &walker{lookup: lookup, named: named, sources: true})
}

func load(path string, stdin io.Reader, w *walker) (*Config, error) {
	name, text, err := slurp(path, stdin)
	if err != nil {
		r := &report{file: name}
		r.add(Diagnostic{Code: CodeUnreadable, Message: err.Error(), Hint: unreadableHint(err)})
		return nil, r.err()
	}
	c, err := w.parse(name, text)
	if err != nil {
		return nil, err
	}
	c.Path, c.Dir = path, dirOf(path)
	c.Data = under(c.Dir, c.Data)
	for _, file := range []*string{&c.Connection.Creds, &c.Connection.NKey, &c.Connection.CA, &c.Connection.Cert, &c.Connection.Key} {
		if *file != "" {
			*file = under(c.Dir, *file)
		}
	}
	return c, nil
}

func slurp(path string, stdin io.Reader) (name string, text []byte, err error) {
	if path == "-" {
		text, err = io.ReadAll(io.LimitReader(stdin, maxSize+1))
		return "<stdin>", text, err
	}
	f, err := os.Open(path)
	if err != nil {
		if pe, ok := errors.AsType[*os.PathError](err); ok {
			err = pe.Err
		}
		return path, nil, fmt.Errorf("cannot be read: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	text, err = io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return path, nil, fmt.Errorf("cannot be read: %w", err)
	}
	return path, text, nil
}

func unreadableHint(err error) string {
	if errors.Is(err, os.ErrNotExist) {
		return "name the file: holdfast run FILE; the default is holdfast.yaml in this directory"
	}
	return ""
}

// Parse reads the text of a file. name stands in errors.
func Parse(name string, text []byte, lookup func(string) (string, bool), named Named) (*Config, error) {
	return (&walker{lookup: lookup, named: named}).parse(name, text)
}

// parse reads a text with the settings of w.
func (w *walker) parse(name string, text []byte) (*Config, error) {
	r := &report{file: name, lines: strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")}
	root := r.tree(text)
	if root == nil {
		return nil, r.err()
	}
	w.report = r
	v := w.object(withoutExtensions(resolve(root)), fileShape(), "the file")
	c := w.bind(v)
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// tree parses the text into nodes; nil when that failed.
func (r *report) tree(text []byte) *yaml.Node {
	switch {
	case len(text) > maxSize:
		r.add(Diagnostic{Code: CodeUnreadable, Message: fmt.Sprintf("is larger than %d MiB", maxSize>>20)})
		return nil
	case !utf8.Valid(text):
		r.add(Diagnostic{Code: CodeUnreadable, Message: "is not UTF-8 text"})
		return nil
	}
	dec, err := yaml.NewLoader(strings.NewReader(string(text)))
	if err != nil {
		r.syntax(err)
		return nil
	}
	var doc, more yaml.Node
	if err := dec.Load(&doc); err != nil && !errors.Is(err, io.EOF) {
		r.syntax(err)
		return nil
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		r.add(Diagnostic{Line: 1, Column: 1, Code: CodeMissing, Message: "the file is empty", Hint: `it needs "subscriptions"`})
		return nil
	}
	if err := dec.Load(&more); err == nil && len(more.Content) > 0 {
		r.add(Diagnostic{
			Line: more.Content[0].Line, Column: more.Content[0].Column, Code: CodeSyntax,
			Message: "a second document begins here", Hint: "a file holds one document: remove the line ---",
		})
		return nil
	}
	return doc.Content[0]
}

// syntax reports what the YAML library could not read.
func (r *report) syntax(err error) {
	d := Diagnostic{Line: 1, Column: 1, Code: CodeSyntax, Message: "not YAML: " + err.Error()}
	le, ok := errors.AsType[*yaml.LoadError](err)
	if ok {
		d.Message = "not YAML: " + le.Message
		if le.ContextMsg != "" {
			d.Message += " " + le.ContextMsg
		}
		d.Line, d.Column = max(le.Mark.Line, 1), max(le.Mark.Column, 1)
		if d.Line > len(r.lines) || (d.Line == len(r.lines) && r.lines[d.Line-1] == "") {
			d.Line, d.Column = max(le.ContextMark.Line, 1), max(le.ContextMark.Column, 1)
		}
		if d.Line > len(r.lines) {
			d.Line, d.Column = len(r.lines), 1
		}
		d.Hint = syntaxHint(r.lines[d.Line-1], le.Message)
	}
	r.add(d)
}

func syntaxHint(line, message string) string {
	switch {
	case strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		return "indent with spaces, not tabs"
	case strings.Contains(message, "did not find expected key"), strings.Contains(message, "expected '-' indicator"):
		return "check the indentation: what belongs together begins in the same column"
	case strings.Contains(message, "mapping values are not allowed"):
		return "put quotes around a value that holds \": \""
	case strings.Contains(message, "cannot start any token"):
		return "put quotes around a value that begins with one of @ ` % & *"
	default:
		return ""
	}
}

// withoutExtensions drops the keys of the file that begin with "x-": a place
// for anchors and for other programs.
func withoutExtensions(n *yaml.Node) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return n
	}
	c := *n
	c.Content = nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !strings.HasPrefix(n.Content[i].Value, "x-") {
			c.Content = append(c.Content, n.Content[i], n.Content[i+1])
		}
	}
	return &c
}
