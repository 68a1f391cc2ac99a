package arch_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rooms returns every room of the published module and what it may import
// besides the standard library and its own sub-packages. A folder that is not
// here is refused: say first where it belongs.
func rooms() map[string][]string {
	transports := []string{"transport", "internal/wire", "internal/natsconn", nats}
	return map[string][]string{
		".": {
			"recovery", "transport", "deadletter", "observe",
			"internal/engine", "internal/sender", "internal/wire", "spool",
		},
		"recovery":                {},
		"spool":                   {},
		"transport":               {},
		"transport/transporttest": {"transport", "internal/wire"},
		"observe":                 {"recovery", "transport"},
		"memory":                  {"transport", "internal/wire"},
		"natscore":                transports,
		"jetstream":               transports,
		"rabbitmq":                {"transport", "internal/wire", rabbit},
		"deadletter":              {"transport", "recovery", "internal/wire"},
		"holdfasttest":            {".", "memory", "transport", "recovery", "deadletter", "observe"},
		"internal/engine":         {"transport", "recovery", "observe", "internal/wire"},
		"internal/sender":         {"transport", "spool"},
		"internal/wire":           {"transport"},
		"internal/natsconn":       {"transport", "internal/wire", nats},
		"internal/check":          {},
		"internal/freeport":       {},
		"internal/redistest":      {"internal/freeport"},
		"internal/rabbitnode":     {"internal/freeport"},
		"internal/arch":           {},
		// Programs to read and run, not to import.
		"examples": {".", "memory", "natscore", "jetstream", "rabbitmq", "transport", "recovery", "deadletter", "observe", nats, rabbit},
	}
}

// imports is the rule about who may import whom.
func imports(s source) []string {
	var findings []string
	for _, spec := range s.file.Imports {
		target := strings.Trim(spec.Path.Value, `"`)
		if reason := refused(s, target); reason != "" {
			findings = append(findings, fmt.Sprintf("%s: %s may not import %s: %s", s.at(spec), s.dir, target, reason))
		}
	}
	return findings
}

// refused says why s may not import target, or returns "".
func refused(s source, target string) string {
	if own, ok := below(target); ok && inside("cmd", own) && !inside("cmd", s.dir) {
		return "nothing imports cmd"
	}
	if !strings.Contains(firstElement(target), ".") || s.nest != "." {
		return "" // the standard library; nested modules may import what they like
	}
	room := roomOf(s.dir)
	allowed, ok := rooms()[room]
	if !ok {
		return "the folder has no room in the house: add it to rooms"
	}
	own, ours := below(target)
	switch {
	case s.test() && (ours || inside(nats, target) || inside(rabbit, target)):
		return "" // a test may look at any room of the library
	case s.test():
		return "tests of the published module use the standard library and the client library only"
	case !ours && slices.ContainsFunc(allowed, func(a string) bool { return inside(a, target) }):
		return ""
	case !ours:
		return "it is no requirement of this room"
	case roomOf(own) == room || slices.Contains(allowed, roomOf(own)):
		return ""
	}
	return "the arrow points the wrong way"
}

// roomOf returns the room that a folder of the published module belongs to.
func roomOf(dir string) string {
	room := ""
	for name := range rooms() {
		if inside(name, dir) && len(name) > len(room) {
			room = name
		}
	}
	return room
}

// inside reports whether dir is the folder or lies below it. Only the root
// itself is inside the root.
func inside(folder, dir string) bool {
	return dir == folder || strings.HasPrefix(dir, folder+"/")
}

// below cuts the module path off an import path of ours.
func below(target string) (string, bool) {
	if target == module {
		return ".", true
	}
	return strings.CutPrefix(target, module+"/")
}

func firstElement(target string) string {
	first, _, _ := strings.Cut(target, "/")
	return first
}

// modFile is what go mod edit -json tells of a go.mod.
type modFile struct {
	Module    struct{ Path string }
	Toolchain string
	Require   []struct {
		Path     string
		Version  string
		Indirect bool
	}
	Replace []struct{ Old struct{ Path string } }
	Tool    []struct{ Path string }
}

func TestTheLibraryRequiresTheClientLibraryOnly(t *testing.T) {
	t.Parallel()
	for _, finding := range libraryRequirements(readMod(t, filepath.Join("..", "..", "go.mod"))) {
		t.Error(finding)
	}
}

func libraryRequirements(m modFile) []string {
	var findings, direct []string
	for _, r := range m.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	if want := []string{nats, rabbit}; !slices.Equal(direct, want) {
		findings = append(findings, fmt.Sprintf("direct requirements are %q, want %q alone", direct, want))
	}
	if len(m.Tool) > 0 {
		findings = append(findings, "tools belong into tools/go.mod: their requirements would reach every user")
	}
	return findings
}

func TestNoModuleNeedsThisMachine(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	for _, dir := range modules(t, root) {
		for _, finding := range anyModule(readMod(t, filepath.Join(root, dir, "go.mod"))) {
			t.Errorf("%s/go.mod %s", dir, finding)
		}
	}
}

func anyModule(m modFile) []string {
	var findings []string
	for _, r := range m.Replace {
		findings = append(findings, fmt.Sprintf("replaces %s: go install ...@latest refuses that; go.work is the place", r.Old.Path))
	}
	for _, r := range m.Require {
		if r.Path == module && strings.HasPrefix(r.Version, "v0.0.0-") {
			findings = append(findings, "requires "+r.Version+" of the library, which go.work does not tie: use make tidy")
		}
	}
	if m.Toolchain != "" {
		findings = append(findings, "has a toolchain line: it forces a download on users")
	}
	if !inside(module, m.Module.Path) {
		findings = append(findings, "is called "+m.Module.Path)
	}
	return findings
}

func readMod(t *testing.T, name string) modFile {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json", name)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var m modFile
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTheModuleRulesCanFail(t *testing.T) {
	t.Parallel()
	m := readMod(t, filepath.Join("testdata", "bad.mod"))
	if got := libraryRequirements(m); len(got) != 2 {
		t.Errorf("a second direct requirement and a tool are found as %q", got)
	}
	if got := anyModule(m); len(got) != 4 {
		t.Errorf("a replace, a version of nowhere, a toolchain and a foreign name are found as %q", got)
	}
}
