package rabbittest_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
)

func TestABrokerKeepsItsPlaceOverAKill(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	before := b.URL()
	b.Kill()
	b.Restart(t)
	if b.URL() != before {
		t.Errorf("it listens at %s and did at %s", b.URL(), before)
	}
}
