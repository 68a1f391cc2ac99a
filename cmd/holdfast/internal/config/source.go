package config

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// sourceKind is a kind of source: the key that names it and the others of it.
type sourceKind struct {
	name   string
	family Family
	key    string
	keys   []string // key included
	sample string
}

// sourceKinds are the kinds of sources there are.
func sourceKinds() []sourceKind {
	queue := sourceKind{name: "RabbitMQ", family: FamilyRabbitMQ, key: "queue", sample: "queue: orders"}
	for _, f := range queueFields() {
		queue.keys = append(queue.keys, f.name)
	}
	return []sourceKind{
		{"JetStream", FamilyNATS, "stream", []string{"stream", "subjects", "durable", "start", "mode", "ordered", "replay", "pause", "consumer"}, "stream: ORDERS"},
		{"a watch of a bucket", FamilyNATS, "kv", []string{"kv", "keys"}, "kv: prices"},
		{"a watch of an object store", FamilyNATS, "object", []string{"object"}, "object: files"},
		{"core NATS", FamilyNATS, "subject", []string{"subject", "group"}, "subject: orders.placed"},
		queue,
	}
}

// oneSource refuses a source that is of no kind or of several.
func (w *walker) oneSource(v *value) {
	var kind, other sourceKind
	var said, more *yaml.Node
	for _, k := range sourceKinds() {
		if k.key == "stream" && (v.has("kv") || v.has("object")) {
			k.keys = []string{"stream", "subjects", "ordered", "replay", "pause"} // the others fit a watch as well
		}
		key := first(v, k.keys...)
		switch {
		case key == nil:
		case said == nil:
			kind, said = k, key
		case more == nil && v.has(k.key) && !v.has(kind.key):
			kind, said, other, more = k, key, kind, said // the kind that is named is meant
		case more == nil:
			other, more = k, key
		}
	}
	switch {
	case more != nil:
		w.fault(more, CodeExclusive, mixedHint(more.Value, kind.key), "%q is %s and %q is %s; a source is one of them", more.Value, other.name, said.Value, kind.name)
	case said == nil:
		w.fault(v.node, CodeMissing, "write from: {stream: ORDERS, subjects: [\"orders.>\"], start: all}, from: {subject: orders.placed} or, on RabbitMQ, from: {queue: orders}", "from says neither a stream nor a subject, a bucket (kv), an object store (object) or a queue")
	case !v.has(kind.key):
		w.fault(v.node, CodeMissing, "add "+strconv.Quote(kind.key)+", for example "+kind.sample, "from has %q but no %q", said.Value, kind.key)
	}
}

// mixedHint says what may have been meant by keys of two kinds.
func mixedHint(keys ...string) string {
	has := func(k string) bool { return slices.Contains(keys, k) }
	switch {
	case has("mode") && has("queue"):
		return "write declare: in place of mode:"
	case has("start") && has("queue"):
		return "remove it: a queue gives what is in it; a stream queue has offset:"
	case has("group") && has("queue"):
		return "remove it: consumers of one queue share its messages"
	}
	if has("kv") && has("subjects") {
		return "write keys: in place of subjects:"
	}
	return "write {stream, subjects, durable, start, mode}, {kv, keys, durable, start, mode}, {object, durable, start, mode}, {subject, group}, or {queue, type, bindings, declare, ...}"
}

// oneFamily refuses a list of brokers of several kinds, and one for RabbitMQ with
// parts that are no URLs.
func (w *walker) oneFamily(broker *value) {
	if broker == nil {
		return
	}
	switch family := FamilyOf(broker.text); {
	case family == FamilyRabbitMQ && !InFull(broker.text):
		w.fault(broker.node, CodeValue, "write every server in full, amqp://HOST:5672/VHOST; a comma in a password is %2C", "broker holds a part that is not a URL")
	case family == FamilyMixed:
		w.fault(broker.node, CodeContradicts, "name one broker, or the servers of one cluster", "broker names NATS servers and RabbitMQ at once")
	}
}

