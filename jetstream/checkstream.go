package jetstream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// stream checks the stream and returns it as it is, nil when it is missing or
// cannot be looked at.
func (c *checker) stream(ctx context.Context) *natsjs.StreamInfo {
	name := c.s.cfg.Stream
	c.s.plan.Store(nil)
	if !validName(name) {
		return nil
	}
	info, err := c.t.streamInfo(ctx, name)
	switch {
	case streamMissing(err):
		c.streamToMake(ctx)
		return nil
	case err != nil:
		c.unanswered(err, "look at the stream "+name)
		return nil
	}
	have := info.Config
	if c.s.cfg.Mode != ModeVerify && c.t.hasMade(name) {
		have = c.streamToGrow(ctx, have)
	}
	next := wantedStream(have, c.s.streamConfig(), c.s.cfg.Subjects, c.s.cfg.StreamConfig != nil)
	if diff := diffStream(next, have); len(diff) > 0 {
		c.drift(transport.CodeStreamDrift, "the stream "+name, diff)
	}
	c.watchable(have)
	c.streamKeeps(have)
	c.streamWaits(have)
	c.filtersInside(have)
	return info
}

// streamToMake checks a stream that is missing.
func (c *checker) streamToMake(ctx context.Context) {
	cfg := c.s.streamConfig()
	if c.s.cfg.Mode == ModeVerify {
		c.fail(transport.CodeStreamMissing, "the stream "+cfg.Name+" is missing, and the source is in verify mode", "make the stream, or "+letMake)
		return
	}
	if len(cfg.Subjects) == 0 && cfg.Mirror == nil && len(cfg.Sources) == 0 {
		c.fail(transport.CodeStreamMissing, "the stream "+cfg.Name+" is missing and no subjects are given to make it with", "say which subjects it takes (Subjects, or a whole StreamConfig)")
		return
	}
	c.subjectsFree(ctx, cfg.Name, cfg.Subjects)
	c.s.plan.Store(&cfg.Subjects)
	c.streamKeeps(cfg)
	c.streamWaits(cfg)
	c.filtersInside(cfg)
	c.inform(transport.CodeStreamCreated, "the stream "+cfg.Name+" will be created with the subjects "+list(cfg.Subjects))
}

// subjectsFree checks that no other stream takes the subjects.
func (c *checker) subjectsFree(ctx context.Context, stream string, subjects []string) {
	for _, subject := range subjects {
		owners, err := c.t.streamsFor(ctx, subject)
		if err != nil {
			c.unanswered(err, "look for other streams with the subject "+subject)
			return
		}
		owners = slices.DeleteFunc(owners, func(owner string) bool { return owner == stream })
		if len(owners) > 0 {
			c.fail(transport.CodeSubjectsOverlap, belongs(subject, owners), overlapFix)
		}
	}
}

func belongs(subject string, owners []string) string {
	return fmt.Sprintf("the subject %s belongs to the stream %s already", subject, strings.Join(owners, ", "))
}

const overlapFix = "name that stream in the source, or choose another subject"

// drift tells that something differs: an error in verify mode, which exists to
// say so, and news in update mode, which mends it.
func (c *checker) drift(code transport.Code, what string, diff []string) {
	switch c.s.cfg.Mode {
	case ModeVerify:
		c.fail(code, what+" differs from what the program asks for", "change the program or the server, or "+letChange, diff...)
	case ModeUpdate:
		c.add(code, transport.LevelInfo, what+" will be changed to what the program asks for", "", diff...)
	default:
		c.warn(code, what+" differs from what the program asks for", "change the program or the server, or "+letChange, diff...)
	}
}

