package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

// answers is a transport whose publishes answer one after the other, the last
// one for ever.
type answers struct {
	transport.Transport
	list []error
	at   []time.Time
}

func (a *answers) Publish(context.Context, transport.Address, *transport.Message) error {
	n := min(len(a.at), len(a.list)-1)
	a.at = append(a.at, time.Now())
	return a.list[n]
}

func failure(kind transport.Kind, err error) error {
	return &transport.Error{Op: "publish", Address: "orders", Kind: kind, Err: err}
}

func TestSendRepeatsWhatMayHelp(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	temporary, unknown, permanent := failure(transport.Temporary, broken), failure(transport.Unknown, broken), failure(transport.Permanent, broken)
	routeless := failure(transport.Temporary, transport.ErrUnroutable)
	for _, c := range []struct {
		name  string
		list  []error
		tries int // 0: many
		kind  transport.Kind
		ok    bool
		takes time.Duration // at most
	}{
		{"confirmed at once", []error{nil}, 1, 0, true, 0},
		{"confirmed in the end", []error{temporary, unknown, temporary, nil}, 4, 0, true, time.Second},
		{"refused for good", []error{permanent}, 1, transport.Permanent, false, 0},
		{"refused after a try that may have worked", []error{unknown, permanent}, 2, transport.Unknown, false, time.Second},
		{"never confirmed", []error{temporary}, 0, transport.Temporary, false, time.Minute},
		{"never confirmed, and one try may have worked", []error{unknown, temporary}, 0, transport.Unknown, false, time.Minute},
		{"an error from outside the seam is unknown", []error{broken}, 0, transport.Unknown, false, time.Minute},
		{"nobody takes it", []error{routeless}, 0, transport.Temporary, false, routeBudget + 3*time.Second},
		{"nobody takes it until a leader is there", []error{routeless, routeless, nil}, 3, 0, true, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				a := &answers{list: c.list}
				began := time.Now()
				tries, err := Send(ctx, a, transport.Address{Name: "orders"}, &transport.Message{ID: "m1"})
				check.Equal(t, tries, len(a.at), "tries reported")
				check.True(t, c.tries == 0 || tries == c.tries, "tries made")
				check.True(t, time.Since(began) <= c.takes, "took "+time.Since(began).String())
				check.Equal(t, err == nil, c.ok, "success")
				if err != nil {
					check.Equal(t, transport.KindOf(err), c.kind)
				}
			})
		})
	}
}

func TestSendWaitsLongerEachTimeUpToItsLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		a := &answers{list: []error{failure(transport.Temporary, errors.New("no leader"))}}
		_, err := Send(ctx, a, transport.Address{Name: "orders"}, &transport.Message{})
		check.ErrorIs(t, err, context.DeadlineExceeded)
		wait := resendFirst
		for i := 1; i < len(a.at); i++ {
			gap := a.at[i].Sub(a.at[i-1])
			check.True(t, gap >= wait && gap <= wait+wait/2, "gap "+gap.String())
			wait = min(wait*2, resendLimit)
		}
		check.True(t, len(a.at) > 20 && len(a.at) < 50, "tries")
	})
}
