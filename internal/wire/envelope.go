package wire

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-go/holdfast/transport"
)

// DeadPrefix starts the name of every header that only a dead letter carries.
const DeadPrefix = "Holdfast-Dead-"

// The headers of the envelope. The origin headers (Subject, Position, Time,
// Redrives) belong to it too; they stay on the message when it is redriven.
const (
	// DeadVersion is the version of the envelope; its presence says that there
	// is one.
	DeadVersion = "Holdfast-Dead-Envelope"
	// DeadLetterID is the dead letter's own ID.
	DeadLetterID = "Holdfast-Dead-Id"
	// DeadSubscription is the subscription that failed.
	DeadSubscription = "Holdfast-Dead-Subscription"
	// DeadSource is where that subscription takes its messages from.
	DeadSource = "Holdfast-Dead-Source"
	// DeadReason is one of the closed set of reasons of package recovery.
	DeadReason = "Holdfast-Dead-Reason"
	// DeadClass is how the failure was classified.
	DeadClass = "Holdfast-Dead-Class"
	// DeadError is the text of the error.
	DeadError = "Holdfast-Dead-Error"
	// DeadErrorType is the Go type of the error that tells most.
	DeadErrorType = "Holdfast-Dead-Error-Type"
	// DeadErrorChain is the Go types of the unwrap chain, outermost first.
	DeadErrorChain = "Holdfast-Dead-Error-Chain"
	// DeadStack is the stack of a panic.
	DeadStack = "Holdfast-Dead-Stack"
	// DeadStage is where it failed: decode, handle, settle.
	DeadStage = "Holdfast-Dead-Stage"
	// DeadAttempts is how often the handler ran.
	DeadAttempts = "Holdfast-Dead-Attempts"
	// DeadDeliveries is how often the broker handed the message out.
	DeadDeliveries = "Holdfast-Dead-Deliveries"
	// DeadFirstFailed is when the first attempt failed.
	DeadFirstFailed = "Holdfast-Dead-First-Failed"
	// DeadFailed is when the last attempt failed.
	DeadFailed = "Holdfast-Dead-Failed"
	// DeadHost is the machine it failed on.
	DeadHost = "Holdfast-Dead-Host"
	// DeadApp is the application it failed in.
	DeadApp = "Holdfast-Dead-App"
	// DeadFingerprint groups failures of one cause.
	DeadFingerprint = "Holdfast-Dead-Fingerprint"
	// DeadBodySHA256 is the hash of the body as it was buried, in hex.
	DeadBodySHA256 = "Holdfast-Dead-Body-Sha256"
	// DeadBodySize is the length of the body in bytes.
	DeadBodySize = "Holdfast-Dead-Body-Size"
	// DeadTruncated lists the fields that were cut to fit.
	DeadTruncated = "Holdfast-Dead-Truncated"
)

// EnvelopeVersion is the version that Encode writes.
const EnvelopeVersion = 1

// Budget is how many bytes the headers of one envelope take at most, names and
// separators included. Headers of the user are not counted: they are kept.
const Budget = 16 << 10

// What a field keeps at most, in bytes before escaping.
const (
	MaxErrorText = 1 << 10
	MaxStack     = 4 << 10
	maxSubject   = 4 << 10 // a NATS server takes no longer control line
	maxSource    = 1 << 10
	maxPosition  = 512
	maxName      = 256
	maxChain     = 16
)

// The stages of a failure.
const (
	StageDecode = "decode"
	StageHandle = "handle"
	StageSettle = "settle"
)

// Envelope is the story of a failure, as a dead letter carries it beside the
// untouched body and headers of the user.
type Envelope struct {
	Version      int    // EnvelopeVersion when written by this package
	DeadID       string // deterministic: see DeadID
	Subscription string // who failed
	Source       string // where that subscription takes messages from, one line

	Subject  string    // the address the message was first published to
	Position string    // where the first copy was stored
	Time     time.Time // when the first copy was stored
	Redrives int       // how often it was redriven before this failure
	ID       string    // of the logical message; travels as Message.ID
	Key      string    // ordering key; travels as Message.Key

	Reason     string // a recovery.Reason
	Class      string
	ErrorText  string   // at most MaxErrorText bytes, valid UTF-8
	ErrorType  string   // the Go type that tells most: see ErrorTypes
	ErrorChain []string // outermost first
	Stack      string   // at most MaxStack bytes; panics only
	Stage      string

	Attempts    int
	Deliveries  int
	FirstFailed time.Time
	Failed      time.Time
	Host        string
	App         string
	Fingerprint string

	BodySHA256 string
	BodySize   int
	Truncated  []string // the fields that were cut, by the names below
}

