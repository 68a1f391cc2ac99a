package integration_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// An ordered subscription that failed because a permission was withdrawn goes on
// after the last message it has handled when it is granted again: nothing comes
// twice, and nothing is left out.
func TestJetStreamOrderedGoesOnAfterAPermissionWasWithdrawn(t *testing.T) {
	t.Parallel()
	app := &server.User{Username: "app", Password: "a", Permissions: &server.Permissions{}}
	s := natstest.Start(t, natstest.WithUser("admin", "a", nil), natstest.WithOptions(func(o *server.Options) { o.Users = append(o.Users, app) }))
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, w.events = w.connect(s.URLFor("admin", "a"))
	reader, _ := w.connect(s.URLFor("app", "a"))
	w.provision(w.source(), want(1))

	var mu sync.Mutex
	var got []string
	seen := func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(got) }
	a := holdfast.New(holdfast.Config{Name: "view"})
	holdfast.Handle(a, reader.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Ordered: true, Start: jetstream.StartAll()}),
		func(_ context.Context, m *holdfast.Message[string]) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, m.ID)
			return nil
		}, holdfast.Name("view"), holdfast.NoDeadLetter())
	ctx, stop := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	refused := func() bool {
		h := a.Health().Subscriptions[0]
		return h.State == observe.StateRetrying && strings.Contains(h.Reason, "permission denied")
	}
	w.publish("orders.placed", 100)
	eventually(t, "what is stored was read", func() bool { return len(seen()) >= 100 })

	allow := func(deny ...string) {
		s.RestartWith(func(o *server.Options) {
			changed := *app
			changed.Permissions = &server.Permissions{Publish: &server.SubjectPermission{Deny: deny}}
			o.Users = []*server.User{o.Users[0], &changed}
		})
	}
	allow("$JS.API.CONSUMER.MSG.NEXT.>")
	eventually(t, "the subscription has failed", refused)
	w.retry("one is stored meanwhile", func(ctx context.Context) error {
		return w.js.Publish(ctx, jetstream.Subject("orders.placed"), &transport.Message{ID: "m101"})
	})
	allow("$JS.API.CONSUMER.DELETE.>") // something else
	eventually(t, "the rest was read", func() bool { return len(seen()) >= 101 })
	stop()
	if err := <-done; err != nil {
		t.Errorf("the app ended with %v", err)
	}
	var wanted []string
	for i := range 101 {
		wanted = append(wanted, "m"+itoa(i+1))
	}
	if got := seen(); !slices.Equal(got, wanted) {
		t.Errorf("%d messages were handled: %q", len(got), got)
	}
}
