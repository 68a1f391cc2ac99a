package holdfast

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/holdfast-go/holdfast/internal/engine"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// Subscription is a named consumer: a source, a handler and a policy. It is the
// unit of isolation. Its methods are safe for concurrent use.
type Subscription struct {
	app      *App
	name     string
	source   Source
	settings settings
	newTask  func(engine.Attempt) engine.Task
	batch    *engine.Batch                   // see HandleBatch
	demand   func(stop context.Context) bool // see Pull
	met      func()                          // see Pull
	gone     chan struct{}                   // closed when it ran and has ended

	// Guarded by App.mu.
	engine  *engine.Subscription // set when it is started
	stopped bool                 // for good
	err     error                // of its end
}

// Name returns the subscription's name.
func (s *Subscription) Name() string { return s.name }

// Start checks, provisions and starts a subscription that was registered on an
// app that runs already. It returns a *ContractError if a promise cannot be kept.
func (s *Subscription) Start(ctx context.Context) error {
	return s.app.startLater(ctx, s)
}

// Stop stops taking messages and waits until what is in hand is settled. Handlers
// that have not returned shortly before ctx ends are cancelled and their messages
// given back uncharged; without a deadline the app's grace counts. A subscription
// that was stopped has left its app: its name is free, and it cannot be started
// again.
//
// The error tells that ctx ended first, or that handlers did not return and were
// left behind.
func (s *Subscription) Stop(ctx context.Context) error {
	e := s.app.retire(s)
	if e == nil {
		return nil
	}
	grace := s.app.cfg.Grace
	if deadline, ok := ctx.Deadline(); ok {
		grace = max(time.Until(deadline), time.Millisecond)
	}
	e.Stop(grace)
	select {
	case <-s.gone:
		return s.app.errorOf(s)
	case <-ctx.Done():
	}
	select { // both may come at once: the grace is what is left of ctx
	case <-s.gone:
		return s.app.errorOf(s)
	default:
		return fmt.Errorf("stop subscription %s: %w", s.name, ctx.Err())
	}
}

// Health returns what the subscription is doing now.
func (s *Subscription) Health() observe.Health {
	if e := s.app.engineOf(s); e != nil {
		return e.Health()
	}
	return observe.Health{Subscription: s.name, Source: s.source.String(), State: observe.StateIdle}
}

// plan is a subscription with its defaults filled in.
type plan struct {
	policy recovery.Policy
	store  transport.DeadLetterStore
	want   transport.Want
}

// plan resolves what the options leave open, by what the transport can do.
func (s *Subscription) plan() plan {
	set := s.settings
	caps := s.source.Transport().Capabilities()
	p := plan{policy: set.policy}
	p.policy.Counted = set.counts != nil
	defaulted := !set.retrySet && caps.Redelivers && caps.Delays
	if defaulted && (p.policy.Ack == RetryOnError || p.policy.Ack == Manual) {
		r := DefaultRetry()
		p.policy.Attempts, p.policy.Immediate, p.policy.Backoff, p.policy.Jitter = r.Attempts, r.Immediate, r.Backoff, r.Jitter
	}
	own, _ := s.source.Transport().(transport.DeadLetterer)
	wantOwn := false // refused by denied if there is none
	switch {
	case set.deadLetters == deadLettersElsewhere:
		p.store = set.store
	case set.deadLetters == deadLettersWanted, set.deadLetters == deadLettersByDefault && caps.DeadLetters && s.mayFail():
		wantOwn = true
		if own != nil {
			p.store = own.DeadLetters()
		}
	}
	p.policy.DeadLetters = p.store != nil
	p.want = transport.Want{
		Subscription: s.name,
		Concurrency:  max(set.concurrency, 1),
		Prefetch:     s.prefetch(),
		Delay:        p.policy.Delays() || set.compensate != nil,
		MaxDelay:     s.maxDelay(p.policy),
		Delays:       s.delays(p.policy),
		DeadLetter:   wantOwn,
		Reject:       p.policy.Ack == RejectOnError && p.store == nil,
		Ordered:      set.orderBy != nil,
		Reply:        set.reply,
		Hold:         s.hold(p.policy),

		BrokerRetries: set.brokerRetries,
		Counted:       set.counts != nil,
	}
	p.want.Delay = p.want.Delay || p.want.Counted // while the store is down
	p.want.Redelivery = p.want.Delay || p.policy.Ack == Manual || set.ackSet && p.policy.Ack == RetryOnError
	return p
}

// maxDelay is the longest delay the subscription asks for.
func (s *Subscription) maxDelay(p recovery.Policy) time.Duration {
	if s.settings.compensate != nil {
		return max(p.MaxDelay(), p.Compensation().MaxDelay())
	}
	return p.MaxDelay()
}

// delays are the different delays the subscription asks for.
func (s *Subscription) delays(p recovery.Policy) []time.Duration {
	if s.settings.compensate != nil {
		return p.Compensation().Ladder()
	}
	return p.Ladder()
}