// The names of fields in Envelope.Truncated.
const (
	cutChain    = "error-chain"
	cutStack    = "stack"
	cutError    = "error"
	cutType     = "error-type"
	cutSource   = "source"
	cutApp      = "app"
	cutHost     = "host"
	cutSubject  = "subject"
	cutPosition = "position"
	cutOther    = "other"
)

// DeadKey returns where a dead letter with this envelope is filed.
func (e Envelope) DeadKey() transport.DeadKey {
	return transport.DeadKey{Subscription: e.Subscription, Fingerprint: e.Fingerprint, ID: e.DeadID}
}

// bounded returns e with every field valid and within its own limit, and notes
// what that cost in Truncated. It is idempotent.
func (e Envelope) bounded() Envelope {
	e.Truncated = slices.Clone(e.Truncated)
	clip := func(field *string, limit int, name string) {
		s := clipText(*field, limit)
		if len(s) < len(strings.ToValidUTF8(*field, "\uFFFD")) {
			e.cut(name)
		}
		*field = s
	}
	clip(&e.ErrorText, MaxErrorText, cutError)
	clip(&e.Stack, MaxStack, cutStack)
	clip(&e.ErrorType, maxName, cutType)
	clip(&e.Source, maxSource, cutSource)
	clip(&e.Host, maxName, cutHost)
	clip(&e.App, maxName, cutApp)
	clipBytes(&e.Subject, maxSubject, cutSubject, &e)
	clipBytes(&e.Position, maxPosition, cutPosition, &e)
	for _, field := range []*string{
		&e.DeadID, &e.Subscription, &e.Reason, &e.Class, &e.Stage,
		&e.Fingerprint, &e.BodySHA256,
	} {
		clip(field, maxName, cutOther)
	}
	e.boundChain()
	e.boundNumbers()
	return e
}

func (e *Envelope) boundChain() {
	chain := make([]string, 0, min(len(e.ErrorChain), maxChain))
	for _, name := range e.ErrorChain {
		if len(chain) == maxChain {
			e.cut(cutChain)
			break
		}
		short := clipText(name, maxName)
		if len(short) < len(name) {
			e.cut(cutChain)
		}
		if short != "" {
			chain = append(chain, short)
		}
	}
	e.ErrorChain = chain
	if len(chain) == 0 {
		e.ErrorChain = nil
	}
}

func (e *Envelope) boundNumbers() {
	e.Version = bound(e.Version)
	e.Attempts = bound(e.Attempts)
	e.Deliveries = bound(e.Deliveries)
	e.Redrives = bound(e.Redrives)
	e.BodySize = bound(e.BodySize)
	e.Time = boundTime(e.Time)
	e.FirstFailed = boundTime(e.FirstFailed)
	e.Failed = boundTime(e.Failed)
}

// cut notes that the field was shortened.
func (e *Envelope) cut(name string) {
	if !slices.Contains(e.Truncated, name) {
		e.Truncated = append(e.Truncated, name)
	}
}

// clipText returns s as valid UTF-8 in at most limit bytes, cut between runes.
func clipText(s string, limit int) string {
	// Cutting first bounds the work on a huge string; one rune more than fits
	// is kept so that a rune at the edge is not taken for an invalid one.
	if len(s) > limit+utf8.UTFMax {
		s = s[:limit+utf8.UTFMax]
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	end := limit
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// clipBytes cuts an address. Addresses are bytes to a broker, so that what is
// not UTF-8 is kept.
func clipBytes(field *string, limit int, name string, e *Envelope) {
	if len(*field) > limit {
		*field = (*field)[:limit]
		e.cut(name)
	}
}

// maxNumber keeps hostile counts where adding one cannot overflow, on any
// architecture.
const maxNumber = 1 << 30

func bound(n int) int { return min(max(n, 0), maxNumber) }

// boundTime drops what RFC 3339 cannot express and what a header does not carry
// (the zone and the monotonic reading).
func boundTime(t time.Time) time.Time {
	t = t.UTC().Round(0)
	if t.IsZero() || t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}
