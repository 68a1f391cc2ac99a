package holdfast

import (
	"context"

	"github.com/holdfast-go/holdfast/transport"
)

// Permissions are what the account of a subscription must be allowed.
type Permissions = transport.Permissions

// Permissions returns the least that the subscription needs of its account, and
// false when its broker does not grant permissions one by one. What its handler
// publishes is not known, and not among them.
func (s *Subscription) Permissions(ctx context.Context) (Permissions, bool) {
	src, ok := s.source.(transport.Permitted)
	if !ok {
		return Permissions{}, false
	}
	return src.Permissions(ctx, s.plan().want), true
}

// SubscriptionPermissions are the permissions of one subscription.
type SubscriptionPermissions struct {
	Subscription string
	Permissions
}

// Permissions returns what each subscription needs of its account at least, as
// far as brokers grant permissions one by one. Like Check it changes nothing.
func (a *App) Permissions(ctx context.Context) []SubscriptionPermissions {
	var out []SubscriptionPermissions
	for _, s := range a.subscriptions() {
		if p, ok := s.Permissions(ctx); ok {
			out = append(out, SubscriptionPermissions{s.name, p})
		}
	}
	return out
}
