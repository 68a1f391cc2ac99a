package main

import (
	"os"
	"strings"
	"testing"
)

// TestREADMEShowsThisProgram: the program in the README is this one, but for the
// lookup of the URL.
func TestREADMEShowsThisProgram(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(readme), "```go\n")
	shown, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("the README has no Go program")
	}
	have := strings.ReplaceAll(string(source), "url())", `"nats://127.0.0.1:4222")`)
	if !strings.Contains(have, shown) {
		t.Errorf("the README's program is not examples/billing/main.go:\n%s", shown)
	}
}
