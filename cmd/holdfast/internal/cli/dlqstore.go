package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/embedded"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/deadletter"
)

// letterBroker is the broker whose dead letters are asked for, and what a file
// says of its queues.
type letterBroker struct {
	url    string
	queues map[string]string // the queue of each subscription on RabbitMQ
	stop   func() error      // of an embedded server; may be nil
}

// deadLetters opens the dead letters of the broker, or those that an embedded
// server left in a directory. subscription is the one that is asked for, or "".
func (p *program) deadLetters(ctx context.Context, subscription string) (*deadletter.Store, *dialer, error) {
	b, err := p.letterBroker(ctx)
	if err != nil {
		return nil, nil, err
	}
	d := p.dialer(b.url)
	d.stop = b.stop
	if d.rabbit() {
		store, err := p.rabbitLetters(ctx, d, b.queues, subscription)
		if err != nil {
			return nil, nil, errors.Join(err, d.close())
		}
		return store, d, nil
	}
	js, err := d.jetStream(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, d.close())
	}
	return deadletter.Open(js.DeadLetters()), d, nil
}

// rabbitLetters opens the dead letters of the queues that a file names, or of the
// one that belongs to a subscription: AMQP cannot list queues.
func (p *program) rabbitLetters(ctx context.Context, d *dialer, queues map[string]string, subscription string) (*deadletter.Store, error) {
	if subscription != "" {
		queue, known := queues[subscription]
		if !known {
			queue = subscription
		}
		queues = map[string]string{subscription: queue}
	}
	if len(queues) == 0 {
		return nil, ui.Usagef("AMQP cannot list queues: name the file with --file holdfast.yaml, or the subscription with --subscription NAME when it has the name of its queue")
	}
	rmq, err := d.rabbitMQ(ctx)
	if err != nil {
		return nil, err
	}
	return deadletter.Open(rmq.DeadLettersOf(queues)), nil
}

// letterBroker finds the broker: the directory of an embedded server, or the
// broker that is named, or that of the file.
func (p *program) letterBroker(ctx context.Context) (letterBroker, error) {
	if p.data != "" {
		return p.stoppedServer(ctx)
	}
	named, err := p.namedBroker()
	if err != nil {
		return letterBroker{}, err
	}
	path := p.file
	if path == "" {
		path = defaultFile
	}
	c, err := config.LoadSources(path, p.In, p.Env, named)
	if err != nil && p.file != "" {
		return letterBroker{}, err
	}
	if err != nil { // a file that nobody named is the business of run and check
		b := letterBroker{url: named.URL}
		if b.url == "" {
			b.url = defaultBroker
		}
		return b, nil
	}
	p.use(c.Connection)
	b := letterBroker{url: named.URL, queues: queuesOf(c)}
	if b.url == "" {
		b.url = brokerOf(c)
	}
	return b, nil
}

// queuesOf returns the queue of each subscription on RabbitMQ.
func queuesOf(c *config.Config) map[string]string {
	queues := map[string]string{}
	for _, s := range c.Subscriptions {
		if s.From.Queue != nil {
			queues[s.Name] = s.From.Queue.Name
		}
	}
	return queues
}

// stoppedServer starts an embedded server on its directory for the moment.
func (p *program) stoppedServer(ctx context.Context) (letterBroker, error) {
	if p.file != "" {
		return letterBroker{}, ui.Usagef("--data is the directory of an embedded server and --file names a broker; give one of them")
	}
	if err := embedded.Kept(p.data); err != nil {
		return letterBroker{}, ui.Usagef("--data %w: name the directory of holdfast run (\"data\" of its file, ./holdfast-data by default), dev or demo", err)
	}
	s, err := embedded.Start(ctx, embedded.Config{Listen: "127.0.0.1:0", Data: p.data})
	if errors.Is(err, embedded.ErrLocked) {
		return letterBroker{}, fmt.Errorf("%w: ask that one, with --broker", err)
	}
	if err != nil {
		return letterBroker{}, err
	}
	return letterBroker{url: s.URL(), stop: func() error { return closeServer(s) }}, nil
}
