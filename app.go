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

	mu       sync.Mutex // guards what follows; never held across I/O
	subs     []*Subscription
	watched  map[transport.Transport]func() // stops observing it
	runCtx   context.Context                // not nil while the app runs
	stopping bool
	faults   []error // of subscriptions that ended
}

// New returns an app without subscriptions.
func New(cfg Config) *App {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace <= 0 {
		cfg.Grace = 30 * time.Second
	}
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

// Check compares what every subscription wants with what the brokers have today,
// changes nothing, and returns everything it found. The error is for a check that
// could not be made, such as a broker that does not answer.
func (a *App) Check(ctx context.Context) ([]Finding, error) {
	return a.check(ctx, a.subscriptions())
}

func (a *App) check(ctx context.Context, subs []*Subscription) ([]Finding, error) {
	findings := conflicts(a.subscriptions())
	var failed []error
	for _, s := range subs {
		found, err := s.check(ctx)
		findings = append(findings, found...)
		if err != nil {
			failed = append(failed, err)
		}
	}
	return findings, errors.Join(failed...)
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
// It returns a *ContractError without having started anything if a promise
// cannot be kept. An app can run once.
func (a *App) Run(ctx context.Context) error {
	if err := a.begin(ctx); err != nil {
		return err
	}
	subs := a.subscriptions()
	if err := a.admit(ctx, subs); err != nil {
		a.end()
		return err
	}
	for _, s := range subs {
		a.launch(s)
	}
	<-ctx.Done()
	return a.end()
}

func (a *App) begin(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.runCtx != nil || a.stopping {
		return fmt.Errorf("run app %s: %w", a.cfg.Name, ErrRunning)
	}
	a.runCtx = context.WithoutCancel(ctx) // for the values; Run itself watches ctx
	return nil
}

// admit checks and provisions subscriptions.
func (a *App) admit(ctx context.Context, subs []*Subscription) error {
	findings, err := a.check(ctx, subs)
	if refused := refusal(findings); refused != nil {
		return refused
	}
	if err != nil {
		return err
	}
	for _, f := range findings {
		if f.Level == transport.LevelWarning {
			a.cfg.Logger.WarnContext(ctx, "contract", "code", string(f.Code), "subscription", f.Subscription, "fact", f.Fact, "fix", f.Fix)
		}
	}
	for _, s := range subs {
		if err := s.provision(ctx); err != nil {
			return err
		}
	}
	return nil
}

// launch starts a subscription. Run waits for it.
func (a *App) launch(s *Subscription) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopping || s.engine != nil {
		return
	}
	s.engine = s.build()
	a.watchLocked(s.source.Transport())
	e, ctx := s.engine, a.runCtx
	a.wg.Go(func() {
		err := e.Run(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		if err != nil {
			a.faults = append(a.faults, err)
		}
		if !a.stopping { // it was stopped by itself, and its name is free again
			a.subs = slices.DeleteFunc(a.subs, func(other *Subscription) bool { return other == s })
		}
	})
}

// watchLocked brings the news of a transport to the subscriptions on it.
func (a *App) watchLocked(t transport.Transport) {
	o, ok := t.(transport.Observable)
	if !ok || a.watched[t] != nil {
		return
	}
	a.watched[t] = o.Observe(func(e transport.Event) { a.news(t, e) })
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
	a.mu.Lock()
	running, started := a.runCtx != nil && !a.stopping, s.engine != nil
	gone := started && !slices.Contains(a.subs, s)
	a.mu.Unlock()
	if gone {
		return fmt.Errorf("start subscription %s: %w", s.name, errStopped)
	}
	if started {
		return fmt.Errorf("start subscription %s: %w", s.name, ErrRunning)
	}
	if !running {
		return fmt.Errorf("start subscription %s: %w", s.name, errNotRunning)
	}
	if err := a.admit(ctx, []*Subscription{s}); err != nil {
		return err
	}
	a.launch(s)
	return nil
}

// end stops everything and waits for it.
func (a *App) end() error {
	a.mu.Lock()
	a.stopping = true
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
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, stop := range a.watched {
		stop()
	}
	clear(a.watched)
	return errors.Join(a.faults...)
}

// Health tells how an app is doing.
type Health struct {
	// Healthy: every subscription runs.
	Healthy bool `json:"healthy"`
	// Subscriptions are in the order they were registered.
	Subscriptions []observe.Health `json:"subscriptions"`
}

// Health returns what every subscription is doing now: running, retrying, stuck,
// and why.
func (a *App) Health() Health {
	h := Health{Healthy: true}
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
		for _, o := range a.cfg.Observers {
			o.Observe(e)
		}
	}
}
