package integration_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// denying is a server whose user bob may not publish to no.>.
func denying(t *testing.T) *natstest.Server {
	t.Helper()
	return natstest.Start(t, natstest.WithUser("bob", "secret", &server.Permissions{
		Publish: &server.SubjectPermission{Deny: []string{"no.>"}},
	}))
}

// A refusal that nobody can tell of, since a handler of the user's own keeps the
// client library, is no success.
func TestCoreRefusalBehindAHandlerThatBlocksIsNoSuccess(t *testing.T) {
	t.Parallel()
	s := denying(t)
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	tr := coreConnect(t, s.URLFor("bob", "secret"), natscore.WithNATS(nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { <-release })))
	publish := func(subject string) error {
		return tr.Publish(coreContext(t), transport.Address{Name: subject}, &transport.Message{Body: []byte("x")})
	}
	if err := publish("no.one"); !errors.Is(err, transport.ErrPermission) {
		t.Fatalf("the first refusal: %v", err)
	}
	if err := publish("no.two"); err == nil {
		t.Error("a publish that was refused is reported as a success")
	}
	free()
	if err := publish("no.three"); !errors.Is(err, transport.ErrPermission) {
		t.Errorf("a refusal after that: %v", err)
	}
	if err := publish("yes"); err != nil {
		t.Errorf("what is allowed: %v", err)
	}
}

// What a connection was refused before it was adopted holds up nobody.
func TestCoreAdoptedConnectionWithAnOldRefusalPublishesAtOnce(t *testing.T) {
	t.Parallel()
	s := denying(t)
	nc := s.ConnTo(s.URLFor("bob", "secret"))
	if err := errors.Join(nc.Publish("no.way", nil), nc.Flush()); err != nil {
		t.Fatal(err)
	}
	coreEventually(t, "the refusal", func() bool { return errors.Is(nc.LastError(), nats.ErrPermissionViolation) })
	tr := natscore.New(nc)
	t.Cleanup(func() { coreClose(t, tr.Close) })
	soon(t, time.Second/2, "a publish", func() { corePublish(t, tr, "yes", "x") })
}
