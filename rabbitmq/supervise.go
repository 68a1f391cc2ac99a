package rabbitmq

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// supervise is a goroutine of the receiver: it waits for the end of the current
// lane and opens another, for as long as the receiver is open.
func (r *receiver) supervise(ctx context.Context) {
	for {
		l := r.cur.Load()
		gone, why := l.wait(ctx)
		if ctx.Err() != nil {
			return
		}
		r.ended(ctx, l, gone, why)
		if !r.resubscribe(ctx, why) {
			return
		}
	}
}

// ended tells what became of a lane.
func (r *receiver) ended(ctx context.Context, l *lane, gone bool, why error) {
	if !gone {
		// Only the consumer is gone: what it gave can still be settled, and what no
		// handler has seen goes back. Otherwise it would wait for the slowest one.
		limited, cancel := context.WithTimeoutCause(ctx, 2*returnWait, errTimeout)
		defer cancel()
		_ = r.stopLane(limited, l) // whatever is left goes back with the channel
		l.retire()
		return
	}
	if lost := l.dead(); lost > 0 {
		r.t.events.emit(transport.Event{
			Kind: transport.AckUnconfirmed, Subscription: r.want.Subscription, Count: lost, Err: why,
			Detail: "acks that were gathered went with their channel",
		})
	}
}

// resubscribe opens another lane. It returns false when ctx ended.
func (r *receiver) resubscribe(ctx context.Context, why error) bool {
	stalled := r.tell(why, false)
	for wait := time.Duration(0); ; wait = r.t.nextWait(wait) {
		if !pause(ctx, jittered(wait)) {
			return false
		}
		s, changed, _ := r.t.consuming.session()
		if s == nil {
			select {
			case <-changed:
				wait = 0
				continue
			case <-ctx.Done():
				return false
			}
		}
		err := r.restore(ctx)
		if err == nil {
			err = r.subscribe(ctx, s)
		}
		if absent(err) && r.src.owned() {
			err = r.recreate(ctx, s)
		}
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil:
			if stalled {
				r.event(transport.Flowing, nil, "the consumer of "+r.src.cfg.Name+" is back")
			}
			return true
		case s.alive():
			stalled = r.tell(err, stalled)
		}
	}
}

// restore declares again what may be gone although the queue is there: an exchange
// that the broker forgets, and with it the bindings.
func (r *receiver) restore(ctx context.Context) error {
	if !r.src.owned() || !slices.ContainsFunc(r.src.cfg.Exchanges, ExchangeConfig.fleeting) {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, r.t.set.rpc)
	defer cancel()
	_, err := r.t.Provision(limited, r.src, r.want)
	return err
}

// recreate declares a queue of ours that is gone, and all that belongs to it.
func (r *receiver) recreate(ctx context.Context, s *session) error {
	limited, cancel := context.WithTimeout(ctx, r.t.set.rpc)
	defer cancel()
	if _, err := r.t.Provision(limited, r.src, r.want); err != nil {
		return err
	}
	if err := r.subscribe(ctx, s); err != nil {
		return err
	}
	r.event(transport.Recreated, nil, "the queue "+r.src.cfg.Name+" was gone; what it held is lost")
	return nil
}

// tell reports once that nothing is received and why, unless it is because the
// connection is gone, which the transport reports.
func (r *receiver) tell(why error, told bool) bool {
	if told || why == nil {
		return told
	}
	said, ok := exception(why)
	lost := errors.Is(why, errLost) || ok && (said.Code == 320 || said.Code >= 500)
	if lost || !ok && !errors.Is(why, errCancelled) && transport.KindOf(why) == transport.Unknown {
		return false
	}
	r.event(transport.Stalled, seamError("receive", r.src.cfg.Name, why, false), "the consumer of "+r.src.cfg.Name+" was ended")
	return true
}
