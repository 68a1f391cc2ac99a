package jetstream

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

var _ transport.Permitted = (*source)(nil)

// grant is one permission of a subscription.
type grant struct {
	subject string // to publish to; or to subscribe to
	purpose string // what cannot be done without it; empty: Check asks elsewhere
	body    []byte // of a question that the server answers and does not act upon
	// makes names the stream that only has to be made or changed with it, if it
	// is not there or not as it should be.
	makes string
}

// Permissions implements transport.Permitted. In mode verify it leaves out what
// makes and changes streams and consumers.
func (s *source) Permissions(ctx context.Context, want transport.Want) transport.Permissions {
	p := transport.Permissions{Subscribe: []string{s.t.inboxes()}}
	behind := s.leavesBehind(ctx)
	for _, n := range unique(s.needs(want, behind)) {
		p.Publish = append(p.Publish, n.subject)
	}
	p.Publish = widest(p.Publish)
	if behind {
		p.Subscribe = append(p.Subscribe, s.advisories())
	}
	return p
}

// inboxes is what answers come to.
func (t *Transport) inboxes() string {
	own := strings.TrimSuffix(t.inbox.prefix, ".")
	return own[:strings.LastIndexByte(own, '.')+1] + ">"
}

// leavesBehind tells whether messages may be left behind that the subscription
// then reads from the stream itself: with a delivery limit, or in a work queue.
func (s *source) leavesBehind(ctx context.Context) bool {
	if s.cfg.Durable == "" {
		return false
	}
	stream, err := s.t.streamInfo(ctx, s.cfg.Stream)
	if streamMissing(err) {
		return s.streamConfig().Retention == natsjs.WorkQueuePolicy
	}
	if err != nil || stream.Config.Retention == natsjs.WorkQueuePolicy {
		return true
	}
	info, err := s.t.consumerInfo(ctx, s.cfg.Stream, s.cfg.Durable)
	return err == nil && info.Config.MaxDeliver > 0
}

// advisories is where the server tells of messages that were left behind.
func (s *source) advisories() string {
	return "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + s.cfg.Stream + "." + s.cfg.Durable
}

// needs lists all that the subscription publishes to.
func (s *source) needs(want transport.Want, leavesBehind bool) []grant {
	api := s.t.api
	out := []grant{{subject: api + "INFO"}}
	out = append(out, s.t.streamNeeds(s.cfg.Stream, s.cfg.Mode)...)
	out = append(out, s.consumerNeeds()...)
	if leavesBehind {
		out = append(out, grant{subject: api + "STREAM.MSG.GET." + s.cfg.Stream, purpose: "read messages that were left behind", body: []byte("{}")})
	}
	if want.DeadLetter && validToken(want.Subscription) {
		out = append(out, s.t.deadNeeds(want)...)
	}
	if s.cfg.Durable != "" && s.watch == nil {
		out = append(out, s.parkNeeds(want)...)
	}
	return out
}

// streamNeeds are for looking at a stream, and for making it.
func (t *Transport) streamNeeds(stream string, mode Mode) []grant {
	out := []grant{{subject: t.api + "STREAM.INFO." + stream}}
	if mode == ModeVerify {
		return out
	}
	other := []byte(`{"name":"` + noStream + `"}`)
	for _, verb := range []string{"CREATE", "UPDATE"} {
		out = append(out, grant{
			subject: t.api + "STREAM." + verb + "." + stream, body: other, makes: stream,
			purpose: "make or extend the stream " + stream,
		})
	}
	return append(out, grant{
		subject: t.api + "STREAM.NAMES", makes: stream, body: []byte(`{"subject":"` + noStream + `"}`),
		purpose: "look for other streams with the subjects of the stream " + stream,
	})
}

// consumerNeeds are for the consumer of the source. One without a durable name
// has another name each time.
func (s *source) consumerNeeds() []grant {
	if s.cfg.Durable != "" {
		out := s.t.takeNeeds(s.cfg.Stream, s.cfg.Durable, s.cfg.Mode)
		for i := range out {
			out[i].purpose = "" // see access
		}
		if s.watch != nil {
			for _, n := range s.t.lookNeeds(s.cfg.Stream) { // to count what it missed
				n.makes = s.cfg.Stream
				out = append(out, n)
			}
		}
		return out
	}
	at := s.cfg.Stream + ".*"
	if s.cfg.Ordered { // nothing is settled
		out := []grant{{subject: s.t.api + "CONSUMER.MSG.NEXT." + at, purpose: "take messages", body: unreadable}}
		if c := s.cfg.Consumer; c != nil && c.ReplayPolicy == natsjs.ReplayOriginalPolicy {
			out = append(out, grant{subject: s.t.api + "CONSUMER.INFO." + at, purpose: "look at the consumer", body: []byte("")})
		}
		return append(out, s.t.lookNeeds(s.cfg.Stream)...)
	}
	out := []grant{
		{subject: s.t.api + "CONSUMER.MSG.NEXT." + at, purpose: "take messages", body: unreadable},
		{subject: ackPrefix + at + ".>", purpose: "settle messages"},
		{subject: s.t.api + "CONSUMER.INFO." + at, purpose: "look at the consumer", body: []byte("")},
	}
	return append(out, s.t.lookNeeds(s.cfg.Stream)...)
}

// lookNeeds are for consumers that are made for a while.
func (t *Transport) lookNeeds(stream string) []grant {
	return []grant{
		{subject: t.api + "CONSUMER.CREATE." + stream + ".*", purpose: "make a consumer", body: misdirected},
		{subject: t.api + "CONSUMER.DELETE." + stream + ".*", purpose: "remove a consumer that was made", makes: stream},
	}
}

