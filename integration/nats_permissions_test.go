package integration_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// permittedServer has an account that may do all, and one that may do exactly
// what is listed.
func permittedServer(t *testing.T) *natstest.Server {
	t.Helper()
	return natstest.Start(t, natstest.WithUser("admin", "a", nil), natstest.WithUser("app", "b", nil))
}

// permit changes what the account may do.
func permit(s *natstest.Server, p transport.Permissions) {
	s.RestartWith(func(o *server.Options) {
		for _, u := range o.Users {
			if u.Username != "app" {
				continue
			}
			u.Permissions = &server.Permissions{
				// An empty list would allow everything.
				Publish:   &server.SubjectPermission{Allow: append(slices.Clone(p.Publish), "nothing")},
				Subscribe: &server.SubjectPermission{Allow: append(slices.Clone(p.Subscribe), "nothing")},
			}
			if p.Respond {
				u.Permissions.Response = &server.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}
			}
		}
	})
}

// permitted is a subscription that retries, buries, and publishes.
type permittedApp struct {
	t   *testing.T
	app *holdfast.App
	sub *holdfast.Subscription
	js  *jetstream.Transport
	got chan string
}

func permittedOn(t *testing.T, url string, cfg jetstream.ConsumerConfig, opts ...jetstream.Option) *permittedApp {
	t.Helper()
	js, err := jetstream.Connect(coreContext(t), url, append(opts, jetstream.WithNATS(natstest.Patient()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { coreClose(t, js.Close) })
	p := &permittedApp{t: t, js: js, app: holdfast.New(holdfast.Config{}), got: make(chan string, 100)}
	bills := holdfast.NewPublisher[string](js, transport.Address{Name: "bills.new"})
	t.Cleanup(func() {
		coreClose(t, func(ctx context.Context) error {
			_, err := bills.Close(ctx)
			return err
		})
	})
	p.sub = holdfast.Handle(p.app, js.Consumer(cfg), func(ctx context.Context, m *holdfast.Message[string]) error {
		if err := bills.Publish(ctx, m.Body); err != nil {
			return err
		}
		p.got <- m.Body
		switch {
		case m.Body == "retry" && m.Attempt == 1:
			return errors.New("once more")
		case m.Body == "bury":
			return holdfast.Permanent(errors.New("never"))
		}
		return nil
	}, holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(20 * time.Millisecond)}, holdfast.Name("billing"))
	return p
}

func TestTheLeastPermissionsAreEnoughAndNoneIsSpare(t *testing.T) {
	t.Parallel()
	base := jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing", Start: jetstream.StartAll()}
	work := base
	work.StreamConfig = &natsjs.StreamConfig{Subjects: []string{"orders.>"}, Retention: natsjs.WorkQueuePolicy}
	verify := base
	verify.Mode = jetstream.ModeVerify
	ephemeral := base
	ephemeral.Durable = ""
	only := jetstream.DeadLetters(jetstream.DeadLetterConfig{Mode: jetstream.ModeVerify})
	for name, c := range map[string]struct {
		cfg  jetstream.ConsumerConfig
		opts []jetstream.Option
	}{
		"ensure":       {base, nil},
		"verify":       {verify, []jetstream.Option{only}},
		"a work queue": {work, nil},
		"ephemeral":    {ephemeral, nil},
		"parking":      {base, []jetstream.Option{jetstream.Parking(jetstream.ParkConfig{After: time.Millisecond})}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := permittedServer(t)
			// Whoever may do all makes it all, and asks what is needed.
			first := base
			first.StreamConfig = c.cfg.StreamConfig
			made := permittedOn(t, s.URLFor("admin", "a"), first)
			all := transport.Want{Subscription: made.sub.Name(), Concurrency: 1, DeadLetter: true, Redelivery: true, Delay: true}
			if _, err := made.js.Provision(coreContext(t), made.js.Consumer(first), all); err != nil {
				t.Fatal(err)
			}
			if _, err := made.js.JetStream().CreateStream(t.Context(), natsjs.StreamConfig{Name: "BILLS", Subjects: []string{"bills.>"}}); err != nil {
				t.Fatal(err)
			}
			asked := permittedOn(t, s.URLFor("admin", "a"), c.cfg, c.opts...)
			need, ok := asked.sub.Permissions(t.Context())
			if !ok {
				t.Fatal("JetStream grants no permissions")
			}
			t.Logf("publish %q subscribe %q", need.Publish, need.Subscribe)
			exact := need
			exact.Publish = append(slices.Clone(need.Publish), "bills.new")
			permit(s, exact)
			permittedFlow(t, s, c.cfg, c.opts)
			for _, subject := range need.Publish {
				fewer := exact
				fewer.Publish = slices.DeleteFunc(slices.Clone(exact.Publish), func(p string) bool { return p == subject })
				permittedLack(t, s, fewer, subject, c.cfg, c.opts)
			}
			for _, subject := range need.Subscribe {
				fewer := exact
				fewer.Subscribe = slices.DeleteFunc(slices.Clone(exact.Subscribe), func(p string) bool { return p == subject })
				permittedLack(t, s, fewer, subject, c.cfg, c.opts)
			}
		})
	}
}

