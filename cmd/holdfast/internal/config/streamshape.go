package config

import "slices"

const (
	instantForm  = `^[0-9]{4}-[0-9]{2}-[0-9]{2}T.+$`
	instantWords = "a time with its zone, 2026-01-31T12:00:00Z"
	sizeForm     = `^[1-9][0-9]{0,15}(KiB|MiB|GiB|TiB)?$`
	sizeWords    = "a number of bytes, or one with KiB, MiB, GiB or TiB"
)

// streamsShape describes the streams of a file. Their keys are those of the
// server's own configuration, so that nothing of it has two names.
func streamsShape() *shape {
	return &shape{kind: list, min: 1, elem: streamShape(), doc: "Streams that subscriptions take from, in full: for what the subjects of a subscription alone do not say. Compared with what the server has, setting by setting."}
}

func streamShape() *shape {
	return &shape{kind: object, called: "stream", doc: "A JetStream stream. What is left out is as in a stream that is made without this: without limits, in files, and refusing new messages should it ever be full.", fields: []field{
		{name: "name", required: true, shape: &shape{kind: text, form: durableForm, forms: durableWord, sample: "ORDERS", doc: "The stream. A subscription takes from it."}},
		{name: "description", shape: anyText("What it is for.")},
		{name: "subjects", shape: &shape{kind: list, min: 1, elem: plainShape(), doc: "The subjects whose messages it stores. None are taken from a stream that exists."}},
		{name: "retention", shape: oneOf("limits", "When messages go: limits (default) keeps them until a limit is reached, interest until each consumer has acked, workqueue until the one that takes them has.", "limits", "interest", "workqueue")},
		{name: "max_consumers", shape: atLeast(1, "How many consumers it may have. Default no limit.")},
		{name: "max_msgs", shape: atLeast(1, "How many messages it holds at most. Default no limit.")},
		{name: "max_bytes", shape: sizeShape("10GiB", "How many bytes it holds at most. Default no limit.")},
		{name: "max_age", shape: &shape{kind: duration, sample: "14d", doc: "How long it keeps a message. Default for ever."}},
		{name: "max_msgs_per_subject", shape: atLeast(1, "How many messages of one subject it holds at most. Default no limit.")},
		{name: "max_msg_size", shape: &shape{kind: size, max: 1<<31 - 1, form: sizeForm, forms: sizeWords, sample: "1MiB", doc: "How large a message may be. Default what the server takes."}},
		{name: "discard", shape: oneOf("new", "What happens when a limit is reached: new (default) refuses what is published, old removes the oldest, seen or not.", "new", "old")},
		{name: "discard_new_per_subject", shape: yes("Refuse what is published by the limit of its subject as well.")},
		{name: "storage", shape: oneOf("file", "Where messages are kept. Default file.", "file", "memory")},
		{name: "num_replicas", shape: replicasShape("How many servers of a cluster keep it. Default 1.")},
		{name: "compression", shape: oneOf("s2", "How files are compressed. Default none. It needs nats-server 2.10.", "none", "s2")},
		{name: "duplicate_window", shape: &shape{kind: duration, sample: "2m", doc: "For how long a message ID is remembered. Default 2m."}},
		{name: "placement", shape: placementShape()},
		{name: "mirror", shape: sourceShape("The stream that this one is a copy of. It has no subjects then.")},
		{name: "sources", shape: &shape{kind: list, min: 1, elem: sourceShape("A stream whose messages come into this one."), doc: "Streams whose messages come into this one as well."}},
		{name: "subject_transform", shape: transformShape("Gives messages another subject before they are stored. It needs nats-server 2.10.")},
		{name: "republish", shape: republishShape()},
		{name: "consumer_limits", shape: &shape{kind: object, doc: "What its consumers may ask for. It needs nats-server 2.10.", fields: []field{
			{name: "inactive_threshold", shape: &shape{kind: duration, sample: "1h", doc: "How long a consumer may be idle at most."}},
			{name: "max_ack_pending", shape: atLeast(1, "How many of its messages may be unsettled at most.")},
		}}},
		{name: "metadata", shape: metadataShape()},
		{name: "allow_direct", shape: yes("Let every replica answer reads, not the leader alone.")},
		{name: "mirror_direct", shape: yes("Let a mirror answer reads of its origin.")},
		{name: "allow_rollup_hdrs", shape: yes("Let a message replace those before it.")},
		{name: "deny_delete", shape: yes("Let nobody delete a message.")},
		{name: "deny_purge", shape: yes("Let nobody purge the stream.")},
		{name: "no_ack", shape: yes("Confirm nothing: publishers cannot know what was stored.")},
		{name: "sealed", shape: yes("Let nothing come in and nothing go out, for ever. It is for a stream that exists, with mode: update.")},
		{name: "first_seq", shape: atLeast(1, "The sequence of the first message. It needs nats-server 2.10.")},
		{name: "allow_msg_ttl", shape: yes("Let a message have a time to live. Default true where the server can, 2.11; false with a mirror or sources.")},
		{name: "subject_delete_marker_ttl", shape: &shape{kind: duration, sample: "1h", doc: "Leave a marker for this long where the last message of a subject ran out. It needs nats-server 2.11."}},
		{name: "allow_atomic", shape: yes("Take batches that are stored as a whole or not at all. It needs nats-server 2.12.")},
		{name: "allow_batched", shape: yes("Take fast batches. It needs nats-server 2.14.")},
		{name: "allow_msg_counter", shape: yes("Let messages count. It needs nats-server 2.12.")},
		{name: "allow_msg_schedules", shape: yes("Keep messages for later. It needs nats-server 2.12, and the subject holdfast.schedule.NAME.> among its subjects; holdfast schedule enable sets both.")},
		{name: "persist_mode", shape: oneOf("async", "default, or async: confirm before it is written. It needs nats-server 2.12.", "default", "async")},
	}}
}