// fits refuses a source of another kind than the broker.
func (w *walker) fits(sub, file *value) {
	from := sub.get("from")
	broker := file.get("broker")
	if from == nil || (file.has("broker") && broker == nil && w.named.URL == "") {
		return // it was reported
	}
	url, by := w.named.URL, w.named.By
	if url == "" && broker != nil {
		url = broker.text
	}
	family := FamilyOf(url)
	if url == "" {
		family = FamilyNATS // the embedded server
	}
	for _, k := range sourceKinds() {
		if family == k.family || !from.has(k.key) || (family != FamilyNATS && family != FamilyRabbitMQ) {
			continue
		}
		w.sub = nameIn(sub.node)
		w.fault(from.fields[k.key].key, CodeContradicts, familyHint(k.key, url), "%q is a source on %s, and %s", k.key, k.name, usedBroker(url, by, family))
		w.sub = ""
		return
	}
}

// usedBroker says which broker is used. What comes from the environment is not
// shown.
func usedBroker(url, by string, family Family) string {
	switch {
	case url == "":
		return "without \"broker\" the server is an embedded NATS server"
	case by != "":
		return by + " names " + string(family)
	default:
		return "the broker of this file is " + string(family)
	}
}

func familyHint(key, url string) string {
	switch {
	case key == "queue" && url == "":
		return "add broker: amqp://HOST:5672/ to the file, or write from: {stream: NAME, subjects: [...], start: all}"
	case key == "queue":
		return "write from: {stream: NAME, subjects: [...], start: all}, or name a broker with amqp://"
	case key == "kv" || key == "object":
		return "name a broker with nats://: RabbitMQ has neither buckets nor object stores"
	case key == "stream":
		return "write from: {queue: NAME, bindings: [{exchange: ..., kind: topic, key: ...}]}, or {queue: NAME, type: stream, offset: next}, or name a broker with nats://"
	default:
		return "write from: {queue: NAME, bindings: [{exchange: ..., kind: topic, key: ...}]}, or name a broker with nats://"
	}
}

// queue reads a source on RabbitMQ; nil when it is none.
func (w *walker) queue(v *value) *Queue {
	if !v.has("queue") {
		return nil
	}
	q := &Queue{
		Name: v.get("queue").str(), Type: v.get("type").str(), Declare: v.get("declare").str(),
		DeadLetterExchange: v.get("dead_letter_exchange").str(), DeadLetterKey: v.get("dead_letter_key").str(),
	}
	if q.Declare == "" {
		q.Declare = "ensure"
	}
	if a := v.get("arguments"); a != nil {
		q.Arguments = a.table
	}
	if n := v.get("delivery_limit"); n != nil {
		q.DeliveryLimit = n.num
	}
	if n := v.get("priority"); n != nil {
		q.Priority = n.num
	}
	q.SingleActive = v.is("single_active_consumer")
	q.Offset = w.offset(v.get("offset"))
	if a := v.get("consumer_arguments"); a != nil {
		q.ConsumerArguments = a.table
	}
	q.Exclusive = v.is("exclusive")
	for _, b := range items(v.fields["bindings"]) {
		q.Bindings = append(q.Bindings, w.binding(b))
	}
	q.Exchanges = w.exchanges(v)
	w.queueLimits(v, q)
	return q
}

