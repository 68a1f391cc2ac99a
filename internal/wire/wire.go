// Package wire holds the header names that holdfast writes, each written once,
// and the codec of the dead-letter envelope.
//
// Every name starts with Prefix, so that all of them can be removed at once and
// none can be taken for a header of a broker or of a user.
package wire

import "strings"

// Prefix starts every header name of holdfast. Users cannot set such headers.
const Prefix = "Holdfast-"

// Identity, on any message.
const (
	// ID is the logical message ID where the broker's own field holds a
	// deduplication key instead.
	ID = "Holdfast-Id"
	// Key is the ordering key.
	Key = "Holdfast-Key"
	// ContentType is the media type on brokers without a field for it.
	ContentType = "Content-Type"
	// Resent marks a publish whose first try has an unknown outcome.
	Resent = "Holdfast-Resent"
	// Cause is the ID of the message whose handler published this one.
	Cause = "Holdfast-Cause"
)

// Origin, on copies: dead letters and redriven messages. Values are escaped;
// OriginOf reads them.
const (
	// Subject is the address the message was first published to.
	Subject = "Holdfast-Subject"
	// Position is where the first copy was stored.
	Position = "Holdfast-Position"
	// Time is when the first copy was stored, RFC 3339 with nanoseconds.
	Time = "Holdfast-Time"
	// Redrives is how often the message was redriven.
	Redrives = "Holdfast-Redrives"
)

// Copies, on brokers that neither number what they store nor count how often it
// was handed out. They never leave their transport.
const (
	// Copy names one stored copy: every publish has another value.
	Copy = "Holdfast-Copy"
	// CopyOf names the copy that this one continues after a retry.
	CopyOf = "Holdfast-Copy-Of"
	// Deliveries is how often the copies before this one were handed out.
	Deliveries = "Holdfast-Deliveries"
	// Due is when a message that was put back may be handed out again, in
	// milliseconds since 1970.
	Due = "Holdfast-Due"
	// Parked is what a parked copy says of the message it continues: deliveries so
	// far, delay, time, position and subject.
	Parked = "Holdfast-Parked"
	// Buried is when a dead letter was buried, in nanoseconds since 1970.
	Buried = "Holdfast-Buried"
	// DeadKey is where a dead letter is filed: its parts, separated by a dot.
	DeadKey = "Holdfast-Dead-Key"
	// SavedPrefix starts the names of headers that keep what the broker would
	// act upon if it stood in its own place on a copy.
	SavedPrefix = "Holdfast-Saved-"
)

// Replies to requests.
const (
	// Reply marks an answer made by holdfast; its value is "ok" or "error".
	Reply = "Holdfast-Reply"
	// Error is the message of an error carried back to the caller.
	Error = "Holdfast-Error"
	// ErrorCode is the application's code of that error, if it gave one.
	ErrorCode = "Holdfast-Error-Code"
)

// Reserved reports whether a user may not set a header of this name, because
// holdfast or a broker gives it a meaning.
func Reserved(name string) bool {
	return hasPrefixFold(name, Prefix) || hasPrefixFold(name, "Nats-")
}

// BrokerOwned reports whether a header must not travel on a copy, because a
// broker would act upon it or take it for its own record: an expectation, a
// deduplication key, a rollup, the history of a dead-letter exchange. Other
// names that start with x- are the user's and stay.
func BrokerOwned(name string) bool {
	for _, prefix := range [...]string{
		"Nats-",
		"x-death", "x-first-death-", "x-last-death-", "x-opt-", "x-delivery-count", "x-acquired-count", "x-delay", "x-stream-",
	} {
		if hasPrefixFold(name, prefix) {
			return true
		}
	}
	return false
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
