package transport

import (
	"context"
	"time"
)

// CountKey says whose attempts are counted: those of one subscription at one
// message, wherever its copies lie.
type CountKey struct {
	// Subscription is the name of the subscription.
	Subscription string
	// Message is the ID of the message. It may hold any text.
	Message string
}

// CountStore counts attempts at messages outside of the broker, for all
// processes that handle them. An attempt is counted before it is made, so that
// one that ends the process counts.
//
// Each attempt has a name of its own: to add one again, because nobody knows
// whether the first try worked, counts it once. Each method is atomic across
// processes, is bounded by its context, and is safe for concurrent use.
type CountStore interface {
	// Add counts an attempt and returns how many are counted, this one included.
	// The store forgets the key when expiry has passed since the last Add, and
	// not before.
	Add(ctx context.Context, key CountKey, attempt string, expiry time.Duration) (int, error)

	// Count returns how many attempts are counted; 0 for a key it does not know.
	Count(ctx context.Context, key CountKey) (int, error)

	// Remove takes back an attempt that shall not count. To remove one that is
	// not there changes nothing and returns nil.
	Remove(ctx context.Context, key CountKey, attempt string) error

	// Forget drops all attempts of a message that was handled. To forget
	// a key that is not there changes nothing and returns nil.
	Forget(ctx context.Context, key CountKey) error
}

// CountLimiter is a CountStore that cannot keep a count for as long as one
// likes.
type CountLimiter interface {
	// MaxExpiry is the longest expiry that Add takes; 0 means any.
	MaxExpiry() time.Duration
}

// Requeuer is a Delivery that can be given back in a way that its broker counts
// and bounds: the broker hands it out again at once, and moves it to where its
// dead letters go when it has done so Want.BrokerRetries times.
type Requeuer interface {
	Requeue(ctx context.Context) error
}
