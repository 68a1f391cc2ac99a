package natsconn

import (
	"strings"

	"github.com/holdfast-go/holdfast/transport"
)

// MaxSubject is how long a subject may be, in bytes. A server closes the
// connection for good when a protocol line is longer than its
// max_control_line, 4096 by default, and the line holds a reply subject too.
const MaxSubject = 3072

// CheckSubject returns an error of op for a subject that nothing can be
// published to: empty, with an empty token, a wildcard, white space or a
// control character, or too long.
func CheckSubject(op, subject string) error {
	if err := CheckFilter(op, subject); err != nil {
		return err
	}
	if strings.ContainsAny(subject, "*>") {
		return transport.Invalid(op, subject, "a message cannot be published to a wildcard")
	}
	return nil
}

// CheckFilter returns an error of op for a subject that cannot be subscribed
// to. The wildcards * and > are taken as whole tokens, > as the last.
func CheckFilter(op, subject string) error {
	if subject == "" {
		return transport.Invalid(op, subject, "the subject is empty")
	}
	if len(subject) > MaxSubject {
		return transport.Invalid(op, subject[:64]+"...", "the subject has %d bytes; at most %d are taken", len(subject), MaxSubject)
	}
	for i := range len(subject) {
		if subject[i] <= ' ' || subject[i] == 0x7f {
			return transport.Invalid(op, subject, "the subject has a space or control character at byte %d", i)
		}
	}
	for rest, more := subject, true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		if token == "" {
			return transport.Invalid(op, subject, "the subject has an empty token")
		}
		if token == ">" && more {
			return transport.Invalid(op, subject, "the wildcard > must be the last token")
		}
	}
	return nil
}

// CheckMessage returns an error of op for a message that would not arrive as it
// was sent: a header the protocol cannot carry, or one that makes the client
// library of the receiver take the message for a status of the server.
func CheckMessage(op, address string, h transport.Header, body []byte) error {
	for name, values := range h {
		if !validName(name) {
			return transport.Invalid(op, address, "the header name %q; NATS takes printable ASCII without spaces and %s", name, notInNames)
		}
		for _, v := range values {
			if err := CheckValue(op, address, name, v); err != nil {
				return err
			}
		}
	}
	if _, ok := h["Status"]; ok && len(body) == 0 {
		return transport.Invalid(op, address, "a header named Status on an empty body is taken for a status of the server and never delivered; rename the header or send a body")
	}
	return nil
}

// CheckValue returns an error of op for a header value that would not arrive as
// it was sent.
func CheckValue(op, address, name, value string) error {
	if !validValue(value) {
		return transport.Invalid(op, address, "the value of header %q starts or ends with white space or holds a line break, which NATS would change", name)
	}
	return nil
}

// notInNames are the characters the client library refuses in header names.
const notInNames = "\"()/,:;<=>?@[\\]{}"

func validName(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || strings.IndexByte(notInNames, c) >= 0 {
			return false
		}
	}
	return name != ""
}

func validValue(v string) bool {
	if v == "" {
		return true
	}
	return !blank(v[0]) && !blank(v[len(v)-1]) && strings.IndexByte(v, '\n') < 0 && strings.IndexByte(v, '\r') < 0
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// Matches reports whether a filter with wildcards selects a subject. It reports
// true as well when subject is itself a filter and every subject it selects is
// selected by filter.
func Matches(filter, subject string) bool {
	for {
		f, frest, fmore := strings.Cut(filter, ".")
		s, srest, smore := strings.Cut(subject, ".")
		if f == ">" {
			return true
		}
		if s == ">" || f != "*" && f != s {
			return false
		}
		if !fmore || !smore {
			return fmore == smore
		}
		filter, subject = frest, srest
	}
}