// bucketsShape describes the key-value buckets of a file, under the names of the
// client library.
func bucketsShape() *shape {
	return &shape{kind: list, min: 1, elem: bucketShape(), doc: "Key-value buckets that subscriptions watch, in full. Compared with what the server has."}
}

func bucketShape() *shape {
	return &shape{kind: object, called: "bucket", doc: "A key-value bucket. What is left out is as in one that is made without this: one revision a key, in files, kept for ever.", fields: slices.Concat([]field{
		{name: "name", required: true, shape: &shape{kind: text, form: nameForm, forms: nameWords, sample: "prices", doc: "The bucket. A subscription watches it."}},
		{name: "history", shape: &shape{kind: number, min: 1, max: 64, sample: "10", doc: "How many revisions of a key it keeps. Default 1."}},
		{name: "ttl", shape: &shape{kind: duration, sample: "24h", doc: "How long it keeps a revision. Default for ever."}},
		{name: "limit_marker_ttl", shape: &shape{kind: duration, sample: "1h", doc: "Leave a marker for this long where a key ran out, and let keys have a time of their own. It needs nats-server 2.11."}},
		{name: "max_value_size", shape: &shape{kind: size, max: 1<<31 - 1, form: sizeForm, forms: sizeWords, sample: "1MiB", doc: "How large a value may be."}},
		{name: "republish", shape: republishShape()},
		{name: "mirror", shape: sourceShape("The bucket that this one is a copy of.")},
		{name: "sources", shape: &shape{kind: list, min: 1, elem: sourceShape("A bucket whose values come into this one."), doc: "Buckets whose values come into this one as well."}},
	}, storeFields())}
}

// objectStoresShape describes the object stores of a file.
func objectStoresShape() *shape {
	return &shape{kind: list, min: 1, elem: objectStoreShape(), doc: "Object stores that subscriptions watch, in full. Compared with what the server has."}
}

