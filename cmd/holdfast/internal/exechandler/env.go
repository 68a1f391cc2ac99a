package exechandler

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/outcome"
)

// The environment variables a command gets.
const (
	envPrefix       = "HOLDFAST_"
	envID           = "HOLDFAST_ID"
	envSubject      = "HOLDFAST_SUBJECT"
	envSubscription = "HOLDFAST_SUBSCRIPTION"
	envAttempt      = "HOLDFAST_ATTEMPT"
	envContentType  = "HOLDFAST_CONTENT_TYPE"
	envHeaders      = "HOLDFAST_HEADERS"
	// envParams holds what stands for {name} in the subject, as a JSON object.
	envParams = "HOLDFAST_PARAMS"
	// envTruncated names the headers that did not fit into HOLDFAST_HEADERS, as
	// a JSON list; it is not set when all fit.
	envTruncated = "HOLDFAST_HEADERS_OMITTED"
)

const (
	// maxVariable is how long one variable may be. The kernel refuses to start a
	// command when one is longer than 128 KiB.
	maxVariable = 64 << 10
	// maxText bounds an ID or subject.
	maxText = 4 << 10
)

// environment returns base without variables of holdfast's own (a command must
// not take the settings of holdfast for those of its message), and the message.
func environment(base []string, m outcome.Message) []string {
	env := slices.DeleteFunc(slices.Clone(base), func(kv string) bool { return strings.HasPrefix(kv, envPrefix) })
	headers, omitted := headerJSON(m.Header)
	env = append(env,
		envID+"="+clean(m.ID),
		envSubject+"="+clean(m.Subject),
		envSubscription+"="+clean(m.Subscription),
		envAttempt+"="+strconv.Itoa(m.Attempt),
		envContentType+"="+clean(m.ContentType),
		envHeaders+"="+headers,
		envParams+"="+m.ParamsJSON(maxVariable),
	)
	if len(omitted) > 0 {
		env = append(env, envTruncated+"="+omittedJSON(omitted))
	}
	return env
}

// clean makes a value that the kernel takes: valid UTF-8 without NUL, bounded.
func clean(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "")
	if len(s) <= maxText {
		return s
	}
	s = s[:maxText]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}

// headerJSON returns the headers as a JSON object of names to lists of values.
// Bytes that are not UTF-8 become U+FFFD, and a NUL is written as \u0000, as
// JSON does. Headers that do not fit are left out, the largest last to get in.
func headerJSON(h map[string][]string) (text string, omitted []string) {
	type entry struct{ name, text string }
	entries := make([]entry, 0, len(h))
	for name, values := range h {
		if values == nil {
			values = []string{}
		}
		k, errKey := json.Marshal(strings.ToValidUTF8(name, "\ufffd"))
		v, errValue := json.Marshal(values)
		if errKey != nil || errValue != nil {
			continue // strings and lists of them can always be encoded
		}
		entries = append(entries, entry{name, string(k) + ":" + string(v)})
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if d := len(a.text) - len(b.text); d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	var parts []string
	size := 2
	for _, e := range entries {
		if size += len(e.text) + 1; size > maxVariable {
			omitted = append(omitted, e.name)
			continue
		}
		parts = append(parts, e.text)
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, ",") + "}", omitted
}

// omittedJSON lists names, as many as fit.
func omittedJSON(names []string) string {
	var kept []string
	size := 2
	for _, n := range names {
		n = clean(n)
		if size += 2*len(n) + 3; size > maxText {
			break
		}
		kept = append(kept, n)
	}
	b, err := json.Marshal(kept)
	if err != nil || kept == nil {
		return "[]"
	}
	return string(b)
}
