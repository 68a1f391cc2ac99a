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
