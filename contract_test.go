package holdfast_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		check.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	check.NoError(t, err)
	if got != string(want) {
		t.Errorf("%s differs (-update writes it):\n%s", file, got)
	}
}

// poor is a broker that has no abilities but to hand out messages once, and
// whose own check forgets to say so.
type poor struct {
	*memory.Broker
	opened, provisioned bool
}

func (p *poor) Capabilities() transport.Capabilities { return transport.Capabilities{Name: "poor"} }

func (p *poor) Check(context.Context, transport.Source, transport.Want) ([]transport.Finding, error) {
	return nil, nil
}

func (p *poor) Provision(context.Context, transport.Source, transport.Want) (transport.Report, error) {
	p.provisioned = true
	return transport.Report{}, nil
}

func (p *poor) Open(context.Context, transport.Source, transport.Want) (transport.Receiver, error) {
	p.opened = true
	return nil, errors.New("nobody may open what was refused")
}

// bareSource is a source with a name and, if it is set, an identity, and no
// addresses a prefix could be put before.
type bareSource struct {
	t              transport.Transport
	name, identity string
}

func (s bareSource) Transport() transport.Transport { return s.t }
func (s bareSource) Name() string                   { return s.name }
func (s bareSource) Identity() string               { return s.identity }
func (s bareSource) String() string                 { return "poor source " + s.name }

func nop(context.Context, *holdfast.Message[string]) error { return nil }

func TestEveryContractThatCannotBeKeptIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	b := memory.New()
	p := &poor{Broker: b}
	src := func(name string) transport.Source { return b.Queue(memory.QueueConfig{Name: name}) }
	bare := func(name, identity string) transport.Source { return bareSource{p, name, identity} }
	app := holdfast.New(holdfast.Config{Name: "shop"})

	holdfast.Handle(app, src("fine"), nop)
	holdfast.Handle(app, src("twin"), nop)
	holdfast.Handle(app, src("other"), nop, holdfast.Name("twin"))
	holdfast.Handle[string](app, src("nil-handler"), nil)
	holdfast.Handle(app, nil, nop, holdfast.Name("nil-source"))
	holdfast.Handle(app, src("a.b"), nop)
	holdfast.Handle(app, bare("", ""), nop)
	holdfast.Handle(app, src("many-mistakes"), nop,
		holdfast.Retry{Attempts: -1, Jitter: 2, Rules: []holdfast.Rule{{}}}, holdfast.Concurrency(-1), holdfast.Timeout(-time.Second), holdfast.CrashLimit(-1))
	holdfast.Handle(app, src("no-backoff"), nop, holdfast.Retry{Attempts: 3})
	holdfast.Handle(app, src("no-room"), nop, holdfast.Retry{Attempts: 2, Immediate: 2})
	holdfast.Handle(app, src("no-compensation"), nop, holdfast.Compensate(func(context.Context, *holdfast.Meta, error) error { return nil }))
	holdfast.Handle(app, src("nil-parts"), nop, holdfast.OrderBy(nil), holdfast.Ack(holdfast.AckAlways), holdfast.Compensate(nil), holdfast.Use(nil))
	holdfast.Handle(app, src("no-store"), nop, holdfast.DeadLetterTo(nil))
	holdfast.Handle(app, src("manual-order"), nop, holdfast.Ack(holdfast.Manual), holdfast.OrderByKey())
	holdfast.Handle(app.Group("eu."), bare("no-prefix", ""), nop)
	holdfast.Handle(app, bare("delays", ""), nop, holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Second)})
	holdfast.Handle(app, bare("letters", ""), nop, holdfast.DeadLetter())
	holdfast.Handle(app, bare("rejects", ""), nop, holdfast.Ack(holdfast.RejectOnError))
	holdfast.Handle(app, bare("settles", ""), nop, holdfast.Ack(holdfast.Manual))
	holdfast.Reply(app, bare("answers", ""), func(context.Context, *holdfast.Message[string]) (string, error) { return "", nil })
	holdfast.Handle(app, bare("one", "durable billing"), nop)
	holdfast.Handle(app, bare("two", "durable billing"), nop)

	findings, err := app.Check(t.Context())
	check.NoError(t, err)
	err = app.Run(t.Context())
	var refused *holdfast.ContractError
	if !errors.As(err, &refused) {
		t.Fatalf("Run returned %v, want a *ContractError", err)
	}
	golden(t, "contract.golden", err.Error()+"\n")

	wrong := 0
	for _, f := range findings {
		if f.Level == transport.LevelError {
			wrong++
		}
		check.True(t, f.Code != "" && f.Fact != "", f.String())
		check.True(t, f.Level != transport.LevelError || f.Fix != "", f.String()+" says how to mend it")
	}
	check.Equal(t, wrong, len(refused.Findings), "Check finds what Run refuses")
	check.True(t, refused.Has(transport.CodeDuplicateName), "Has")
	check.True(t, !refused.Has(transport.CodeNoStart), "Has")
	check.True(t, !p.opened && !p.provisioned, "nothing was started")
	check.Equal(t, b.Stats("fine"), memory.Stats{}, "nothing was provisioned")
	check.ErrorIs(t, b.Publish(t.Context(), transport.Address{Name: "fine"}, &transport.Message{}), transport.ErrUnroutable)
	for _, h := range app.Health().Subscriptions {
		check.Equal(t, string(h.State), "idle", h.Subscription)
	}
	check.NoError(t, b.Close(t.Context()))
}

