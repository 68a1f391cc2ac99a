// Package jetstream is the transport for NATS JetStream: at least once, durable
// pull consumers, confirmed publishes, delayed retries kept by the server, and
// a dead-letter store in a stream.
//
//	js, err := jetstream.Connect(ctx, "nats://127.0.0.1:4222")
//	src := js.Consumer(jetstream.ConsumerConfig{
//		Stream:   "ORDERS",
//		Subjects: []string{"orders.>"},
//		Durable:  "billing",
//		Start:    jetstream.StartAll(),
//	})
//
// Streams and consumers are managed with the types of nats.go's own jetstream
// package. What happens per message (pulling, settling, publish confirmations)
// is done here on the core connection: one inbox for all confirmations instead
// of one subscription per call, acks that are confirmed without waiting for
// each, and pulls that never ask for more than can be held.
package jetstream
