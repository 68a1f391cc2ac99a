package holdfast_test

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

// jealous is a source that bears no other one beside it.
type jealous struct{ transport.Source }

func (jealous) ConflictsWith(other transport.Source) (transport.Finding, bool) {
	return transport.Finding{Code: transport.CodeSubjectsOverlap, Level: transport.LevelError, Fact: "not beside " + other.Name()}, true
}

// careless is a broker whose sources are wrapped, and which takes them all.
type careless struct {
	*memory.Broker
	provisioned int
}

func (c *careless) Check(context.Context, transport.Source, transport.Want) ([]transport.Finding, error) {
	return nil, nil
}

func (c *careless) Provision(context.Context, transport.Source, transport.Want) (transport.Report, error) {
	c.provisioned++
	return transport.Report{}, nil
}

func (c *careless) source(name string) transport.Source { return bareSource{t: c, name: name} }

func TestNeighboursThatCollideAreRefusedBeforeAnythingIsMade(t *testing.T) {
	t.Parallel()
	for name, order := range map[string][]int{"asked": {0, 1}, "asked the other way round": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &careless{Broker: memory.New()}
			w := newWorld(t, b.Broker)
			sources := []transport.Source{jealous{b.source("one")}, b.source("two")}
			for _, i := range order {
				holdfast.Handle(w.app, sources[i], w.condemnsBad())
			}
			refused, ok := errors.AsType[*holdfast.ContractError](w.app.Run(t.Context()))
			if !ok || len(refused.Findings) != 1 || refused.Findings[0].Fact != "not beside two" || refused.Findings[0].Subscription != "one" {
				t.Fatalf("the app said %v", refused)
			}
			check.Equal(t, b.provisioned, 0)
		})
	}
}