// takeNeeds are for taking messages from a durable consumer.
func (t *Transport) takeNeeds(stream, consumer string, mode Mode) []grant {
	at := stream + "." + consumer
	out := []grant{
		{subject: t.api + "CONSUMER.INFO." + at},
		{subject: t.api + "CONSUMER.MSG.NEXT." + at, purpose: "take messages from " + stream, body: unreadable},
		{subject: ackPrefix + at + ".>", purpose: "settle messages of " + stream},
	}
	if mode != ModeVerify {
		out = append(out, grant{
			subject: t.api + "CONSUMER.CREATE." + at, makes: stream, body: misdirected,
			purpose: "make or update the consumer " + consumer + " of " + stream,
		})
	}
	return out
}

// deadNeeds are for burying messages, and for taking what is redriven.
func (t *Transport) deadNeeds(want transport.Want) []grant {
	mode := t.set.dead.Mode
	out := []grant{{subject: t.deadPrefix() + want.Subscription + ".>"}}
	out = append(out, t.streamNeeds(t.deadStream(), mode)...)
	out = append(out, t.streamNeeds(t.redriveStream(), mode)...)
	return append(out, t.takeNeeds(t.redriveStream(), want.Subscription, mode)...)
}

// parkNeeds are for what is parked. Where nothing is parked any more, something
// may have been left by a policy of before.
func (s *source) parkNeeds(want transport.Want) []grant {
	stream, name, mode := s.t.parkStream(), s.parkName(), s.t.set.park.Mode
	if !s.parks(want) {
		look := grant{subject: s.t.api + "CONSUMER.INFO." + stream + "." + name, makes: stream, body: []byte(""), purpose: "look for parked messages"}
		return []grant{look}
	}
	out := []grant{{subject: s.parkFilter()}, {subject: s.t.api + "STREAM.MSG.GET." + stream}}
	out = append(out, s.t.streamNeeds(stream, mode)...)
	for _, n := range s.t.takeNeeds(stream, name, mode) {
		if n.makes == "" {
			n.purpose = "" // see mayPark
		}
		out = append(out, n)
	}
	return out
}

// unique leaves out what is listed before.
func unique(needs []grant) []grant {
	var out []grant
	for _, n := range needs {
		if !slices.ContainsFunc(out, func(have grant) bool { return have.subject == n.subject }) {
			out = append(out, n)
		}
	}
	return out
}

// widest leaves out what another subject of the list allows as well.
func widest(subjects []string) []string {
	var out []string
	for _, s := range subjects {
		if !slices.ContainsFunc(subjects, func(other string) bool { return other != s && natsconn.Matches(other, s) }) {
			out = append(out, s)
		}
	}
	return out
}

// permitted checks each permission that no other question has used.
func (c *checker) permitted(ctx context.Context) {
	if d := c.s.cfg.Durable; d != "" && !validName(d) {
		return
	}
	behind := c.s.leavesBehind(ctx)
	for _, n := range unique(c.s.needs(c.want, behind)) {
		switch {
		case n.purpose == "":
		case strings.HasPrefix(n.subject, ackPrefix):
			c.mayAck(ctx, strings.TrimSuffix(probed(n.subject), ".>"))
		case strings.HasPrefix(n.subject, c.t.api+"CONSUMER.MSG.NEXT."):
			c.lacks(c.probe(ctx, probed(n.subject), n.body), n)
		default:
			_, _, err := c.t.ask(ctx, &nats.Msg{Subject: probed(n.subject), Data: n.body}, apiTimeout)
			c.lacks(err, n)
		}
	}
	if behind {
		c.mayHear(ctx, c.s.advisories())
	}
}

// probed is a subject that the permission allows and nobody uses.
func probed(subject string) string { return strings.ReplaceAll(subject, ".*", "."+noStream) }

// lacks adds the finding that a permission is missing. It is no error where all
// that could be made with it is there.
func (c *checker) lacks(err error, n grant) {
	if n.makes == "" || c.makes(n.makes) || err == nil {
		c.denied(err, n.purpose)
		return
	}
	found := len(c.findings)
	if c.denied(err, n.purpose) {
		f := &c.findings[found]
		f.Level, f.Fix = transport.LevelInfo, "grant the account this permission, or set the mode verify and make what is missing by hand"
	}
}

// makes tells whether a stream, or the consumer on it, will be made.
func (c *checker) makes(stream string) bool {
	return slices.ContainsFunc(c.findings, func(f transport.Finding) bool {
		made := f.Code == transport.CodeStreamCreated || f.Code == transport.CodeConsumerCreated || f.Code == transport.CodeDeadCreated
		return made && strings.Contains(f.Fact, stream)
	})
}

// mayHear checks that a subject may be subscribed to, in the way that rescuers
// do. What comes meanwhile is told to others of the group as well, later.
func (c *checker) mayHear(ctx context.Context, subject string) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	mark := c.t.conn.Mark()
	sub, err := c.t.nc().SubscribeSync(subject)
	if err != nil {
		return // the connection is lost, which other questions tell
	}
	_ = sub.Unsubscribe() // fails when the connection is gone
	if c.t.conn.Flush(ctx) != nil {
		return
	}
	if c.t.conn.DeniedSince(mark, "check", natsconn.Subscribe, subject) != nil {
		c.fail(transport.CodePermission, fmt.Sprintf("cannot hear of messages that were left behind: the account may not subscribe to %q", subject), "grant the account this permission")
	}
}
