package engine

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// Bounds of a burial that fails.
const (
	unburiedFirst = time.Second
	unburiedLimit = time.Minute
	// unburiedShare is how many times as long as a failed burial took its
	// neighbours have the slot for themselves: a store that hangs costs a fifth
	// of one slot.
	unburiedShare = 4
	// unburiedStale is when a burial that failed says nothing about the store
	// any more: the message would have been back by now if it were still ours.
	unburiedStale = 5 * unburiedLimit
)

// burials is what is known of a dead-letter store that does not work. It is
// empty while the store works. Subscription.mu guards it.
type burials struct {
	failed time.Time // when one failed last
	next   time.Time // when another may be tried
}

// errUntried is a burial that was not tried: others failed a moment ago.
var errUntried = errors.New("not tried: other burials failed a moment ago")

// bury stores the dead letter. A first failure is met by patience. While
// burials are known to fail, and for a message that comes back because its own
// did, one try is enough, and where tries take their time not every message
// gets one: the slot belongs to its neighbours. A broker that does not redeliver
// gives no second chance, so there every try is a patient one.
func (s *Subscription) bury(c *judgement) error {
	patient := true
	if s.redelivers {
		failing, mayTry := s.burialsFail()
		if !mayTry {
			return errUntried
		}
		patient = !failing && !c.condemned
	}
	// A store is asked to bound itself, and not trusted to.
	ctx, cancel := context.WithTimeout(s.settleCtx, settleBudget)
	defer cancel()
	var began time.Time // of the last try
	store := func(ctx context.Context) error {
		began = time.Now()
		return s.storeLetter(ctx, c)
	}
	err := store(ctx)
	if err != nil && patient && !hopeless(err) {
		err = insist(ctx, store, err)
	}
	if err != nil {
		s.burialTook(time.Since(began))
	}
	return err
}

// burialsFail reports whether burials are known to fail, and whether one may be
// tried all the same. While they fail one is tried at a time.
func (s *Subscription) burialsFail() (failing, mayTry bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, failing = s.stuck[noBurials]; !failing {
		return false, true
	}
	now := time.Now()
	if now.Before(s.burials.next) {
		return true, false
	}
	s.burials.next = now.Add(settleBudget) // until this one tells how it went
	return true, true
}

// burialTook notes how long a burial took to fail.
func (s *Subscription) burialTook(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.burials = burials{failed: now, next: now.Add(unburiedShare * d)}
}

// forgetBurials takes back that burials fail when none has failed for long:
// whatever could not be buried has come to its end elsewhere.
func (s *Subscription) forgetBurials() {
	s.mu.Lock()
	_, failing := s.stuck[noBurials]
	stale := failing && time.Since(s.burials.failed) > unburiedStale
	s.mu.Unlock()
	if stale {
		s.unblock(noBurials)
	}
}

// budgets are what an envelope may take, tried in turn when a dead letter is
// larger than its store takes.
var budgets = [...]int{wire.Budget, 4 << 10, 2 << 10, 1 << 10}

// storeLetter buries the message once.
func (s *Subscription) storeLetter(ctx context.Context, c *judgement) error {
	envelope := wire.Complete(c.message, s.envelope(c))
	c.deadID = envelope.DeadID
	var err error
	for _, budget := range budgets {
		err = s.cfg.DeadLetters.Bury(ctx, envelope.DeadKey(), wire.BuryMessageWithin(c.message, envelope, budget))
		if !errors.Is(err, transport.ErrTooLarge) {
			return err
		}
	}
	return err
}

// envelope tells the story of the failure.
func (s *Subscription) envelope(c *judgement) wire.Envelope {
	host, _ := os.Hostname() // an unknown host is an empty one
	e := wire.Envelope{
		Subscription: s.cfg.Name, Source: s.cfg.Source.String(), App: s.cfg.App, Host: host,
		Reason: string(c.verdict.Reason), Class: string(c.verdict.Class),
		Attempts: c.attempt, Deliveries: c.deliveries,
		FirstFailed: c.first, Failed: c.failed, Stage: stage(c.verdict),
	}
	if e.Failed.IsZero() {
		e.Failed = time.Now()
	}
	if e.FirstFailed.IsZero() {
		e.FirstFailed = e.Failed
	}
	if c.err != nil {
		e.ErrorText = c.err.Error()
		e.ErrorType, e.ErrorChain = wire.ErrorTypes(c.err)
	}
	if p, ok := errors.AsType[*recovery.PanicError](c.err); ok {
		e.Stack = string(p.Stack)
	}
	return e
}

// stage says where on its way the message failed.
func stage(v recovery.Verdict) string {
	switch v.Reason {
	case recovery.Undecodable, recovery.Invalid:
		return wire.StageDecode
	default:
		return wire.StageHandle
	}
}

// condemn remembers a verdict of death that could not be performed: when the
// message comes back, it is performed without another run of the handler. It
// returns how often that has been so.
func (s *Subscription) condemn(c *judgement) (times int) {
	times = 1
	s.ledger.change(c.message.Position, func(n *note) {
		if n.grave != nil {
			times = n.grave.times + 1
		}
		n.grave = &grave{verdict: c.verdict, err: c.err, attempts: c.attempt, first: c.first, failed: c.failed, times: times}
	})
	c.condemned = true
	return times
}

// burialFailed keeps the message where it is and the failure visible.
func (w *worker) burialFailed(c *judgement, err error) {
	s := w.s
	if !errors.Is(err, errUntried) {
		s.block(noBurials, "dead letters cannot be stored: "+err.Error())
		s.observe(c.event(observe.BurialFailed, err))
	}
	if !s.redelivers { // nobody to give it back to
		s.cfg.Logger.Error("message lost: its dead letter could not be stored, and this broker hands nothing out again", append(s.story(c), "why", err.Error())...)
		w.counts.discarded.Add(1)
		s.observe(c.event(observe.SettleFailed, err))
		return
	}
	delay := min(unburiedFirst<<min(s.condemn(c)-1, 10), unburiedLimit)
	w.mu.Lock()
	ordered := w.lane != nil
	w.mu.Unlock()
	if ordered {
		w.parkFor = delay
		return
	}
	if err := s.persist(func(ctx context.Context) error { return c.delivery.Nack(ctx, delay) }); err != nil {
		s.settleFailed(c, err)
	}
}
