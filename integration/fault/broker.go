//go:build linux

package main

import "context"

// broker is a real one that can be broken. What it holds is made and read with the
// plain client libraries.
type broker interface {
	protocol() string // "nats" or "amqp"
	addr() string
	url(addr string) string
	batches() bool

	// create makes a queue, or a stream with a subject, of this name. With a limit
	// it refuses more messages than that.
	create(ctx context.Context, name string, limit int) error
	// unlimit takes the limit away.
	unlimit(ctx context.Context, name string) error
	remove(ctx context.Context, name string) error
	// put stores a message with the plain client library, as soon as the broker
	// takes it.
	put(ctx context.Context, name string, body []byte) error
	// stored returns the names of all messages in their order.
	stored(ctx context.Context, name string) ([]string, error)

	kill()
	start() error // after a kill: on its port and its data, until it answers
	pause() error
	resume() error
	// alarm makes the broker block publishers, or end it.
	alarm(on bool) error
	stop()
}

// nameOf returns the message ID that a body begins with.
func nameOf(body []byte) string {
	for i, c := range body {
		if c == ' ' {
			return string(body[:i])
		}
	}
	return string(body)
}