func objectStoreShape() *shape {
	return &shape{kind: object, called: "object store", doc: "An object store. What is left out is as in one that is made without this: in files, kept for ever.", fields: slices.Concat([]field{
		{name: "name", required: true, shape: &shape{kind: text, form: nameForm, forms: nameWords, sample: "files", doc: "The object store. A subscription watches it."}},
		{name: "max_age", shape: &shape{kind: duration, sample: "30d", doc: "How long it keeps an object. Default for ever."}},
	}, storeFields())}
}

// storeFields are what buckets and object stores have in common.
func storeFields() []field {
	return []field{
		{name: "description", shape: anyText("What it is for.")},
		{name: "max_bytes", shape: sizeShape("10GiB", "How many bytes it holds at most. Default no limit.")},
		{name: "storage", shape: oneOf("file", "Where it is kept. Default file.", "file", "memory")},
		{name: "num_replicas", shape: replicasShape("How many servers of a cluster keep it. Default 1.")},
		{name: "placement", shape: placementShape()},
		{name: "compression", shape: yes("Compress its files. It needs nats-server 2.10.")},
		{name: "metadata", shape: metadataShape()},
	}
}

func metadataShape() *shape {
	return &shape{kind: mapping, doc: "Names and values for people and programs. It needs nats-server 2.10."}
}

func replicasShape(doc string) *shape {
	return &shape{kind: number, min: 1, max: 5, sample: "3", doc: doc}
}

func placementShape() *shape {
	return &shape{kind: object, doc: "Which servers keep it.", fields: []field{
		{name: "cluster", shape: anyText("The cluster they are in.")},
		{name: "tags", shape: words("ssd", "The tags they all have.")},
	}}
}

func republishShape() *shape {
	return &shape{kind: object, doc: "Publishes what was stored again, for those who listen on core NATS.", fields: []field{
		{name: "src", shape: plainShape()},
		{name: "dest", required: true, shape: mappedShape("live.>", "The subject it is published under.")},
		{name: "headers_only", shape: yes("Without the body.")},
	}}
}

// sourceShape describes where a mirror or a source takes its messages from.
func sourceShape(doc string) *shape {
	return &shape{kind: object, called: "stream", doc: doc, fields: []field{
		{name: "name", required: true, shape: &shape{kind: text, form: durableForm, forms: durableWord, sample: "ORDERS", doc: "The stream that messages come from."}},
		{name: "opt_start_seq", shape: atLeast(1, "The sequence it begins with. Default the first one.")},
		{name: "opt_start_time", shape: &shape{kind: instant, form: instantForm, forms: instantWords, sample: "2026-01-31T12:00:00Z", doc: "The time it begins with."}},
		{name: "filter_subject", shape: plainShape()},
		{name: "subject_transforms", shape: &shape{kind: list, min: 1, elem: transformShape("What messages are taken, and which subject they get."), doc: "What messages are taken, and which subjects they get. It needs nats-server 2.10."}},
		{name: "domain", shape: anyText("The JetStream domain the stream is in.")},
		{name: "external", shape: &shape{kind: object, doc: "How to reach a stream of another account or domain.", fields: []field{
			{name: "api", required: true, shape: anyText("The prefix of its API.")},
			{name: "deliver", shape: anyText("The prefix its messages are delivered under.")},
		}}},
		{name: "consumer", shape: &shape{kind: object, doc: "A durable consumer that was made for this. It needs nats-server 2.14.", fields: []field{
			{name: "name", shape: anyText("Its name.")},
			{name: "deliver_subject", shape: anyText("The subject it delivers to.")},
		}}},
	}}
}

func transformShape(doc string) *shape {
	return &shape{kind: object, doc: doc, fields: []field{
		{name: "src", shape: plainShape()},
		{name: "dest", shape: mappedShape("kept.{{wildcard(1)}}", "The subject they get; {{wildcard(1)}} stands for the first wildcard of src.")},
	}}
}

// plainShape is a subject of the server's own, without parameters: it would take
// {name} literally.
func plainShape() *shape {
	return &shape{kind: text, form: `^[^\s.{}]+(\.[^\s.{}]+)*$`, forms: subjectWord + "; not {name}, which is for the subjects of a subscription", sample: "orders.>", doc: "A subject, wildcards allowed."}
}

