package jetstream

import (
	"context"
	"fmt"
	"slices"
	"strings"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// netDeliveries is a delivery limit that can only be meant as a net under the
// policy, far above what any policy needs.
const netDeliveries = 1000

// consumer checks the consumer; stream is nil when it is missing.
func (c *checker) consumer(ctx context.Context, stream *natsjs.StreamInfo) {
	s := c.s
	if s.cfg.Durable == "" {
		c.priority(s.consumerConfig(""))
		if s.cfg.Start.IsZero() {
			c.noStart("a consumer without a durable name begins anew with every start of the program, and no start is given")
		}
		return
	}
	if !validName(s.cfg.Stream) || !validName(s.cfg.Durable) {
		return
	}
	if stream == nil {
		c.consumerToMake()
		return
	}
	info, err := c.t.consumerInfo(ctx, s.cfg.Stream, s.cfg.Durable)
	switch {
	case consumerMissing(err):
		c.consumerToMake()
	case err != nil:
		c.unanswered(err, "look at the consumer "+s.address())
	default:
		c.consumerIs(info)
		c.stranded(ctx, stream, info)
	}
}

func (c *checker) noStart(fact string) {
	c.fail(transport.CodeNoStart, fact, "say where it starts (Start): with all that the stream holds (StartAll), or with what comes from now on (StartNew)")
}

func (c *checker) consumerToMake() {
	s := c.s
	if s.cfg.Mode == ModeVerify {
		c.fail(transport.CodeConsumerMissing, "the consumer "+s.address()+" is missing, and the source is in verify mode", "make the consumer, or "+letMake)
		return
	}
	if s.cfg.Start.IsZero() {
		c.noStart("the consumer " + s.address() + " is missing, and no start is given to make it with")
		return
	}
	c.priority(s.consumerConfig(s.cfg.Durable))
	c.inform(transport.CodeConsumerCreated, fmt.Sprintf("the consumer %s will be created, filters: %s", s.address(), list(s.cfg.Subjects)))
}

// consumerIs checks a consumer that exists. In update mode only what an update
// cannot mend is an error.
func (c *checker) consumerIs(info *natsjs.ConsumerInfo) {
	have, address := info.Config, c.s.address()
	if have.DeliverSubject != "" {
		c.fail(transport.CodePushConsumer, "the consumer "+address+" is a push consumer, which cannot be pulled from", "use another durable name")
		return
	}
	if have.AckPolicy != natsjs.AckExplicitPolicy {
		c.fail(transport.CodeAckPolicy, fmt.Sprintf("the consumer %s has the ack policy %s; messages would count as done before they are", address, have.AckPolicy),
			"use another durable name: the policy of a consumer cannot be changed")
		return
	}
	wanted := c.s.consumerConfig(c.s.cfg.Durable)
	diff := diffConsumer(wanted, have)
	if c.s.cfg.Mode != ModeUpdate {
		c.redelivery(have)
	}
	c.priority(have)
	if have.MemoryStorage {
		c.warn(transport.CodeMemoryConsumer, "the consumer "+address+" keeps its state in memory: after a restart of the server it is gone", "make it again with file storage")
	}
	if info.Paused {
		c.warn(transport.CodeConsumerPaused, fmt.Sprintf("the consumer %s is paused for %s", address, info.PauseRemaining), "resume it, or wait")
	}
	if len(diff) == 0 {
		return
	}
	if !sameSet(filtersOf(wanted), filtersOf(have)) && c.s.cfg.Mode != ModeUpdate {
		c.fail(transport.CodeConsumerDrift, fmt.Sprintf("the consumer %s takes %s and the program asks for %s", address, list(filtersOf(have)), list(filtersOf(wanted))),
			"use another durable name for another set of subjects, or "+letChange, diff...)
		return
	}
	if stays := fixedSettings(diff); len(stays) > 0 && c.s.cfg.Mode == ModeUpdate {
		c.fail(transport.CodeConsumerDrift, "the consumer "+address+" differs in what cannot be changed: "+strings.Join(stays, ", "),
			"use another durable name, or ask for what the consumer has", diff...)
		return
	}
	c.drift(transport.CodeConsumerDrift, "the consumer "+address, diff)
}

// priority checks how the source pulls from a consumer with a priority policy.
func (c *checker) priority(cfg natsjs.ConsumerConfig) {
	if fault := c.s.cfg.Priority.fault(cfg); fault != "" {
		c.fail(transport.CodeInvalid, fault, "correct Priority, or the priority policy of the consumer")
	}
}

// fixedSettings are the differences that no update of a consumer can mend.
func fixedSettings(diff []string) []string {
	var names []string
	for _, line := range diff {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "replay_policy", "max_waiting":
			names = append(names, name)
		}
	}
	return names
}