// maxLease is how long a message is kept at most: by default long enough for its
// handler to time out.
func (s *Subscription) maxLease() time.Duration {
	if s.settings.maxLease > 0 {
		return s.settings.maxLease
	}
	return max(engine.DefaultMaxLease, 2*s.settings.timeout)
}

// hold is how long the options let a delivery be in hand.
func (s *Subscription) hold(p recovery.Policy) time.Duration {
	hold := max(s.settings.timeout, s.settings.maxLease)
	if s.settings.orderBy == nil || p.Ack == AckFirst || p.Ack == RejectOnError {
		return hold
	}
	retries := p.MinElapsed(p.Attempts) // it waits in its lane
	if p.Attempts == 0 {
		retries = p.Within
	}
	return max(hold, retries)
}

// mayFail reports whether a failure can need a dead letter.
func (s *Subscription) mayFail() bool {
	return s.settings.policy.Ack != AckFirst
}

// prefetch is how much is held beyond what is being handled.
func (s *Subscription) prefetch() int {
	switch {
	case s.settings.prefetchSet:
		return s.settings.prefetch
	case s.settings.orderBy != nil:
		return 256
	case s.settings.brokerRetries > 0:
		return 0 // what a crash finds prefetched is counted
	default:
		return max(s.settings.concurrency, 1)
	}
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// faults is everything wrong with the subscription that can be seen without the
// broker.
func (s *Subscription) faults() []error {
	set := s.settings
	faults := append([]error(nil), set.faults...)
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if s.name != "" && !nameForm.MatchString(s.name) {
		bad("name %q: use at most 64 letters, digits, '-' and '_'", s.name)
	}
	if set.concurrency < 0 || set.prefetch < 0 {
		bad("concurrency and prefetch cannot be negative")
	}
	if set.timeout < 0 || set.maxLease < 0 {
		bad("timeout and max lease cannot be negative")
	}
	if set.maxLease > 0 && set.timeout > set.maxLease {
		bad("timeout %v is longer than max lease %v: it would never be reached", set.timeout, set.maxLease)
	}
	if set.reply && (set.retrySet && set.policy.Attempts != 1 || set.policy.Within != 0 || set.deadLetters != deadLettersOff) {
		bad("a request is answered once, failures too: leave retry and dead letters out")
	}
	if set.policy.Ack == AckFirst && set.deadLetters == deadLettersWanted && set.policy.MaxAge == 0 {
		bad("with the ack policy AckFirst nothing is left to dead-letter: leave it out, or set MaxAge")
	}
	if set.compensate != nil && set.policy.Ack != AckAlways {
		bad("a compensation belongs to the ack policy AckAlways")
	}
	if set.deadLetters == deadLettersElsewhere && set.store == nil {
		bad("the dead-letter store is nil")
	}
	if set.orderBy != nil && set.policy.Ack == Manual {
		bad("order by key cannot be kept when handlers settle by hand")
	}
	faults = append(faults, set.strategyFaults()...)
	if s.source.Transport() != nil {
		if err := s.plan().policy.Validate(); err != nil {
			faults = append(faults, apart(err)...)
		}
	}
	return faults
}

// apart returns the errors that were joined.
func apart(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// noPrefixError is a source in a group whose prefix it cannot take.
type noPrefixError struct{ text string }

func (e noPrefixError) Error() string { return e.text }

// finding tells a fault of the options.
func (s *Subscription) finding(fault error) Finding {
	f := Finding{Code: transport.CodeInvalid, Level: transport.LevelError, Subscription: s.name, Fact: fault.Error(), Fix: "correct the option"}
	if _, ok := errors.AsType[noPrefixError](fault); ok {
		f.Code, f.Fix = transport.CodeNoPrefix, "register the subscription on the app, or in a group without a prefix"
	}
	return f
}

// check returns what is wrong with the contract of the subscription.
func (s *Subscription) check(ctx context.Context) ([]Finding, error) {
	var findings []Finding
	for _, err := range s.faults() {
		findings = append(findings, s.finding(err))
	}
	if s.source.Transport() == nil {
		return findings, nil
	}
	p := s.plan()
	found, err := s.source.Transport().Check(ctx, s.source, p.want)
	if err != nil {
		return findings, fmt.Errorf("check subscription %s: %w", s.name, err)
	}
	found = append(found, s.denied(p.want, found)...)
	found = append(found, s.checkCounter(ctx, p)...)
	stored, err := s.checkStore(ctx, p)
	found = append(found, stored...)
	for i := range found {
		found[i].Subscription = s.name
	}
	return append(findings, found...), err
}

// storeElsewhere returns the store the subscription was told to use, if that
// has to be prepared.
func (s *Subscription) storeElsewhere(p plan) (transport.PreparedStore, bool) {
	if s.settings.deadLetters != deadLettersElsewhere {
		return nil, false // Check and Provision of the source's transport see to it
	}
	store, ok := p.store.(transport.PreparedStore)
	return store, ok
}

func (s *Subscription) checkStore(ctx context.Context, p plan) ([]Finding, error) {
	store, ok := s.storeElsewhere(p)
	if !ok {
		return nil, nil
	}
	found, err := store.CheckStore(ctx, s.name)
	if err != nil {
		return found, fmt.Errorf("check the dead-letter store of subscription %s: %w", s.name, err)
	}
	return found, nil
}

// denied adds what the transport's own check did not say about abilities it does
// not have, so that no transport can forget to refuse. An ability counts when it
// is declared and there: a wrapper may hide one.
func (s *Subscription) denied(want transport.Want, have []Finding) []Finding {
	src := s.source
	caps := src.Transport().Capabilities()
	_, buries := src.Transport().(transport.DeadLetterer)
	_, requests := src.Transport().(transport.Requester)
	lacks := []struct {
		code transport.Code
		not  bool
		what string
	}{
		{transport.CodeNoRedelivery, want.Redelivery && !caps.Redelivers || want.Delay && !caps.Delays, "hand a message out again"},
		{transport.CodeNoDeadLetters, want.DeadLetter && !(caps.DeadLetters && buries), "dead letters"},
		{transport.CodeNoReject, want.Reject && !caps.Rejects, "reject"},
		{transport.CodeNoReply, want.Reply && !(caps.Requests && requests), "replies"},
		{transport.CodeNoRequeue, want.BrokerRetries > 0 && !caps.Requeues, "bound how often it hands a message out again"},
		{transport.CodeNoRedelivery, s.settings.policy.CrashLimit > 0 && !caps.Redelivers, "count deliveries for a crash limit"},
		{transport.CodeNoDurable, s.settings.policy.MaxAge > 0 && !caps.Stores, "tell the age of a message for a max age"},
		{transport.CodeNoRedelivery, s.settings.prefetchSet && !caps.Redelivers, "hold back what exceeds a prefetch"},
	}
	var found []Finding
	for _, l := range lacks {
		if !l.not || mentions(have, l.code) {
			continue
		}
		found = append(found, Finding{
			Code: l.code, Level: transport.LevelError,
			Fact: fmt.Sprintf("%s cannot do this: %s (%s)", caps.Name, l.what, src),
			Fix:  "leave the option out, or take the messages from a broker that can, such as JetStream",
		})
	}
	return found
}

func mentions(findings []Finding, code transport.Code) bool {
	for _, f := range findings {
		if f.Code == code {
			return true
		}
	}
	return false
}

// provision prepares the source and the dead-letter store.
func (s *Subscription) provision(ctx context.Context) error {
	p := s.plan()
	report, err := s.source.Transport().Provision(ctx, s.source, p.want)
	if err != nil {
		return fmt.Errorf("provision subscription %s: %w", s.name, err)
	}
	if err := s.provisioned(ctx, report); err != nil {
		return err
	}
	store, ok := s.storeElsewhere(p)
	if !ok {
		return nil
	}
	report, err = store.ProvisionStore(ctx, s.name)
	if err != nil {
		return fmt.Errorf("provision the dead-letter store of subscription %s: %w", s.name, err)
	}
	return s.provisioned(ctx, report)
}

// provisioned tells what was made, and refuses what is not as it must be.
func (s *Subscription) provisioned(ctx context.Context, report transport.Report) error {
	log := s.app.cfg.Logger.With("subscription", s.name)
	for _, what := range report.Created {
		log.InfoContext(ctx, "created", "what", what)
	}
	for _, what := range report.Updated {
		log.InfoContext(ctx, "updated", "what", what)
	}
	var refused []Finding
	for _, f := range report.Findings {
		f.Subscription = s.name
		if f.Level == transport.LevelError {
			refused = append(refused, f)
			continue
		}
		log.WarnContext(ctx, "drift", "code", string(f.Code), "fact", f.Fact, "diff", f.Diff)
	}
	if len(refused) > 0 {
		return &ContractError{Findings: refused}
	}
	return nil
}

// build makes the engine of the subscription.
func (s *Subscription) build() *engine.Subscription {
	p := s.plan()
	cfg := engine.Config{
		Name: s.name, App: s.app.cfg.Name, Source: s.source, Want: p.want, Policy: p.policy,
		NewTask: s.newTask, Demand: s.demand, Met: s.met, Timeout: s.settings.timeout, MaxLease: s.maxLease(),
		OrderBy: s.settings.orderBy, DeadLetters: p.store,
		Counts: s.settings.counts, CountExpiry: s.expiry(p.policy),
		Observe: s.app.observer(), Logger: s.app.cfg.Logger,
	}
	if s.batch != nil && s.settings.gathers() {
		cfg.Batch = s.batch
	}
	if fn := s.settings.compensate; fn != nil {
		cfg.Compensate = func(ctx context.Context, a engine.Attempt, cause error) error {
			var m Meta
			m.fill(s.name, a)
			return fn(ctx, &m, cause)
		}
	}
	return engine.New(cfg)
}

// stoppedError is returned by Start of a subscription that was stopped.
func stoppedError() error { return fmt.Errorf("it %w: register it again with Handle", ErrEnded) }

// errNotRunning is returned by Start on an app that does not run.
var errNotRunning = errors.New("the app is not running: App.Run starts every subscription registered before it")