// mappedShape is a subject with the functions of a transform.
func mappedShape(sample, doc string) *shape {
	return &shape{kind: text, form: `^\S+$`, forms: "a subject, without spaces", sample: sample, doc: doc}
}

// consumerShape describes what is said of a consumer beside its start and its
// filters.
func consumerShape() *shape {
	return &shape{kind: object, doc: "Settings of the consumer on JetStream. Compared with what the server has. A watch takes ack_wait and max_ack_pending.", fields: []field{
		{name: "description", shape: anyText("What it is for.")},
		{name: "ack_wait", shape: &shape{kind: duration, sample: "30s", doc: "The lease: a message that is neither settled nor worked on for so long is handed to somebody else. Default 30s; a second at least."}},
		{name: "max_ack_pending", shape: atLeast(1, "How many messages may be unsettled in all processes together. Default 50000.")},
		{name: "num_replicas", shape: &shape{kind: number, min: 1, max: 5, sample: "3", doc: "How many servers keep it, and a stream that is made of the subjects alone. Default as the stream."}},
		{name: "mem_storage", shape: yes("Keep where it stands in memory.")},
		{name: "sample_freq", shape: &shape{kind: text, form: `^(100|[0-9]{1,2})%?$`, forms: "a percentage such as 10%", sample: "10%", doc: "Of which share of acks the server tells."}},
		{name: "max_waiting", shape: atLeast(1, "How many pulls may wait at the server. It cannot be changed later. Default 512.")},
		{name: "max_batch", shape: atLeast(1, "How many messages one pull may ask for.")},
		{name: "max_expires", shape: &shape{kind: duration, sample: "30s", doc: "How long one pull may wait."}},
		{name: "max_bytes", shape: sizeShape("1MiB", "How many bytes one pull may ask for.")},
		{name: "headers_only", shape: yes("Hand out headers and no bodies. It needs dead_letter: false.")},
		{name: "metadata", shape: metadataShape()},
		{name: "priority_policy", shape: oneOf("pinned_client", "Who gets messages: pinned_client one member until it is gone, overflow members by what waits (pull), prioritized members by their priority (pull, nats-server 2.12). It needs nats-server 2.11.", "pinned_client", "overflow", "prioritized")},
		{name: "priority_groups", shape: words("workers", "The groups of members.")},
		{name: "priority_timeout", shape: &shape{kind: duration, sample: "2m", doc: "After how long without a pull another member is pinned. Default 2m."}},
		{name: "pull", shape: &shape{kind: object, doc: "How this program pulls from a consumer with a priority policy.", fields: []field{
			{name: "group", shape: anyText("Its group. Default the only one there is.")},
			{name: "min_pending", shape: atLeast(1, "overflow: take messages only while at least so many wait.")},
			{name: "min_ack_pending", shape: atLeast(1, "overflow: take messages only while at least so many are unsettled.")},
			{name: "priority", shape: &shape{kind: number, min: 0, max: 9, sample: "1", doc: "prioritized: from 0, which is served first, to 9."}},
		}}},
	}}
}

func anyText(doc string) *shape {
	return &shape{kind: text, form: `^[^\x00-\x1f\x7f]+$`, forms: "text on one line", doc: doc}
}

func yes(doc string) *shape {
	return &shape{kind: boolean, sample: "true", doc: doc}
}

func atLeast(min int, doc string) *shape {
	return &shape{kind: number, min: min, sample: "1000", doc: doc}
}

func oneOf(sample, doc string, of ...string) *shape {
	return &shape{kind: text, enum: of, sample: sample, doc: doc}
}

func words(sample, doc string) *shape {
	return &shape{kind: list, min: 1, elem: &shape{kind: text, form: `^\S+$`, forms: "words without spaces", sample: sample}, doc: doc}
}

func sizeShape(sample, doc string) *shape {
	return &shape{kind: size, form: sizeForm, forms: sizeWords, sample: sample, doc: doc}
}
