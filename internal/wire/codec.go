package wire

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-go/holdfast/transport"
)

// Encode returns the headers of e within Budget. Whatever e holds, it succeeds:
// what does not fit is cut and listed in Truncated.
func Encode(e Envelope) transport.Header { return EncodeWithin(e, Budget) }

// EncodeWithin is Encode with a budget of its own, for a message whose headers
// would otherwise exceed what the broker takes. It cuts in the order chain,
// stack, error text, error type, source, app, host; what is left then is needed
// to file and to redrive the letter and is kept even above the budget.
func EncodeWithin(e Envelope, budget int) transport.Header {
	e = e.bounded()
	h := e.header()
	for _, step := range []struct {
		name  string
		field *string
	}{
		{cutChain, nil},
		{cutStack, &e.Stack},
		{cutError, &e.ErrorText},
		{cutType, &e.ErrorType},
		{cutSource, &e.Source},
		{cutApp, &e.App},
		{cutHost, &e.Host},
	} {
		if size(h) <= budget {
			return h
		}
		if step.field == nil {
			e.dropChain()
		} else {
			e.shorten(step.name, step.field, budget)
		}
		h = e.header()
	}
	return h
}

func (e *Envelope) dropChain() {
	if len(e.ErrorChain) == 0 {
		return
	}
	e.ErrorChain = nil
	e.cut(cutChain)
}

// shorten cuts one field by as much as the envelope exceeds the budget.
func (e *Envelope) shorten(name string, field *string, budget int) {
	if *field == "" {
		return
	}
	e.cut(name)
	over := size(e.header()) - budget
	*field = clipEscaped(*field, len(Escape(*field))-over)
}

// size is how many bytes the headers take on the wire.
func size(h transport.Header) int {
	n := 0
	for name, values := range h {
		for _, value := range values {
			n += len(name) + len(": ") + len(value) + len("\r\n")
		}
	}
	return n
}

// header writes the fields that are set.
func (e Envelope) header() transport.Header {
	h := e.origin()
	text := func(name, value string) {
		if value != "" {
			h.Set(name, Escape(value))
		}
	}
	number := func(name string, n int) { h.Set(name, strconv.Itoa(n)) }

	number(DeadVersion, EnvelopeVersion)
	text(DeadLetterID, e.DeadID)
	text(DeadSubscription, e.Subscription)
	text(DeadSource, e.Source)
	text(DeadReason, e.Reason)
	text(DeadClass, e.Class)
	text(DeadError, e.ErrorText)
	text(DeadErrorType, e.ErrorType)
	setList(h, DeadErrorChain, e.ErrorChain)
	text(DeadStack, e.Stack)
	text(DeadStage, e.Stage)
	number(DeadAttempts, e.Attempts)
	number(DeadDeliveries, e.Deliveries)
	setTime(h, DeadFirstFailed, e.FirstFailed)
	setTime(h, DeadFailed, e.Failed)
	text(DeadHost, e.Host)
	text(DeadApp, e.App)
	text(DeadFingerprint, e.Fingerprint)
	text(DeadBodySHA256, e.BodySHA256)
	number(DeadBodySize, e.BodySize)
	setList(h, DeadTruncated, e.Truncated)
	return h
}

// origin writes the headers that stay on the message when it is redriven.
func (e Envelope) origin() transport.Header {
	h := make(transport.Header, 32)
	if e.Subject != "" {
		h.Set(Subject, Escape(e.Subject))
	}
	if e.Position != "" {
		h.Set(Position, Escape(e.Position))
	}
	setTime(h, Time, e.Time)
	h.Set(Redrives, strconv.Itoa(e.Redrives))
	return h
}

func setTime(h transport.Header, name string, t time.Time) {
	if !t.IsZero() {
		h.Set(name, t.Format(time.RFC3339Nano))
	}
}

// setList joins values with commas; a comma inside a value is escaped.
func setList(h transport.Header, name string, values []string) {
	if len(values) == 0 {
		return
	}
	parts := make([]string, len(values))
	for i, value := range values {
		parts[i] = strings.ReplaceAll(Escape(value), ",", "%2C")
	}
	h.Set(name, strings.Join(parts, ","))
}

