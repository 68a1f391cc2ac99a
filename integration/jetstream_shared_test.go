package integration

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// TestJetStreamTwoSubscriptionsOnOneDurableAreRefused: the server would give each
// message to one of them at random.
func TestJetStreamTwoSubscriptionsOnOneDurableAreRefused(t *testing.T) {
	t.Parallel()
	js, err := jetstream.Connect(t.Context(), natstest.Start(t).URL(), jetstream.WithNATS(natstest.Patient()))
	if err != nil {
		t.Fatal(err)
	}
	defer js.Close(context.WithoutCancel(t.Context()))
	app := holdfast.New(holdfast.Config{})
	handler := func(context.Context, *holdfast.Message[[]byte]) error { return nil }
	for name, subject := range map[string]string{"placed": "orders.placed", "paid": "orders.paid"} {
		holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{
			Stream: "ORDERS", Durable: "billing", Subjects: []string{subject}, Start: jetstream.StartAll(),
		}), handler, holdfast.Name(name))
	}
	err = app.Run(t.Context())
	var refused *holdfast.ContractError
	if !errors.As(err, &refused) || !refused.Has(transport.CodeSharedDurable) {
		t.Errorf("the app said %v, want %s", err, transport.CodeSharedDurable)
	}
}
