package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// Pause keeps the durable consumer of a source from handing out messages until
// the given time, for all of its members: what is being handled goes on, leases
// are kept up, and what is settled counts. The pause is the server's and outlives
// the program. A subscription says in its health that it is paused, and Check
// says so with HF1115. It needs a server of version 2.11; an older one is
// ErrUnsupported.
func (t *Transport) Pause(ctx context.Context, src transport.Source, until time.Time) error {
	if !until.After(time.Now()) {
		return transport.Invalid("pause", src.String(), "a pause needs an end that is to come, and %s is over; Resume ends one", until.Format(time.RFC3339))
	}
	return t.pause(ctx, "pause", src, until)
}

// Resume ends a pause of the durable consumer of a source. One that is not
// paused stays as it is.
func (t *Transport) Resume(ctx context.Context, src transport.Source) error {
	return t.pause(ctx, "resume", src, time.Time{})
}

func (t *Transport) pause(ctx context.Context, op string, src transport.Source, until time.Time) error {
	s, err := t.sourceOf(op, src)
	if err != nil {
		return err
	}
	if s.cfg.Durable == "" {
		return transport.Invalid(op, s.address(), "only a durable consumer can be paused: this one is of its program alone")
	}
	if version := t.nc().ConnectedServerVersion(); !versionAtLeast(version, 2, 11, 0) {
		return &transport.Error{
			Op: op, Address: s.address(), Kind: transport.Permanent, Hint: "upgrade the server",
			Err: fmt.Errorf("%w: a pause needs a server of version 2.11 or later, and this one is %s", transport.ErrUnsupported, version),
		}
	}
	in := struct {
		Until time.Time `json:"pause_until"`
	}{until}
	var out natsjs.ConsumerPauseResponse
	if err := t.manage(ctx, "CONSUMER.PAUSE."+s.cfg.Stream+"."+s.cfg.Durable, in, &out); err != nil {
		return seamError(op, s.address(), err, false)
	}
	t.lookAt(s)
	if want := time.Until(until) > 0; want != out.Paused {
		return &transport.Error{Op: op, Address: s.address(), Kind: transport.Unknown, Err: errors.New("the server says that the consumer is " + pausedWord(out.Paused))}
	}
	return nil
}

func pausedWord(paused bool) string {
	if paused {
		return "paused"
	}
	return "not paused"
}

// lookAt makes the receivers of a source look at their consumer now.
func (t *Transport) lookAt(s *source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for o := range t.receivers {
		if r, ok := o.(*receiver); ok && r.address == s.address() {
			r.lanes[0].wake(lookAgain)
		}
	}
}

// tellPaused reports that the consumer was paused or resumed, by whomever.
func (l *lane) tellPaused(info *natsjs.ConsumerInfo) {
	l.mu.Lock()
	changed := l.paused != info.Paused
	l.paused = info.Paused
	l.mu.Unlock()
	switch {
	case !changed:
	case info.Paused:
		l.r.emit(transport.Event{Kind: transport.Stalled, Detail: fmt.Sprintf("consumer %s is paused for %s", l.address(), info.PauseRemaining.Round(time.Second))})
	default:
		l.r.emit(transport.Event{Kind: transport.Flowing, Detail: "consumer " + l.address() + " is resumed"})
	}
}