func TestEveryAbilityABrokerLacksIsRefusedEvenIfItForgets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code transport.Code
		opts []holdfast.Option
	}{
		{transport.CodeNoRedelivery, []holdfast.Option{holdfast.Retry{Attempts: 2, Backoff: holdfast.Constant(time.Second)}}},
		{transport.CodeNoRedelivery, []holdfast.Option{holdfast.Ack(holdfast.Manual)}},
		{transport.CodeNoRedelivery, []holdfast.Option{holdfast.Ack(holdfast.RetryOnError)}},
		{transport.CodeNoRedelivery, []holdfast.Option{holdfast.Ack(holdfast.AckAlways), holdfast.Compensate(func(context.Context, *holdfast.Meta, error) error { return nil })}},
		{transport.CodeNoDeadLetters, []holdfast.Option{holdfast.DeadLetter()}},
		{transport.CodeNoReject, []holdfast.Option{holdfast.Ack(holdfast.RejectOnError)}},
	} {
		t.Run(string(c.code), func(t *testing.T) {
			t.Parallel()
			b := memory.New()
			app := holdfast.New(holdfast.Config{})
			holdfast.Handle(app, bareSource{&poor{Broker: b}, "orders", ""}, nop, c.opts...)
			findings, err := app.Check(t.Context())
			check.NoError(t, err)
			check.Equal(t, len(findings), 1)
			check.Equal(t, findings[0].Code, c.code)
			check.Equal(t, findings[0].Subscription, "orders")
		})
	}
}

func TestWhatASimpleBrokerCanDoIsNotRefused(t *testing.T) {
	t.Parallel()
	b := memory.New()
	for name, opts := range map[string][]holdfast.Option{
		"nothing said":      nil,
		"immediate retries": {holdfast.Retry{Attempts: 3, Immediate: 2}},
		"ack first":         {holdfast.Ack(holdfast.AckFirst)},
		"ack always":        {holdfast.Ack(holdfast.AckAlways)},
		"letters elsewhere": {holdfast.DeadLetterTo(b.DeadLetters())},
		"no letters":        {holdfast.NoDeadLetter()},
		"order":             {holdfast.OrderByKey(), holdfast.Concurrency(8)},
	} {
		app := holdfast.New(holdfast.Config{})
		holdfast.Handle(app, bareSource{&poor{Broker: b}, "orders", ""}, nop, opts...)
		findings, err := app.Check(t.Context())
		check.NoError(t, err, name)
		check.Equal(t, len(findings), 0, name)
	}
}

func TestCheckThatCannotBeMadeIsAnErrorAndStartsNothing(t *testing.T) {
	t.Parallel()
	b := memory.New()
	b.Fail(memory.OpCheck, errors.New("no answer"), 2)
	app := holdfast.New(holdfast.Config{})
	holdfast.Handle(app, b.Queue(memory.QueueConfig{Name: "orders"}), nop)
	holdfast.Handle(app, b.Queue(memory.QueueConfig{Name: "a b"}), nop, holdfast.Name("bills"))
	_, err := app.Check(t.Context())
	check.True(t, err != nil && strings.Contains(err.Error(), "check subscription orders") && strings.Contains(err.Error(), "check subscription bills"), err)
	findings, err := app.Check(t.Context())
	check.NoError(t, err)
	check.Equal(t, len(findings), 3, "what is found when the broker answers again")
}

func TestProvisioningThatFailsStartsNothing(t *testing.T) {
	t.Parallel()
	b := memory.New()
	b.Fail(memory.OpProvision, errors.New("no leader"), 1)
	app := holdfast.New(holdfast.Config{})
	holdfast.Handle(app, b.Queue(memory.QueueConfig{Name: "orders"}), nop)
	err := app.Run(t.Context())
	check.True(t, err != nil && strings.Contains(err.Error(), "provision subscription orders") && strings.Contains(err.Error(), "no leader"), err)
	check.Equal(t, string(app.Health().Subscriptions[0].State), "idle")
}

func TestDriftIsFoundByCheckWithItsDiff(t *testing.T) {
	t.Parallel()
	b := memory.New()
	_, err := b.Provision(t.Context(), b.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"old.>"}}), transport.Want{})
	check.NoError(t, err)
	app := holdfast.New(holdfast.Config{})
	holdfast.Handle(app, b.Queue(memory.QueueConfig{Name: "orders", Subjects: []string{"new.>"}}), nop)
	err = app.Run(t.Context())
	check.True(t, err != nil && strings.Contains(err.Error(), "\n      subjects: want new.>, have old.>"), err)
}

func TestSubscriptionsOfTwoTransportsMayShareAnIdentity(t *testing.T) {
	t.Parallel()
	app := holdfast.New(holdfast.Config{})
	holdfast.Handle(app, bareSource{&poor{Broker: memory.New()}, "one", "billing"}, nop)
	holdfast.Handle(app, bareSource{&poor{Broker: memory.New()}, "two", "billing"}, nop)
	findings, err := app.Check(t.Context())
	check.NoError(t, err)
	check.Equal(t, len(findings), 0)
}
