package holdfast

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/holdfast-go/holdfast/internal/engine"
	"github.com/holdfast-go/holdfast/recovery"
	"github.com/holdfast-go/holdfast/transport"
)

// Source is where a subscription takes its messages from. Transports make
// sources: see jetstream.Transport.Consumer, natscore.Transport.Subject and
// memory.Broker.Queue.
type Source = transport.Source

// Registrar is what subscriptions are registered on: an App or a Group.
type Registrar interface{ scope() *scope }

// Handle registers a handler for the messages of src and returns its
// subscription, which App.Run starts. On an app that runs already, start it with
// Subscription.Start. Handle does no I/O; a mistake in the options is a finding
// of App.Check and an error of App.Run.
//
// The handler is called from Concurrency goroutines at once. Its context ends
// when its time is over: after Timeout, when the lease of the message is lost, or
// when a stop runs out of grace.
func Handle[T any](on Registrar, src Source, handler func(ctx context.Context, m *Message[T]) error, opts ...Option) *Subscription {
	s, _ := register(on, src, handler, opts)
	return s
}

// register is Handle, and returns what the attempts share as well.
func register[T any](on Registrar, src Source, handler func(ctx context.Context, m *Message[T]) error, opts []Option) (*Subscription, *handling[T]) {
	sc := on.scope()
	s := sc.newSubscription(src, opts)
	if handler == nil {
		s.settings.faults = append(s.settings.faults, errors.New("the handler is nil"))
		handler = func(context.Context, *Message[T]) error { return ErrNoHandler }
	}
	h := &handling[T]{
		subscription: s.name,
		codecs:       codecs{own: codecFor[T](s.settings.codec), more: sc.app.cfg.Codecs},
		handler:      handler,
		validates:    validates[T](),
	}
	h.params, _ = s.source.(transport.Templated)
	h.next = h.decodeAndHandle
	for i := len(s.settings.middleware) - 1; i >= 0; i-- {
		h.next = s.settings.middleware[i](h.next)
	}
	s.newTask = h.newTask
	sc.app.register(s)
	return s, h
}

// Validator is a body that can tell whether it makes sense. A body whose
// Validate returns an error is never handled: it is a permanent failure.
type Validator interface{ Validate() error }

// handling is what all attempts of one subscription share.
type handling[T any] struct {
	subscription string
	codecs       codecs
	handler      func(context.Context, *Message[T]) error
	next         HandlerFunc // middleware around decodeAndHandle
	validates    bool
	params       transport.Templated // nil where addresses have none
}

// task is one attempt: its context and its message in one allocation.
type task[T any] struct {
	ctx engine.Context
	msg Message[T]
	out outbox
	h   *handling[T]
}

func (h *handling[T]) newTask(a engine.Attempt) engine.Task {
	t := &task[T]{h: h}
	t.msg.fill(h.subscription, a)
	t.msg.self = &t.msg
	t.out.id, t.out.subscription = t.msg.ID, h.subscription
	t.msg.outbox, t.msg.params = &t.out, h.params
	t.ctx.Own(&t.out)
	return t
}

// Context returns the attempt's context.
func (t *task[T]) Context() *engine.Context { return &t.ctx }

// Run runs the middleware, the codec and the handler, and waits for what is
// published by any of them.
func (t *task[T]) Run(ctx context.Context) error {
	return t.out.settled(ctx, t.h.next(ctx, &t.msg.Meta))
}

func (h *handling[T]) decodeAndHandle(ctx context.Context, m *Meta) error {
	msg := m.self.(*Message[T])
	if err := h.decode(msg); err != nil {
		return err
	}
	if err := h.handler(ctx, msg); err != nil {
		return err
	}
	return m.outbox.wait(ctx)
}

// decode fills the body of a message and asks it whether it makes sense.
func (h *handling[T]) decode(m *Message[T]) error {
	codec, err := h.codecs.pick(m.ContentType)
	if err != nil {
		return &recovery.DecodeError{Err: err}
	}
	if err := decodeBody(codec, &m.Meta, &m.Body); err != nil {
		return &recovery.DecodeError{Err: err}
	}
	if h.validates {
		if err := validate(&m.Body); err != nil {
			return &recovery.InvalidError{Err: err}
		}
	}
	return nil
}

// validates reports whether bodies of type T, or pointers to them, are
// Validators.
func validates[T any]() bool {
	var zero T
	_, byPointer := any(&zero).(Validator)
	_, byValue := any(zero).(Validator)
	return byPointer || byValue
}

// validate asks the body. One whose Validate panics, on a null say, is refused.
func validate[T any](body *T) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &recovery.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	if v, ok := any(body).(Validator); ok {
		return v.Validate()
	}
	return any(*body).(Validator).Validate()
}

// Group is a set of subscriptions with a common prefix, options and middleware.
type Group struct{ sc *scope }

func (g *Group) scope() *scope { return g.sc }

// Group makes a group. prefix, unless empty, is put before the subjects of its
// sources and before the names of its subscriptions; a source that cannot take a
// prefix is refused at start. Options are defaults of its subscriptions.
func (a *App) Group(prefix string, opts ...Option) *Group {
	return &Group{a.sc.nest(prefix, opts)}
}

// Group makes a group inside this one: prefixes add up, the nearest option
// counts.
func (g *Group) Group(prefix string, opts ...Option) *Group {
	return &Group{g.sc.nest(prefix, opts)}
}

// scope is where subscriptions are registered: the app or a group.
type scope struct {
	app    *App
	prefix string
	opts   [][]Option // of the app, of each group; outermost first
}

func (sc *scope) nest(prefix string, opts []Option) *scope {
	return &scope{app: sc.app, prefix: sc.prefix + prefix, opts: append(slices.Clip(sc.opts), slices.Clone(opts))}
}

// newSubscription resolves source, name and options.
func (sc *scope) newSubscription(src Source, opts []Option) *Subscription {
	var set settings
	for _, level := range append(slices.Clip(sc.opts), opts) {
		set.applyAll(level)
	}
	if src == nil {
		set.faults = append(set.faults, errors.New("the source is nil: make one with a transport, such as js.Consumer(...)"))
		src = noSource{}
	}
	name := set.name
	if name == "" {
		name = src.Name()
	}
	if sc.prefix != "" {
		if p, ok := src.(transport.Prefixer); ok {
			src = p.WithPrefix(sc.prefix)
		} else {
			set.faults = append(set.faults, noPrefixError{fmt.Sprintf("%s cannot take the group's prefix %q: it has no addresses to put it before", src, sc.prefix)})
		}
		if set.name != "" || name != src.Name() {
			name = token(sc.prefix) + name
		}
	}
	if name == "" {
		set.faults = append(set.faults, fmt.Errorf("%s has no name of its own: give the subscription one with holdfast.Name", src))
	}
	return &Subscription{app: sc.app, name: name, source: src, settings: set, gone: make(chan struct{})}
}

// token makes a prefix of subjects fit for a name.
func token(prefix string) string {
	b := []byte(prefix)
	for i, c := range b {
		if c == '.' || c == '/' {
			b[i] = '-'
		}
	}
	return string(b)
}

// noSource stands in for a nil source until the check refuses it.
type noSource struct{}

func (noSource) Transport() transport.Transport { return nil }
func (noSource) Name() string                   { return "" }
func (noSource) String() string                 { return "no source" }
