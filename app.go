package holdfast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/internal/engine"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/transport"
)

// Config is what an App is made of. The zero value works.
type Config struct {
	// Name names the program in dead letters and logs. May be empty.
	Name string
	// Logger gets a line for each change of state and each dead letter, never
	// one for each retry, and never bodies. Nil discards them.
	Logger *slog.Logger
	// Grace is how long Run waits for handlers after its context ended. Zero
	// means 30 seconds.
	Grace time.Duration
	// Options are the defaults of every subscription. Those of a group and of
	// the subscription itself come after them and count instead.
	Options []Option
	// Codecs are accepted besides a subscription's own, by content type.
	Codecs []Codec
	// Observers are told every event; see package observe. They must not block.
	Observers []observe.Observer
}

// App holds the subscriptions of a program. Its methods are safe for concurrent
// use.
type App struct {
	cfg Config
	sc  *scope

	wg sync.WaitGroup // of the subscriptions that run

	watching sync.Mutex                     // held while a transport is first observed; never together with mu
	watched  map[transport.Transport]func() // stops observing it

	mu     sync.Mutex // guards what follows; never held across foreign code
	phase  phase
	subs   []*Subscription
	runCtx context.Context // the values handlers see
	faults []error         // of subscriptions that ended
}

// phase is where an app is in its life.
type phase uint8

const (
	phaseIdle     phase = iota // Run was not called, or refused to start
	phaseStarting              // Run checks and provisions
	phaseRunning
	phaseOver // Run is stopping, or has returned
)

// New returns an app without subscriptions.
func New(cfg Config) *App {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Name != "" {
		cfg.Logger = cfg.Logger.With("app", cfg.Name)
	}
	if cfg.Grace <= 0 {
		cfg.Grace = 30 * time.Second
	}
	cfg.Codecs = slices.DeleteFunc(slices.Clone(cfg.Codecs), func(c Codec) bool { return c == nil })
	cfg.Observers = slices.DeleteFunc(slices.Clone(cfg.Observers), func(o observe.Observer) bool { return o == nil })
	a := &App{cfg: cfg, watched: make(map[transport.Transport]func())}
	a.sc = &scope{app: a, opts: [][]Option{slices.Clone(cfg.Options)}}
	return a
}

func (a *App) scope() *scope { return a.sc }

func (a *App) register(s *Subscription) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.subs = append(a.subs, s)
}

func (a *App) subscriptions() []*Subscription {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.subs)
}

func (a *App) engineOf(s *Subscription) *engine.Subscription {
	a.mu.Lock()
	defer a.mu.Unlock()
	return s.engine
}

func (a *App) errorOf(s *Subscription) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return s.err
}

// Check compares what every subscription wants with what the brokers have today,
// changes nothing, and returns everything it found. The error is for a check that
// could not be made, such as a broker that does not answer.
func (a *App) Check(ctx context.Context) ([]Finding, error) {
	return a.check(ctx, a.subscriptions(), nil)
}

// check checks subs, which are to run beside others.
func (a *App) check(ctx context.Context, subs, others []*Subscription) ([]Finding, error) {
	findings := conflicts(append(slices.Clone(others), subs...))
	var failed []error
	for _, s := range subs {
		found, err := s.check(ctx)
		findings = append(findings, found...)
		if err != nil {
			failed = append(failed, err)
		}
	}
	// What is missing today is known only now.
	findings = append(findings, disputes(subs, others)...)
	return findings, errors.Join(failed...)
}

// disputes finds subscriptions that would be in each other's way once both are
// provisioned. Others are provisioned already, and have no disputes left among
// themselves.
func disputes(subs, others []*Subscription) []Finding {
	var findings []Finding
	for i, s := range subs {
		for _, other := range slices.Concat(subs[i+1:], others) {
			if f, ok := dispute(s, other); ok {
				findings = append(findings, f)
			}
		}
	}
	return findings
}

// dispute asks either of two subscriptions about the other.
func dispute(a, b *Subscription) (Finding, bool) {
	for _, pair := range [][2]*Subscription{{a, b}, {b, a}} {
		n, ok := pair[0].source.(transport.Neighbour)
		if !ok {
			continue
		}
		if f, conflict := n.ConflictsWith(pair[1].source); conflict {
			f.Subscription = pair[0].name
			return f, true
		}
	}
	return Finding{}, false
}