// streamKeeps checks that the stream does not lose what it confirmed.
func (c *checker) streamKeeps(cfg natsjs.StreamConfig) {
	if cfg.NoAck {
		c.fail(transport.CodeNoAckStream, "the stream "+cfg.Name+" does not confirm publishes (no_ack)", "set no_ack to false")
	}
	if c.s.cfg.Ordered && cfg.Retention == natsjs.WorkQueuePolicy {
		c.fail(transport.CodeAckPolicy, "the stream "+cfg.Name+" is a work queue, whose consumers must ack, and an ordered consumer has no acks",
			"use a durable consumer, or a stream with limits retention")
	}
	limits := limitsOf(cfg)
	if cfg.Discard == natsjs.DiscardOld && len(limits) > 0 {
		fact := fmt.Sprintf("the stream %s discards its oldest messages, handled or not, when it reaches %s", cfg.Name, strings.Join(limits, ", "))
		fix := "set discard to new, so that publishers are told, or remove the limit"
		if cfg.Retention == natsjs.LimitsPolicy {
			c.warn(transport.CodeDiscardOld, fact, fix)
		} else {
			c.fail(transport.CodeDiscardOld, fact, fix)
		}
	}
	if cfg.Retention == natsjs.InterestPolicy {
		c.warn(transport.CodeInterest, "the stream "+cfg.Name+" stores a message only while a consumer wants it: what is published before the consumer exists is confirmed and gone",
			"make the consumer before anything is published, or use limits or work-queue retention")
	}
}

// limitsOf lists the limits that make a stream discard.
func limitsOf(cfg natsjs.StreamConfig) []string {
	var out []string
	if cfg.MaxMsgs > 0 {
		out = append(out, fmt.Sprintf("max_msgs %d", cfg.MaxMsgs))
	}
	if cfg.MaxBytes > 0 {
		out = append(out, fmt.Sprintf("max_bytes %d", cfg.MaxBytes))
	}
	if cfg.MaxMsgsPerSubject > 0 {
		out = append(out, fmt.Sprintf("max_msgs_per_subject %d", cfg.MaxMsgsPerSubject))
	}
	return out
}

// streamWaits checks that a message may wait for its turn as long as it must.
func (c *checker) streamWaits(cfg natsjs.StreamConfig) {
	if cfg.MaxAge <= 0 {
		return
	}
	delay := c.want.MaxDelay
	if c.s.parks(c.want) { // what waits for longer waits elsewhere
		delay = min(delay, c.t.set.park.After)
	}
	if c.want.Delay && cfg.MaxAge <= delay {
		c.fail(transport.CodeExpires, fmt.Sprintf("the stream %s removes messages after %s, and a retry may wait %s", cfg.Name, cfg.MaxAge, delay),
			"raise max_age, or shorten the backoff")
		return
	}
	if cfg.Retention != natsjs.LimitsPolicy || cfg.MaxAge < 10*max(delay, time.Minute) {
		c.warn(transport.CodeExpires, fmt.Sprintf("the stream %s removes messages after %s, handled or not", cfg.Name, cfg.MaxAge),
			"make sure that no outage of the consumer lasts that long, or remove max_age")
	}
}

// filtersInside checks that each filter selects something the stream stores.
func (c *checker) filtersInside(cfg natsjs.StreamConfig) {
	if cfg.Mirror != nil || len(cfg.Sources) > 0 || cfg.SubjectTransform != nil {
		return // what it stores is said elsewhere
	}
	subjects := cfg.Subjects
	if c.s.cfg.Mode == ModeUpdate {
		subjects = wantedStream(cfg, c.s.streamConfig(), c.s.cfg.Subjects, c.s.cfg.StreamConfig != nil).Subjects
	}
	for _, f := range c.s.cfg.Subjects {
		switch {
		case coveredBy(f, subjects):
		case firstOverlap([]string{f}, subjects) == "":
			c.fail(transport.CodeFilterOutside, fmt.Sprintf("the filter %s selects nothing that the stream %s stores (%s)", f, cfg.Name, list(subjects)),
				"correct the filter, or add the subject to the stream"+mended)
		default:
			c.warn(transport.CodeFilterOutside, fmt.Sprintf("the filter %s is wider than what the stream %s stores (%s)", f, cfg.Name, list(subjects)),
				"narrow the filter, or add the subject to the stream")
		}
	}
}

// coveredBy tells whether every subject that f selects is selected by one of
// outers.
func coveredBy(f string, outers []string) bool {
	for _, o := range outers {
		if natsconn.Matches(o, f) {
			return true
		}
	}
	return false
}

// firstOverlap returns the first of bs that shares a subject with one of as, or
// "".
func firstOverlap(as, bs []string) string {
	for _, b := range bs {
		for _, a := range as {
			if natsconn.Overlap(a, b) {
				return b
			}
		}
	}
	return ""
}
