package jetstream

import (
	"context"
	"fmt"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// minDeadBytes is what a bounded dead-letter stream must hold at least.
const minDeadBytes = 16 << 20

// envelopeRoom is how much larger than its original a dead letter may be.
const envelopeRoom = 16 << 10

// dead checks the dead-letter store; src is the stream of the source, nil when
// it is missing.
func (c *checker) dead(ctx context.Context, src *natsjs.StreamInfo) {
	want := c.t.deadConfig()
	info, ok := c.ownStream(ctx, want, transport.CodeDeadMissing)
	if !ok {
		return
	}
	have := want
	if info != nil {
		have = info.Config
	}
	c.deadKeeps(have)
	c.deadCaptures(have)
	if info != nil {
		c.deadRoom(have, src)
	}
	c.redrive(ctx)
}

// CheckStore implements transport.PreparedStore: the dead-letter stream, the
// redrive stream, and the permission to store dead letters.
func (s *deadStore) CheckStore(ctx context.Context, subscription string) ([]transport.Finding, error) {
	t := s.t()
	c := &checker{t: t, s: &source{t: t}, want: transport.Want{Subscription: subscription}, at: t.deadStream()}
	c.burier()
	if !c.account(ctx) {
		return c.findings, c.err
	}
	c.dead(ctx, nil)
	if c.err == nil && validToken(subscription) {
		c.mayBury(ctx)
	}
	return c.findings, c.err
}

// burier checks that the subscription can have dead letters here.
func (c *checker) burier() {
	if !validToken(c.want.Subscription) {
		c.fail(transport.CodeInvalid, "the subscription name "+quote(c.want.Subscription)+" cannot be part of a dead letter's address",
			"use letters, digits, '-' and '_' only")
	}
}

// ownStream looks one of our own streams up. info is nil when it will be made,
// ok is false when it cannot be used.
func (c *checker) ownStream(ctx context.Context, want natsjs.StreamConfig, code transport.Code) (info *natsjs.StreamInfo, ok bool) {
	info, err := c.t.streamInfo(ctx, want.Name)
	switch {
	case streamMissing(err) && c.t.set.dead.Mode == ModeVerify:
		c.fail(code, "the stream "+want.Name+" is missing, and dead letters are in verify mode", "make the stream, or for dead letters too "+letMake)
		return nil, false
	case streamMissing(err):
		c.inform(transport.CodeDeadCreated, "the stream "+want.Name+" will be created with the subjects "+list(want.Subjects))
		return nil, true
	case err != nil:
		c.unanswered(err, "look at the stream "+want.Name)
		return nil, false
	}
	if !coveredBy(want.Subjects[0], info.Config.Subjects) {
		c.fail(code, fmt.Sprintf("the stream %s takes %s and not %s", want.Name, list(info.Config.Subjects), want.Subjects[0]), "add the subject to the stream, or let the names of holdfast's own streams begin otherwise (Namespace)")
		return info, false
	}
	return info, true
}

// deadKeeps checks that nothing but a person removes a dead letter.
func (c *checker) deadKeeps(have natsjs.StreamConfig) {
	if have.Retention != natsjs.LimitsPolicy {
		c.fail(transport.CodeDeadRetention, fmt.Sprintf("the dead-letter stream %s has %s retention: reading a dead letter would remove it", have.Name, have.Retention),
			"make it again with limits retention")
	}
	if have.MaxAge > 0 {
		c.warn(transport.CodeDeadExpires, fmt.Sprintf("the dead-letter stream %s throws dead letters away after %s", have.Name, have.MaxAge), "remove max_age")
	}
	if limits := limitsOf(have); have.Discard == natsjs.DiscardOld && len(limits) > 0 {
		c.fail(transport.CodeDeadExpires, fmt.Sprintf("the dead-letter stream %s throws the oldest dead letters away when it reaches %s", have.Name, limits[0]),
			"set discard to new: a full stream then refuses, and messages stay where they are")
	}
	if have.NoAck {
		c.fail(transport.CodeNoAckStream, "the dead-letter stream "+have.Name+" does not confirm publishes (no_ack)", "set no_ack to false")
	}
	if have.Sealed {
		c.fail(transport.CodeDeadMissing, "the dead-letter stream "+have.Name+" is sealed and takes nothing", "let the names of holdfast's own streams begin otherwise (Namespace)")
	}
}

// deadCaptures checks that the store does not take what the source should get.
func (c *checker) deadCaptures(have natsjs.StreamConfig) {
	for _, f := range c.s.cfg.Subjects {
		if own := firstOverlap([]string{f}, have.Subjects); own != "" {
			c.fail(transport.CodeDeadCaptures, fmt.Sprintf("the dead-letter stream %s takes %s, which overlaps the source's %s", have.Name, own, f),
				"narrow the subjects of the source or of the dead-letter stream")
		}
	}
	if c.s.cfg.Stream == have.Name {
		c.fail(transport.CodeDeadCaptures, "the source is the dead-letter stream itself", "take dead letters through package deadletter")
	}
}

// deadRoom checks that the largest message of the source fits.
func (c *checker) deadRoom(have natsjs.StreamConfig, src *natsjs.StreamInfo) {
	largest := c.t.nc().MaxPayload()
	if src != nil && src.Config.MaxMsgSize > 0 {
		largest = min(largest, int64(src.Config.MaxMsgSize)+envelopeRoom)
	}
	if have.MaxMsgSize > 0 && int64(have.MaxMsgSize) < largest {
		c.fail(transport.CodeDeadSize, fmt.Sprintf("the dead-letter stream %s takes %d bytes per message, and a dead letter may have %d", have.Name, have.MaxMsgSize, largest),
			"remove max_msg_size from it")
	}
	if have.MaxBytes > 0 && have.MaxBytes < minDeadBytes {
		c.fail(transport.CodeDeadSize, fmt.Sprintf("the dead-letter stream %s holds %d bytes in all", have.Name, have.MaxBytes), fmt.Sprintf("set max_bytes to %d or more", minDeadBytes))
	}
	if have.MaxMsgs > 0 && have.MaxMsgs < 1000 {
		c.fail(transport.CodeDeadSize, fmt.Sprintf("the dead-letter stream %s holds %d dead letters", have.Name, have.MaxMsgs), "remove max_msgs from it")
	}
}

// redrive checks the way back: the stream and this subscription's consumer.
func (c *checker) redrive(ctx context.Context) {
	info, ok := c.ownStream(ctx, c.t.redriveConfig(), transport.CodeRedriveStream)
	if !ok || info == nil {
		return
	}
	if info.Config.Retention != natsjs.WorkQueuePolicy {
		c.warn(transport.CodeRedriveStream, fmt.Sprintf("the redrive stream %s has %s retention: what was redriven and handled stays there", info.Config.Name, info.Config.Retention),
			"make it again with work-queue retention")
	}
	if !c.want.DeadLetter || !validToken(c.want.Subscription) {
		return // what is not from this transport does not come back over it
	}
	have, err := c.t.consumerInfo(ctx, info.Config.Name, c.want.Subscription)
	switch {
	case consumerMissing(err) && c.t.set.dead.Mode == ModeVerify:
		c.fail(transport.CodeRedriveStream, "the consumer "+info.Config.Name+"/"+c.want.Subscription+" is missing, and dead letters are in verify mode", "make it, or for dead letters too "+letMake)
	case consumerMissing(err):
	case err != nil:
		c.unanswered(err, "look at the redrive consumer")
	case have.Config.MaxDeliver > 0 && have.Config.MaxDeliver < netDeliveries:
		c.fail(transport.CodeRedriveStream, fmt.Sprintf("the redrive consumer %s/%s gives up after %d deliveries", info.Config.Name, have.Name, have.Config.MaxDeliver), "set max_deliver to -1")
	}
}
