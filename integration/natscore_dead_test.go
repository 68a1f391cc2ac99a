package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/transport"
)

// dialCore connects a transport on NATS core that the test closes.
func dialCore(t *testing.T, url string) *natscore.Transport {
	t.Helper()
	nc, err := natscore.Connect(t.Context(), url, natscore.WithNATS(natstest.Patient()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		nc.Close(ctx)
	})
	return nc
}

// having returns the findings with this code and level.
func having(all []holdfast.Finding, code transport.Code, level transport.Level) []holdfast.Finding {
	var out []holdfast.Finding
	for _, f := range all {
		if f.Code == code && f.Level == level {
			out = append(out, f)
		}
	}
	return out
}

// failsFor returns an app with a core subscription that buries what it gets.
func failsFor(t *testing.T, nc *natscore.Transport, store transport.DeadLetterStore) *holdfast.App {
	app := holdfast.New(holdfast.Config{Logger: testLog(t)})
	holdfast.Handle(app, nc.Subject(natscore.SubjectConfig{Subject: "tick"}), func(context.Context, *holdfast.Message[[]byte]) error {
		return holdfast.Permanent(errors.New("no"))
	}, holdfast.Name("ticker"), holdfast.DeadLetterTo(store))
	return app
}

func TestDeadLettersOfCoreNATSGoToAJetStreamStoreOnAFreshBroker(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	js, nc := dial(t, s.URL()), dialCore(t, s.URL())
	app := failsFor(t, nc, js.DeadLetters())
	found, err := app.Check(t.Context())
	made := having(found, transport.CodeDeadCreated, transport.LevelInfo)
	if err != nil || len(made) == 0 || made[0].Subscription != "ticker" {
		t.Fatalf("check: %v, %v", found, err)
	}
	runApp(t, app)
	if err := nc.Publish(t.Context(), transport.Address{Name: "tick"}, &transport.Message{Body: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the message to be buried", func() bool { return len(graves(t, js)) == 1 })
	if l := graves(t, js)[0]; string(l.Body) != "1" || l.Subscription != "ticker" {
		t.Fatalf("buried %+v", l)
	}
	if found, err := app.Check(t.Context()); err != nil || len(found) != 0 {
		t.Fatalf("the second check: %v, %v", found, err)
	}
}

func TestAStoreElsewhereThatCannotBeMadeIsRefusedAtStart(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	nc := dialCore(t, s.URL())
	verify, err := jetstream.New(dial(t, s.URL()).Conn(), jetstream.DeadLetters(jetstream.DeadLetterConfig{Mode: jetstream.ModeVerify}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { verify.Close(context.Background()) })
	refused, ok := errors.AsType[*holdfast.ContractError](failsFor(t, nc, verify.DeadLetters()).Run(t.Context()))
	if !ok || len(having(refused.Findings, transport.CodeDeadMissing, transport.LevelError)) != 1 {
		t.Fatalf("in verify mode: %v", refused)
	}

	without := natstest.Start(t, natstest.WithoutJetStream())
	js := dial(t, without.URL())
	refused, ok = errors.AsType[*holdfast.ContractError](failsFor(t, nc, js.DeadLetters()).Run(t.Context()))
	if !ok || len(having(refused.Findings, transport.CodeNoJetStream, transport.LevelError)) != 1 {
		t.Fatalf("without JetStream: %v", refused)
	}
}
