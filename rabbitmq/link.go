package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// link keeps one connection to the broker: it watches it, and makes another as
// soon as it is gone, for as long as it takes.
type link struct {
	t    *Transport
	role string // "publish" or "consume"

	mu      sync.Mutex // guards what follows; nothing else is locked under it
	cur     *session   // nil while there is none
	changed chan struct{}
	err     error // why there is none
}

func newLink(t *Transport, role string, first *session) *link {
	return &link{t: t, role: role, cur: first, changed: make(chan struct{})}
}

// session returns the connection, or nil and why there is none, and a channel
// that is closed when that, or whether the broker blocks it, has changed.
func (l *link) session() (s *session, changed <-chan struct{}, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cur, l.changed, l.err
}

func (l *link) set(s *session, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cur, l.err = s, why
	close(l.changed)
	l.changed = make(chan struct{})
}

// poke tells those who wait that something has changed.
func (l *link) poke() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

// run is the goroutine of the link. It ends when ctx does, after it has closed
// the connection.
func (l *link) run(ctx context.Context) {
	s := l.cur
	for {
		err := l.watch(ctx, s)
		if ctx.Err() != nil {
			l.set(nil, transport.ErrClosed)
			s.end(l.t.closeBy())
			close(s.over)
			return
		}
		l.set(nil, err)
		s.pipe.cut()
		close(s.over)
		l.t.linkDown(l.role, err)
		if s = l.restore(ctx); s == nil {
			l.set(nil, transport.ErrClosed)
			return
		}
		l.set(s, nil)
		l.t.linkUp(l.role)
	}
}

// watch waits for the end of the session and keeps an eye on alarms.
func (l *link) watch(ctx context.Context, s *session) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-s.closes:
			if e == nil {
				return errLost
			}
			return fmt.Errorf("%w: %w", errLost, e)
		case b, ok := <-s.blocks:
			if !ok {
				s.blocks = nil
				continue
			}
			l.blocked(s, b.Active, b.Reason)
		}
	}
}

// blocked notes that the broker takes no publishes, or takes them again.
func (l *link) blocked(s *session, active bool, reason string) {
	if !active {
		if s.alarm.Swap(nil) != nil {
			l.poke()
			l.t.events.emit(transport.Event{Kind: transport.Flowing, Detail: "the broker takes publishes again"})
		}
		return
	}
	was := s.alarm.Swap(&reason)
	l.poke()
	if was == nil {
		l.t.events.emit(transport.Event{
			Kind: transport.Stalled, Err: blockedError(reason),
			Detail: "the broker takes no publishes until its alarm is over",
		})
	}
}

func blockedError(reason string) error {
	return fmt.Errorf("%w: %s", errBlocked, reason)
}

// restore dials until it succeeds: at once, and then with growing pauses. It
// returns nil when ctx ended.
func (l *link) restore(ctx context.Context) *session {
	for wait := time.Duration(0); ; wait = l.t.nextWait(wait) {
		if !pause(ctx, jittered(wait)) {
			return nil
		}
		s, err := l.t.dial(ctx, l.role)
		if err == nil {
			return s
		}
		if ctx.Err() != nil {
			return nil
		}
		l.set(nil, err)
	}
}

// nextWait returns how long to wait after the attempt that followed wait.
func (t *Transport) nextWait(wait time.Duration) time.Duration {
	if wait == 0 {
		return t.set.retryFirst
	}
	return min(2*wait, t.set.retryLimit)
}

// jittered returns d or up to half less.
func jittered(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d - time.Duration(rand.Int64N(int64(d)/2+1))
}

// pause waits for d and tells whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// down is the error of what needs a connection when there is none.
func down(why error) error {
	if why == nil || errors.Is(why, transport.ErrClosed) {
		return errDown
	}
	return fmt.Errorf("%w: %w", errDown, why)
}
