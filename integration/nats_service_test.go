package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// runApp runs an app until stop is called, which returns what Run did.
func runApp(t *testing.T, app *holdfast.App) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(coreContext(t))
	ended := make(chan error, 1)
	go func() { ended <- app.Run(ctx) }()
	t.Cleanup(cancel)
	return func() error {
		cancel()
		return <-ended
	}
}

// control asks a control subject of the service API.
func control[T any](t *testing.T, nc *nats.Conn, verb micro.Verb, name, id string) (out T, err error) {
	t.Helper()
	subject, err := micro.ControlSubject(verb, name, id)
	if err != nil {
		t.Fatal(err)
	}
	m, err := nc.Request(subject, nil, corePatience/5)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(m.Data, &out); err != nil {
		t.Fatalf("the answer %s: %v", m.Data, err)
	}
	return out, nil
}

func TestAServiceIsFoundAndCountsAndLeavesWithItsEndpoints(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	core, nc := coreConnect(t, s.URL()), s.Conn()
	svc := core.Service(natscore.ServiceConfig{Name: "prices", Version: "1.2.3", Description: "what things cost", Metadata: map[string]string{"team": "shop"}})
	app := holdfast.New(holdfast.Config{})
	handler := func(_ context.Context, m *holdfast.Message[string]) (string, error) {
		if m.Body == "?" {
			return "", errors.New("no such thing")
		}
		return m.Body + "!", nil
	}
	holdfast.Reply(app, core.Subject(natscore.SubjectConfig{Subject: "price.get", Group: "shop", Endpoint: "get", Service: svc}), handler)
	holdfast.Reply(app, core.Subject(natscore.SubjectConfig{Subject: "price.list", Group: "list", Service: svc}), handler)
	stop := runApp(t, app)
	coreEventually(t, "both endpoints", func() bool {
		info, err := control[micro.Info](t, nc, micro.InfoVerb, "prices", "")
		return err == nil && len(info.Endpoints) == 2
	})
	for _, at := range [][2]string{{"", ""}, {"prices", ""}, {"prices", svc.ID()}} {
		ping, err := control[micro.Ping](t, nc, micro.PingVerb, at[0], at[1])
		if err != nil || ping.Type != micro.PingResponseType || ping.Name != "prices" || ping.ID != svc.ID() || ping.Version != "1.2.3" || ping.Metadata["team"] != "shop" {
			t.Errorf("ping of %q: %+v, %v", at, ping, err)
		}
	}
	info, err := control[micro.Info](t, nc, micro.InfoVerb, "prices", svc.ID())
	if err != nil || info.Type != micro.InfoResponseType || info.Description != "what things cost" {
		t.Errorf("info: %+v, %v", info, err)
	}
	at := slices.IndexFunc(info.Endpoints, func(e micro.EndpointInfo) bool { return e.Name == "get" })
	if at < 0 || info.Endpoints[at].Subject != "price.get" || info.Endpoints[at].QueueGroup != "shop" {
		t.Errorf("endpoints %+v", info.Endpoints)
	}

	// What any client of the service API sees of an error.
	answer, err := nc.Request("price.get", []byte("?"), corePatience)
	if err != nil || answer.Header.Get(micro.ErrorHeader) != "no such thing" || answer.Header.Get(micro.ErrorCodeHeader) != "500" {
		t.Errorf("the answer of a failure: %v, %v", answer, err)
	}
	if got, err := holdfast.Request[string, string](t.Context(), core, transport.Address{Name: "price.get"}, "4"); err != nil || got != "4!" {
		t.Errorf("answered %q, %v", got, err)
	}
	stats, err := control[micro.Stats](t, nc, micro.StatsVerb, "prices", svc.ID())
	if err != nil || stats.Type != micro.StatsResponseType || stats.Started.IsZero() {
		t.Fatalf("stats: %+v, %v", stats, err)
	}
	for _, e := range stats.Endpoints {
		if e.Name == "get" && (e.NumRequests != 2 || e.NumErrors != 1 || e.LastError != "no such thing" || e.ProcessingTime <= 0 || e.AverageProcessingTime != e.ProcessingTime/2) {
			t.Errorf("stats of get: %+v", e)
		}
	}

	// It is found again after a reconnect, and no more after its end.
	s.CutClients()
	coreEventually(t, "the service after a reconnect", func() bool {
		ping, err := control[micro.Ping](t, nc, micro.PingVerb, "prices", "")
		return err == nil && ping.ID == svc.ID()
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := control[micro.Ping](t, nc, micro.PingVerb, "prices", ""); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("after its end: %v", err)
	}
}

func TestAServiceThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	core, other := coreConnect(t, s.URL()), coreConnect(t, s.URL())
	good := natscore.ServiceConfig{Name: "prices", Version: "1.0.0"}
	reply := transport.Want{Subscription: "x", Concurrency: 1, Reply: true}
	for name, c := range map[string]struct {
		cfg  natscore.SubjectConfig
		want transport.Want
	}{
		"no version":          {natscore.SubjectConfig{Service: core.Service(natscore.ServiceConfig{Name: "prices"})}, reply},
		"a name with a dot":   {natscore.SubjectConfig{Service: core.Service(natscore.ServiceConfig{Name: "a.b", Version: "1.0.0"})}, reply},
		"a bad endpoint":      {natscore.SubjectConfig{Service: core.Service(good), Endpoint: "a b"}, reply},
		"an endpoint alone":   {natscore.SubjectConfig{Endpoint: "get"}, reply},
		"another transport's": {natscore.SubjectConfig{Service: other.Service(good)}, reply},
		"no answers":          {natscore.SubjectConfig{Service: core.Service(good)}, transport.Want{Subscription: "x", Concurrency: 1}},
	} {
		c.cfg.Subject = "price.get"
		found, err := core.Check(coreContext(t), core.Subject(c.cfg), c.want)
		if err != nil || !slices.ContainsFunc(found, func(f transport.Finding) bool { return f.Level == transport.LevelError }) {
			t.Errorf("%s: %v %s", name, err, describe(found))
		}
		if rx, err := core.Open(coreContext(t), core.Subject(c.cfg), c.want); err == nil {
			coreClose(t, rx.Close)
			t.Errorf("%s was opened", name)
		}
	}
}