// redelivery checks the settings that decide over redelivery and would
// contradict the policy.
func (c *checker) redelivery(have natsjs.ConsumerConfig) {
	address := c.s.address()
	switch n := have.MaxDeliver; {
	case n <= 0:
	case n < netDeliveries && (c.want.Redelivery || c.want.DeadLetter):
		c.fail(transport.CodeMaxDeliver, fmt.Sprintf("the consumer %s gives up after %d deliveries, seen by a handler or not, and leaves the message where nobody finds it", address, n),
			"set max_deliver to -1"+mended+": the policy decides when to give up")
	default:
		c.warn(transport.CodeMaxDeliver, fmt.Sprintf("the consumer %s gives up after %d deliveries", address, n), "set max_deliver to -1")
	}
	if len(have.BackOff) > 0 {
		c.fail(transport.CodeBackOff, fmt.Sprintf("the consumer %s has a backoff (%s), which the server adds to every delay of the policy", address, durations(have.BackOff)),
			"remove the backoff from the consumer"+mended)
	}
	if have.AckWait < minAckWait {
		c.fail(transport.CodeAckWait, fmt.Sprintf("the consumer %s has an ack wait of %s, which is too short to be kept up reliably", address, have.AckWait),
			fmt.Sprintf("set ack_wait to %s or more", minAckWait))
	}
	if n := have.MaxAckPending; n > 0 && n < c.want.Window() {
		c.fail(transport.CodeMaxAckPending, fmt.Sprintf("the consumer %s hands out %d messages at once and this subscription takes %d", address, n, c.want.Window()),
			"raise max_ack_pending, or lower concurrency and prefetch")
	} else if n > 0 && c.want.Delay && n < defaultMaxAckPending && n < c.s.cfg.MaxAckPending {
		c.warn(transport.CodeMaxAckPending, fmt.Sprintf("the consumer %s stops when %d messages wait for a retry or an ack", address, n),
			"raise max_ack_pending above the number of retries that may wait at one time")
	}
	if have.InactiveThreshold > 0 {
		c.fail(transport.CodeInactive, fmt.Sprintf("the server deletes the consumer %s when nobody pulls for %s, and forgets where it stood", address, have.InactiveThreshold),
			"set inactive_threshold to 0"+mended)
	}
}

// stranded tells of messages that a delivery limit left behind, where that can
// be seen: below the ack floor of the only consumer of a work queue nothing is
// stored that was handled.
func (c *checker) stranded(ctx context.Context, stream *natsjs.StreamInfo, info *natsjs.ConsumerInfo) {
	if stream.Config.Retention != natsjs.WorkQueuePolicy {
		return
	}
	seqs, err := c.t.below(ctx, stream, info, strandedPage)
	if err != nil || len(seqs) == 0 {
		return
	}
	count := fmt.Sprint(len(seqs))
	if len(seqs) == strandedPage {
		count += " or more"
	}
	c.warn(transport.CodeStrandedMessages, fmt.Sprintf("a delivery limit left %s messages behind in the stream %s, the first at sequence %d; the consumer %s does not hand them out any more",
		count, c.s.cfg.Stream, slices.Min(seqs), c.s.cfg.Durable), "holdfast hands them to this subscription when it runs; set max_deliver to -1")
}
