package explain_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/explain"
)

// transportCodes reads the codes out of the source, so that none can be
// forgotten in a list.
func transportCodes(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../../../transport/codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil && strings.HasPrefix(s, "HF") {
				codes[s] = true
			}
		}
		return true
	})
	return codes
}

func TestEveryCodeIsExplained(t *testing.T) {
	t.Parallel()
	codes := transportCodes(t)
	if len(codes) < 40 {
		t.Fatalf("only %d codes were found in the source", len(codes))
	}
	for _, c := range config.Codes() {
		codes[string(c)] = true
	}
	for code := range codes {
		topic, ok := explain.Find(strings.ToLower(code))
		if !ok {
			t.Errorf("%s has no text: write internal/explain/texts/%s.md", code, code)
			continue
		}
		for _, part := range []string{"# " + code + ": ", "\n## What it means\n", "\n## Why it matters\n", "\n## How to fix it\n"} {
			if !strings.Contains(topic.Text, part) {
				t.Errorf("%s: no %q", code, strings.TrimSpace(part))
			}
		}
	}
	for _, topic := range explain.All() {
		if !codes[topic.Code] {
			t.Errorf("%s is explained and does not exist", topic.Code)
		}
		if topic.Title == "" || strings.HasPrefix(topic.Title, "#") {
			t.Errorf("%s: title %q", topic.Code, topic.Title)
		}
	}
}

func TestAWrongCodeIsNotFound(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"", "HF9999", "../explain", "HF1001.md"} {
		if _, ok := explain.Find(code); ok {
			t.Errorf("Find(%q) found something", code)
		}
	}
}
