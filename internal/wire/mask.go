package wire

import (
	"bytes"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Mask returns text with what differs from one failure to the next replaced by
// '#', so that failures of one cause read the same. This is the whole rule:
//
//   - UUIDs and IP version 6 addresses become '#'.
//   - A word is a run of letters and digits. A word without a digit stays. A
//     word of letters followed by digits keeps its letters ("int64" is "int#").
//     Any other word with a digit becomes '#', and so does one that is long or
//     looks like a hex number: numbers with units, ULIDs, tokens, addresses in
//     memory.
//   - Masks joined by one of . : - , / + become one: decimals, dates, times,
//     IP addresses with ports, versions, ranges. A sign before a number goes.
//   - A quoted text stays if it reads like a name (letters, '_', '-', '.'),
//     because it is likely a field; otherwise it becomes "#".
//   - An e-mail address becomes '#'.
//   - White space and control characters become single spaces.
//
// Masking a masked text changes nothing. The result is valid UTF-8.
func Mask(text string) string {
	m := masker{in: strings.ToValidUTF8(text, "\uFFFD")}
	for m.pos < len(m.in) {
		m.next()
	}
	return strings.TrimRight(string(m.out), " ")
}

const (
	mark         = '#'
	longestKept  = 40 // a quoted name that is longer is taken for a value
	tokenLength  = 16 // a word with a digit from here on is a token
	hexLength    = 8  // a word of hex digits with a digit from here on is a number
	joiners      = ".:-,/+"
	beforeSigned = " (=:[,{<>"
)

// masker scans in once, from left to right. Only what was written decides how
// the next mark is joined, so that masked text is left as it is.
type masker struct {
	in  string
	pos int
	out []byte
	// unclosed holds the quotes that do not end in what is left of in, so that
	// it is not searched again and again.
	unclosed []byte
}

// next consumes at least one rune.
func (m *masker) next() {
	rest := m.in[m.pos:]
	r, width := utf8.DecodeRuneInString(rest)
	switch {
	case unicode.IsSpace(r) || unicode.IsControl(r):
		m.pos += width
		m.space()
		return
	case r == '"' || r == '`' || r == '\'':
		if m.quoted(byte(r)) {
			return
		}
	case r == mark:
		m.pos += width
		m.mark()
		return
	case !m.afterWord():
		if n := m.special(rest); n > 0 {
			m.pos += n
			m.mark()
			return
		}
	}
	if wordRune(r) {
		word := rest[:wordLength(rest)]
		m.pos += len(word)
		m.word(word)
		return
	}
	m.pos += width
	m.out = append(m.out, rest[:width]...)
}

// space writes one space between two things, and none at the start.
func (m *masker) space() {
	if len(m.out) > 0 && m.out[len(m.out)-1] != ' ' {
		m.out = append(m.out, ' ')
	}
}

// mark writes a '#' and joins it with the mark before it.
func (m *masker) mark() {
	n := len(m.out)
	if n > 0 && (m.out[n-1] == '-' || m.out[n-1] == '+') &&
		(n == 1 || strings.IndexByte(beforeSigned, m.out[n-2]) >= 0) {
		n--
	}
	switch {
	case n > 0 && m.out[n-1] == mark:
		n--
	case n > 1 && m.out[n-2] == mark && strings.IndexByte(joiners, m.out[n-1]) >= 0:
		n -= 2
	}
	m.out = append(m.out[:n], mark)
}

// word writes one word, masked.
func (m *masker) word(word string) {
	digit := strings.IndexFunc(word, unicode.IsDigit)
	switch {
	case digit < 0:
		m.out = append(m.out, word...)
	case len(word) >= tokenLength, len(word) >= hexLength && allHex(word):
		m.mark()
	case strings.TrimLeftFunc(word[digit:], unicode.IsDigit) == "":
		m.out = append(m.out, word[:digit]...)
		m.mark()
	default:
		m.mark()
	}
}

// afterWord reports whether the last thing written belongs to a word, so that
// nothing special can start here.
func (m *masker) afterWord() bool {
	r, _ := utf8.DecodeLastRune(m.out)
	return len(m.out) > 0 && (wordRune(r) || r == mark)
}

// quoted consumes a quoted text; false if this is not one, such as an
// apostrophe.
func (m *masker) quoted(quote byte) bool {
	rest := m.in[m.pos+1:]
	if quote == '\'' && m.afterWord() || bytes.IndexByte(m.unclosed, quote) >= 0 {
		return false
	}
	end := m.closing(rest, quote)
	if end < 0 {
		m.unclosed = append(m.unclosed, quote)
		return false
	}
	m.pos += 1 + end + 1
	content := rest[:end]
	if !nameLike(content) {
		content = string(mark)
	}
	m.out = append(m.out, quote)
	m.out = append(m.out, content...)
	m.out = append(m.out, quote)
	return true
}

// closing returns where the quote ends in s, or -1. An apostrophe inside a word
// does not end it, nor does one before what will be a mark.
func (m *masker) closing(s string, quote byte) int {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quote != '`':
			i++
		case s[i] != quote:
		case quote != '\'':
			return i
		default:
			r, _ := utf8.DecodeRuneInString(s[i+1:])
			if i+1 == len(s) || !wordRune(r) && r != mark && m.special(s[i+1:]) == 0 {
				return i
			}
		}
	}
	return -1
}

