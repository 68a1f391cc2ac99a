package jetstream

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/internal/wire"
)

func TestMessagesWhoseAckSubjectIsUnknownAreNotTakenForOne(t *testing.T) {
	t.Parallel()
	l := newLane(&receiver{t: &Transport{api: "$JS.API."}}, "ORDERS", "billing", 1)
	const unknown = "$JS.ACK.a.form.of.the.future"
	one, two := newDelivery(l, &nats.Msg{Subject: "a", Reply: unknown}), newDelivery(l, &nats.Msg{Subject: "a", Reply: unknown})
	for _, d := range []*delivery{one, two} {
		check.Equal(t, d.msg.Position, "")
		check.Equal(t, d.msg.Time.IsZero(), true)
		check.Equal(t, d.Deliveries(), 1)
	}
	if one.msg.ID == "" || one.msg.ID == two.msg.ID {
		t.Errorf("the IDs are %q and %q", one.msg.ID, two.msg.ID)
	}
	known := newDelivery(l, &nats.Msg{Subject: "a", Reply: unknown, Header: nats.Header{"Nats-Msg-Id": {"m1"}}})
	check.Equal(t, known.msg.ID, "m1")
}

// A redriven copy says in headers where its original came from, escaped where a
// header could not hold it.
func TestRedrivenMessagesShowTheSubjectTheyHad(t *testing.T) {
	t.Parallel()
	const subject, position = "orders.m\u00fcnchen.100%", "ORDERS \u00fc:7:1"
	back := newLane(&receiver{t: &Transport{api: "$JS.API."}}, "HOLDFAST_REDRIVE", "billing", 1)
	back.redrive = true
	d := newDelivery(back, &nats.Msg{Subject: "holdfast.redrive.billing", Reply: "$JS.ACK.HOLDFAST_REDRIVE.billing.1.1.1.1.0", Header: nats.Header{
		wire.Subject: {wire.Escape(subject)}, wire.Position: {wire.Escape(position)},
	}})
	check.Equal(t, d.msg.Subject, subject)
	check.Equal(t, d.msg.Position, position)
}
