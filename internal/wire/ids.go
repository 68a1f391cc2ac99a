package wire

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

const (
	deadIDLength      = 26 // 130 bits: never the same by chance
	fingerprintLength = 12 // 60 bits: enough for groups, short enough to type
)

// DeadID returns the ID of the dead letter of one stored message in one
// subscription: 26 characters of [a-z0-9]. It is the same each time the same
// copy fails, however often it is delivered and by whichever process, so that
// burying it again changes nothing. The body takes the place of the position
// where the broker has none.
func DeadID(subscription, id, position string, body []byte, redrives int) string {
	kind := "position"
	if position == "" {
		sum := sha256.Sum256(body)
		kind, position = "body", string(sum[:])
	}
	return digest(deadIDLength, "dead-id", subscription, id, kind, position, strconv.Itoa(bound(redrives)))
}

// Fingerprint returns the group of a failure: 12 characters of [a-z0-9]. It
// looks at the error's masked text (see Mask) as far as an envelope keeps it,
// so that the group can be computed again from a stored letter. topFrame is the
// function that panicked, or empty.
func Fingerprint(subscription, class, errType, errText, topFrame string) string {
	masked := Mask(clipText(errText, MaxErrorText))
	return digest(fingerprintLength, "fingerprint", subscription, class, errType, masked, topFrame)
}

// digest hashes parts, each with its length so that no two lists of parts look
// alike.
func digest(length int, parts ...string) string {
	hash := sha256.New()
	var size [8]byte
	for _, part := range parts {
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		hash.Write(size[:])
		hash.Write([]byte(part))
	}
	text := base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(hash.Sum(nil))
	return strings.ToLower(text[:length])
}

// TopFrame returns the function that panicked, from the text of
// runtime/debug.Stack taken in the function that recovered: the first frame
// below the panic that is not the runtime's. It returns "" when there is none.
func TopFrame(stack string) string {
	_, below, found := strings.Cut(stack, "\npanic(")
	if !found {
		return ""
	}
	for line := range strings.Lines(below) {
		line = strings.TrimSuffix(line, "\n")
		// A frame is a line with the function and its arguments; its file
		// follows, indented.
		if strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "runtime.") || !strings.HasSuffix(line, ")") {
			continue
		}
		end := strings.LastIndexByte(line, '(')
		if end > 0 {
			return line[:end]
		}
	}
	return ""
}

// ErrorTypes returns the Go types of err's unwrap chain, outermost first, and
// the one that tells most: the first that is not a mere wrapper, or else the
// innermost. Of joined errors the first is followed.
func ErrorTypes(err error) (best string, chain []string) {
	for err != nil && len(chain) < maxChain {
		name := fmt.Sprintf("%T", err)
		chain = append(chain, name)
		if best == "" && !wrapper(name) {
			best = name
		}
		err = unwrap(err)
	}
	if best == "" && len(chain) > 0 {
		best = chain[len(chain)-1]
	}
	return best, chain
}

func unwrap(err error) error {
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return e.Unwrap()
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if inner != nil {
				return inner
			}
		}
	}
	return nil
}

// wrapper reports whether a type says nothing about what went wrong.
func wrapper(name string) bool {
	switch name {
	case "*fmt.wrapError", "*fmt.wrapErrors", "*errors.joinError", "*errors.errorString":
		return true
	}
	// What package recovery puts around an error: the marks of handlers, and
	// what went wrong while decoding. A timeout is all there is to say.
	return strings.HasPrefix(name, "*recovery.") && name != "*recovery.TimeoutError"
}