func nameLike(s string) bool {
	return len(s) <= longestKept && strings.IndexFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !strings.ContainsRune("_-.", r)
	}) < 0
}

// special returns the length of the UUID, address or e-mail at the start of s,
// or 0.
func (m *masker) special(s string) int {
	if n := uuidLength(s); n > 0 {
		return n
	}
	if n := ipv6Length(s); n > 0 {
		return n
	}
	return emailLength(s)
}

func uuidLength(s string) int {
	const length = 36
	if len(s) < length {
		return 0
	}
	for i := range length {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (s[i] == '-') || !dash && unhex(s[i]) < 0 {
			return 0
		}
	}
	return endsWord(s, length)
}

func ipv6Length(s string) int {
	n := 0
	for n < min(len(s), 64) && (unhex(s[n]) >= 0 || s[n] == ':' || s[n] == '.') {
		n++
	}
	// A sentence goes on after an address with a colon or a full stop.
	for n > 0 && (s[n-1] == '.' || s[n-1] == ':' && !strings.HasSuffix(s[:n], "::")) {
		n--
	}
	if n > 45 || strings.Count(s[:n], ":") < 2 || !strings.ContainsAny(s[:n], "0123456789") {
		return 0
	}
	if _, err := netip.ParseAddr(s[:n]); err != nil {
		return 0
	}
	return endsWord(s, n)
}

// emailLength finds local@domain.
func emailLength(s string) int {
	// Both parts are short by their standard; the limit bounds the search.
	part := func(s string) int {
		n := 0
		for n < min(len(s), 255) && (asciiWord(s[n]) || strings.IndexByte("._%+-", s[n]) >= 0) {
			n++
		}
		return n
	}
	local := part(s)
	if local == 0 || local == len(s) || s[local] != '@' {
		return 0
	}
	domain := part(s[local+1:])
	for domain > 0 && !asciiWord(s[local+domain]) {
		domain--
	}
	if !strings.Contains(s[local+1:local+1+domain], ".") {
		return 0
	}
	return endsWord(s, local+1+domain)
}

// endsWord returns n if no word goes on at s[n:], and 0 otherwise.
func endsWord(s string, n int) int {
	if r, _ := utf8.DecodeRuneInString(s[n:]); n < len(s) && (wordRune(r) || r == mark) {
		return 0
	}
	return n
}

func wordRune(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

func asciiWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func wordLength(s string) int {
	for i, r := range s {
		if !wordRune(r) {
			return i
		}
	}
	return len(s)
}

func allHex(s string) bool {
	for i := range len(s) {
		if unhex(s[i]) < 0 {
			return false
		}
	}
	return true
}
