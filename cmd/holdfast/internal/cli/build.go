package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/exechandler"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/httphandler"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/outcome"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/natscore"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// handlers makes the handler of every subscription, in their order. It reports
// every command that cannot be run.
func handlers(c *config.Config, log *slog.Logger) ([]outcome.Handler, error) {
	var made []outcome.Handler
	var faults []transport.Finding
	for _, s := range c.Subscriptions {
		h, err := handlerOf(c, s, log)
		if err != nil {
			faults = append(faults, transport.Finding{
				Code: transport.Code(config.CodeCommand), Level: transport.LevelError, Subscription: s.Name,
				Fact: fmt.Sprintf("%s:%d: %v", c.Path, s.Line, err),
				Fix:  "correct handler.exec; a relative command is looked for in the directory of the file",
			})
		}
		made = append(made, h)
	}
	if len(faults) > 0 {
		return nil, &holdfast.ContractError{Findings: faults}
	}
	return made, nil
}

func handlerOf(c *config.Config, s config.Subscription, log *slog.Logger) (outcome.Handler, error) {
	log = log.With("subscription", s.Name)
	switch {
	case len(s.Handler.Exec) > 0:
		return exechandler.New(exechandler.Config{Args: s.Handler.Exec, Dir: c.Dir, Logger: log})
	case s.Handler.HTTP != nil:
		h := s.Handler.HTTP
		var key []byte
		if h.Secret != "" {
			k, err := config.DecodeSecret(h.Secret)
			if err != nil {
				return nil, fmt.Errorf("secret %w", err)
			}
			key = k
		}
		return httphandler.New(httphandler.Config{
			URL: h.URL, Key: key, Timeout: h.Timeout, Headers: h.Headers,
			Concurrency: s.Concurrency, UserAgent: "holdfast/" + buildVersion(),
		}), nil
	default:
		return logHandler{log}, nil
	}
}

// logHandler writes one line per message, without its body.
type logHandler struct{ log *slog.Logger }

// Handle logs the message and acks it.
func (h logHandler) Handle(ctx context.Context, m outcome.Message) outcome.Outcome {
	h.log.InfoContext(ctx, "message", "id", m.ID, "subject", m.Subject, "attempt", m.Attempt, "bytes", len(m.Body), "content_type", m.ContentType)
	return outcome.Outcome{}
}

// build registers every subscription of the file, with its handler, on an app.
func build(ctx context.Context, c *config.Config, made []outcome.Handler, d *dialer, log *slog.Logger, grace time.Duration, obs ...observe.Observer) (*holdfast.App, error) {
	app := holdfast.New(holdfast.Config{Name: "holdfast run", Logger: log, Grace: grace, Observers: obs})
	for i, s := range c.Subscriptions {
		src, err := sourceOf(ctx, c, s, d)
		if err != nil {
			return nil, err
		}
		holdfast.Handle(app, src, adapt(made[i]), options(s)...)
	}
	return app, nil
}

// adapt makes a handler of the library from one of ours.
func adapt(h outcome.Handler) func(context.Context, *holdfast.Message[[]byte]) error {
	return func(ctx context.Context, m *holdfast.Message[[]byte]) error {
		return verdict(h.Handle(ctx, outcome.Message{
			ID: m.ID, Subject: m.Subject, Subscription: m.Subscription, Attempt: m.Attempt,
			ContentType: m.ContentType, Header: headers(m.Header), Params: m.Params(), Body: m.Body,
		}))
	}
}

func headers(h holdfast.Header) map[string][]string {
	all := make(map[string][]string)
	for name, values := range h.All() {
		all[name] = values
	}
	return all
}

// verdict says in the library's words what a handler said.
func verdict(o outcome.Outcome) error {
	err := o.Err
	if err == nil {
		err = errors.New("the handler gave no reason")
	}
	switch o.Verdict {
	case outcome.Ack:
		return nil
	case outcome.Permanent:
		return holdfast.Permanent(err)
	case outcome.Drop:
		return holdfast.Discard(err)
	default:
		if o.After > 0 {
			return holdfast.RetryAfter(err, o.After)
		}
		return err
	}
}

func sourceOf(ctx context.Context, c *config.Config, s config.Subscription, d *dialer) (holdfast.Source, error) {
	if s.From.Queue != nil {
		rmq, err := d.rabbitMQ(ctx)
		if err != nil {
			return nil, err
		}
		return rmq.Queue(queueOf(s.From.Queue)), nil
	}
	if !s.From.JetStream() {
		core, err := d.natsCore(ctx)
		if err != nil {
			return nil, err
		}
		return core.Subject(natscore.SubjectConfig{Subject: s.From.Subject, Group: s.From.Group}), nil
	}
	js, err := d.jetStream(ctx)
	if err != nil {
		return nil, err
	}
	if src := watchOf(js, c, s.From); src != nil {
		return src, nil
	}
	return js.Consumer(consumerOf(js, c, s.From)), nil
}

// consumerOf says in the words of the transport what a file says of a stream and a
// consumer on it.
func consumerOf(js *jetstream.Transport, c *config.Config, f config.From) jetstream.ConsumerConfig {
	said := f.Consumer.Config
	if f.Original {
		said.ReplayPolicy = natsjs.ReplayOriginalPolicy
	}
	if !f.Pause.IsZero() {
		said.PauseUntil = &f.Pause
	}
	cfg := jetstream.ConsumerConfig{
		Stream: f.Stream, Subjects: f.Subjects, Durable: f.Durable, Start: startOf(f.Start), Mode: modeOf(f.Mode),
		Ordered: f.Ordered, Consumer: &said,
		AckWait: f.Consumer.AckWait, MaxAckPending: f.Consumer.MaxAckPending, Replicas: f.Consumer.Replicas,
		Priority: jetstream.PriorityConfig(f.Consumer.Pull),
	}
	if s, ok := c.Streams[f.Stream]; ok {
		if s.TTLUnsaid { // as in a stream that is made of the subjects alone
			s.AllowMsgTTL = knowsTTL(js.Conn().ConnectedServerVersion())
		}
		cfg.StreamConfig = &s.StreamConfig
	}
	return cfg
}