// conflicts finds subscriptions that get in each other's way.
func conflicts(subs []*Subscription) []Finding {
	var findings []Finding
	names := make(map[string]bool)
	objects := make(map[string]*Subscription)
	for _, s := range subs {
		if s.name != "" && names[s.name] {
			findings = append(findings, Finding{
				Code: transport.CodeDuplicateName, Level: transport.LevelError, Subscription: s.name,
				Fact: fmt.Sprintf("two subscriptions are named %q, and would share their dead letters", s.name),
				Fix:  "give one of them another name with holdfast.Name",
			})
		}
		names[s.name] = true
		id, ok := s.source.(transport.Identified)
		if !ok || id.Identity() == "" {
			continue
		}
		if other := objects[id.Identity()]; other != nil && other.source.Transport() == s.source.Transport() {
			findings = append(findings, Finding{
				Code: transport.CodeSharedDurable, Level: transport.LevelError, Subscription: s.name,
				Fact: fmt.Sprintf("subscriptions %s and %s share %s: each message would go to one of them at random (%s; %s)", other.name, s.name, id.Identity(), other.source, s.source),
				Fix:  "give each subscription a durable of its own, or handle both kinds of message in one",
			})
		}
		objects[id.Identity()] = s
	}
	return findings
}

// refusal returns the findings of level error as an error.
func refusal(findings []Finding) error {
	var refused []Finding
	for _, f := range findings {
		if f.Level == transport.LevelError {
			refused = append(refused, f)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return &ContractError{Findings: refused}
}

// Run checks every contract, prepares what is missing, and handles messages
// until ctx ends. Then it stops taking messages, lets the handlers finish within
// Config.Grace, hands back what was not handled, and returns nil after a clean
// drain.
//
// It returns a *ContractError if a promise cannot be kept, and another error if
// that could not be found out; nothing has been started then, and Run may be
// called again. An app that ran cannot run again.
func (a *App) Run(ctx context.Context) error {
	subs, err := a.begin(ctx)
	if err != nil {
		return err
	}
	if err := a.admit(ctx, subs, nil); err != nil {
		a.enter(phaseIdle)
		return err
	}
	a.enter(phaseRunning)
	for _, s := range subs {
		// One that was stopped meanwhile stays stopped.
		_ = a.launch(s)
	}
	<-ctx.Done()
	return a.end()
}

func (a *App) begin(ctx context.Context) ([]*Subscription, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch a.phase {
	case phaseStarting, phaseRunning:
		return nil, fmt.Errorf("run app %s: it %w", a.cfg.Name, ErrRunning)
	case phaseOver:
		return nil, fmt.Errorf("run app %s: it %w: make another with holdfast.New", a.cfg.Name, ErrEnded)
	}
	a.phase = phaseStarting
	a.runCtx = context.WithoutCancel(ctx) // Run itself watches ctx
	return slices.Clone(a.subs), nil
}

func (a *App) enter(p phase) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase = p
}

// admit checks and provisions subscriptions that are to run beside others.
func (a *App) admit(ctx context.Context, subs, others []*Subscription) error {
	findings, err := a.check(ctx, subs, others)
	if refused := refusal(findings); refused != nil {
		return refused
	}
	if err != nil {
		return err
	}
	for _, f := range findings {
		if f.Level == transport.LevelWarning {
			a.cfg.Logger.WarnContext(ctx, "contract", "code", string(f.Code), "subscription", f.Subscription, "fact", f.Fact, "diff", f.Diff, "fix", f.Fix)
		}
	}
	for _, s := range subs {
		if err := s.provision(ctx); err != nil {
			return err
		}
	}
	return nil
}

// launch starts a subscription that was admitted. Run waits for it.
func (a *App) launch(s *Subscription) error {
	e := s.build()
	a.watch(s.source.Transport())
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case s.stopped:
		return fmt.Errorf("start subscription %s: %w", s.name, stoppedError())
	case s.engine != nil:
		return fmt.Errorf("start subscription %s: it %w", s.name, ErrRunning)
	case a.phase != phaseRunning:
		return fmt.Errorf("start subscription %s: %w", s.name, errNotRunning)
	}
	s.engine = e
	ctx := a.runCtx
	a.wg.Go(func() {
		err := e.Run(ctx)
		a.ended(s, err)
	})
	return nil
}

