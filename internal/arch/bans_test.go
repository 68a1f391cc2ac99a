package arch_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// limits of the house.
const (
	maxFile     = 500 // lines
	maxFunction = 60  // lines
)

// bans is the rule about what library code never does.
func bans(s source) []string {
	if !s.library() {
		return nil
	}
	var findings []string
	blame := func(n ast.Node, text string) { findings = append(findings, s.at(n)+": "+text) }
	for _, spec := range s.file.Imports {
		if spec.Path.Value == `"log"` {
			blame(spec, "package log: the library logs through an injected slog.Logger")
		}
	}
	for _, decl := range s.file.Decls {
		if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
			blame(d, "init: importing a package must not do anything")
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if text := bannedCall(s, call); text != "" {
				blame(call, text)
			}
		}
		return true
	})
	return findings
}

// bannedCall says what is wrong with a call in library code, or returns "".
func bannedCall(s source, call *ast.CallExpr) string {
	name := calledName(call)
	switch name {
	case "panic":
		if !strings.HasSuffix(s.dir, "test") { // after Fatal, which does not return
			return "panic: return an error"
		}
	case "print", "println", "fmt.Print", "fmt.Printf", "fmt.Println":
		return name + ": the output belongs to the application"
	case "os.Exit":
		return "os.Exit: the process belongs to the application"
	case "time.Sleep":
		return "time.Sleep: wait for the end of a context as well"
	case "context.Background", "context.TODO":
		if !explained(s, call) {
			return name + ": use the caller's context, or say in a comment here why not"
		}
	}
	return ""
}

// calledName is "f" or "pkg.f"; methods look like packages, which is close
// enough for the names looked for.
func calledName(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok {
			return x.Name + "." + f.Sel.Name
		}
	}
	return ""
}

// explained reports whether a comment stands on the line of n or right above,
// or above a function that consists of it.
func explained(s source, n ast.Node) bool {
	for _, decl := range s.file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Doc != nil && f.Body != nil && len(f.Body.List) == 1 && within([]ast.Node{f}, n) {
			return true
		}
	}
	line := s.fset.Position(n.Pos()).Line
	return slices.ContainsFunc(s.file.Comments, func(c *ast.CommentGroup) bool {
		end := s.fset.Position(c.End()).Line
		return end == line || end == line-1
	})
}

// testBans is the rule about tests, in every module: they wait for conditions,
// or let virtual time pass in a synctest bubble, and they never leave anything
// out.
func testBans(s source) []string {
	if !s.test() && !strings.HasSuffix(s.dir, "test") { // natstest, transporttest and their like
		return nil
	}
	bubbles := bubbles(s.file)
	var findings []string
	ast.Inspect(s.file, func(n ast.Node) bool {
		if f, ok := n.(*ast.FuncDecl); ok && f.Recv != nil && skips(f.Name.Name) {
			return false // a testing.TB of the test's own
		}
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		switch name := sel.Sel.Name; {
		case calledName(call) == "time.Sleep" && !within(bubbles, call) && !explained(s, call):
			findings = append(findings, s.at(call)+": time.Sleep: wait for a condition, or use testing/synctest")
		case skips(name) || calledName(call) == "testing.Short":
			if _, ok := sel.X.(*ast.Ident); ok {
				findings = append(findings, s.at(call)+": "+name+": a test that is left out proves nothing")
			}
		}
		return true
	})
	return findings
}

func skips(name string) bool { return name == "Skip" || name == "Skipf" || name == "SkipNow" }

// bubbles returns the calls of synctest.Test, whose time is virtual.
func bubbles(f *ast.File) []ast.Node {
	var found []ast.Node
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && calledName(call) == "synctest.Test" {
			found = append(found, call)
		}
		return true
	})
	return found
}

func within(outer []ast.Node, n ast.Node) bool {
	return slices.ContainsFunc(outer, func(o ast.Node) bool { return o.Pos() <= n.Pos() && n.End() <= o.End() })
}

// undocumented is the rule about exported names.
func undocumented(s source) []string {
	if !s.library() {
		return nil
	}
	var findings []string
	blame := func(n ast.Node, name string) {
		findings = append(findings, fmt.Sprintf("%s: %s is exported and has no doc comment", s.at(n), name))
	}
	for _, decl := range s.file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
				blame(d, d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if name := undocumentedSpec(d, spec); name != "" {
					blame(spec, name)
				}
			}
		}
	}
	return findings
}

// undocumentedSpec returns the exported name that lacks a comment, or "". In a
// group of constants or variables the comment of the group, or one at the end
// of the line, is enough.
func undocumentedSpec(d *ast.GenDecl, spec ast.Spec) string {
	switch v := spec.(type) {
	case *ast.TypeSpec:
		if v.Name.IsExported() && v.Doc == nil && (d.Doc == nil || d.Lparen.IsValid()) {
			return v.Name.Name
		}
	case *ast.ValueSpec:
		for _, name := range v.Names {
			if name.IsExported() && d.Doc == nil && v.Doc == nil && v.Comment == nil {
				return name.Name
			}
		}
	}
	return ""
}

// exportedReceiver reports whether users can reach the function: it has no
// receiver, or one of an exported type.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// tooLarge is the rule about sizes. Tests and suites of promises are exempt.
func tooLarge(s source) []string {
	if !s.library() || strings.HasSuffix(s.dir, "test") {
		return nil
	}
	var findings []string
	line := func(p token.Pos) int { return s.fset.Position(p).Line }
	if n := line(s.file.FileEnd); n > maxFile {
		findings = append(findings, fmt.Sprintf("%s:%d: the file has %d lines, more than %d", s.name, n, n, maxFile))
	}
	for _, decl := range s.file.Decls {
		if d, ok := decl.(*ast.FuncDecl); ok {
			if n := line(d.End()) - line(d.Pos()) + 1; n > maxFunction {
				findings = append(findings, fmt.Sprintf("%s: %s has %d lines, more than %d", s.at(d), d.Name.Name, n, maxFunction))
			}
		}
	}
	return findings
}
