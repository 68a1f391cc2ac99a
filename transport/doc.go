// Package transport is the seam between holdfast and a message broker.
//
// A transport says what its broker can do ([Capabilities]), checks and prepares
// the places a subscription needs ([Transport].Check and Provision), publishes
// with a confirmation, and opens receivers that hand out deliveries. It decides
// nothing: whether a message is retried, when, and when it becomes a dead
// letter is decided by package recovery and performed by the engine.
//
// The interfaces are narrow on purpose. An ability that only some brokers have
// is a separate optional interface, found by type assertion in one place
// (engine.abilities), in the way of database/sql/driver. A transport that
// denies an ability answers [ErrUnsupported]; it never does nothing in silence.
//
// Package transporttest holds the promises every transport keeps, as a suite
// that any implementation can run.
package transport