// Decode reads the envelope of m. It reports false when m carries none that was
// written by holdfast; the envelope then holds whatever could be read. It
// accepts anything: of a repeated header the first value counts, and a value
// that makes no sense is as good as missing.
func Decode(m *transport.Message) (Envelope, bool) {
	h := m.Header
	text := func(name string) string { return Unescape(h.Get(name)) }
	e := Envelope{
		Version:      getInt(h, DeadVersion),
		DeadID:       text(DeadLetterID),
		Subscription: text(DeadSubscription),
		Source:       text(DeadSource),
		Subject:      text(Subject),
		Position:     text(Position),
		Time:         getTime(h, Time),
		Redrives:     getInt(h, Redrives),
		ID:           m.ID,
		Key:          m.Key,
		Reason:       text(DeadReason),
		Class:        text(DeadClass),
		ErrorText:    text(DeadError),
		ErrorType:    text(DeadErrorType),
		ErrorChain:   getList(h, DeadErrorChain),
		Stack:        text(DeadStack),
		Stage:        text(DeadStage),
		Attempts:     getInt(h, DeadAttempts),
		Deliveries:   getInt(h, DeadDeliveries),
		FirstFailed:  getTime(h, DeadFirstFailed),
		Failed:       getTime(h, DeadFailed),
		Host:         text(DeadHost),
		App:          text(DeadApp),
		Fingerprint:  text(DeadFingerprint),
		BodySHA256:   text(DeadBodySHA256),
		BodySize:     getInt(h, DeadBodySize),
		Truncated:    knownCuts(getList(h, DeadTruncated)),
	}
	if e.Subject == "" {
		e.Subject = m.Subject
	}
	e = e.bounded()
	return e, e.Version > 0 && e.DeadID != "" && e.Subscription != ""
}

func getInt(h transport.Header, name string) int {
	text := h.Get(name)
	if text == "" { // the common case, and an error would cost an allocation
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

func getTime(h transport.Header, name string) time.Time {
	text := h.Get(name)
	if text == "" { // as in getInt
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

func getList(h transport.Header, name string) []string {
	var values []string
	for part := range strings.SplitSeq(h.Get(name), ",") {
		if len(values) > maxChain {
			break
		}
		if part != "" {
			values = append(values, Unescape(part))
		}
	}
	return values
}

// knownCuts keeps the names that this version writes, each once.
func knownCuts(names []string) []string {
	var known []string
	for _, name := range names {
		switch name {
		case cutChain, cutStack, cutError, cutType, cutSource, cutApp, cutHost, cutSubject, cutPosition, cutOther:
			if !slices.Contains(known, name) {
				known = append(known, name)
			}
		}
	}
	return known
}

// Escape returns s in printable ASCII, fit for a header value of any broker:
// bytes outside of it, '%', and spaces at either end become %XX. Unescape
// reverses it exactly.
func Escape(s string) string {
	extra := 0
	for i := range len(s) {
		if escaped(s, i) {
			extra++
		}
	}
	if extra == 0 {
		return s
	}
	const hex = "0123456789ABCDEF"
	out := make([]byte, 0, len(s)+2*extra)
	for i := range len(s) {
		c := s[i]
		if escaped(s, i) {
			out = append(out, '%', hex[c>>4], hex[c&15])
			continue
		}
		out = append(out, c)
	}
	return string(out)
}

// escaped reports whether the byte at i must be written as %XX. Spaces at the
// ends are, because clients trim them.
func escaped(s string, i int) bool {
	c := s[i]
	if c == ' ' {
		return i == 0 || i == len(s)-1
	}
	return c < ' ' || c >= 0x7f || c == '%'
}

// Unescape reverses Escape. A '%' that no two hex digits follow stands for
// itself.
func Unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			high, low := unhex(s[i+1]), unhex(s[i+2])
			if high >= 0 && low >= 0 {
				out = append(out, byte(high<<4|low))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// clipEscaped returns the longest prefix of s, cut between runes, whose escaped
// form takes at most limit bytes.
func clipEscaped(s string, limit int) string {
	used := 0
	for i := 0; i < len(s); {
		_, width := utf8.DecodeRuneInString(s[i:])
		for j := i; j < i+width; j++ {
			used++
			// A space may become the last one, and then takes three.
			if escaped(s, j) || s[j] == ' ' {
				used += 2
			}
		}
		if used > limit {
			return s[:i]
		}
		i += width
	}
	return s
}
