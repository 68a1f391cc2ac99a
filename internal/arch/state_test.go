package arch_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// state is the rule about variables of packages. It looks at all files of the
// library at once, since one file may write what another declares.
//
// Sentinel errors, embedded files and checks of the kind "var _ I = T{}" are no
// state. Neither are tables, regular expressions, byte strings and pools, which
// Go has no constants for, as long as they are not exported and nothing in
// their package writes to them.
func state(files []source) []string {
	var findings []string
	for _, s := range files {
		if !s.library() {
			continue
		}
		for _, decl := range s.file.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				if text := mutable(files, s, d, spec.(*ast.ValueSpec)); text != "" {
					findings = append(findings, s.at(spec)+": "+text)
				}
			}
		}
	}
	return findings
}

// mutable says why a declaration is mutable state, or returns "".
func mutable(files []source, s source, d *ast.GenDecl, v *ast.ValueSpec) string {
	if embedded(d.Doc) || embedded(v.Doc) {
		return ""
	}
	for i, name := range v.Names {
		switch {
		case name.Name == "_":
		case i >= len(v.Values):
			return fmt.Sprintf("var %s: mutable state of a package", name.Name)
		case sentinel(v.Values[i]):
		case name.IsExported() || !constantLike(v.Values[i]):
			return fmt.Sprintf("var %s: mutable state of a package", name.Name)
		default:
			if where := written(files, s.dir, name.Name); where != "" {
				return fmt.Sprintf("var %s: mutable state of a package, written at %s", name.Name, where)
			}
		}
	}
	return ""
}

func embedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool {
		return strings.HasPrefix(c.Text, "//go:embed ")
	})
}

// sentinel reports whether the value is a new sentinel error, or one of another
// package under a second name.
func sentinel(value ast.Expr) bool {
	if sel, ok := value.(*ast.SelectorExpr); ok {
		return strings.HasPrefix(sel.Sel.Name, "Err")
	}
	call, ok := value.(*ast.CallExpr)
	return ok && calledName(call) == "errors.New"
}

// constantLike reports whether the value is of a kind that Go has no constants
// for.
func constantLike(value ast.Expr) bool {
	switch x := value.(type) {
	case *ast.CompositeLit:
		return true
	case *ast.CallExpr:
		_, conversion := x.Fun.(*ast.ArrayType)
		return conversion || calledName(x) == "regexp.MustCompile"
	}
	return false
}

// written returns a place in the package at dir that writes to the variable, or
// may: it is assigned to, counted up, or its address is taken.
func written(files []source, dir, name string) string {
	where := ""
	for _, s := range files {
		if s.dir != dir || s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			for _, target := range targets(n) {
				if base(target) == name {
					where = s.at(n)
				}
			}
			return where == ""
		})
	}
	return where
}

// targets returns the expressions that a statement or expression writes to.
func targets(n ast.Node) []ast.Expr {
	switch x := n.(type) {
	case *ast.AssignStmt:
		if x.Tok != token.DEFINE {
			return x.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{x.X}
	case *ast.UnaryExpr:
		if x.Op == token.AND {
			return []ast.Expr{x.X}
		}
	}
	return nil
}

// base is the name that an expression such as x.f[i] starts with.
func base(e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x.Name
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return ""
		}
	}
}
