package config

const (
	queueForm     = "^[^\\x00-\\x1f\\x7f]{1,220}$"
	queueWords    = "1 to 220 bytes without control characters"
	exchangeForm  = "^[^\\x00-\\x1f\\x7f]{1,255}$"
	exchangeWords = "1 to 255 bytes without control characters"
	routingForm   = "^[^\\x00-\\x1f\\x7f]{0,255}$"
	routingWords  = "255 bytes at most, without control characters; in a topic exchange '*' stands for one word and '#' for any number"
	kindForm      = `^(direct|fanout|topic|headers|x-.+)$`
	kindWords     = "direct, fanout, topic, headers, or the type of a plugin, which begins with x-"
	offsetForm    = `^(first|last|next|[0-9]{1,18}|[0-9]{1,9}[YMDhms]|time:[0-9]{4}-[0-9]{2}-[0-9]{2}T.+)$`
	offsetWords   = `next, first, last, an offset such as "512", an interval such as 1h, or time:2026-01-31T12:00:00Z`
)

// queueFields are the keys of a source on RabbitMQ.
func queueFields() []field {
	return []field{
		{name: "queue", shape: &shape{kind: text, form: queueForm, forms: queueWords, sample: "orders", doc: "The queue on RabbitMQ. It is declared when it is missing and declare allows it."}},
		{name: "type", shape: &shape{kind: text, enum: []string{"quorum", "classic", "stream"}, sample: "quorum", doc: "The type of the queue. Default quorum; an adopted queue has the one it has."}},
		{name: "bindings", shape: bindingsShape("What is published to this exchange under this key goes into the queue.", "Where the messages of the queue come from. Bindings that exist already are kept.")},
		{name: "exchanges", shape: &shape{kind: list, min: 1, elem: &shape{kind: object, doc: "An exchange, declared when it is missing and declare allows it.", fields: exchangeFields()}, doc: "Exchanges to declare before the bindings, for what the kind of a binding alone does not say."}},
		{name: "declare", shape: &shape{kind: text, enum: []string{"ensure", "verify", "adopt"}, sample: "ensure", doc: "ensure (default): declare what is missing. verify: declare nothing. adopt: use a queue of somebody else as it is; only the queues for retries and dead letters beside it are declared."}},
		{name: "arguments", shape: &shape{kind: table, doc: "Arguments of the queue beyond those that holdfast sets, such as x-max-length."}},
		{name: "delivery_limit", shape: &shape{kind: number, min: 1, max: 1000000, sample: "100", doc: "How often a quorum queue hands out one message at most before it dead-letters it by itself: a net below the policy. Default 100. It cannot be changed later."}},
		{name: "dead_letter_exchange", shape: exchangeShape("Where the queue itself sends what it rejects. Default: to QUEUE.dead; an adopted queue: none.")},
		{name: "dead_letter_key", shape: routingShape("The routing key with which it does. Default: that of the message.")},
		{name: "single_active_consumer", shape: &shape{kind: boolean, sample: "true", doc: "One consumer at a time gets messages, and another takes over when it is gone. Default false."}},
		{name: "exclusive", shape: &shape{kind: boolean, sample: "true", doc: "No other consumer is let in while ours is there. Classic queues only. Default false."}},
		{name: "consumer_arguments", shape: &shape{kind: table, doc: "Arguments of the consumer beyond those that holdfast sets."}},
		{name: "priority", shape: &shape{kind: number, min: -1000000, max: 1000000, sample: "10", doc: "Consumers with a higher priority are served first. Default 0."}},
		{name: "offset", shape: &shape{kind: text, form: offsetForm, forms: offsetWords, sample: "next", doc: "Where the consumer of a stream begins, at every start: RabbitMQ keeps no position for it."}},
	}
}

func exchangeShape(doc string) *shape {
	return &shape{kind: text, form: exchangeForm, forms: exchangeWords, sample: "orders", doc: doc}
}

func routingShape(doc string) *shape {
	return &shape{kind: text, form: routingForm, forms: routingWords, sample: "orders.#", doc: doc}
}

func typeShape(doc string) *shape {
	return &shape{kind: text, form: kindForm, forms: kindWords, sample: "topic", doc: doc}
}

// bindingsShape is a list of bindings to a queue or an exchange.
func bindingsShape(one, all string) *shape {
	return &shape{kind: list, min: 1, elem: &shape{kind: object, doc: one, fields: []field{
		{name: "exchange", required: true, shape: exchangeShape("The exchange that messages come from.")},
		{name: "kind", shape: typeShape("Its type, with which it is declared when it is missing. Left out: it is there already, or stands in exchanges.")},
		{name: "key", shape: routingShape("The routing key or pattern.")},
		{name: "args", shape: &shape{kind: table, doc: "Arguments of the binding, such as the headers to match."}},
	}}, doc: all}
}

// exchangeFields are the keys of an exchange.
func exchangeFields() []field {
	return []field{
		{name: "exchange", required: true, shape: exchangeShape("The name of the exchange.")},
		{name: "kind", required: true, shape: typeShape("Its type.")},
		{name: "alternate", shape: exchangeShape("The exchange that gets what this one cannot route. The broker then confirms such a message and does not return it.")},
		{name: "bindings", shape: bindingsShape("What is published to this exchange under this key goes on to the one it stands in.", "Other exchanges that route to this one.")},
		{name: "internal", shape: yes("Nobody can publish to it, only other exchanges route to it. Default false.")},
		{name: "auto_delete", shape: yes("It goes when its last binding does. Default false.")},
		{name: "transient", shape: yes("It does not survive a restart of the broker. Default false.")},
		{name: "args", shape: &shape{kind: table, doc: "Further arguments of the exchange, such as those of a plugin."}},
	}
}
