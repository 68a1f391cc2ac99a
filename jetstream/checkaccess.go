package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// A permission shows only when it is used, so each is used here in a way that
// the server answers, does not act upon and does not log: a request for messages
// that it cannot read, a consumer for a stream of another name, a sign of life
// for a message that is not there, a dead letter for a stream of another name.
// What cannot be asked without an effect is left out: the subjects that handlers
// publish to, and acks under the longer subjects that servers with a domain may
// be set to use.

// unreadable is a pull request that no server can read: the answer is an error,
// and nothing was done. Of a management request that it cannot read a server
// complains in its log, so that one is never sent.
var unreadable = []byte("{")

// misdirected is a request to make a consumer of another stream than the one in
// its subject. Every server answers it with an error before it looks for either.
var misdirected = []byte(`{"stream_name":"` + noStream + `","config":{}}`)

// noStream is a stream that a probe expects, so that no stream takes it.
const noStream = "holdfast-check-stores-nothing"

// access checks what the subscription may do while it runs.
func (c *checker) access(ctx context.Context) {
	s := c.s.cfg
	if !validName(s.Stream) {
		return
	}
	c.permitted(ctx)
	if s.Durable != "" && validName(s.Durable) {
		at := s.Stream + "." + s.Durable
		c.mayTake(ctx, c.t.api+"CONSUMER.MSG.NEXT."+at, "take messages")
		c.mayAck(ctx, ackPrefix+at)
		c.mayRecord(ctx, c.t.api+"CONSUMER.CREATE."+at)
	}
	if c.want.DeadLetter && validToken(c.want.Subscription) {
		c.mayBury(ctx)
	}
	if c.s.parks(c.want) {
		c.mayPark(ctx)
	}
}

// mayTake checks that messages of a consumer may be asked for.
func (c *checker) mayTake(ctx context.Context, subject, purpose string) {
	c.denied(c.probe(ctx, subject, unreadable), purpose)
}

// mayAck checks that deliveries of a consumer may be settled: a sign of life for
// sequence 0, which is no message.
func (c *checker) mayAck(ctx context.Context, prefix string) {
	if err := c.probe(ctx, prefix+".1.0.0.0.0", progressBody); err != nil {
		c.fail(transport.CodePermission, fmt.Sprintf("cannot settle messages: the account may not publish to %q", prefix+".>"), "grant the account this permission")
	}
}

// probe publishes to a subject and returns the server's refusal, if there is one.
// What answers is not waited for: servers before 2.10 say nothing of a consumer
// that does not exist.
func (c *checker) probe(ctx context.Context, subject string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	mark, nc := c.t.conn.Mark(), c.t.nc()
	if nc.PublishRequest(subject, nc.NewInbox(), body) != nil || c.t.conn.Flush(ctx) != nil {
		return nil // the connection is lost, which other questions tell
	}
	return c.t.conn.DeniedSince(mark, "check", natsconn.Publish, subject)
}

// mayRecord checks the permission to update the consumer. Without it all works
// but one thing.
func (c *checker) mayRecord(ctx context.Context, subject string) {
	if c.s.cfg.Mode == ModeVerify {
		return
	}
	_, _, err := c.t.ask(ctx, &nats.Msg{Subject: subject, Data: misdirected}, apiTimeout)
	if errors.Is(err, transport.ErrPermission) {
		c.add(transport.CodePermission, transport.LevelInfo,
			"the consumer cannot be made or updated, so that other processes count messages as delivered that a stop gives back unseen: "+err.Error(),
			"grant the account this permission, or let it be")
	}
}

// mayBury checks that dead letters may be published.
func (c *checker) mayBury(ctx context.Context) {
	subject := c.t.deadPrefix() + c.want.Subscription + ".check.check"
	probe := &nats.Msg{Subject: subject, Header: nats.Header{natsjs.ExpectedStreamHeader: {noStream}}}
	_, _, err := c.t.ask(ctx, probe, apiTimeout)
	c.denied(err, "store dead letters")
}
