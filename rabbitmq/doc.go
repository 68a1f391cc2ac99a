// Package rabbitmq is the transport for RabbitMQ, over AMQP 0-9-1.
//
//	rmq, err := rabbitmq.Connect(ctx, "amqp://guest:guest@127.0.0.1:5672/")
//	orders := rmq.Queue(rabbitmq.QueueConfig{
//		Name:     "billing",
//		Bindings: []rabbitmq.Binding{{Exchange: "orders", Kind: "topic", Key: "orders.#"}},
//	})
//
// A publish returns nil only after the broker confirmed it and did not return
// it. A message that is given back with a delay is copied, confirmed, into a
// queue <queue>.retry.<ms> of its own, whose messages fall back into this queue
// and no other; dead letters lie in <queue>.dead. All of these are quorum queues
// unless the broker or the configuration says otherwise.
//
// The transport keeps two connections, one for publishing and one for consuming,
// and restores each for as long as it takes. A delivery belongs to the channel it
// came by: a settlement that comes after that channel is gone is refused with
// transport.ErrLeaseLost and never reaches another message. The broker does not
// confirm acks; Close cancels, waits, settles and closes in that order, so that
// nothing that was acked comes back.
//
// What AMQP has and transport.Message has not is shown in headers that start
// with "Amqp-", such as Amqp-Correlation-Id, and is taken from them when
// publishing: see the constants of this package. Values of headers that are not
// text are shown as text and keep their type on every copy.
package rabbitmq
