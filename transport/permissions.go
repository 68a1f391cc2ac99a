package transport

import "context"

// Permissions are what the account of a subscription must be allowed, least
// first to last as they are used: subjects of NATS, wildcards included.
type Permissions struct {
	// Publish lists what it publishes to: requests to the server, settlements,
	// dead letters. What its handlers publish is not known and not listed.
	Publish []string
	// Subscribe lists what it subscribes to.
	Subscribe []string
	// Respond tells that it answers requests, wherever the answers go to.
	Respond bool
}

// Permitted is a Source whose broker grants permissions one by one.
type Permitted interface {
	// Permissions returns the least that a subscription with this want needs. It
	// may ask the broker what the source is today, changes nothing, and says
	// more, not less, where the broker does not answer.
	Permissions(ctx context.Context, want Want) Permissions
}