// permittedFlow runs the app with what it was given: messages are handled,
// retried, buried and published, and no permission is missed.
func permittedFlow(t *testing.T, s *natstest.Server, cfg jetstream.ConsumerConfig, opts []jetstream.Option) {
	t.Helper()
	app := permittedOn(t, s.URLFor("app", "b"), cfg, opts...)
	found, err := app.app.Check(coreContext(t))
	if missing := findings(found, transport.CodePermission); err != nil || len(missing) > 0 {
		t.Fatalf("check: %v %s", err, describe(found))
	}
	admin := permittedOn(t, s.URLFor("admin", "a"), cfg)
	for _, body := range []string{"fine", "retry", "bury"} {
		m := &transport.Message{ID: body, Body: []byte(body), ContentType: "text/plain"}
		if err := admin.js.Publish(coreContext(t), transport.Address{Name: "orders.placed"}, m); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(coreContext(t))
	ended := make(chan error, 1)
	go func() { ended <- app.app.Run(ctx) }()
	counts := map[string]int{}
	for range 4 {
		select {
		case body := <-app.got:
			counts[body]++
		case err := <-ended:
			t.Fatalf("the app ended: %v", err)
		case <-ctx.Done():
			t.Fatalf("handled %v", counts)
		}
	}
	if counts["fine"] != 1 || counts["retry"] != 2 || counts["bury"] != 1 {
		t.Errorf("handled %v", counts)
	}
	coreEventually(t, "the dead letter", func() bool {
		sum, err := admin.js.DeadLetters().Summary(t.Context())
		return err == nil && len(sum) == 1 && sum[0].Count == 1
	})
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the app ended with %v", err)
	}
	if last := app.js.Conn().LastError(); last != nil {
		t.Errorf("the server refused something: %v", last)
	}
}

// permittedLack fails when a check does not find what is missing.
func permittedLack(t *testing.T, s *natstest.Server, p transport.Permissions, subject string, cfg jetstream.ConsumerConfig, opts []jetstream.Option) {
	t.Helper()
	permit(s, p)
	app := permittedOn(t, s.URLFor("app", "b"), cfg, opts...)
	found, err := app.app.Check(coreContext(t))
	if err != nil {
		t.Errorf("without %s: %v", subject, err)
	}
	stem, _, _ := strings.Cut(strings.TrimSuffix(subject, ".>"), "*")
	if !slices.ContainsFunc(findings(found, transport.CodePermission), func(f transport.Finding) bool { return strings.Contains(f.Fact, stem) }) {
		t.Errorf("without %s: found %s", subject, describe(found))
	}
}

