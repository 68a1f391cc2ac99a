package bad

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"
)

// ErrSentinel is allowed, and so is one under a second name.
var (
	ErrSentinel = errors.New("sentinel")
	ErrAgain    = io.ErrUnexpectedEOF
)

//go:embed bad.mod
var file []byte

var _ fmt.Stringer = time.Second

var (
	form  = regexp.MustCompile("a")
	body  = []byte("body")
	steps = [...]int{1, 2}
)

var counter int // want: var counter: mutable state of a package

var now = time.Now() // want: var now: mutable state of a package

var Table = map[string]int{} // want: var Table: mutable state of a package

var table = map[string]int{} // want: var table: mutable state of a package, written at memory/bad.go:40

var shared = [1]int{} // want: var shared: mutable state of a package, written at memory/bad.go:41

func bad() *int {
	table["a"] = steps[0]
	return &shared[0]
}
