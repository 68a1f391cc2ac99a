// Package explain holds a text for every code: what it means, why it matters,
// and how to fix it.
package explain

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed texts/*.md
var texts embed.FS

// Topic is the text of one code.
type Topic struct {
	Code  string `json:"code"`
	Title string `json:"title"`
	Text  string `json:"text"` // Markdown
}

// All returns every topic in the order of the codes.
func All() []Topic {
	names, err := fs.Glob(texts, "texts/*.md")
	if err != nil {
		return nil // only a malformed pattern is an error
	}
	var all []Topic
	for _, name := range names {
		if t, ok := Find(strings.TrimSuffix(strings.TrimPrefix(name, "texts/"), ".md")); ok {
			all = append(all, t)
		}
	}
	return all
}

// Find returns the topic of a code, in any case.
func Find(code string) (Topic, bool) {
	code = strings.ToUpper(strings.TrimSpace(code))
	b, err := texts.ReadFile("texts/" + code + ".md")
	if err != nil {
		return Topic{}, false
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return Topic{Code: code, Title: strings.TrimPrefix(first, "# "+code+": "), Text: string(b)}, true
}
