// Package transporttest holds the promises that every transport keeps, as a
// suite that any implementation can run:
//
//	func TestTransport(t *testing.T) {
//		transporttest.Run(t, func(t *testing.T) transporttest.Harness {
//			return transporttest.Harness{Transport: ..., Source: ..., ...}
//		})
//	}
//
// Each promise is a subtest with a harness, a source and deadlines of its own,
// and all of them run in parallel. None is ever skipped: what a transport's
// capabilities deny is asserted to be denied, which means that the ability is
// not implemented or answers transport.ErrUnsupported, and that Check finds a
// subscription that wants it.
//
// What a broker that stores nothing (Capabilities.Stores is false, as core
// NATS) answers is decided here:
//
//   - A publish that nobody listens to returns nil: it is gone, and the broker
//     cannot know. It is never ErrUnroutable.
//   - A request that nobody listens to is ErrUnroutable all the same.
//   - Ack returns nil and confirms nothing; a second settlement is ErrSettled.
//
// And of one that does not redeliver (Capabilities.Redelivers is false):
//
//   - Nack is ErrUnsupported with every delay and leaves the delivery as it
//     was; an abandoned message does not come back.
//   - It cannot hold messages back, so the window bounds nothing there.
//
// A transport that implements transport.PipelinedPublisher is held to the
// promises of pipelines; one that does not promises nothing of them. What a
// message asks of its broker (NotBefore, TTL, Priority) is honoured where the
// capabilities say so and refused with ErrUnsupported where they do not, by
// Publish and by every pipeline.
//
// Most promises wait for leases rather than work: run the tests with a -parallel
// above the number of processors. Only failures take as long as
// [Harness].Patience.
//
// The suite uses the standard library only. A single promise can be run with
// [Promise.Check] on any testing.TB, inside a testing/synctest bubble too.
package transporttest
