package transport

import (
	"fmt"
	"slices"
	"strings"
)

// Template is an address with named parameters: "orders.{region}.{id}". A
// parameter is a whole token between dots; a last one written "{rest...}" stands
// for one or more. Where messages are taken it is a wildcard; where they are
// published it is filled in. The zero Template is an empty address.
type Template struct {
	text   string
	tokens []string
	params []string
}

// ParseTemplate reads a template. An address without braces is one without
// parameters.
func ParseTemplate(text string) (Template, error) {
	t := Template{text: text}
	if !strings.ContainsAny(text, "{}") {
		return t, nil
	}
	t.tokens = split(text)
	for i, token := range t.tokens {
		name, rest, ok := param(token)
		switch {
		case !ok && strings.ContainsAny(token, "{}"):
			return Template{}, fmt.Errorf("%w: in the address %q a parameter is a whole token such as {id}, and %q is not", ErrInvalid, text, token)
		case !ok:
			continue
		case name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("{}*>#.", r) }):
			return Template{}, fmt.Errorf("%w: in the address %q the parameter %q has no proper name", ErrInvalid, text, token)
		case slices.Contains(t.params, name):
			return Template{}, fmt.Errorf("%w: in the address %q the parameter %q is there twice", ErrInvalid, text, token)
		case rest && i < len(t.tokens)-1:
			return Template{}, fmt.Errorf("%w: in the address %q the parameter %q is not the last token", ErrInvalid, text, token)
		}
		t.params = append(t.params, name)
	}
	return t, nil
}

// split cuts an address at its dots, but not within braces.
func split(text string) []string {
	var tokens []string
	from, inside := 0, false
	for i, c := range text {
		switch {
		case c == '{':
			inside = true
		case c == '}':
			inside = false
		case c == '.' && !inside:
			tokens = append(tokens, text[from:i])
			from = i + 1
		}
	}
	return append(tokens, text[from:])
}

// param reads a token as a parameter.
func param(token string) (name string, rest, ok bool) {
	if !strings.HasPrefix(token, "{") || !strings.HasSuffix(token, "}") || len(token) < 2 {
		return "", false, false
	}
	name = token[1 : len(token)-1]
	name, rest = strings.CutSuffix(name, "...")
	return name, rest, true
}

// String returns the template as it was written.
func (t Template) String() string { return t.text }

// Names returns the names of the parameters. Treat them as read only.
func (t Template) Names() []string { return t.params }

// Pattern returns the address with wildcards in the place of parameters: one
// stands for one token, many for one or more at the end.
func (t Template) Pattern(one, many string) string {
	if len(t.params) == 0 {
		return t.text
	}
	tokens := make([]string, len(t.tokens))
	for i, token := range t.tokens {
		switch _, rest, ok := param(token); {
		case rest:
			tokens[i] = many
		case ok:
			tokens[i] = one
		default:
			tokens[i] = token
		}
	}
	return strings.Join(tokens, ".")
}

// Param returns what stands for a parameter in an address. False means that the
// address is none of this template, or that there is no such parameter.
func (t Template) Param(address, name string) (string, bool) {
	if len(t.params) == 0 {
		return "", false
	}
	value, found := "", false
	for i, token := range t.tokens {
		if address == "" {
			return "", false
		}
		here, after, more := strings.Cut(address, ".")
		own, rest, ok := param(token)
		if rest {
			here, after, more = address, "", false
		}
		switch {
		case here == "" || more != (i < len(t.tokens)-1):
			return "", false
		case ok && own == name:
			value, found = here, true
		case !ok && token != "*" && token != here:
			return "", false
		}
		address = after
	}
	return value, found
}

// Fill returns the address with values in the place of the parameters. A value
// that is missing, or that would make another address of it, is refused: it has
// at least one character and no white space, control character, wildcard or
// brace, and a dot only in "{rest...}", not at an end and not two in a row.
func (t Template) Fill(value func(name string) (string, bool)) (string, error) {
	if len(t.params) == 0 {
		return t.text, nil
	}
	tokens := make([]string, len(t.tokens))
	for i, token := range t.tokens {
		name, rest, ok := param(token)
		if !ok {
			tokens[i] = token
			continue
		}
		v, given := value(name)
		if !given {
			return "", fmt.Errorf("%w: the address %q needs a value for %q", ErrInvalid, t.text, name)
		}
		if fault := valueFault(v, rest); fault != "" {
			return "", fmt.Errorf("%w: the value %q for %q of the address %q %s", ErrInvalid, v, name, t.text, fault)
		}
		tokens[i] = v
	}
	return strings.Join(tokens, "."), nil
}

// valueFault says why a value cannot stand for a parameter, or "".
func valueFault(v string, rest bool) string {
	switch {
	case v == "":
		return "is empty"
	case strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\uFFFD' }):
		return "has white space or a control character, or is not UTF-8"
	case strings.ContainsAny(v, "*>#{}"):
		return "has a wildcard or a brace"
	case !rest && strings.Contains(v, "."):
		return "has a dot, which would make two tokens of it"
	case strings.HasPrefix(v, ".") || strings.HasSuffix(v, ".") || strings.Contains(v, ".."):
		return "has an empty token"
	}
	return ""
}

// Templated is a Source whose addresses have parameters.
type Templated interface {
	// Param returns what stands for a parameter in the address of a message.
	Param(address, name string) (string, bool)
	// Params returns all parameters of an address; nil where there are none.
	Params(address string) map[string]string
}

// Templates are the addresses of one source.
type Templates []Template

// ParseTemplates reads the addresses of a source, and returns what is wrong with
// those that cannot be read; they stand for themselves.
func ParseTemplates(texts []string) (list Templates, faults []string) {
	for _, text := range texts {
		t, err := ParseTemplate(text)
		if err != nil {
			faults = append(faults, err.Error())
			t = Template{text: text}
		}
		list = append(list, t)
	}
	return list, faults
}

// Patterns returns the addresses with wildcards in the place of parameters.
func (l Templates) Patterns(one, many string) []string {
	patterns := make([]string, len(l))
	for i, t := range l {
		patterns[i] = t.Pattern(one, many)
	}
	return patterns
}

// Param implements Templated: the first template that has the parameter and takes
// the address counts.
func (l Templates) Param(address, name string) (string, bool) {
	for _, t := range l {
		if v, ok := t.Param(address, name); ok {
			return v, true
		}
	}
	return "", false
}

// Params implements Templated.
func (l Templates) Params(address string) map[string]string {
	var all map[string]string
	for _, t := range l {
		for _, name := range t.Names() {
			value, ok := l.Param(address, name)
			if !ok {
				continue
			}
			if all == nil {
				all = make(map[string]string)
			}
			all[name] = value
		}
	}
	return all
}
