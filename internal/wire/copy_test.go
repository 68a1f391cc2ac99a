package wire_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

func TestAForgedOriginCannotMakeTwoMessagesOneLetter(t *testing.T) {
	t.Parallel()
	forged := func(position string) *transport.Message {
		return &transport.Message{ID: "same", Position: position, Header: transport.Header{wire.Position: {"P"}, wire.Redrives: {"3"}}}
	}
	one := wire.Complete(forged("S/1"), wire.Envelope{Subscription: "s"})
	two := wire.Complete(forged("S/2"), wire.Envelope{Subscription: "s"})
	if one.DeadID == two.DeadID {
		t.Error("the second message would never be buried")
	}
}