// knowsTTL tells whether a server of this version can let single messages expire.
func knowsTTL(version string) bool {
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return err == nil && (major > 2 || (major == 2 && minor >= 11))
}

// queueOf says in the words of the transport what a file says of a queue.
func queueOf(q *config.Queue) rabbitmq.QueueConfig {
	cfg := rabbitmq.QueueConfig{
		Name: q.Name, Type: rabbitmq.QueueType(q.Type), Declare: declareOf(q.Declare), Arguments: q.Arguments,
		DeliveryLimit: q.DeliveryLimit, DeadLetterExchange: q.DeadLetterExchange, DeadLetterKey: q.DeadLetterKey,
		SingleActiveConsumer: q.SingleActive, ConsumerPriority: q.Priority, Offset: q.Offset,
		Exclusive: q.Exclusive, ConsumerArguments: q.ConsumerArguments, Bindings: bindingsOf(q.Bindings),
	}
	for _, e := range q.Exchanges {
		cfg.Exchanges = append(cfg.Exchanges, rabbitmq.ExchangeConfig{
			Name: e.Name, Kind: e.Kind, Alternate: e.Alternate, Internal: e.Internal, AutoDelete: e.AutoDelete, Transient: e.Transient,
			Args: e.Args, Bindings: bindingsOf(e.Bindings),
		})
	}
	return cfg
}

func bindingsOf(in []config.Binding) []rabbitmq.Binding {
	var out []rabbitmq.Binding
	for _, b := range in {
		out = append(out, rabbitmq.Binding{Exchange: b.Exchange, Kind: b.Kind, Key: b.Key, Args: b.Args})
	}
	return out
}

func declareOf(mode string) rabbitmq.DeclareMode {
	switch mode {
	case "verify":
		return rabbitmq.DeclareVerify
	case "adopt":
		return rabbitmq.DeclareAdopt
	default:
		return rabbitmq.DeclareEnsure
	}
}

func startOf(s config.Start) jetstream.StartPolicy {
	switch s.Kind {
	case config.StartAll:
		return jetstream.StartAll()
	case config.StartNew:
		return jetstream.StartNew()
	case config.StartLast:
		return jetstream.StartLast()
	case config.StartCurrent, config.StartEach:
		return jetstream.StartLastPerSubject()
	case config.StartSequence:
		return jetstream.StartSequence(s.Sequence)
	case config.StartTime:
		return jetstream.StartTime(s.Time)
	default:
		return jetstream.StartPolicy{}
	}
}

func modeOf(mode string) jetstream.Mode {
	switch mode {
	case "verify":
		return jetstream.ModeVerify
	case "update":
		return jetstream.ModeUpdate
	default:
		return jetstream.ModeEnsure
	}
}

// options turns the settings of a subscription into those of the library. What
// the file does not say is left to the library's defaults.
func options(s config.Subscription) []holdfast.Option {
	opts := []holdfast.Option{holdfast.Name(s.Name), holdfast.Concurrency(s.Concurrency)}
	if s.Prefetch >= 0 {
		opts = append(opts, holdfast.Prefetch(s.Prefetch))
	}
	if s.Timeout > 0 {
		opts = append(opts, holdfast.Timeout(s.Timeout))
	}
	if s.MaxAge > 0 {
		opts = append(opts, holdfast.MaxAge(s.MaxAge))
	}
	switch {
	case s.Retry != nil:
		opts = append(opts, retryOf(*s.Retry))
	case s.From.Queue.Stream():
		opts = append(opts, holdfast.Retry{Attempts: 1}) // a stream gives nothing back
	}
	switch {
	case s.DeadLetter == nil && s.From.Ordered: // it can have none
		opts = append(opts, holdfast.NoDeadLetter())
	case s.DeadLetter == nil:
	case *s.DeadLetter:
		opts = append(opts, holdfast.DeadLetter())
	default:
		opts = append(opts, holdfast.NoDeadLetter())
	}
	switch s.OrderBy.By {
	case "key":
		opts = append(opts, holdfast.OrderByKey())
	case "subject":
		opts = append(opts, holdfast.OrderBy(func(m *transport.Message) string { return m.Subject }))
	case "header":
		name := s.OrderBy.Header
		opts = append(opts, holdfast.OrderBy(func(m *transport.Message) string { return m.Header.Get(name) }))
	}
	return opts
}

// retryOf fills what a retry leaves open from the library's default.
func retryOf(r config.Retry) holdfast.Retry {
	def := holdfast.DefaultRetry()
	out := holdfast.Retry{Attempts: r.Attempts, Immediate: r.Immediate, Jitter: r.Jitter, Within: r.Within}
	if r.Attempts == 0 && r.Within == 0 {
		out.Attempts = max(def.Attempts, r.Immediate+1, len(r.Backoff.Delays)+r.Immediate+1)
	}
	switch {
	case len(r.Backoff.Delays) == 1:
		out.Backoff = holdfast.Constant(r.Backoff.Delays[0])
	case len(r.Backoff.Delays) > 1:
		out.Backoff = holdfast.Delays(r.Backoff.Delays...)
	case r.Backoff.First > 0:
		out.Backoff = holdfast.Exponential(r.Backoff.First, r.Backoff.Max)
	case out.Attempts == 0 || out.Attempts > out.Immediate+1: // there are delays to be chosen
		out.Backoff = def.Backoff
	}
	return out
}
