package bad

// Documented is.
type Documented struct{}

type Bare struct{} // want: Bare is exported and has no doc comment

func (Documented) Method() {} // want: Method is exported and has no doc comment

func Func() {} // want: Func is exported and has no doc comment

type hidden struct{}

func (hidden) Method() {}

// The constants of a group share its comment.
const (
	A = 1
	B = 2
)

// want+2: C is exported and has no doc comment

const C = 3

const (
	D = 4 // documented at the end of the line
	// want+2: E is exported and has no doc comment

	E = 5
)
