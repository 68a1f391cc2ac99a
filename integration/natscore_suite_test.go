package integration_test

import (
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
	"github.com/holdfast-go/holdfast/transport/transporttest"
)

func TestCoreKeepsThePromisesOfATransport(t *testing.T) {
	t.Parallel()
	transporttest.Run(t, func(t *testing.T) transporttest.Harness {
		return coreHarness(t, natstest.Start(t, natstest.WithoutJetStream()))
	})
}

func coreHarness(t testing.TB, s *natstest.Server) transporttest.Harness {
	t.Helper()
	tr := coreConnect(t, s.URL())
	return transporttest.Harness{
		Transport: tr,
		Source: func(_ testing.TB, spec transporttest.Spec) (transport.Source, transport.Address) {
			return tr.Subject(natscore.SubjectConfig{Subject: spec.Name, Group: spec.Group}), transport.Address{Name: spec.Name}
		},
		RedeliverWithin: 300 * time.Millisecond,
		Patience:        time.Minute,
		Restart: func(t testing.TB) {
			t.Helper()
			before := tr.Conn().Stats().Reconnects
			s.Restart()
			coreEventually(t, "the connection is back", func() bool {
				return tr.Conn().IsConnected() && tr.Conn().Stats().Reconnects > before
			})
		},
		Second:  func(t testing.TB) transporttest.Harness { return coreHarness(t, s) },
		MaxSize: 1 << 20,
	}
}