// TestAStopAnswersWhatIsInHandAndLeavesNobodyWaiting: of the requests that were
// sent before a stop each is answered or told at once that nobody listens.
func TestAStopAnswersWhatIsInHandAndLeavesNobodyWaiting(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	core, asker := coreConnect(t, s.URL()), coreConnect(t, s.URL())
	app := holdfast.New(holdfast.Config{})
	begun, release := make(chan struct{}, 100), make(chan struct{})
	var handled atomic.Int64
	holdfast.Reply(app, core.Subject(natscore.SubjectConfig{Subject: "slow", Group: "one"}), func(_ context.Context, m *holdfast.Message[string]) (string, error) {
		begun <- struct{}{}
		<-release
		handled.Add(1)
		return m.Body, nil
	}, holdfast.Concurrency(2))
	stop := runApp(t, app)
	coreEventually(t, "the listener", func() bool { return listens(s, "slow") })
	const sent = 50
	outcomes := make(chan error, sent)
	for range sent {
		go func() {
			_, err := holdfast.Request[string, string](t.Context(), asker, transport.Address{Name: "slow"}, "x")
			outcomes <- err
		}()
	}
	<-begun
	<-begun
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	// The handlers end while the stop is under way.
	coreEventually(t, "the end of the subscription", func() bool { return !listens(s, "slow") })
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	answered := 0
	for range sent {
		switch err := <-outcomes; {
		case err == nil:
			answered++
		case !errors.Is(err, transport.ErrUnroutable):
			t.Errorf("somebody was left waiting: %v", err)
		}
	}
	if int64(answered) != handled.Load() || answered < 2 {
		t.Errorf("%d were handled and %d answered", handled.Load(), answered)
	}
}

// listens tells whether anybody listens to a subject.
func listens(s *natstest.Server, subject string) bool {
	return s.Server().GlobalAccount().Interest(subject) > 0
}

func TestManyAnswersComeUntilThereAreEnough(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	core := coreConnect(t, s.URL())
	app := holdfast.New(holdfast.Config{})
	for _, name := range []string{"one", "two", "three"} {
		holdfast.Reply(app, core.Subject(natscore.SubjectConfig{Subject: "who"}), func(_ context.Context, m *holdfast.Message[string]) (string, error) {
			if name == "three" {
				return "", errors.New("not me")
			}
			return name + " " + m.Header.Get("Asked-By"), nil
		}, holdfast.Name(name))
	}
	stop := runApp(t, app)
	coreEventually(t, "three listeners", func() bool { return s.Server().GlobalAccount().Interest("who") == 3 })
	// One more listens, is slow, and declines what it has no room for.
	full := coreOpen(t, core, natscore.SubjectConfig{Subject: "who", PendingMessages: 1}, transport.Want{Subscription: "full", Concurrency: 1, Reply: true})
	corePublish(t, core, "who", "it takes the only place")
	coreEventually(t, "four listeners", func() bool { return full != nil && s.Server().GlobalAccount().Interest("who") == 4 })
	collect := func(ctx context.Context, to string, until holdfast.Until) (answers []string, refused, failed []error) {
		for answer, err := range holdfast.RequestMany[string, string](ctx, core, transport.Address{Name: to}, "?", until, holdfast.SetHeader("Asked-By", "me")) {
			if _, ok := errors.AsType[*holdfast.RemoteError](err); ok {
				refused = append(refused, err)
			} else if err != nil {
				failed = append(failed, err)
			} else {
				answers = append(answers, answer)
			}
		}
		slices.Sort(answers)
		return answers, refused, failed
	}
	for name, until := range map[string]holdfast.Until{
		"count": {Count: 3}, "time": {Time: 2 * time.Second}, "stall": {Stall: time.Second},
	} {
		// On a machine that stalls not all answer in time.
		coreEventually(t, "all answers until "+name, func() bool {
			answers, refused, failed := collect(coreContext(t), "who", until)
			if len(answers) > 2 || len(refused) > 1 || len(failed) != 0 {
				t.Fatalf("until %s: %q, %v, %v", name, answers, refused, failed)
			}
			return strings.Join(answers, ",") == "one me,two me" && len(refused) == 1
		})
	}
	if answers, refused, _ := collect(coreContext(t), "who", holdfast.Until{Count: 1}); len(answers)+len(refused) != 1 {
		t.Errorf("one was enough: %q %v", answers, refused)
	}
	if _, _, failed := collect(coreContext(t), "nobody", holdfast.Until{}); len(failed) != 1 || !errors.Is(failed[0], transport.ErrUnroutable) {
		t.Errorf("nobody listens: %v", failed)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, failed := collect(gone, "who", holdfast.Until{}); len(failed) != 1 || !errors.Is(failed[0], context.Canceled) {
		t.Errorf("a context that ended: %v", failed)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
