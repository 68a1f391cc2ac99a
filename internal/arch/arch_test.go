// Package arch_test fails when the house loses its shape: when an import points
// the wrong way, when a requirement creeps in, or when library code does what
// no library should.
//
// It reads the sources and go.mod files themselves instead of asking go list,
// so that files of other platforms and nested modules count, and nothing needs
// to build or to be downloaded.
package arch_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/holdfast-go/holdfast"
	nats   = "github.com/nats-io/nats.go"
	rabbit = "github.com/rabbitmq/amqp091-go"
)

// source is a Go file of the repository.
type source struct {
	dir  string // its folder below the root, "." for the root itself
	name string // its path below the root
	nest string // the folder of its module, "." for the published one
	fset *token.FileSet
	file *ast.File
}

func (s source) test() bool { return strings.HasSuffix(s.name, "_test.go") }

// library reports whether the file is part of what users import.
func (s source) library() bool {
	return s.nest == "." && !s.test() && !inside("examples", s.dir)
}

// at returns the place of a node, for a finding.
func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.name, s.fset.Position(n.Pos()).Line)
}

func TestEveryImportPointsInward(t *testing.T) {
	t.Parallel()
	report(t, sources(t), imports)
}

func TestLibraryCodeKeepsTheBans(t *testing.T) {
	t.Parallel()
	report(t, sources(t), bans)
}

func TestPackagesHaveNoState(t *testing.T) {
	t.Parallel()
	for _, finding := range state(sources(t)) {
		t.Error(finding)
	}
}

func TestTestsNeitherSleepNorSkip(t *testing.T) {
	t.Parallel()
	report(t, sources(t), testBans)
}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	t.Parallel()
	report(t, sources(t), undocumented)
}

func TestFilesAndFunctionsStaySmall(t *testing.T) {
	t.Parallel()
	report(t, sources(t), tooLarge)
}

// report fails t with every finding.
func report(t *testing.T, files []source, rule func(source) []string) {
	t.Helper()
	for _, f := range files {
		for _, finding := range rule(f) {
			t.Error(finding)
		}
	}
}

// sources parses every Go file of the repository.
func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	nests := modules(t, root)
	var files []source
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(root, name, d)
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		below, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		s, err := parse(name, filepath.ToSlash(below))
		s.nest = nestOf(nests, s.dir)
		files = append(files, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d Go files found from %s: this test looks at the wrong place", len(files), root)
	}
	return files
}

// skipDir leaves out what go build leaves out, and packages of other languages.
func skipDir(root, name string, d fs.DirEntry) error {
	base := d.Name()
	if name != root && (base[0] == '.' || base[0] == '_' || base == "testdata" || base == "node_modules") {
		return fs.SkipDir
	}
	return nil
}

func parse(name, below string) (source, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
	return source{dir: path.Dir(below), name: below, fset: fset, file: file}, err
}

// modules returns the folders that have a go.mod, below the root.
func modules(t *testing.T, root string) []string {
	t.Helper()
	var dirs []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(root, name, d)
		}
		if d.Name() == "go.mod" {
			below, err := filepath.Rel(root, filepath.Dir(name))
			dirs = append(dirs, filepath.ToSlash(below))
			return err
		}
		return nil
	})
	if err != nil || !slices.Contains(dirs, ".") {
		t.Fatalf("modules %q: %v", dirs, err)
	}
	return dirs
}

// nestOf returns the module folder that dir belongs to.
func nestOf(nests []string, dir string) string {
	for dir != "." && !slices.Contains(nests, dir) {
		dir = path.Dir(dir)
	}
	return dir
}

// TestTheRulesCanFail feeds every rule a file that breaks it.
func TestTheRulesCanFail(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file string // in testdata
		as   string // where it pretends to stand
		nest string
		rule func(source) []string
	}{
		{"imports_recovery.go", "recovery/bad.go", ".", imports},
		{"imports_transport.go", "jetstream/bad.go", ".", imports},
		{"imports_root.go", "bad.go", ".", imports},
		{"imports_deadletter.go", "deadletter/bad.go", ".", imports},
		{"imports_cmd.go", "integration/bad_test.go", "integration", imports},
		{"imports_test.go.txt", "memory/bad_test.go", ".", imports},
		{"imports_unknown.go", "util/bad.go", ".", imports},
		{"bans.go", "memory/bad.go", ".", bans},
		{"state.go", "memory/bad.go", ".", func(s source) []string { return state([]source{s}) }},
		{"sleeps_test.go.txt", "cmd/holdfast/bad_test.go", "cmd/holdfast", testBans},
		{"undocumented.go", "memory/bad.go", ".", undocumented},
		{"large.go", "memory/bad.go", ".", tooLarge},
	} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			name := filepath.Join("testdata", c.file)
			s, err := parse(name, c.as)
			if err != nil {
				t.Fatal(err)
			}
			s.nest = c.nest
			got := c.rule(s)
			for i, finding := range got {
				got[i] = strings.TrimPrefix(finding, c.as+":")
			}
			slices.Sort(got)
			if want := wanted(t, name); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// wanted reads what a sample should be blamed for: "// want: ..." at the end of
// the line to blame, or "// want+2: ..." two lines above it where a comment on
// the line would excuse it.
func wanted(t *testing.T, name string) []string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	n := 0
	for line := range strings.Lines(string(raw)) {
		n++
		if _, text, ok := strings.Cut(line, "// want: "); ok {
			want = append(want, fmt.Sprintf("%d: %s", n, strings.TrimSpace(text)))
		}
		if _, text, ok := strings.Cut(line, "// want+2: "); ok {
			want = append(want, fmt.Sprintf("%d: %s", n+2, strings.TrimSpace(text)))
		}
	}
	if len(want) == 0 {
		t.Fatalf("%s blames nothing", name)
	}
	slices.Sort(want)
	return want
}
