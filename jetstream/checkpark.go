package jetstream

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// parking makes the park stream and this subscription's consumer on it.
func (p *provisioner) parking(ctx context.Context, s *source) error {
	cfg := p.t.parkConfig()
	if err := p.stream(ctx, cfg, p.t.set.park.Mode, cfg.Subjects, true); err != nil {
		return err
	}
	return p.consumer(ctx, cfg.Name, s.parkConsumer(), p.t.set.park.Mode, false)
}

// parking checks the park stream; src is the stream of the source, nil when it is
// missing.
func (c *checker) parking(ctx context.Context, src *natsjs.StreamInfo) {
	want := c.t.parkConfig()
	info, err := c.t.streamInfo(ctx, want.Name)
	switch {
	case streamMissing(err) && c.t.set.park.Mode == ModeVerify:
		c.fail(transport.CodeParkStream, "the stream "+want.Name+" is missing, and parking is in verify mode", "make the stream, or for parking too "+letMake)
		return
	case streamMissing(err):
		c.inform(transport.CodeParkCreated, "the stream "+want.Name+" will be created with the subjects "+list(want.Subjects))
		c.parkSafety(want, src)
		return
	case err != nil:
		c.unanswered(err, "look at the stream "+want.Name)
		return
	}
	c.parkKeeps(info.Config)
	c.parkSafety(info.Config, src)
	c.parkTaker(ctx)
}

// parkKeeps checks that the stream keeps each copy until it was handled.
func (c *checker) parkKeeps(have natsjs.StreamConfig) {
	bad := func(fact, fix string) { c.fail(transport.CodeParkStream, "the park stream "+have.Name+" "+fact, fix) }
	if !coveredBy(c.s.parkFilter(), have.Subjects) {
		bad(fmt.Sprintf("takes %s and not %s", list(have.Subjects), c.s.parkFilter()), "add the subject "+c.t.parkPrefix()+"> to the stream, or let the names of holdfast's own streams begin otherwise (Namespace)")
	}
	if have.Retention != natsjs.WorkQueuePolicy {
		bad(fmt.Sprintf("has %s retention: messages that were handled would stay in the way of their own next retry", have.Retention), "make it again with work-queue retention")
	}
	if have.MaxMsgsPerSubject != 1 {
		bad(fmt.Sprintf("keeps %d messages for each subject: a message that is parked twice would be handled twice", have.MaxMsgsPerSubject), "set max_msgs_per_subject to 1")
	}
	if have.MaxAge > 0 {
		bad(fmt.Sprintf("throws messages away after %s", have.MaxAge), "remove max_age")
	}
	if have.Discard == natsjs.DiscardOld && (have.MaxMsgs > 0 || have.MaxBytes > 0) {
		bad("throws the oldest messages away when it is full", "set discard to new: retries then wait in their consumer")
	}
	if have.NoAck {
		bad("does not confirm publishes (no_ack)", "set no_ack to false")
	}
	if have.Sealed {
		bad("is sealed and takes nothing", "let the names of holdfast's own streams begin otherwise (Namespace)")
	}
}

// parkSafety checks that parking does not make a message less safe.
func (c *checker) parkSafety(have natsjs.StreamConfig, src *natsjs.StreamInfo) {
	if src == nil {
		return
	}
	if mine, its := max(have.Replicas, 1), max(src.Config.Replicas, 1); mine < its {
		c.warn(transport.CodeParkWeaker, fmt.Sprintf("the park stream %s has %d replicas and the stream %s has %d", have.Name, mine, src.Config.Name, its),
			"give the park stream as many replicas (Parking, Replicas)")
	}
	if have.Storage == natsjs.MemoryStorage && src.Config.Storage == natsjs.FileStorage {
		c.warn(transport.CodeParkWeaker, "the park stream "+have.Name+" is in memory, and is gone after a restart of the server", "make it again with file storage")
	}
}

// parkTaker checks the consumer that brings back what was parked.
func (c *checker) parkTaker(ctx context.Context) {
	address := c.t.parkStream() + "/" + c.s.parkName()
	have, err := c.t.consumerInfo(ctx, c.t.parkStream(), c.s.parkName())
	switch {
	case consumerMissing(err) && c.t.set.park.Mode == ModeVerify:
		c.fail(transport.CodeParkStream, "the consumer "+address+" is missing, and parking is in verify mode", "make it, or for parking too "+letMake)
	case consumerMissing(err):
	case err != nil:
		c.unanswered(err, "look at the consumer "+address)
	case have.Config.MaxDeliver > 0 && have.Config.MaxDeliver < netDeliveries:
		c.fail(transport.CodeParkStream, fmt.Sprintf("the consumer %s gives up after %d deliveries", address, have.Config.MaxDeliver), "set max_deliver to -1")
	case len(have.Config.BackOff) > 0:
		c.fail(transport.CodeParkStream, "the consumer "+address+" has a backoff, which the server adds to every delay", "remove the backoff from the consumer")
	case have.Config.MaxAckPending > 0:
		c.warn(transport.CodeParkStream, fmt.Sprintf("the consumer %s keeps %d messages back at most: those beyond wait unseen, and come late", address, have.Config.MaxAckPending), "set max_ack_pending to -1")
	}
}

// mayPark checks that messages may be parked, found and taken again.
func (c *checker) mayPark(ctx context.Context) {
	at := c.t.parkStream() + "." + c.s.parkName()
	probe := &nats.Msg{Subject: c.s.parkProbe(), Header: nats.Header{natsjs.ExpectedStreamHeader: {noStream}}}
	_, _, err := c.t.ask(ctx, probe, apiTimeout)
	c.denied(err, "park messages")
	_, err = c.t.get(ctx, c.t.parkStream(), getRequest{LastFor: c.s.parkProbe()})
	c.denied(err, "look for parked messages")
	c.mayTake(ctx, c.t.api+"CONSUMER.MSG.NEXT."+at, "take parked messages")
	c.mayAck(ctx, ackPrefix+at)
}

// parkProbe is the subject of a copy that there never is.
func (s *source) parkProbe() string {
	return s.t.parkPrefix() + s.cfg.Stream + "." + s.cfg.Durable + ".check"
}
