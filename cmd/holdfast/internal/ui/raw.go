package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Raw returns where the bytes of a message go: to stdout as they are, or, where a
// person looks at it, with what would move the cursor or change the terminal
// escaped. Close ends a line that the bytes left open at a terminal.
func (u *UI) Raw() io.WriteCloser {
	if u.OutTTY {
		return &cleaner{to: u.Out}
	}
	return plainOut{u.Out}
}

type plainOut struct{ io.Writer }

func (plainOut) Close() error { return nil }

// cleaner escapes what passes through it.
type cleaner struct {
	to   io.Writer
	rest []byte // the beginning of a character whose end has not come
	open bool   // the last line has no end
}

// Write implements io.Writer.
func (c *cleaner) Write(p []byte) (int, error) {
	b := append(c.rest, p...)
	n := len(b)
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if tail := b[len(b)-i:]; utf8.RuneStart(tail[0]) && !utf8.FullRune(tail) {
			n = len(b) - i
			break
		}
	}
	err := c.put(b[:n])
	c.rest = bytes.Clone(b[n:])
	return len(p), err
}

func (c *cleaner) put(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	c.open = b[len(b)-1] != '\n'
	_, err := io.WriteString(c.to, Clean(string(b)))
	return err
}

// Close writes what is left.
func (c *cleaner) Close() error {
	if err := c.put(c.rest); err != nil || !c.open {
		return err
	}
	_, err := io.WriteString(c.to, "\n")
	return err
}

// encodeJSON is v as JSON with its end of line. Characters that do something other
// than to be seen are written by their numbers, which means the same.
func encodeJSON(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return numbered(b.Bytes()), nil
}

// numbered writes what is unseen as \uNNNN. It must stand in a quoted text.
func numbered(b []byte) []byte {
	if bytes.IndexFunc(b, hidden) < 0 {
		return b
	}
	var out bytes.Buffer
	for _, r := range string(b) {
		switch {
		case !hidden(r):
			out.WriteRune(r)
		case r > 0xffff:
			for _, u := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&out, `\u%04x`, u)
			}
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

// hidden is what an encoder of JSON or YAML would let through.
func hidden(r rune) bool { return r >= 0x7f && unseen(r) }

// quoteHidden quotes every text that holds such a character, so that it can be
// written by its number.
func quoteHidden(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && bytes.IndexFunc([]byte(n.Value), hidden) >= 0 {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		quoteHidden(c)
	}
}

// JSONLine writes v as one line of JSON.
func JSONLine(w io.Writer, v any) error {
	b, err := encodeJSON(v, "")
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}
