package config

import (
	"regexp"
	"strings"
)

// Family is the kind of broker that a URL names.
type Family string

// The kinds of brokers. FamilyMixed is a list of several kinds, FamilyNone is
// what no broker understands.
const (
	FamilyNATS     Family = "NATS"
	FamilyRabbitMQ Family = "RabbitMQ"
	FamilyMixed    Family = "mixed"
	FamilyNone     Family = ""
)

// FamilyOf tells the kind of broker of a URL, or of a comma-separated list of
// them. A part without a scheme belongs to the one before it.
func FamilyOf(broker string) Family {
	family := FamilyNone
	for part := range strings.SplitSeq(broker, ",") {
		scheme, _, found := strings.Cut(strings.TrimSpace(part), "://")
		of := family
		switch {
		case !found:
		case scheme == "amqp" || scheme == "amqps":
			of = FamilyRabbitMQ
		case scheme == "nats" || scheme == "tls" || scheme == "ws" || scheme == "wss":
			of = FamilyNATS
		default:
			return FamilyNone
		}
		if family != FamilyNone && of != family {
			return FamilyMixed
		}
		family = of
	}
	return family
}

// InFull tells whether every server of a list is a URL. On RabbitMQ each has a
// user of its own; a part that is none is likely the rest of a password.
func InFull(broker string) bool {
	for part := range strings.SplitSeq(broker, ",") {
		if FamilyOf(part) == FamilyNone {
			return false
		}
	}
	return true
}

// scheme is how a URL begins.
var scheme = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://`)

// Redact removes users, passwords and parameters from a broker URL or a
// comma-separated list of them, for logs and errors. Where a password holds what
// a URL cannot, more than the password is removed rather than less.
func Redact(broker string) string {
	out := rewriteUsers(broker, "", func(string) string { return "" })
	if !strings.Contains(broker, "://") {
		out = out[strings.LastIndexByte(out, '@')+1:]
	}
	parts := strings.Split(out, ",")
	for i, p := range parts {
		if cut := strings.IndexAny(p, "?#"); cut >= 0 {
			parts[i] = p[:cut]
		}
	}
	return strings.Join(parts, ",")
}

// rewriteUsers replaces what stands between a scheme and the last '@' before the
// end of the URL, '@' included; replace gets it without the '@'. A URL ends
// where the next one begins, at the quote that it stands in, or at one of ends.
func rewriteUsers(s, ends string, replace func(user string) string) string {
	var b strings.Builder
	rest := s
	for at := scheme.FindStringIndex(rest); at != nil; at = scheme.FindStringIndex(rest) {
		stop := ends
		if at[0] > 0 && ends != "" && strings.IndexByte(`"'`, rest[at[0]-1]) >= 0 {
			stop = rest[at[0]-1 : at[0]]
		}
		b.WriteString(rest[:at[1]])
		rest = rest[at[1]:]
		end := len(rest)
		if next := scheme.FindStringIndex(rest); next != nil {
			end = next[0]
		}
		if cut := strings.IndexAny(rest[:end], stop); cut >= 0 {
			end = cut
		}
		if user := strings.LastIndexByte(rest[:end], '@'); user >= 0 {
			b.WriteString(replace(rest[:user]))
			rest, end = rest[user+1:], end-user-1
		}
		b.WriteString(rest[:end])
		rest = rest[end:]
	}
	b.WriteString(rest)
	return b.String()
}
