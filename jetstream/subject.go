package jetstream

import (
	"errors"
	"strings"
)

// Faults of a subject, as a person is told them.
var (
	errSubjectEmpty    = errors.New("the subject is empty")
	errSubjectToken    = errors.New("the subject has an empty token")
	errSubjectWildcard = errors.New("a message cannot be published to a wildcard")
	errSubjectChar     = errors.New("the subject has a space or control character")
	errSubjectGreater  = errors.New("'>' may only be the last token")
)

// checkSubject says why a message cannot be published to s, or nil.
func checkSubject(s string) error {
	if err := checkFilter(s); err != nil {
		return err
	}
	for token := range strings.SplitSeq(s, ".") {
		if token == "*" || token == ">" {
			return errSubjectWildcard
		}
	}
	return nil
}

// checkFilter says why s cannot be a filter, or nil. Wildcards are allowed.
func checkFilter(s string) error {
	if s == "" {
		return errSubjectEmpty
	}
	start := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c == 0x7f:
			return errSubjectChar
		case c == '.':
			if i == start {
				return errSubjectToken
			}
			start = i + 1
		case c == '>' && i == start && i != len(s)-1 && s[i+1] == '.':
			return errSubjectGreater
		}
	}
	if start == len(s) {
		return errSubjectToken
	}
	return nil
}

// subsetOf tells whether every subject that matches inner matches outer too.
func subsetOf(inner, outer string) bool {
	in, out := strings.Split(inner, "."), strings.Split(outer, ".")
	for i, o := range out {
		switch {
		case i >= len(in):
			return false
		case o == ">":
			return true
		case in[i] == ">":
			return false
		case o == "*":
			continue
		case in[i] != o:
			return false
		}
	}
	return len(in) == len(out)
}

// overlap tells whether one subject can match both a and b.
func overlap(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := 0; ; i++ {
		if i >= len(as) || i >= len(bs) {
			return len(as) == len(bs)
		}
		x, y := as[i], bs[i]
		if x == ">" || y == ">" {
			return true
		}
		if x != "*" && y != "*" && x != y {
			return false
		}
	}
}

// coveredBy tells whether inner is a subset of one of outers.
func coveredBy(inner string, outers []string) bool {
	for _, o := range outers {
		if subsetOf(inner, o) {
			return true
		}
	}
	return false
}

// firstOverlap returns the first of bs that overlaps one of as, or "".
func firstOverlap(as, bs []string) string {
	for _, b := range bs {
		for _, a := range as {
			if overlap(a, b) {
				return b
			}
		}
	}
	return ""
}

// validToken tells whether s can be one token of a subject and the name of a
// stream or consumer: letters, digits, '-' and '_'.
func validToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// validName tells whether the server takes s as a stream or consumer name.
func validName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune(".*>/\\", r)
	})
}
