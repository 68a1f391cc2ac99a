package config

import (
	"encoding/base64"
	"errors"
	"regexp"
	"strings"
)

// DecodeSecret returns the key of a Standard Webhooks secret: base64, with or
// without the prefix "whsec_". The error never holds the secret.
func DecodeSecret(s string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "whsec_"))
	switch {
	case err != nil:
		return nil, errors.New("is not base64")
	case len(key) == 0:
		return nil, errors.New("is empty")
	}
	return key, nil
}

var (
	headerName  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	headerValue = regexp.MustCompile(`^[^\x00-\x08\x0a-\x1f\x7f]*$`)
)

// headers refuses names and values that cannot travel, and names that belong to
// holdfast or to the connection.
func (w *walker) headers(v *value) {
	for _, p := range w.pairs(v.node, "headers") {
		name := p.key.Value
		low := strings.ToLower(name)
		switch {
		case !headerName.MatchString(name):
			w.fault(p.key, CodeValue, "write letters, digits and '-'", "header name %q cannot travel", name)
		case strings.HasPrefix(low, "webhook-"), strings.HasPrefix(low, "holdfast-"), low == "content-length", low == "host", low == "connection", low == "transfer-encoding", low == "content-type", low == "traceparent":
			w.fault(p.key, CodeContradicts, "remove it", "header %q is set by holdfast or by the connection", name)
		case !headerValue.MatchString(v.names[name]):
			w.fault(p.value, CodeValue, "remove control characters", "the value of header %q cannot travel", name)
		}
	}
}
