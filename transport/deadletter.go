package transport

import (
	"context"
	"iter"
)

// DeadLetterer is a Transport that has a store for dead letters.
type DeadLetterer interface {
	DeadLetters() DeadLetterStore
}

// DeadKey says where a dead letter is filed. Its parts are made of letters,
// digits, '-' and '_'.
type DeadKey struct {
	// Subscription is the one that failed.
	Subscription string
	// Fingerprint groups failures of one cause.
	Fingerprint string
	// ID is the dead letter's own: the same failure of the same stored message
	// has the same ID, however often it is buried.
	ID string
}

// StoredLetter is a dead letter in its store.
type StoredLetter struct {
	Key DeadKey
	// Message is as it was buried: the body untouched, the headers of the
	// envelope beside those of the user.
	Message *Message
}

// LetterFilter selects dead letters; an empty field matches all.
type LetterFilter struct {
	Subscription string
	Fingerprint  string
	ID           string
}

// DeadLetterStore keeps dead letters until a person decides. Looking at a dead
// letter never wears it out. Methods are safe for concurrent use. They end with
// ctx, and bound themselves as well: what waits in Bury holds the slot of a
// handler. The engine gives it a context that ends, and does not take more than
// a part of its slots for a store that lets it wait.
type DeadLetterStore interface {
	// Bury stores m under key and returns nil only after it was confirmed. To
	// bury a key that is already there changes nothing and returns nil.
	Bury(ctx context.Context, key DeadKey, m *Message) error

	// Letters yields the stored dead letters that match, oldest first, until
	// the caller stops or an error was yielded.
	Letters(ctx context.Context, f LetterFilter) iter.Seq2[StoredLetter, error]

	// Remove deletes the dead letter with this key; ErrNotFound if there is
	// none.
	Remove(ctx context.Context, key DeadKey) error

	// Redrive publishes m to one subscription and no other consumer of the
	// source, and returns nil only after it was confirmed. m.DedupID is a key of
	// its own, so that the broker suppresses a repeated redrive and not this
	// one.
	Redrive(ctx context.Context, subscription string, m *Message) error

	// Summary counts the stored dead letters by subscription and fingerprint
	// without reading them.
	Summary(ctx context.Context) ([]LetterCount, error)
}

// LetterSweeper is a DeadLetterStore without an index: to find one letter costs it
// as much as to read all of them, and so many are changed in one pass.
type LetterSweeper interface {
	DeadLetterStore

	// Sweep calls visit once for every stored dead letter that matches, oldest
	// first of one subscription, and removes those for which it returns true. It
	// ends with ctx, or with the first error of visit; what visit said until then
	// is still done. visit may call Redrive, and no other method of the store.
	Sweep(ctx context.Context, f LetterFilter, visit func(StoredLetter) (remove bool, err error)) error
}

// LetterCount is how many dead letters of one subscription share a fingerprint.
type LetterCount struct {
	Subscription string
	Fingerprint  string
	Count        int
}

// PreparedStore is a DeadLetterStore that needs something of its broker before
// it can take a dead letter, such as a stream. An app calls it at its start for
// every subscription that is told to use the store although it is not the one
// of the source's own transport, in the places where it calls Check and
// Provision of that transport.
type PreparedStore interface {
	DeadLetterStore

	// CheckStore compares what the store needs to keep the dead letters of a
	// subscription with what its broker has today, and changes nothing. It
	// returns every contradiction it found; the error is for a check that could
	// not be made at all.
	CheckStore(ctx context.Context, subscription string) ([]Finding, error)

	// ProvisionStore makes what is missing, as far as the settings of the store
	// allow. It is idempotent and never repairs drift in silence.
	ProvisionStore(ctx context.Context, subscription string) (Report, error)
}
