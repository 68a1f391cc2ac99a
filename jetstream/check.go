package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// Check implements transport.Transport. It asks the server about the stream,
// the consumer and the dead-letter store and changes nothing. A permission that
// is missing for a question is a finding, and what could not be asked is left
// out. So is a permission that is missing for taking messages, settling them or
// burying them. What handlers publish themselves cannot be checked.
func (t *Transport) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	s, err := t.sourceOf("check", src)
	if err != nil {
		return nil, err
	}
	c := &checker{t: t, s: s, want: want, at: s.address()}
	c.settings()
	if !c.account(ctx) {
		return c.findings, c.err
	}
	info := c.stream(ctx)
	c.consumer(ctx, info)
	c.schedules(info)
	if want.DeadLetter {
		c.dead(ctx, info)
	}
	if s.parks(want) {
		c.parking(ctx, info)
	}
	if c.err == nil {
		c.access(ctx)
	}
	return c.findings, c.err
}

// checker collects the findings about one subscription.
type checker struct {
	t        *Transport
	s        *source
	want     transport.Want
	at       string // how errors call what is checked
	findings []transport.Finding
	err      error // the check could not be made
}

func (c *checker) add(code transport.Code, level transport.Level, fact, fix string, diff ...string) {
	c.findings = append(c.findings, transport.Finding{
		Code: code, Level: level, Subscription: c.want.Subscription, Fact: fact, Fix: fix, Diff: diff,
	})
}

func (c *checker) fail(code transport.Code, fact, fix string, diff ...string) {
	c.add(code, transport.LevelError, fact, fix, diff...)
}

func (c *checker) warn(code transport.Code, fact, fix string, diff ...string) {
	c.add(code, transport.LevelWarning, fact, fix, diff...)
}

func (c *checker) inform(code transport.Code, fact string) {
	c.add(code, transport.LevelInfo, fact, "")
}

// settings checks what can be said without the server.
func (c *checker) settings() {
	for _, fault := range c.s.faults() {
		c.fail(transport.CodeInvalid, fault, "correct the source")
	}
	for _, r := range c.s.refusals(c.want) {
		c.fail(r.code, r.fact, r.fix)
	}
	if c.want.Reply {
		c.fail(transport.CodeNoReply, "JetStream keeps messages for later and has no replies", "answer requests on core NATS: package natscore")
	}
	if c.want.DeadLetter {
		c.burier()
	}
	if c.s.watch != nil {
		c.watched()
	}
	if lease := c.s.cfg.AckWait; lease > 0 && lease < minAckWait {
		c.fail(transport.CodeAckWait, fmt.Sprintf("AckWait is %s, which is too short to be kept up reliably", lease),
			fmt.Sprintf("set AckWait to %s or more; the lease of a handler that runs longer is extended", minAckWait))
	}
	if n := c.s.cfg.MaxAckPending; n > 0 && n < c.want.Window() {
		c.fail(transport.CodeMaxAckPending, fmt.Sprintf("MaxAckPending is %d and this subscription takes %d messages at once", n, c.want.Window()),
			"raise MaxAckPending, or lower concurrency and prefetch")
	}
}

// account checks that there is JetStream at all, and what the server can do. It
// returns false when nothing more can be asked.
func (c *checker) account(ctx context.Context) bool {
	_, err := c.t.accountInfo(ctx)
	if c.t.inbox.refused() != nil {
		c.fail(transport.CodePermission, fmt.Sprintf("cannot get answers: the account may not subscribe to %q", c.t.inboxes()),
			"grant the account this permission, or give the connection another inbox prefix (WithInboxPrefix)")
		return false
	}
	if c.noJetStream(err) {
		return false
	}
	if err != nil && !c.denied(err, "look at the account") {
		c.err = seamError("check", c.at, err, false)
		return false
	}
	for _, fact := range c.s.beyond() {
		c.fail(transport.CodeServerTooOld, fact, oldFix)
	}
	return true
}

// noJetStream adds the finding that there is no JetStream, if err says so.
func (c *checker) noJetStream(err error) bool {
	missing := errors.Is(err, nats.ErrNoResponders) ||
		isCode(err, natsjs.JSErrCodeJetStreamNotEnabled, natsjs.JSErrCodeJetStreamNotEnabledForAccount)
	if missing {
		c.fail(transport.CodeNoJetStream, "the server or this account has no JetStream",
			"enable JetStream on the server (-js) and for the account, or use package natscore for at-most-once")
	}
	return missing
}

// denied adds the finding that a permission is missing, if err says so.
func (c *checker) denied(err error, purpose string) bool {
	if !errors.Is(err, transport.ErrPermission) {
		return false
	}
	c.fail(transport.CodePermission, "cannot "+purpose+": "+err.Error(), "grant the account this permission")
	return true
}

// unanswered handles an error of a question: a finding, or the end of the check.
func (c *checker) unanswered(err error, purpose string) {
	if c.denied(err, purpose) {
		return
	}
	if c.err == nil {
		c.err = seamError("check", c.at, err, false)
	}
}
