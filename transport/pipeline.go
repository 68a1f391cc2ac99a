package transport

import "context"

// PipelinedPublisher is a Transport that can have many publishes of one
// publisher under way at once, in order.
type PipelinedPublisher interface {
	// OpenPipeline waits for a connection to the broker until ctx ends and
	// returns a pipeline on it. report is told the outcome of every message that
	// was sent: by one goroutine at a time, in any order, never from within Send,
	// and never again once the Done channel of the pipeline is closed. It does
	// not block and does not call the pipeline.
	//
	// An outcome is nil for a stored message, and otherwise an error whose Kind
	// says what can be done: Permanent refusals stay refused, Temporary ones may
	// be sent again. A message that has no outcome when the pipeline ends may
	// have been stored.
	OpenPipeline(ctx context.Context, report func(tag uint64, err error)) (Pipeline, error)
}

// Pipeline is a row of publishes on one connection. It ends with that
// connection and is never restored: whoever has messages without an outcome
// sends them again on another one, so no message can overtake one that was
// lost with a connection. Except for Done, Waiting and End its methods are for
// one goroutine at a time.
type Pipeline interface {
	// Send hands m to the connection and does not wait for the broker. Messages
	// reach the broker in the order of the calls. tag names the message to
	// report. The caller keeps m unchanged until it is reported.
	//
	// An error means that nothing of this message was sent. A Permanent one
	// concerns this message alone (an invalid header, a body that is too large)
	// and the pipeline goes on; after any other the pipeline is over.
	Send(to Address, m *Message, tag uint64) error

	// Flush is called at the end of a row that is sent again: what Send may have
	// gathered goes out. It is not called after each message, so what is gathered
	// must also go out by itself, soon.
	Flush() error

	// Done is closed when the pipeline is over and everything it will ever
	// report has been reported.
	Done() <-chan struct{}

	// Err says why the pipeline is over; nil while it is not.
	Err() error

	// Waiting says why the broker confirms nothing for now, as far as it said
	// so (an alarm), and nil otherwise. While it does, waiting is no sign of a
	// broken connection.
	Waiting() error

	// End ends the pipeline, and waits until nothing more is reported. What has
	// no outcome has none. It is idempotent. stuck says that the broker did not
	// answer in time: the connection itself is then not to be trusted any more.
	End(stuck bool)
}