func TestACoreSubscriptionSaysWhatItNeeds(t *testing.T) {
	t.Parallel()
	s := permittedServer(t)
	build := func(url string) (*holdfast.App, *holdfast.Subscription, *natscore.Transport) {
		core := coreConnect(t, url)
		app := holdfast.New(holdfast.Config{})
		sub := holdfast.Reply(app, core.Subject(natscore.SubjectConfig{Subject: "price.*", Group: "shop"}), func(_ context.Context, m *holdfast.Message[string]) (string, error) {
			return m.Body + "!", nil
		})
		return app, sub, core
	}
	_, sub, _ := build(s.URLFor("admin", "a"))
	need, ok := sub.Permissions(t.Context())
	if !ok || !need.Respond {
		t.Fatalf("needs %+v, %v", need, ok)
	}
	permit(s, need)
	app, _, core := build(s.URLFor("app", "b"))
	if found, err := app.Check(coreContext(t)); err != nil || len(found) > 0 {
		t.Fatalf("check: %v %s", err, describe(found))
	}
	ctx, stop := context.WithCancel(coreContext(t))
	ended := make(chan error, 1)
	go func() { ended <- app.Run(ctx) }()
	asker := coreConnect(t, s.URLFor("admin", "a"))
	coreEventually(t, "an answer", func() bool {
		answer, err := holdfast.Request[string, string](ctx, asker, transport.Address{Name: "price.apple"}, "4")
		return err == nil && answer == "4!"
	})
	if last := core.Conn().LastError(); last != nil {
		t.Errorf("the server refused something: %v", last)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, subject := range slices.Concat(need.Publish, need.Subscribe) {
		fewer := need
		not := func(p string) bool { return p == subject }
		fewer.Publish = slices.DeleteFunc(slices.Clone(need.Publish), not)
		fewer.Subscribe = slices.DeleteFunc(slices.Clone(need.Subscribe), not)
		permit(s, fewer)
		app, _, _ := build(s.URLFor("app", "b"))
		found, err := app.Check(coreContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if missing := findings(found, transport.CodePermission); len(missing) != 1 || !strings.Contains(missing[0].Fact+missing[0].Fix, strings.TrimSuffix(subject, ">")) {
			t.Errorf("without %s: found %s", subject, describe(found))
		}
	}
}

func TestAWatchRunsWithTheLeastPermissions(t *testing.T) {
	t.Parallel()
	s := permittedServer(t)
	watch := func(js *jetstream.Transport) transport.Source {
		return js.WatchKV(jetstream.WatchConfig{Bucket: jetstream.BucketConfig{Bucket: "prices"}, Durable: "billing", Start: jetstream.StartAll()})
	}
	w := &jsWorld{T: t, ctx: testContext(t), server: s}
	w.js, _ = w.connect(s.URLFor("admin", "a"))
	w.provision(watch(w.js), want(1))
	need := watch(w.js).(transport.Permitted).Permissions(w.ctx, want(1))
	admin := w.js
	permit(s, need)
	w.js, _ = w.connect(s.URLFor("app", "b"))
	found, err := w.js.Check(w.ctx, watch(w.js), want(1))
	if err != nil || len(findings(found, transport.CodePermission)) > 0 {
		t.Fatalf("check: %v %s", err, describe(found))
	}
	rx := w.open(watch(w.js), want(1))
	coreEventually(t, "the admin's connection", admin.Conn().IsConnected)
	prices, err := jetstream.OpenKV[string](w.ctx, admin, jetstream.BucketConfig{Bucket: "prices"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prices.Put(w.ctx, "tea", "250"); err != nil {
		t.Fatal(err)
	}
	if err := w.receive(rx).Ack(w.ctx); err != nil {
		t.Error(err)
	}
	if last := w.js.Conn().LastError(); last != nil {
		t.Errorf("the server refused something: %v", last)
	}
	for _, subject := range need.Publish {
		fewer := need
		fewer.Publish = slices.DeleteFunc(slices.Clone(need.Publish), func(p string) bool { return p == subject })
		permit(s, fewer)
		js, _ := w.connect(s.URLFor("app", "b"))
		found, err := js.Check(w.ctx, watch(js), want(1))
		if err != nil || len(findings(found, transport.CodePermission)) == 0 {
			t.Errorf("without %s: %v %s", subject, err, describe(found))
		}
	}
}
