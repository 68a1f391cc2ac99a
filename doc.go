// Package holdfast makes message handling reliable on the broker a team already
// runs: NATS core, NATS JetStream, RabbitMQ, and an in-memory broker with the
// same semantics for tests.
//
// A program says what to do with a message and what to do when that fails.
// holdfast keeps the promise, or refuses to start and says why:
//
//	js, err := jetstream.Connect(ctx, "nats://127.0.0.1:4222")
//	app := holdfast.New(holdfast.Config{Name: "billing", Logger: slog.Default()})
//	orders := js.Consumer(jetstream.ConsumerConfig{
//		Stream: "ORDERS", Subjects: []string{"orders.placed"}, Durable: "billing", Start: jetstream.StartAll(),
//	})
//	holdfast.Handle(app, orders, func(ctx context.Context, m *holdfast.Message[OrderPlaced]) error {
//		return charge(ctx, m.Body) // nil: ack. An error: the policy decides.
//	}, holdfast.Retry{Attempts: 6, Immediate: 1, Backoff: holdfast.Exponential(time.Second, time.Minute)})
//	err = app.Run(ctx) // checks every contract first; returns after a clean drain
//
// # What is promised
//
// At least once, where the broker redelivers: nothing accepted is lost, nothing
// loops for ever, nothing is silently ignored. A failure ends as handled, as a
// dead letter, or discarded on request. A duplicate is possible where a process
// dies between two durable steps; it carries the same message ID. On NATS core
// the promise is at most once, and whatever would need more is refused at start.
//
// # How a handler speaks
//
// A handler speaks by the error it returns. [Permanent] makes the message a dead
// letter at once, [RetryAfter] asks for a delay, [Discard] drops the message,
// counted and logged. Any other error is transient and retried within the bounds
// of [Retry]. A panic is an error with a stack. A body that cannot be decoded, or
// that its Validate method refuses, is permanent and keeps its bytes.
//
// # Where the rest is
//
// Package recovery decides and is pure. Package transport is the seam to a
// broker; memory, natscore, jetstream and rabbitmq are its drivers. Package deadletter
// lists, shows, groups, redrives and discards dead letters.
package holdfast
