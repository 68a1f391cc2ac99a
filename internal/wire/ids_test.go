package wire_test

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/internal/wire"
)

func TestTopFrameIsTheFunctionThatPanicked(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func(){
		"explicit": func() { explode(nil) },
		"runtime":  func() { explode([]int{1}) },
	} {
		if got := wire.TopFrame(stackOf(f)); !strings.HasSuffix(got, "wire_test.explode") {
			t.Errorf("%s: top frame %q", name, got)
		}
	}
	for _, stack := range []string{"", "\npanic(", "\npanic(nil)\n\tfile\nno frame\n)", "goroutine 1 [running]:\nmain.main()\n"} {
		if got := wire.TopFrame(stack); got != "" {
			t.Errorf("TopFrame(%q) = %q", stack, got)
		}
	}
}

//go:noinline
func explode(numbers []int) {
	if numbers == nil {
		panic("no numbers")
	}
	_ = numbers[len(numbers)+1]
}

func stackOf(f func()) (stack string) {
	defer func() {
		_ = recover()
		stack = string(debug.Stack())
	}()
	f()
	return ""
}

func TestErrorTypesFindsWhatTellsMost(t *testing.T) {
	t.Parallel()
	path := &fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}
	for _, tt := range []struct {
		err   error
		best  string
		chain []string
	}{
		{nil, "", nil},
		{errors.New("plain"), "*errors.errorString", []string{"*errors.errorString"}},
		{fmt.Errorf("a: %w", path), "*fs.PathError", []string{"*fmt.wrapError", "*fs.PathError", "*errors.errorString"}},
		{errors.Join(nil, path), "*fs.PathError", []string{"*errors.joinError", "*fs.PathError", "*errors.errorString"}},
	} {
		best, chain := wire.ErrorTypes(tt.err)
		if best != tt.best || !slices.Equal(chain, tt.chain) {
			t.Errorf("ErrorTypes(%v) = %q %q, want %q %q", tt.err, best, chain, tt.best, tt.chain)
		}
	}
	if _, chain := wire.ErrorTypes(endless{}); len(chain) > 16 {
		t.Errorf("an error that wraps itself gave %d types", len(chain))
	}
}

type endless struct{}

func (endless) Error() string { return "endless" }
func (endless) Unwrap() error { return endless{} }
