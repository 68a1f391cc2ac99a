package jetstream

import (
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// ObjectWatchConfig describes a watch of an object store.
type ObjectWatchConfig struct {
	// Store is what is watched. ObjectStore.Watch fills it in.
	Store ObjectStoreConfig
	// Durable names the watch. It remembers where it stands for as long as it
	// exists: a restart of the program goes on there. All processes that name it
	// share its changes. Empty means a watch of this subscription's own, which is
	// forgotten with it; such a subscription needs a holdfast.Name.
	Durable string
	// Start is where a watch begins when it is made: StartNew with what changes
	// from now on, StartAll with all objects that are there. There is no default.
	Start StartPolicy
	// AckWait and MaxAckPending are as in ConsumerConfig.
	AckWait       time.Duration
	MaxAckPending int
}

// Watch returns the changes of the store as a source for subscriptions: with
// retries, dead letters, order and concurrency as for any other. A body is what
// is known of the object, and Open reads the bytes of that version:
//
//	holdfast.Handle(app, store.Watch(jetstream.ObjectWatchConfig{Durable: "thumbnails", Start: jetstream.StartAll()}),
//		func(ctx context.Context, m *holdfast.Message[jetstream.ObjectInfo]) error {
//			if m.Body.Deleted { ... }
//			r, err := store.Open(ctx, &m.Body)
//
// The key of each message is the name of the object. The store keeps what is
// known of the last version of each object only: a watch that was away, or
// waited for a retry, is not told of those in between.
func (s *ObjectStore) Watch(cfg ObjectWatchConfig) transport.Source {
	cfg.Store = s.cfg
	return s.t.WatchObjects(cfg)
}

// WatchObjects returns the changes of an object store as a source; see
// ObjectStore.Watch. It does no I/O: the store is checked and made with the
// subscription.
func (t *Transport) WatchObjects(cfg ObjectWatchConfig) transport.Source {
	pre := objectPrefix + cfg.Store.Bucket + ".M."
	w := &watch{objects: &cfg, stream: objectStream(cfg.Store), pre: pre}
	return t.watchSource(w, ConsumerConfig{
		Subjects: []string{pre + ">"}, Durable: cfg.Durable, Start: cfg.Start,
		Mode: cfg.Store.Mode, AckWait: cfg.AckWait, MaxAckPending: cfg.MaxAckPending,
	}, cfg.Store.Config != nil)
}