// offset reads where the consumer of a stream begins.
func (w *walker) offset(v *value) any {
	s := v.str()
	if s == "" {
		return nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	arg, isTime := strings.CutPrefix(s, "time:")
	if !isTime {
		return s
	}
	at, err := time.Parse(time.RFC3339, arg)
	if err != nil {
		w.fault(v.node, CodeValue, "write "+offsetWords, "offset: %q is not a time with its zone", s)
	}
	return at
}

// binding reads a binding, and says where its key cannot do what it looks like.
func (w *walker) binding(v *value) Binding {
	b := Binding{Exchange: v.get("exchange").str(), Kind: v.get("kind").str(), Key: v.get("key").str()}
	if a := v.get("args"); a != nil {
		b.Args = a.table
	}
	key := v.get("key")
	switch {
	case (b.Kind == "topic" || b.Kind == "direct") && !v.has("key"):
		w.fault(v.node, CodeMissing, `add "key", for example key: "orders.#"; key: "" takes what is published with an empty one`, "the binding to the %s exchange %q has no \"key\"", b.Kind, b.Exchange)
	case key == nil || b.Key == "":
	case b.Kind == "direct" && wildcard(b.Key):
		w.warn(key.node, "write kind: topic, or a key without wildcards", "the key %q has a wildcard, which a direct exchange takes literally", b.Key)
	case b.Kind == "topic" && slices.Contains(strings.Split(b.Key, "."), ">"):
		w.warn(key.node, "write '#' for any number of words", "the key %q has '>', which is a wildcard of NATS and a word on RabbitMQ", b.Key)
	case b.Kind == "fanout" || b.Kind == "headers":
		w.fault(key.node, CodeContradicts, "remove it", "a %s exchange looks at no key", b.Kind)
	}
	return b
}

// wildcard tells whether a topic exchange would take a word of key for a wildcard.
func wildcard(key string) bool {
	return slices.ContainsFunc(strings.Split(key, "."), func(w string) bool { return w == "*" || w == "#" })
}

// queueLimits refuses settings of a queue that contradict each other.
func (w *walker) queueLimits(v *value, q *Queue) {
	refuse := func(key, hint, format string, args ...any) {
		if v.has(key) {
			w.fault(v.fields[key].key, CodeContradicts, hint, format, args...)
		}
	}
	if q.Declare == "adopt" {
		for _, key := range []string{"bindings", "exchanges", "arguments", "delivery_limit", "single_active_consumer"} {
			refuse(key, "remove it, or write declare: ensure", "%s has no effect with declare: adopt, which changes nothing about the queue", key)
		}
	}
	if !q.Stream() {
		refuse("offset", "remove it, or write type: stream", "offset is for streams: a queue gives what is in it")
	}
	if q.Exclusive && q.Type != "classic" && q.Declare != "adopt" {
		refuse("exclusive", "write type: classic, or single_active_consumer: true in its place", "only a classic queue can be consumed exclusively")
	}
	if q.Type == "classic" || q.Stream() {
		refuse("delivery_limit", "remove it, or write type: quorum", "a %s queue has no delivery limit", q.Type)
	}
	if q.Stream() {
		for _, key := range []string{"dead_letter_exchange", "single_active_consumer"} {
			refuse(key, "remove it", "a stream has no %s", strings.ReplaceAll(key, "_", " "))
		}
		if !v.has("offset") {
			w.fault(v.node, CodeMissing, "add \"offset\": next begins with what comes, first with what the stream holds", "the stream %q has no \"offset\"", q.Name)
		}
	}
	if !v.has("dead_letter_exchange") {
		refuse("dead_letter_key", "add dead_letter_exchange, or remove it", "dead_letter_key has no effect without dead_letter_exchange")
	}
}

// streamLimits refuses what a stream cannot do: it gives nothing back, so nothing
// can be delivered a second time.
func (w *walker) streamLimits(v *value, s Subscription) {
	if !s.From.Queue.Stream() || s.Retry == nil {
		return
	}
	if r := s.Retry; r.Attempts == 0 || r.Attempts > r.Immediate+1 {
		w.fault(v.fields["retry"].key, CodeNoRedelivery, "write retry: {attempts: N+1, immediate: N}, whose retries follow at once, or take a quorum queue",
			"retry with a delay on a stream: it gives nothing back, so a message that failed would not come again")
	}
}