// ended takes a subscription that was stopped by itself out of the app.
func (a *App) ended(s *Subscription, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.faults = append(a.faults, err)
	}
	if a.phase == phaseRunning {
		a.removeLocked(s)
	}
	s.err = err
	close(s.gone)
}

func (a *App) removeLocked(s *Subscription) {
	a.subs = slices.DeleteFunc(a.subs, func(other *Subscription) bool { return other == s })
}

// watch brings the news of a transport to the subscriptions on it.
func (a *App) watch(t transport.Transport) {
	o, ok := t.(transport.Observable)
	if !ok {
		return
	}
	a.watching.Lock()
	defer a.watching.Unlock()
	if a.watched[t] == nil {
		a.watched[t] = o.Observe(func(e transport.Event) { a.news(t, e) })
	}
}

func (a *App) news(t transport.Transport, e transport.Event) {
	a.mu.Lock()
	var concerned []*engine.Subscription
	for _, s := range a.subs {
		if s.engine != nil && s.source.Transport() == t && (e.Subscription == "" || e.Subscription == s.name) {
			concerned = append(concerned, s.engine)
		}
	}
	a.mu.Unlock()
	for _, s := range concerned {
		s.News(e)
	}
}

// startLater starts a subscription of an app that runs.
func (a *App) startLater(ctx context.Context, s *Subscription) error {
	others, err := a.startable(s)
	if err != nil {
		return fmt.Errorf("start subscription %s: %w", s.name, err)
	}
	if err := a.admit(ctx, []*Subscription{s}, others); err != nil {
		return err
	}
	return a.launch(s)
}

// startable returns the subscriptions that run, beside which s is to start.
func (a *App) startable(s *Subscription) (others []*Subscription, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case s.stopped:
		return nil, stoppedError()
	case s.engine != nil:
		return nil, fmt.Errorf("it %w", ErrRunning)
	case a.phase != phaseRunning:
		return nil, errNotRunning
	}
	for _, other := range a.subs {
		if other.engine != nil {
			others = append(others, other)
		}
	}
	return others, nil
}

// retire marks a subscription as stopped and returns its engine; nil if it never
// ran, and then it has left the app.
func (a *App) retire(s *Subscription) *engine.Subscription {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.stopped = true
	if s.engine == nil {
		a.removeLocked(s)
	}
	return s.engine
}

// end stops everything and waits for it.
func (a *App) end() error {
	a.mu.Lock()
	a.phase = phaseOver
	var running []*engine.Subscription
	for _, s := range a.subs {
		if s.engine != nil {
			running = append(running, s.engine)
		}
	}
	a.mu.Unlock()
	for _, e := range running {
		e.Stop(a.cfg.Grace)
	}
	a.wg.Wait()
	a.unwatch()
	a.mu.Lock()
	defer a.mu.Unlock()
	return errors.Join(a.faults...)
}

func (a *App) unwatch() {
	a.watching.Lock()
	watched := a.watched
	a.watched = make(map[transport.Transport]func())
	a.watching.Unlock()
	for _, stop := range watched {
		stop()
	}
}

// Health tells how an app is doing.
type Health struct {
	// Healthy: the app runs, and so does every subscription.
	Healthy bool `json:"healthy"`
	// Subscriptions are in the order they were registered.
	Subscriptions []observe.Health `json:"subscriptions"`
}

// Health returns what every subscription is doing now: running, retrying, stuck,
// and why.
func (a *App) Health() Health {
	a.mu.Lock()
	running := a.phase == phaseRunning
	a.mu.Unlock()
	h := Health{Healthy: running}
	for _, s := range a.subscriptions() {
		one := s.Health()
		h.Healthy = h.Healthy && one.State == observe.StateRunning
		h.Subscriptions = append(h.Subscriptions, one)
	}
	return h
}

// observer joins the observers to one function; nil if there are none.
func (a *App) observer() func(observe.Event) {
	if len(a.cfg.Observers) == 0 {
		return nil
	}
	return func(e observe.Event) {
		for _, o := range slices.Backward(a.cfg.Observers) {
			defer o.Observe(e) // deferred, so that one that panics hides nothing from the others
		}
	}
}
