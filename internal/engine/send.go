package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// How a publish is repeated.
const (
	resendFirst = 50 * time.Millisecond
	resendLimit = 2 * time.Second
	// routeBudget is how long a publish nobody takes is tried again: long
	// enough for a leader to be elected, short enough for a misspelt subject.
	routeBudget = 3 * time.Second
)

// Send publishes m and repeats it, under the same DedupID, until the broker
// confirms it, refuses it for good, or ctx ends. An outcome that is unknown is
// never reported as stored: the error has kind Unknown. The number of tries is
// returned beside it.
func Send(ctx context.Context, t transport.Transport, to transport.Address, m *transport.Message) (tries int, err error) {
	started := time.Now()
	unknown := false
	for wait := resendFirst; ; wait = min(wait*2, resendLimit) {
		tries++
		err = t.Publish(ctx, to, m)
		if err == nil {
			return tries, nil
		}
		kind := transport.KindOf(err)
		unknown = unknown || kind == transport.Unknown
		if kind == transport.Permanent && !unknown {
			return tries, err
		}
		if errors.Is(err, transport.ErrUnroutable) && time.Since(started) > routeBudget {
			return tries, given(to, tries, unknown, err)
		}
		if kind == transport.Permanent {
			return tries, given(to, tries, unknown, err)
		}
		select {
		case <-time.After(wait + time.Duration(rand.Float64()*float64(wait)/2)):
		case <-ctx.Done():
			return tries, given(to, tries, unknown, errors.Join(err, context.Cause(ctx)))
		}
	}
}

// given is the error of a publish that was given up.
func given(to transport.Address, tries int, unknown bool, err error) error {
	e := &transport.Error{Op: "publish", Address: to.String(), Kind: transport.Temporary, Err: fmt.Errorf("gave up after %d tries: %w", tries, err)}
	if unknown {
		e.Kind = transport.Unknown
		e.Hint = "publish again under the same ID: the broker stores one copy within its deduplication window"
	}
	return e
}
