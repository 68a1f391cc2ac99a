package deadletter

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// Letter is a dead letter. It is read only: its Header and Body may be shared.
type Letter struct {
	// ID is the dead letter's own. MessageID is that of the message, which stays
	// the same through redrives.
	ID, MessageID string
	// Subscription is the one that failed, Fingerprint the group of failures of
	// one cause.
	Subscription, Fingerprint string
	// Source is where the subscription takes its messages from.
	Source string

	// Subject is the address the message was first published to; Position and
	// Time are where and when its first copy was stored.
	Subject, Position string
	Time              time.Time
	// Key is the ordering key of the message; may be empty.
	Key string

	// Reason is one of the reasons of package recovery; empty for a letter that
	// holdfast did not write. Class is how the failure was classified and Stage
	// where it happened: "decode", "handle" or "settle".
	Reason, Class, Stage string
	// Error is the text of the error, and ErrorType the Go type that tells most.
	Error, ErrorType string
	// ErrorChain is the Go types of the unwrap chain, outermost first.
	ErrorChain []string
	// Stack is set for panics.
	Stack string

	// Attempts is how often the handler ran, Deliveries how often the broker
	// handed the message out, Redrives how often it had been redriven before.
	Attempts, Deliveries, Redrives int
	// FirstFailed and Failed are when the first and the last attempt failed;
	// Buried is when the store took the letter. Each may be zero.
	FirstFailed, Failed, Buried time.Time
	// Host and App are where it failed.
	Host, App string

	// Header is the headers of the user, without those of holdfast and of the
	// broker.
	Header transport.Header
	// Body is the payload as it was, and ContentType its media type.
	Body        []byte
	ContentType string

	// Truncated lists what of the story was cut to fit: "error-chain", "stack",
	// "error" and so on. The body is never cut.
	Truncated []string
	// Foreign says that holdfast did not write this letter, or that it cannot be
	// read; the fields hold what is known.
	Foreign bool
	// Raw is the message as it is stored, all its headers included; nil when
	// the store gave none.
	Raw *transport.Message

	envelope wire.Envelope
}

// When is the time by which letters are selected: when the message failed, or
// when the letter was stored if that is not known.
func (l Letter) When() time.Time {
	if l.Failed.IsZero() {
		return l.Buried
	}
	return l.Failed
}

// MaskedError is the text of the error with numbers, IDs, addresses and the
// like replaced by '#', as it is for every letter of the group.
func (l Letter) MaskedError() string { return wire.Mask(l.Error) }

// Intact reports whether the body is, byte for byte, the one that was buried.
// It hashes the body. Of a foreign letter nobody knows, and it is false.
func (l Letter) Intact() bool {
	if l.Foreign {
		return false
	}
	sum := sha256.Sum256(l.Body)
	return len(l.Body) == l.envelope.BodySize && hex.EncodeToString(sum[:]) == l.envelope.BodySHA256
}

// read returns what a stored letter says. Where it is filed wins over what its
// headers claim, because that is where it is found again.
func read(stored transport.StoredLetter) Letter {
	m := stored.Message
	if m == nil {
		m = &transport.Message{}
	}
	e, ok := wire.Decode(m)
	e.DeadID, e.Subscription, e.Fingerprint = stored.Key.ID, stored.Key.Subscription, stored.Key.Fingerprint
	return Letter{
		ID:           e.DeadID,
		MessageID:    e.ID,
		Subscription: e.Subscription,
		Fingerprint:  e.Fingerprint,
		Source:       e.Source,
		Subject:      e.Subject,
		Position:     e.Position,
		Time:         e.Time,
		Key:          e.Key,
		Reason:       e.Reason,
		Class:        e.Class,
		Stage:        e.Stage,
		Error:        e.ErrorText,
		ErrorType:    e.ErrorType,
		ErrorChain:   e.ErrorChain,
		Stack:        e.Stack,
		Attempts:     e.Attempts,
		Deliveries:   e.Deliveries,
		Redrives:     e.Redrives,
		FirstFailed:  e.FirstFailed,
		Failed:       e.Failed,
		Buried:       m.Time,
		Host:         e.Host,
		App:          e.App,
		Header:       wire.UserHeader(m.Header),
		Body:         m.Body,
		ContentType:  m.ContentType,
		Truncated:    e.Truncated,
		Foreign:      !ok,
		Raw:          stored.Message,
		envelope:     e,
	}
}
