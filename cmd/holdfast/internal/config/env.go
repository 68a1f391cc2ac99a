package config

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// reference matches $${ (an escaped reference), ${NAME} and ${NAME:-default}.
var reference = regexp.MustCompile(`\$\$\{|\$\{([^}]*)\}`)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expansion is the outcome of expanding one scalar.
type expansion struct {
	value string
	vars  []string // the variables whose values are part of it
	fault string   // what is wrong, or ""
	at    int      // where the fault is, in characters from the start
	width int
}

// expand replaces references to environment variables. A value taken from the
// environment is never expanded again, and is never shown.
func expand(s string, lookup func(string) (string, bool)) expansion {
	var out strings.Builder
	e := expansion{}
	rest := 0
	for _, m := range reference.FindAllStringSubmatchIndex(s, -1) {
		out.WriteString(s[rest:m[0]])
		rest = m[1]
		if m[2] < 0 {
			out.WriteString("${")
			continue
		}
		name, fallback, hasFallback := strings.Cut(s[m[2]:m[3]], ":-")
		fail := func(text string) expansion {
			return expansion{fault: text, at: utf8.RuneCountInString(s[:m[0]]), width: utf8.RuneCountInString(s[m[0]:m[1]])}
		}
		if !envName.MatchString(name) {
			return fail("${" + name + "} is not the name of an environment variable")
		}
		value, ok := lookup(name)
		switch {
		case ok:
			e.vars = append(e.vars, name)
			out.WriteString(value)
		case hasFallback:
			out.WriteString(fallback)
		default:
			return fail("environment variable " + name + " is not set")
		}
	}
	out.WriteString(s[rest:])
	e.value = out.String()
	return e
}
