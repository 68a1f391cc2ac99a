package wire_test

import (
	"testing"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

func TestStatusHeaderOfAnEmptyBodyTravelsShielded(t *testing.T) {
	t.Parallel()
	orig := &transport.Message{ID: "a", Position: "S:1", Header: transport.Header{"Status": {"503"}, "Tag": {"x"}}}
	dead := wire.BuryMessage(orig, wire.Envelope{Subscription: "s"})
	back := wire.RedriveMessage(dead, wire.Envelope{Subscription: "s"})
	for _, m := range []*transport.Message{dead, back} {
		if _, bare := m.Header["Status"]; bare {
			t.Errorf("%v: a client would take this for a status", m.Header)
		}
		if got := wire.UserHeader(m.Header); got.Get("Status") != "503" || got.Get("Tag") != "x" || len(got) != 2 {
			t.Errorf("the user's headers are %v", got)
		}
	}
	full := wire.BuryMessage(&transport.Message{ID: "b", Body: []byte("x"), Header: orig.Header}, wire.Envelope{Subscription: "s"})
	if full.Header.Get("Status") != "503" {
		t.Errorf("with a body there is nothing to shield: %v", full.Header)
	}
}
