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
//
// Key-value buckets ([OpenKV]) and object stores ([OpenObjectStore]) are read and
// written with typed values and as streams, and watched as any other source.
//
// Two things holdfast writes beside what was asked for. The metadata of a
// durable consumer gets the key holdfast.returned, which says how often messages
// were handed out and given back unseen: a stop then charges no attempt,
// whichever process gets them next. It takes the permission to update the
// consumer and a server of version 2.10, and tools that compare consumers with a
// declaration should leave it out. That of a durable watch gets the key
// holdfast.begun, which says where the bucket stood when it was made. And a dead
// letter that is larger than the server takes with its envelope lies in parts,
// under subjects below its own.
package jetstream
